"""Auditing API keys: each stored key is what entries of the log made it, each that they made is stored, and no receipt
is of another.

A key is made and revoked by acts (`gateway.log.acts`), in one transaction with its row; nothing else changes one. Acts
that wait for their entry count too, and are said to wait. A key serves from its row on, so receipts of one may stand
before the entry that made it. Callers without a key (`local`, `veriroute:canary`) have names of another form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from gateway.errors import FormatError
from gateway.model.line import Line
from gateway.model.verdict import Outcome

from .acts import KeyAct, Made, key_row
from .audit_tree import Fail

KEYS = "keys"
_FORM = re.compile(r"key_[0-9a-f]{12}")  # of every id that `veriroute keys` gives out


class StoredKey(NamedTuple):
    """An API key as it is stored: whatever stands in the columns."""

    id: object
    name: object
    digest: object
    policy: object
    scopes: object
    created_ms: object
    revoked_ms: object
    last4: object


class _Key:
    """A key as its acts made it. `where` and `ended` name the acts."""

    __slots__ = ("ended", "found", "made", "ms", "revoked_ms", "waits", "where")

    def __init__(self, where: str, ms: int, made: Made, waits: bool) -> None:
        self.where, self.ms, self.made, self.waits = where, ms, made, waits
        self.ended = ""
        self.revoked_ms: int | None = None
        self.found = False


class Keys:
    """Memory grows with the number of keys that were ever made, and not with the log."""

    def __init__(self) -> None:
        self._keys: dict[str, _Key] = {}
        self._unmade: dict[str, int] = {}  # keys that receipts name, before anything that makes them was taken
        self._unread = ""
        self._bare: list[str] = []
        self._bare_ended = 0

    def take(self, where: str, act: KeyAct | None, fail: Fail, *, waits: bool, place: int) -> None:
        """The next act, which stands in the log at `place`, or waits for that; None where it cannot be read."""
        if act is None:
            self._unread = self._unread or where
            return
        key = self._keys.get(act.key)
        if act.made is not None:
            if key is not None:
                fail(KEYS, place, f"{where} makes key {act.key!a} a second time, after {key.where}")
            else:
                self._keys[act.key] = _Key(where, act.ms, act.made, waits)
        elif key is None:
            fail(KEYS, place, f"{where} revokes key {act.key!a}, which nothing before it made")
        else:
            if key.ended:
                fail(KEYS, place, f"{where} revokes key {act.key!a} again, which {key.ended} had revoked already")
            key.ended, key.revoked_ms = where, act.ms
            key.waits |= waits

    def call(self, callers: Mapping[str, int]) -> None:
        """The next callers that receipts name, each with the place of the first."""
        for id, place in callers.items():
            if id not in self._keys and _FORM.fullmatch(id):
                self._unmade.setdefault(id, place)

    def hold(self, row: StoredKey, fail: Fail) -> None:
        """The next stored key, after all acts."""
        key = self._keys.get(row.id) if isinstance(row.id, str) else None
        if key is None:
            fail(KEYS, 0, f"key {row.id!a} is stored, and no entry of the log made it")
            return
        if key.found:
            fail(KEYS, 0, f"key {row.id!a} is stored twice")
        key.found = True
        problem = _problem(row, key)
        if problem:
            fail(KEYS, 0, f"key {row.id!a} {problem}")
        elif key.made.row is None and key.ended:
            self._bare_ended += 1
        elif key.made.row is None:
            self._bare.append(str(row.id))

    def close(self, fail: Fail) -> None:
        """No more keys are stored."""
        for id, key in self._keys.items():
            if not key.found:
                fail(KEYS, 0, f"key {id!a}, which {key.where} made, is not stored")
        for id, place in self._unmade.items():
            if id not in self._keys and not self._unread:
                fail(KEYS, place, f"the receipt of entry {place} is of key {id!a}, which no entry of the log made")

    def line(self) -> Line:
        """What there is to say where nothing is at fault."""
        if self._unread:
            sentence = f"{self._unread} says of a key what this version cannot read"
            return Line(KEYS, Outcome.NONE, sentence)
        if self._bare:
            sentence = (
                f"{len(self._bare)} keys in force were made by an earlier version, which entered no digest of them: "
                "nothing shows that name and secret are theirs. Make new ones and revoke these"
            )
            return Line(KEYS, Outcome.NONE, sentence, detail=f"the first is {self._bare[0]!a}")
        waiting = [id for id, key in self._keys.items() if key.waits]
        if waiting:
            sentence = f"{len(waiting)} of {len(self._keys)} keys rest on acts that wait for their entry in the log"
            return Line(KEYS, Outcome.WARNING, f"{sentence}, {waiting[0]!a} among them")
        sentence = f"{len(self._keys)} keys are stored as entries of the log made and revoked them, and no others"
        if self._bare_ended:
            sentence += f"; of {self._bare_ended} revoked ones, made by an earlier version, without name and secret"
        return Line(KEYS, Outcome.AFFIRMING, sentence)


def _problem(row: StoredKey, key: _Key) -> str | None:
    if key.ended and row.revoked_ms is None:
        return f"is stored as in force, and {key.ended} revoked it"
    if not key.ended and row.revoked_ms is not None:
        return "is stored as revoked, and no entry of the log revoked it"
    made = key.made
    pairs = (
        ("policy", row.policy, made.policy),
        ("scopes", row.scopes, made.scopes),
        ("created_ms", row.created_ms, key.ms),
        ("revoked_ms", row.revoked_ms, key.revoked_ms),
    )
    names = [name for name, stored, wanted in pairs if type(stored) is not type(wanted) or stored != wanted]
    if not names and not _is_row(row, made):
        names = ["name, digest or last4"]
    return f"is stored with another {', '.join(names)} than that of {key.where}" if names else None


def _is_row(row: StoredKey, made: Made) -> bool:
    """Whether what the entry does not tell is what it commits to; of an earlier version's entry, whether it may be."""
    if made.row is None:
        return isinstance(row.name, str) and isinstance(row.digest, bytes) and isinstance(row.last4, str)
    values = {name: value for name, value in row._asdict().items() if name != "revoked_ms"}
    try:
        return key_row(**values) == made.row
    except FormatError:
        return False
