"""The matrix: with ``backend`` a test runs on every row, with ``case`` for every op."""

import pytest

from .backends import BACKENDS, NATIVE, Backend
from .cases import CASES


def pytest_configure(config):
    config.addinivalue_line("markers", "large: too much for the rows that are slow")


def pytest_collection_modifyitems(items):
    """A test says by its name which op it is of: it does not run on a row that lacks this one."""

    def runs(item):
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        return not any(
            (row.slow and item.get_closest_marker("large"))
            or any(op in item.nodeid and op not in row.ops for op in NATIVE)
            for row in values
            if isinstance(row, Backend)
        )

    items[:] = filter(runs, items)


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
LAST = {(id(row.operators), row.device): row for row in BACKENDS}


@pytest.fixture(scope="module", params=_rows(LAST.values()))
def registration(request):
    """One row, the last, for each set of operators: for what torch does around the kernels."""
    with request.param.use():
        yield request.param


@pytest.fixture(scope="module", params=CASES)
def case(request):
    return CASES[request.param]
