"""Exports of a range of the log: the manifest, and showing that a range is that part of the log. Pure.

    {"mediaType": "application/vnd.veriroute.export-manifest+json;version=1",
     "origin": …, "range": {"from": a, "to": b}, "count": …, "format": "jsonl" | "csv", "timeCreated": …,
     "checkpoint": "<signed note>", "left": ["<base64>", …], "right": ["<base64>", …],
     "files": [{"name": …, "sha256": "<hex>", "bytes": …, "count": …}]}

as the payload of a DSSE envelope (payloadType `application/vnd.veriroute.export-manifest+json`).

`left` and `right` are the hashes of the largest complete subtrees that cover the entries before `from` and those from
`to` up to the checkpoint's size, left to right. With them, the exported entries alone give the signed root: an export
that is cut, reordered, doubled or joined from two does not. That holds whoever signed the manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.crypto.encoding import MAX_COUNT, b64, unb64
from gateway.crypto.merkle import EMPTY_ROOT, HASH_BYTES, NodeReader, node_hash
from gateway.errors import FormatError
from gateway.model.entry import KINDS
from gateway.model.receipt import Count, Hex256, Instant

from .audit_rows import read_envelope
from .dsse import Envelope
from .receipt import event_type, leaf

MEDIA_TYPE = "application/vnd.veriroute.export-manifest+json;version=1"
PAYLOAD_TYPE = "application/vnd.veriroute.export-manifest+json"
MAX_MANIFEST = 4 << 20


class Range(msgspec.Struct, frozen=True):
    """The log indices [from, to)."""

    first: Count = msgspec.field(name="from")
    end: Count = msgspec.field(name="to")


class ExportFile(msgspec.Struct, frozen=True):
    """A file of the export: a plain name, the digest and length of its bytes, and how many records it holds."""

    name: str
    sha256: Hex256
    bytes: Count
    count: Count


class Manifest(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """What an export holds. `left` and `right` are base64 hashes, `checkpoint` the signed note they lead to."""

    media_type: str = MEDIA_TYPE
    origin: str
    range: Range
    count: Count
    format: Literal["jsonl", "csv"]
    time_created: Instant
    checkpoint: str
    left: tuple[str, ...]
    right: tuple[str, ...]
    files: tuple[ExportFile, ...]

    def covers(self) -> tuple[list[bytes], list[bytes]]:
        """The hashes `left` and `right`; FormatError when one is none."""
        sides = (self.left, self.right)
        left, right = ([unb64(text, "a hash of the manifest", length=HASH_BYTES) for text in side] for side in sides)
        return left, right


def format_manifest(manifest: Manifest) -> bytes:
    """The manifest's bytes."""
    return msgspec.json.encode(manifest)


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest; FormatError when it is none, or when a file's name leads elsewhere."""
    strict_json(data, max_bytes=MAX_MANIFEST)
    try:
        manifest = _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise FormatError(f"not an export manifest: {error}") from error
    if manifest.media_type != MEDIA_TYPE:
        raise FormatError(f"the manifest's mediaType is not {MEDIA_TYPE}")
    names = [f.name for f in manifest.files]
    if len(set(names)) != len(names) or any(not _is_plain(name) for name in names):
        raise FormatError("the manifest names a file twice, or a file that is not directly in the export")
    if manifest.range.first > manifest.range.end:
        raise FormatError("the manifest's range ends before it begins")
    return manifest


_decoder = msgspec.json.Decoder(Manifest)


def _is_plain(name: str) -> bool:
    return (
        bool(name) and name.isascii() and name.isprintable() and "/" not in name and "\\" not in name and name[0] != "."
    )


def cover(first: int, end: int) -> list[tuple[int, int]]:
    """The largest complete subtrees (level, index) that cover the entries [first, end), left to right."""
    found = []
    while first < end:
        level = (end - first).bit_length() - 1
        if first:
            level = min(level, (first & -first).bit_length() - 1)
        found.append((level, first >> level))
        first += 1 << level
    return found


def cover_hashes(first: int, end: int, read: NodeReader) -> tuple[str, ...]:
    """The hashes of `cover(first, end)` as base64, for a manifest."""
    return tuple(b64(read(level, index)) for level, index in cover(first, end))


class RangeRoot:
    """Builds a root from left to right out of subtree hashes and single entries.

    `RangeRoot(first, left)` stands behind `left`, the cover of the entries before `first`; `add` takes the leaf hashes
    of the range; `close(right, size)` takes the cover of the rest and gives the root of the tree of `size`.
    """

    def __init__(self, first: int, left: Sequence[bytes]) -> None:
        self.size = 0
        self._stack: list[tuple[int, bytes]] = []
        self._cover(first, left)

    def add(self, leaf: bytes) -> None:
        """The leaf hash of the next entry."""
        self._push(0, leaf)

    def close(self, right: Sequence[bytes], size: int) -> bytes:
        """The root at `size`; FormatError when `right` is not the cover of what is missing up to there."""
        self._cover(size, right)
        if not self._stack:
            return EMPTY_ROOT
        root = self._stack[-1][1]
        for _, left in self._stack[-2::-1]:
            root = node_hash(left, root)
        return root

    def _cover(self, end: int, hashes: Sequence[bytes]) -> None:
        places = cover(self.size, min(end, MAX_COUNT))
        if len(places) != len(hashes) or end < self.size:
            raise FormatError(f"{len(hashes)} hashes do not cover the entries from {self.size} to {end}")
        for (level, _), value in zip(places, hashes, strict=True):
            self._push(level, value)

    def _push(self, level: int, value: bytes) -> None:
        self.size += 1 << level
        while self._stack and self._stack[-1][0] == level:
            value = node_hash(self._stack.pop()[1], value)
            level += 1
        self._stack.append((level, value))


class Damaged(msgspec.Struct, frozen=True, tag_field="veriroute", tag="damaged-entry"):
    """The line of an entry whose stored document is missing or is not one line of JSON; `envelope` as base64."""

    index: Count
    leaf: str
    envelope: str | None


def entry_line(envelope: bytes) -> bytes | None:
    """A stored envelope as a line of an export, byte for byte; None when it would not read back as one line."""
    try:
        read_envelope(envelope)
    except FormatError:
        return None
    return None if b"\n" in envelope or b"\r" in envelope else envelope + b"\n"


def damaged_line(index: int, leaf: bytes, envelope: bytes | None) -> bytes:
    """The line that stands for an entry that `entry_line` cannot write: nothing is left out silently."""
    return msgspec.json.encode(Damaged(index, b64(leaf), None if envelope is None else b64(envelope))) + b"\n"


class EntryLine(msgspec.Struct, frozen=True):
    """A line of an export, read: the leaf bytes, and the envelope when the line holds one."""

    leaf: bytes
    kind: str
    envelope: Envelope | None


def parse_entry_line(line: bytes) -> EntryLine:
    """Read a line of entries.jsonl without its line feed; FormatError when it is neither form."""
    if line.startswith(b'{"veriroute":'):
        try:
            damaged = msgspec.json.decode(line, type=Damaged)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise FormatError(str(error)) from None
        return EntryLine(unb64(damaged.leaf, "an entry"), "", None)
    envelope = read_envelope(line)
    try:
        predicate_type = _kinds.decode(envelope.payload).predicate_type
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"the document is not a statement: {error}") from None
    kind = next((k for k in KINDS if event_type(k) == predicate_type), None)
    if kind is None:
        raise FormatError(f"the document is of the unknown type {predicate_type!a}")
    return EntryLine(leaf(kind, envelope.payload_type, envelope.payload), kind, envelope)


class _Kind(msgspec.Struct, rename="camel"):
    predicate_type: str


_kinds = msgspec.json.Decoder(_Kind)
