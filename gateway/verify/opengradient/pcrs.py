"""The versions of OpenGradient's tee-gateway that are known by measurement: which build a PCR hash is.

    pcrHash = keccak256(PCR0 || PCR1 || PCR2)                   three registers of 48 bytes (TEERegistry.sol)

    {"schema": "opengradient-pcrs/1",
     "versions": [{"pcr_hash": "0x<64 hex>", "name": "...", "repository": "...", "commit": "<40 hex>" | "<7+ hex>",
                   "basis": "publisher" | "rebuilt", "status": "known" | "revoked", "note": "..."}]}

The registry's own list of approved hashes is whatever its administrator wrote; this table is held by whoever runs the
verifier. `basis` says where a row comes from: `publisher` is the measurements file that the publisher keeps beside the
source, `rebuilt` a build of that source by the holder of the table. Nothing in the file is signed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.crypto.keccak import keccak256
from gateway.errors import FormatError

SCHEMA = "opengradient-pcrs/1"
MAX_TABLE_BYTES = 1 << 20
MAX_VERSIONS = 1000
PCR_BYTES = 48
_MAX_TEXT = 256
_HASH = re.compile(r"0x[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_BASES = ("publisher", "rebuilt")
_STATUSES = ("known", "revoked")


class PcrVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One build. `pcr_hash` is `0x` and 64 lower-case hex digits; `revoked` builds are to be refused."""

    pcr_hash: str
    name: str
    repository: str
    commit: str
    basis: str
    status: str
    note: str = ""

    @property
    def revoked(self) -> bool:
        return self.status == "revoked"


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: str
    versions: list[PcrVersion]


def parse_pcrs(data: bytes) -> Mapping[bytes, PcrVersion]:
    """The versions in `data` by their 32-byte hash. Raises `FormatError` with the reason pcr_table_malformed."""
    try:
        return _table(strict_json(data, max_bytes=MAX_TABLE_BYTES, max_depth=4))
    except FormatError as error:
        raise FormatError(f"table of PCR versions: {error.message}", reason="pcr_table_malformed") from None


def _table(document: object) -> Mapping[bytes, PcrVersion]:
    try:
        table = msgspec.convert(document, _Table)
    except msgspec.ValidationError as error:
        raise FormatError(f"{error!s:.120}") from None
    if table.schema != SCHEMA:
        raise FormatError(f"the schema is not {SCHEMA}")
    if len(table.versions) > MAX_VERSIONS:
        raise FormatError(f"more than {MAX_VERSIONS} versions")
    found = {_checked(version): version for version in table.versions}
    if len(found) != len(table.versions):
        raise FormatError("one hash stands there twice")
    return found


def _checked(version: PcrVersion) -> bytes:
    for text in (version.name, version.repository, version.note):
        if len(text) > _MAX_TEXT or not text.isprintable():
            raise FormatError("a text is not short and printable")
    if not version.name or not _COMMIT.fullmatch(version.commit):
        raise FormatError("a version has no name or no commit")
    if version.basis not in _BASES or version.status not in _STATUSES:
        raise FormatError(f"basis is {'|'.join(_BASES)} and status {'|'.join(_STATUSES)}")
    if not _HASH.fullmatch(version.pcr_hash):
        raise FormatError("a pcr_hash is not 0x and 64 lower-case hex digits")
    return bytes.fromhex(version.pcr_hash[2:])


def pcr_hash(measurements: Mapping[str, str]) -> bytes | None:
    """keccak256(PCR0 || PCR1 || PCR2) of Nitro claims' `measurements`; None unless each is there with 48 bytes."""
    try:
        registers = [bytes.fromhex(measurements[f"pcr{index}"]) for index in range(3)]
    except (KeyError, ValueError):
        return None
    return keccak256(b"".join(registers)) if all(len(r) == PCR_BYTES for r in registers) else None
