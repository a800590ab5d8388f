"""Checks of arguments in Python: what is wrong is a ValueError that names the argument."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any


def integer(name: str, value: Any, least: int | None = None) -> int:
    """``value`` as an int, at least ``least``. Raises ValueError for anything else, floats and bools too."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}: expected an integer, got {value!r}") from None
    if least is not None and number < least:
        raise ValueError(f"{name}: expected at least {least}, got {number}")
    return number


def integers(name: str, values: Iterable[Any]) -> list[int]:
    """``values`` as ints. Raises ValueError for anything else."""
    try:
        given = list(values)
    except TypeError:
        raise ValueError(f"{name}: expected integers, got {values!r}") from None
    if set(map(type, given)) <= {int}:  # a prompt is long
        return given
    return [integer(f"{name}[{i}]", value) for i, value in enumerate(given)]
