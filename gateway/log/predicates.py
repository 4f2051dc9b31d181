"""A log entry's predicate, read from its payload by whoever looks at a few of its members. Pure.

    audit_of = predicates(AuditEntry)
    audit_of(payload)               # the AuditEntry; raises one of UNREADABLE

A reader names the members that it looks at and what they have to be; the others are passed over. Whether an entry is
genuine is for `gateway.log.audit_rows` to find.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

P = TypeVar("P")

#: What reading a payload raises where it is no JSON, or its predicate not of the form that is asked for.
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Statement(msgspec.Struct, Generic[P]):
    predicate: P


def predicates(form: type[P]) -> Callable[[bytes], P]:
    """Reads predicates of this form from in-toto Statements, UTF-8; what it returns raises `UNREADABLE`."""
    decoder: msgspec.json.Decoder[_Statement[P]] = msgspec.json.Decoder(_Statement[form])  # type: ignore[valid-type]
    return lambda payload: decoder.decode(payload).predicate
