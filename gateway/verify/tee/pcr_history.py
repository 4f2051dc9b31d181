"""A publisher's signed history of enclave measurements (OpenSecret, Maple: `pcrProdHistory.json`).

    [{"PCR0": 96 hex, "PCR1": 96 hex, "PCR2": 96 hex, "timestamp": Unix seconds, "signature": base64 of r || s}, ...]

The signature (ECDSA P-384, SHA-384) covers the lower-case hex text of PCR0 and nothing else. PCR1, PCR2 and the time
are what the file's sender says: they are compared and reported, and never make or break a match. Nor does the history
say that an entry is still wanted: a publisher has no way in it to take one back.

Nothing here reads a default key: the caller pins the publisher's (SubjectPublicKeyInfo).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from gateway.crypto import ec_keys
from gateway.crypto.canonical import strict_json
from gateway.crypto.encoding import unb64
from gateway.errors import FormatError
from gateway.model.tee import Golden

MAX_HISTORY_BYTES = 1 << 20
#: The history at hand has 134; each costs a verification, 0.4 ms, also where none of them holds.
MAX_ENTRIES = 1_024
_HEX = re.compile(r"[0-9a-f]{96}", re.ASCII)
_UNSIGNED = (("pcr1", "PCR1"), ("pcr2", "PCR2"))


class PcrEntry(msgspec.Struct, frozen=True):
    """One release. `stated` are the unsigned registers by claim name, `timestamp` the unsigned time if there is one."""

    pcr0: str
    signature: bytes
    stated: dict[str, str]
    timestamp: int | None


class PcrHistory(msgspec.Struct, frozen=True):
    """The entries whose signature holds, and the places of those whose does not. `key_sha256` names the publisher."""

    entries: tuple[PcrEntry, ...]
    refused: tuple[int, ...]
    key_sha256: str


class PcrMatch(msgspec.Struct, frozen=True):
    """An entry that names a PCR0. `agrees`, `differs`: what its unsigned registers say of the rest."""

    entry: PcrEntry
    agrees: tuple[str, ...]
    differs: tuple[str, ...]

    def golden(self) -> Golden:
        """The comparison in the claims' vocabulary; PCR0 is one of those that matched."""
        return Golden("pcr_history", 1 + len(self.agrees), self.differs)


def verify_history(data: bytes, publisher_key: bytes) -> PcrHistory:
    """Read the history and hold every entry to the publisher's key.

    An entry whose signature does not hold is left out and its place is named; it cannot match anything. Raises
    `FormatError` for a file of another form (pcr_history_malformed) or a key that is not on P-384 (bad_public_key).
    """
    key = ec_keys.from_spki(publisher_key)
    if ec_keys.curve_of(key) is not ec_keys.P384:
        raise ec_keys.KeyFormatError("the publisher's key is not on P-384")
    entries = parse_history(data)
    good = [ec_keys.verify_rs(key, entry.pcr0.encode(), entry.signature) for entry in entries]
    return PcrHistory(
        tuple(entry for entry, holds in zip(entries, good, strict=True) if holds),
        tuple(place for place, holds in enumerate(good) if not holds),
        ec_keys.spki_sha256(key),
    )


def find(history: PcrHistory, measurements: Mapping[str, str]) -> PcrMatch | None:
    """The entry for the `pcr0` of these claims, the one that agrees with most of the rest first; None if there is none.

    All zeros, the PCR0 of debug mode, never match, whoever signed them.
    """
    pcr0 = measurements.get("pcr0")
    if pcr0 is None or not pcr0.strip("0"):
        return None
    matches = [_match(entry, measurements) for entry in history.entries if entry.pcr0 == pcr0]
    return min(matches, key=lambda match: (len(match.differs), -len(match.agrees)), default=None)


def _match(entry: PcrEntry, measurements: Mapping[str, str]) -> PcrMatch:
    same = {name: measurements.get(name) == value for name, value in entry.stated.items()}
    return PcrMatch(
        entry, tuple(name for name, equal in same.items() if equal), tuple(n for n, equal in same.items() if not equal)
    )


def parse_history(data: bytes) -> tuple[PcrEntry, ...]:
    """The entries of a history, none of them shown. Raises `FormatError`: pcr_history_malformed."""
    try:
        entries = strict_json(data, max_bytes=MAX_HISTORY_BYTES)
    except FormatError as error:
        raise _malformed(error.message) from None
    if not isinstance(entries, list) or len(entries) > MAX_ENTRIES:
        raise _malformed(f"not a list of at most {MAX_ENTRIES} entries")
    return tuple(_entry(entry, place) for place, entry in enumerate(entries))


def _entry(entry: object, place: int) -> PcrEntry:
    if not isinstance(entry, dict):
        raise _malformed(f"entry {place} is not an object")
    signature, timestamp = entry.get("signature"), entry.get("timestamp")
    if not isinstance(signature, str):
        raise _malformed(f"entry {place} has no signature")
    if timestamp is not None and type(timestamp) is not int:
        raise _malformed(f"entry {place} has a timestamp that is no integer")
    try:
        raw = unb64(signature, f"the signature of entry {place}", length=96)
    except FormatError as error:
        raise _malformed(error.message) from None
    stated = {name: _register(entry[key], place) for name, key in _UNSIGNED if key in entry}
    return PcrEntry(_register(entry.get("PCR0"), place), raw, stated, timestamp)


def _register(value: object, place: int) -> str:
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise _malformed(f"entry {place} has a register that is not 96 lower-case hex digits")
    return value


def _malformed(why: str) -> FormatError:
    return FormatError(f"not a PCR history: {why}", reason="pcr_history_malformed")
