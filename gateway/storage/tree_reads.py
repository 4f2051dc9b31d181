"""The log as static resources and proofs, computed from stored leaves and tile roots when asked for.

Level-0 hashes come from the leaf table, level 8, 16, … from the stored roots of full tiles; what lies between is hashed
from the tile that holds it. Partial tiles are prefixes, so every width up to the present one can be served, also those
of sizes that a checkpoint was signed for long ago. Full tiles never change and are kept in a small cache.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Any

from gateway.crypto.merkle import consistency_proof, inclusion_proof, root_at, subtree_root
from gateway.errors import LogRefused, NotFound
from gateway.log.tiles import ENTRIES, MAX_ENTRY_BYTES, TILE_WIDTH, encode_bundle, encode_tile

CACHED_TILES = 128


class TreeReads(ABC):
    """Mixed into `Reader`, which provides `_all`."""

    def __init__(self) -> None:
        self._tiles: dict[tuple[int, int], tuple[bytes, ...]] = {}
        self._tiles_guard = threading.Lock()

    @abstractmethod
    def _all(self, sql: str, *parameters: object) -> list[Any]: ...

    def checkpoint(self, size: int | None = None) -> bytes | None:
        """The newest signed checkpoint, or the one signed at exactly `size`; None when there is none."""
        if size is None:
            found = self._all("SELECT CAST(note AS BLOB) FROM checkpoint ORDER BY size DESC LIMIT 1")
        else:
            found = self._all("SELECT CAST(note AS BLOB) FROM checkpoint WHERE size = ?", size)
        return found[0][0] if found else None

    def size(self) -> int:
        """How many leaves are stored."""
        ((last,),) = self._all("SELECT max(idx) FROM leaf")
        return 0 if last is None else _place(last) + 1

    def size_before(self, ms: int) -> int:
        """How many leaves were durable before `ms` (milliseconds since the epoch), by the times of the checkpoints.

        Raises `LogRefused` where a changed file has something else for a size than a number.
        """
        ((size,),) = self._all("SELECT max(size) FROM checkpoint WHERE created_ms < ?", ms)
        return 0 if size is None else _place(size)

    def origin(self) -> str | None:
        """The origin of the log, or None when no log was begun."""
        found = self._all("SELECT CAST(origin AS TEXT) FROM log_state")
        return found[0][0] if found else None

    def vkey(self) -> str | None:
        """The verifier key that the log says it is signed with. A claim of the file, no trust root."""
        found = self._all("SELECT CAST(vkey AS TEXT) FROM log_state")
        return found[0][0] if found else None

    def leaves(self, start: int, end: int) -> list[bytes]:
        """The entries [start, end) as far as they are stored without a gap."""
        found = self._all(
            "SELECT idx, CAST(leaf AS BLOB) FROM leaf WHERE idx >= ? AND idx < ? ORDER BY idx", start, end
        )
        return [leaf for place, (index, leaf) in enumerate(found, start) if index == place]

    def node_hash(self, level: int, index: int) -> bytes:
        """The hash of the complete subtree of 2**`level` leaves number `index`: a `gateway.crypto.merkle.NodeReader`.

        Raises `NotFound` when the log is not that long.
        """
        tile_level, within = divmod(level, 8)
        first = index << within
        hashes = self._hashes(tile_level, first // TILE_WIDTH)[first % TILE_WIDTH :][: 1 << within]
        if len(hashes) != 1 << within:
            raise NotFound(f"the log has no complete subtree of level {level} at {index}")
        return hashes[0] if not within else subtree_root(hashes)

    def root(self, size: int) -> bytes:
        """The root that the log had at `size`, computed from what is stored."""
        return root_at(size, self.node_hash)

    def inclusion(self, index: int, size: int) -> tuple[bytes, ...]:
        """The proof that leaf `index` is in the tree of `size`; `ProofError` or `NotFound` when it cannot be."""
        return inclusion_proof(index, size, self.node_hash)

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """The proof that the tree of `old` is a prefix of the tree of `new`; `ProofError` or `NotFound`."""
        return consistency_proof(old, new, self.node_hash)

    def tile(self, level: int, index: int, width: int = TILE_WIDTH) -> bytes | None:
        """A tile as served: the first `width` hashes of tile `index` of `level`, or None when there are fewer.

        Level -1 gives an entry bundle.
        """
        if level == ENTRIES:
            return self.bundle(index, width)
        hashes = self._hashes(level, index)[:width] if 0 <= level < 8 and 0 <= index < 1 << 55 else ()
        return encode_tile(hashes) if width == len(hashes) and width else None

    def bundle(self, index: int, width: int = TILE_WIDTH) -> bytes | None:
        """The entry bundle `index` of `width` entries, or None when there are fewer."""
        if not 0 <= index < 1 << 55 or not 1 <= width <= TILE_WIDTH:
            return None
        entries = self.leaves(index * TILE_WIDTH, index * TILE_WIDTH + width)
        if len(entries) != width or any(len(entry) > MAX_ENTRY_BYTES for entry in entries):
            return None
        return encode_bundle(entries)

    def _hashes(self, tile_level: int, index: int) -> tuple[bytes, ...]:
        """The hashes of a tile, as many as there are, without a gap."""
        cached = self._tiles.get((tile_level, index))
        if cached is not None:
            return cached
        first = index * TILE_WIDTH
        if tile_level == 0:
            found = self._all(
                "SELECT idx, CAST(hash AS BLOB) FROM leaf WHERE idx >= ? AND idx < ? ORDER BY idx",
                first,
                first + TILE_WIDTH,
            )
        else:
            found = self._all(
                "SELECT n, CAST(hash AS BLOB) FROM node WHERE level = ? AND n >= ? AND n < ? ORDER BY n",
                8 * tile_level,
                first,
                first + TILE_WIDTH,
            )
        hashes = tuple(digest for place, (n, digest) in enumerate(found, first) if n == place)
        if len(hashes) == TILE_WIDTH:
            with self._tiles_guard:
                while len(self._tiles) >= CACHED_TILES:
                    del self._tiles[next(iter(self._tiles))]
                self._tiles[tile_level, index] = hashes
        return hashes


def _place(stored: object) -> int:
    if type(stored) is not int:
        raise LogRefused(
            f"the stored log was altered: {stored!a} stands where a place in it belongs; `veriroute audit verify` says "
            f"more",
            reason="altered",
        )
    return stored
