"""Numbers as a reader wants to see them."""

from __future__ import annotations

import math
from collections.abc import Mapping

_MINUS, _TIMES, _NONE = "\u2212", "\u00d7", "\u2013"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None, digits: int = 3) -> str:
    """`value` with `digits` significant digits, powers of ten written out, a dash for none."""
    if value is None or math.isnan(value):
        return _NONE
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    if value != 0 and not 1e-4 <= abs(value) < 1e5:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        text = f"{mantissa}{_TIMES}10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    elif float(f"{abs(value):.{digits}g}") >= 10**digits:  # where "g" would turn to "1e+03"
        text = f"{value:.0f}"
    else:
        text = f"{value:.{digits}g}"
    return text.replace("-", _MINUS, 1)


def hyperparameter(value: float, name: str) -> str:
    """A hyperparameter's value with its unit: degrees for angles."""
    if name == "angle" and math.isfinite(value):
        return f"{round(value, 1) + 0.0:.1f}°".replace("-", _MINUS)
    return number(value)


def hyperparameters(values: Mapping[str, float]) -> str:
    """All values on one line without their names, e.g. "0.0031 · 1.2 · −5.0°"."""
    return " · ".join(hyperparameter(value, name) for name, value in values.items())


def duration(seconds: float) -> str:
    """Seconds as "48 s", "3 min 05 s" or "2 h 10 min"."""
    whole = round(seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
