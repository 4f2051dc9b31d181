"""What a key of a policy file is: its kind, its bounds, and which of two values is the stricter one."""

from __future__ import annotations

import enum
from typing import Literal

import msgspec

Scalar = str | int | float | bool | tuple[str, ...] | None


class Order(enum.StrEnum):
    """Which of two values of a key is the stricter one."""

    LATER = "later"  # the one that stands later in `choices`
    LOWER = "lower"
    HIGHER = "higher"
    FEWER = "fewer"  # a list of what is allowed; absent allows everything
    MORE = "more"  # a list of what is forbidden
    MODES = "modes"  # a list of release modes, judged by the one that a stream gets
    FREE = "free"  # the choice of form, not of trust: the later one is taken, and none is a loosening


class Key(msgspec.Struct, frozen=True):
    """One key of a policy file: `path` with dots, its kind, what it is when absent, and what a reader should know.

    `kind` is choice, seconds, count, number (with up to nine decimals), flag, names, modes or file (one name, kept as a
    set of names); `low` and `high` bound numbers, both inclusive. Names are free unless there are `choices`, or a
    `pattern` that each must match whole; `form` then says it in words. `floor` is the path of a key whose value this
    one is never less than, however strict.
    """

    path: str
    kind: Literal["choice", "seconds", "count", "number", "flag", "names", "modes", "file"]
    default: Scalar
    meaning: str
    order: Order = Order.LATER
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    pattern: str | None = None
    form: str = ""
    floor: str | None = None


def seconds(path: str, default: float, low: float, high: float, meaning: str) -> Key:
    """A key that is a number of seconds, of which fewer are stricter."""
    return Key(path, "seconds", default, meaning, Order.LOWER, low=low, high=high)
