"""The Triton kernels, one file per op; installed as ``stssad_fast.kernels``.

Importing this package needs neither Triton nor a GPU; importing one of its modules needs Triton.
"""
