"""Tiles and entry bundles (C2SP tlog-tiles v0.1.0): the log as static resources of at most 256 items.

    tile/<level>/<N>[.p/<width>]      width x 32 bytes: hashes of complete subtrees of 256**level leaves
    tile/entries/<N>[.p/<width>]      width x (u16 length || entry)

N is written in groups of three digits, all but the last prefixed with x: 1234067 is x001/x234/067. Level -1 stands for
entry bundles here. A partial tile is a prefix of the full one, so any width up to what exists can be served.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from gateway.crypto.encoding import MAX_COUNT, decimal
from gateway.crypto.merkle import HASH_BYTES
from gateway.errors import FormatError

ENTRIES = -1
TILE_WIDTH = 256
MAX_LEVEL = 63
MAX_ENTRY_BYTES = 0xFFFF

_PATH = re.compile(r"tile/(entries|[0-9]{1,2})/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([0-9]{1,3}))?")


class Tile(msgspec.Struct, frozen=True):
    """One resource: `width` items from item `index * 256` on of `level` (-1: entries)."""

    level: int
    index: int
    width: int = TILE_WIDTH


def tile_path(level: int, index: int, width: int = TILE_WIDTH) -> str:
    """The path of a tile below the log's prefix; `FormatError` when there can be no such tile."""
    if not ENTRIES <= level <= MAX_LEVEL or not 0 <= index <= MAX_COUNT or not 1 <= width <= TILE_WIDTH:
        raise FormatError(f"there is no tile of level {level}, index {index} and width {width}")
    number = f"{index % 1000:03d}"
    while index >= 1000:
        index //= 1000
        number = f"x{index % 1000:03d}/{number}"
    name = "entries" if level == ENTRIES else str(level)
    return f"tile/{name}/{number}" + (f".p/{width}" if width < TILE_WIDTH else "")


def parse_tile_path(path: str) -> Tile:
    """The tile that `path` names, in its one spelling; `FormatError` otherwise."""
    found = _PATH.fullmatch(path)
    if found is None or not path.isascii():
        raise FormatError("not the path of a tile")
    name, groups, width = found.groups()
    level = ENTRIES if name == "entries" else int(name)
    index = decimal(groups.replace("/", "").replace("x", "").lstrip("0") or "0", "the tile's index")
    tile = Tile(level, index, TILE_WIDTH if width is None else int(width))
    if tile_path(tile.level, tile.index, tile.width) != path:
        raise FormatError("not the path of a tile in its canonical form")
    return tile


def available_width(level: int, index: int, size: int) -> int:
    """How many items of tile (`level`, `index`) a log of `size` leaves has, 0 to 256; any width up to it exists."""
    items = size >> (8 * max(level, 0))
    return min(max(items - index * TILE_WIDTH, 0), TILE_WIDTH)


def tiles_at(size: int) -> Iterator[Tile]:
    """Every resource that a log of exactly `size` leaves has, entries first, then tiles by rising level."""
    level = ENTRIES
    while items := size >> (8 * max(level, 0)):
        full, rest = divmod(items, TILE_WIDTH)
        yield from (Tile(level, index) for index in range(full))
        if rest:
            yield Tile(level, full, rest)
        level += 1


def encode_tile(hashes: Sequence[bytes]) -> bytes:
    """The bytes of a tile of 1 to 256 hashes."""
    if not 1 <= len(hashes) <= TILE_WIDTH or any(len(value) != HASH_BYTES for value in hashes):
        raise FormatError("a tile has 1 to 256 hashes of 32 bytes")
    return b"".join(hashes)


def decode_tile(data: bytes, width: int) -> tuple[bytes, ...]:
    """The `width` hashes of a tile; `FormatError` when it has another length."""
    if not 1 <= width <= TILE_WIDTH or len(data) != width * HASH_BYTES:
        raise FormatError(f"a tile of width {width} does not have {len(data)} bytes")
    return tuple(data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES))


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """The bytes of a bundle of 1 to 256 entries, each at most 65,535 bytes long."""
    if not 1 <= len(entries) <= TILE_WIDTH or any(len(entry) > MAX_ENTRY_BYTES for entry in entries):
        raise FormatError(f"a bundle has 1 to 256 entries of at most {MAX_ENTRY_BYTES} bytes")
    return b"".join([len(entry).to_bytes(2, "big") + entry for entry in entries])


def decode_bundle(data: bytes, width: int) -> tuple[bytes, ...]:
    """The `width` entries of a bundle, which ends after the last; `FormatError` otherwise."""
    if not 1 <= width <= TILE_WIDTH:
        raise FormatError("a bundle has 1 to 256 entries")
    entries, at = [], 0
    for number in range(width):
        start = at + 2
        at = start + int.from_bytes(data[at:start], "big")
        if max(start, at) > len(data):
            raise FormatError(f"the bundle ends within entry {number} of {width}")
        entries.append(data[start:at])
    if at != len(data):
        raise FormatError(f"the bundle goes on after its {width} entries")
    return tuple(entries)
