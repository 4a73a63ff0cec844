"""What is wrong, said in three parts: the value, what was expected, and the mend."""

from __future__ import annotations

import difflib
import math
import numbers


class DataError(RuntimeError):
    """A data set is missing, damaged, or not what it should be."""


class ConfigError(ValueError):
    """A profile, a run or an environment variable asks for something that cannot be meant."""


def require(condition: bool, name: str, value, expected: str) -> None:
    """ConfigError "name = value: expected ..." unless the condition holds."""
    if not condition:
        raise ConfigError(f"{name} = {value!r}: expected {expected}")


def one_of(name: str, value, allowed) -> str:
    """The message for a value that is not one of ``allowed``, with the nearest of them."""
    close = difflib.get_close_matches(str(value), [str(a) for a in allowed], n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{name} = {value!r}: expected one of {', '.join(map(str, allowed))}{hint}"


def require_one_of(name: str, value, allowed) -> None:
    """ConfigError, with the nearest name, unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ConfigError(one_of(name, value, allowed))


def require_number(
    name: str,
    value,
    low: float,
    high: float = math.inf,
    *,
    open_low: bool = False,
    open_high: bool = False,
) -> None:
    """ConfigError unless ``value`` is a finite number from low to high; an open end is left out."""
    ok = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    above = ok and (value > low if open_low else value >= low)
    below = ok and (value < high if open_high else value <= high)
    left, right = "(" if open_low else "[", ")" if open_high or high == math.inf else "]"
    require(above and below, name, value, f"a number in {left}{low}, {high}{right}")


def require_whole(name: str, value, low: int, high: float = math.inf) -> None:
    """ConfigError unless ``value`` is a whole number from low to high."""
    ok = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    bounds = f"at least {low}" if high == math.inf else f"{low} to {high}"
    require(ok and low <= value <= high, name, value, f"a whole number, {bounds}")


def require_flag(name: str, value) -> None:
    """ConfigError unless ``value`` is true or false."""
    require(isinstance(value, bool), name, value, "true or false")
