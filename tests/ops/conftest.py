"""The matrix: with ``backend`` a test runs on every row, with ``case`` for every op."""

import pytest

from .backends import BACKENDS
from .cases import CASES


def _rows(backends):
    return [
        pytest.param(
            row, id=row.name, marks=[pytest.mark.skip(reason=row.skip)] if row.skip else []
        )
        for row in backends
    ]


# Not for each test anew, so that hypothesis can draw inside of a row.
@pytest.fixture(scope="module", params=_rows(BACKENDS))
def backend(request):
    """Every row."""
    with request.param.use():
        yield request.param


@pytest.fixture(scope="module", params=_rows(row for row in BACKENDS if row.kernel))
def kernel(request):
    """Every row that promises more than the reference in float32: see ``Backend.kernel``."""
    with request.param.use():
        yield request.param


# Whatever surrounds the kernels is the same at every level of vectorisation.
@pytest.fixture(scope="module", params=_rows({id(row.operators): row for row in BACKENDS}.values()))
def registration(request):
    """One row, the last, for each set of operators: for what torch does around the kernels."""
    with request.param.use():
        yield request.param


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return CASES[request.param]
