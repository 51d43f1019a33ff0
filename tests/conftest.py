"""What all tests share: one tolerance for each dtype, and one thread."""

import os
import signal

import pytest
import torch

# Absolute for numbers up to 1, relative to the largest number above that.
TOLERANCE = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}

# Without a GPU the Triton kernels are interpreted. Triton reads this when it is imported, which
# torch.compile may do in any test.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Tests run side by side; threads that wait for each other's cores make tiny work slow.
torch.set_num_threads(1)

# A job in the background ignores Ctrl-C, and so would the processes that tests send one to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # a bare machine with a GPU: all but these can be tested there
    collect_ignore = ["datasets/test_benchmarks.py", "ops/test_matrix_random.py"]
else:  # tests never assert on time
    settings.register_profile(
        "untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("untimed")


@pytest.fixture(scope="session")
def assert_close():
    """``assert_close(actual, expected)``, by the tolerance of the coarser of the two dtypes."""

    def check(actual, expected):
        actual, expected = torch.as_tensor(actual), torch.as_tensor(expected)
        tolerance = max(TOLERANCE[actual.dtype], TOLERANCE[expected.dtype])
        actual, expected = (value.detach().cpu().double() for value in (actual, expected))
        scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
        torch.testing.assert_close(actual, expected, atol=tolerance * scale, rtol=0)

    return check


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)
