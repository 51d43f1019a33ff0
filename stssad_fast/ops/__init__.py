"""The ops: one file each, the definitions in ``reference``; kernels load as they are available."""

from stssad_fast.ops import extension, triton_kernels
from stssad_fast.ops.batch_norm import batch_norm
from stssad_fast.ops.conv3x3 import conv3x3
from stssad_fast.ops.cutdiff import cutdiff
from stssad_fast.ops.mean_distance_loss import mean_distance_loss
from stssad_fast.ops.patch import patch_parameters, patch_shape
from stssad_fast.ops.rotate import rotate

extension.load()
triton_kernels.load()

__all__ = [
    "batch_norm",
    "conv3x3",
    "cutdiff",
    "mean_distance_loss",
    "patch_parameters",
    "patch_shape",
    "rotate",
]
