"""One value of a policy file: checked against its key, and nothing converted that was not written so."""

from __future__ import annotations

import re

from .document import did_you_mean, quoted
from .key import Key, Order, Scalar

#: Names of networks, operators and nodes: compared byte for byte, so nothing that looks like a pattern is let in.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,127}")

_NUMBERS = {"count": "a whole number", "seconds": "a number of seconds", "number": "a number"}


def parse_value(key: Key, value: object) -> Scalar:
    """`value` as the value of `key`. Raises ValueError with a message that goes on from the key's name."""
    if key.kind == "choice":
        return _choice(value, key.choices)
    if key.kind == "flag":
        if not isinstance(value, bool):
            raise ValueError(f"must be true or false, not {quoted(value)}")
        return value
    if key.kind in ("seconds", "count", "number"):
        return _number(key, value)
    if key.kind == "file":
        return _file(key, value)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"must be a list of texts, not {quoted(value)}")
    if len(set(value)) != len(value):
        raise ValueError("names something twice")
    if key.kind == "modes":
        if not value:
            raise ValueError("is empty, so that no stream could be released")
        return tuple(_choice(item, key.choices) for item in value)
    return _names(key, value)


def _choice(value: object, choices: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"must be one of {', '.join(choices)}, not {quoted(value)}{_near(value, choices)}")
    return value


def _near(value: object, choices: tuple[str, ...]) -> str:
    hint = did_you_mean(value, choices)
    return hint if "did you mean" in hint else ""


def _number(key: Key, value: object) -> int | float:
    # bool is an int to Python, and `true` seconds mean nothing
    wanted = (int,) if key.kind == "count" else (int, float)
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise ValueError(f"must be {_NUMBERS[key.kind]}, not {quoted(value)}")
    if not key.low <= value <= key.high:
        raise ValueError(f"must be {key.low:g} to {key.high:g}, not {quoted(value)}")
    if key.kind == "number" and round(value, 9) != value:
        # a rate is written into receipts as text, and must be the same number there
        raise ValueError(f"must have at most nine decimals, not {quoted(value)}")
    return value


def _file(key: Key, value: object) -> tuple[str, ...]:
    if not isinstance(value, str) or key.pattern is None or re.fullmatch(key.pattern, value) is None:
        raise ValueError(f"must be a file's name of the form {key.form}, not {quoted(value)}")
    return (value,)


def _names(key: Key, value: list[str]) -> tuple[str, ...]:
    if not value and key.path.endswith(".allow"):
        raise ValueError("is empty, which would refuse every network; leave it out to allow any")
    if not value and key.order is Order.FEWER:
        raise ValueError("is empty, which would refuse everything; leave it out to allow any")
    for name in value:
        if key.choices:
            _choice(name, key.choices)
            continue
        if key.pattern is not None:
            if re.fullmatch(key.pattern, name) is None:
                raise ValueError(f"holds {quoted(name)}, which is not of the form {key.form}")
            named = [part.partition(":")[0] for part in name.split("/")]
            if len(set(named)) != len(named):
                raise ValueError(f"holds {quoted(name)}, which names something twice")
            continue
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"holds {quoted(name)}: names are compared exactly, there are no patterns")
    return tuple(sorted(value))
