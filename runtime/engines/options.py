"""Checks of what engines are configured with."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches

from runtime.errors import ConfigError


def positive(name: str, value: int) -> int:
    """Return the value of an option that counts something.

    Raises:
        ConfigError: Not a whole number from 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number from 1.")
    return value


def seconds(name: str, value: object, most: float) -> float:
    """Return the value of an option that is a length of time, above 0 and up to ``most``.

    Raises:
        ConfigError: Not a number, or not in that range.
    """
    # NaN compares as neither above nor below.
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= most:
        return float(value)
    raise ConfigError(f"{name} is {value!r}; it must be above 0 and at most {most:g} seconds.")


def one_of(name: str, value: object, choices: Collection[str | int]) -> None:
    """Check an option that is one of a few.

    Raises:
        ConfigError: It is none of them.
    """
    # 1 == True == 1.0, but only the first of them is a choice.
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(map(str, choices))}.")


def only(engine: str, options: Iterable[str], known: Collection[str]) -> None:
    """Check that an engine has all these options.

    Raises:
        ConfigError: It lacks one; the message names the nearest that it has.
    """
    for option in options:
        if option not in known:
            near = get_close_matches(str(option), known, n=1, cutoff=0.5)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ConfigError(
                f"Engine {engine!r} has no option {option!r}.{hint} Options: {', '.join(known)}."
            )
