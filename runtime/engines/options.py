"""Checks of what engines are configured with."""

from __future__ import annotations

from runtime.errors import ConfigError


def positive(name: str, value: int) -> int:
    """Return the value of an option that counts something.

    Raises:
        ConfigError: Not a whole number from 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number from 1.")
    return value
