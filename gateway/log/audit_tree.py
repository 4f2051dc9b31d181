"""Auditing the tree: grown once, from the left, and held against every checkpoint and tile root on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from gateway.crypto.merkle import Frontier, extend, subtree_root
from gateway.errors import FormatError

from .checkpoint import Checkpoint, parse_checkpoint
from .cosignature import open_cosigned
from .note import Vkey, parse_note
from .tiles import TILE_WIDTH

#: (step, index, sentence): one thing that is wrong.
Fail = Callable[[str, int, str], None]
TREE = "tree"


class Stored(Protocol):
    """What the tree is held against."""

    origin: str | None

    def checkpoints(self, every: int) -> Iterator[tuple[int, bytes]]: ...

    def tile_roots(self, level: int) -> Iterator[tuple[int, bytes]]: ...


class AuditTree:
    """The tree over what is stored. `keys` are the log's; without any, checkpoints are read and not believed.

    `newest` is the last checkpoint that could be read, `looked` how many were; `roots` those at the sizes wanted.
    """

    def __init__(self, source: Stored, keys: tuple[Vkey, ...], every: int, wanted: set[int], fail: Fail) -> None:
        self.source, self.keys, self.fail = source, keys, fail
        self.frontier = Frontier()
        self.newest: Checkpoint | None = None
        self.looked = 0
        self.roots: dict[int, bytes] = {}
        self._good = 0
        self._wanted = sorted(wanted, reverse=True)
        self._checkpoints = source.checkpoints(every)
        self._next = next(self._checkpoints, None)
        self._levels: list[_Level] = []
        self._look()

    @property
    def size(self) -> int:
        return self.frontier.size

    def grow(self, hashes: Sequence[bytes]) -> None:
        """Add leaf hashes, stopping wherever a checkpoint or a wanted size asks for the root."""
        at = 0
        while at < len(hashes):
            stops = [*self._wanted[-1:], *([] if self._next is None else [self._next[0]])]
            end = min([len(hashes), *(stop - self.size + at for stop in stops)])
            extend(self.frontier, hashes[at:end], ())
            at = end
            self._look()
        self._fill(hashes)

    def finish(self) -> None:
        """Read the checkpoints above what is stored, and see that no tile root is left over."""
        while self._next is not None:
            self._open(*self._next)
            self._next = next(self._checkpoints, None)
        for number in range(1, 8):
            level = self._level(number - 1)
            if next(level.stored, None) is not None:
                self.fail(TREE, self.size, f"a tile root of level {8 * number} is stored for entries that are not")

    def _look(self) -> None:
        while self._wanted and self._wanted[-1] <= self.size:
            self.roots[self._wanted.pop()] = self.frontier.root()
        while self._next is not None and self._next[0] <= self.size:
            size, note = self._next
            self._next = next(self._checkpoints, None)
            checkpoint = self._open(size, note)
            if checkpoint is None:
                continue
            if checkpoint.root == self.frontier.root():
                self._good = size
                continue
            sentence = f"the root signed at size {size} is not that of the stored entries"
            self.fail(TREE, size, f"{sentence}; the first bad one is from entry {self._good} on")

    def _open(self, size: int, note: bytes) -> Checkpoint | None:
        self.looked += 1
        try:
            if self.keys:
                checkpoint = open_cosigned(note, self.keys, (), self.source.origin).checkpoint
            else:
                checkpoint = parse_checkpoint(parse_note(note)[0])
        except FormatError as error:
            self.fail(TREE, size, f"the checkpoint of size {size} does not hold: {error}")
            return None
        if checkpoint.size != size:
            self.fail(TREE, size, f"the checkpoint filed under size {size} is of size {checkpoint.size}")
            return None
        self.newest = checkpoint
        return checkpoint

    def _level(self, number: int) -> _Level:
        while len(self._levels) <= number:
            self._levels.append(_Level(self.source.tile_roots(8 * (len(self._levels) + 1))))
        return self._levels[number]

    def _fill(self, hashes: Sequence[bytes]) -> None:
        """Full tiles against their stored roots, level by level; the roots are the next level's hashes."""
        number, arriving = 0, list(hashes)
        while arriving:
            level = self._level(number)
            level.row += arriving
            arriving = []
            while len(level.row) >= TILE_WIDTH:
                root = subtree_root(level.row[:TILE_WIDTH])
                del level.row[:TILE_WIDTH]
                arriving.append(root)
                if next(level.stored, None) != (level.done, root):
                    sentence = (
                        f"the stored root of tile {level.done} at level {8 * (number + 1)} is not that of its entries"
                    )
                    self.fail(TREE, level.done << 8 * (number + 1), sentence)
                level.done += 1
            number += 1


class _Level:
    """A level of tiles: the stored roots to come, how many are done, and the hashes of the unfinished tile."""

    def __init__(self, stored: Iterator[tuple[int, bytes]]) -> None:
        self.stored = stored
        self.done = 0
        self.row: list[bytes] = []
