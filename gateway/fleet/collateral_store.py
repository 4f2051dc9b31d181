"""What survives a restart: endorsements by digest, and the highest evaluation number seen for each platform.

    <folder>/blobs/<sha256>         one document
    <folder>/parts/<name>.json      {"ask": "<sha256>", …}, by role
    <folder>/evaluations.json       {"tdx-10a06f000000": 20}

Every file is written beside its place, flushed, and moved there, so that a crash leaves the old or the new one. Nothing
read from here is trusted: a document that does not have the digest of its name counts as missing, and whoever asks
verifies what comes as if the vendor's service had sent it. The evaluation numbers are the exception, since nobody
signs them: a file of them that cannot be read refuses the start, because beginning anew silently would allow what it
is there to prevent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from gateway.durable import write_durably
from gateway.errors import ConfigError

_MAX_BYTES = 524_288


class CollateralStore:
    """A folder of this gateway's own. All calls block; none takes long."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blobs, self._parts = folder / "blobs", folder / "parts"
        self._evaluations = folder / "evaluations.json"

    def open(self) -> dict[str, int]:
        """The evaluation numbers, none when the folder is new. Raises `ConfigError`."""
        try:
            text = self._evaluations.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ConfigError(f"cannot use {self.folder} for endorsements: {error.strerror}") from None
        try:
            return msgspec.json.decode(text, type=dict[str, int])
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ConfigError(
                f"{self._evaluations} is damaged. It remembers which collateral is out of use: restore it, or "
                "remove it to begin anew"
            ) from None

    def load(self, name: str) -> Mapping[str, bytes] | None:
        """The documents of the part `name` by role; None when it, or one of them, is missing or damaged."""
        record = self._record(name)
        if record is None:
            return None
        blobs = {role: self._blob(digest) for role, digest in record.items()}
        whole = {role: data for role, data in blobs.items() if data is not None}
        return whole if len(whole) == len(blobs) else None

    def save(self, name: str, blobs: Mapping[str, bytes]) -> None:
        """Keep a part. Raises `OSError`."""
        for folder in (self._blobs, self._parts):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        roles = {role: hashlib.sha256(data).hexdigest() for role, data in blobs.items()}
        before = self._record(name)
        for role, digest in roles.items():
            if self._blob(digest) is None:
                write_durably(self._blobs / digest, blobs[role])
        write_durably(self._parts / f"{name}.json", msgspec.json.encode(roles))
        # What the record no longer names goes after it, unless another part shares it, as AMD's chains do.
        if before is not None:
            self._drop(set(before.values()) - set(roles.values()))

    def save_evaluations(self, numbers: Mapping[str, int]) -> None:
        """Keep the highest evaluation numbers. Raises `OSError`."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_durably(self._evaluations, msgspec.json.encode(dict(sorted(numbers.items()))))

    def _drop(self, digests: set[str]) -> None:
        if not digests:
            return
        for path in self._parts.glob("*.json"):
            record = self._record(path.stem)
            digests -= set() if record is None else set(record.values())
        for digest in digests:
            (self._blobs / digest).unlink(missing_ok=True)

    def _record(self, name: str) -> dict[str, str] | None:
        data = _read(self._parts / f"{name}.json")
        try:
            record = None if data is None else msgspec.json.decode(data, type=dict[str, str])
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        # A digest becomes a path: nothing but a digest may.
        return record if record is not None and all(map(_is_digest, record.values())) else None

    def _blob(self, digest: str) -> bytes | None:
        data = _read(self._blobs / digest)
        return data if data is not None and hashlib.sha256(data).hexdigest() == digest else None


def _is_digest(text: str) -> bool:
    return len(text) == 64 and all(c in "0123456789abcdef" for c in text)


def _read(path: Path) -> bytes | None:
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except OSError:
        return None
    return data if len(data) <= _MAX_BYTES else None
