"""Where an installed package's files lie, without importing it."""

from importlib.util import find_spec
from pathlib import Path

from stssad_fast.errors import InputError


def package_folder(package: str, install: str) -> Path:
    """The folder of an installed package.

    Raises:
        InputError: it is not installed; the message says to run ``pip install`` with `install`.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"The package {package} is needed and not installed. Run: pip install {install}"
        )
    return Path(next(iter(spec.submodule_search_locations)))
