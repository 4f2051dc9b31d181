"""The tree in the writer's memory: the frontier, and the unfinished tile of each tile level.

`grow` says what a batch would make of the tree and changes nothing; `accept` takes it over once the batch is committed.
So a batch that fails leaves no trace, and no root is ever computed from leaves that are not stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gateway.crypto.merkle import Frontier, extend, node_hash, subtree_root
from gateway.log.tiles import TILE_WIDTH


class Growth(msgspec.Struct, frozen=True):
    """A batch, tried on: the tree after it, its root, the wanted proofs, and the roots of tiles that became full.

    `nodes` holds (level, n, hash) with level 8, 16, …: the complete subtree of 2**level leaves number n.
    """

    frontier: Frontier
    root: bytes
    proofs: dict[int, tuple[bytes, ...]]
    nodes: list[tuple[int, int, bytes]]
    rows: list[list[bytes]] | None
    leaves: Sequence[bytes]


class Tree:
    """Frontier and unfinished tiles: `rows[k]` has the hashes of the last, incomplete tile of tile level k."""

    __slots__ = ("frontier", "rows")

    def __init__(self) -> None:
        self.frontier = Frontier()
        self.rows: list[list[bytes]] = [[]]

    @property
    def size(self) -> int:
        return self.frontier.size

    def root(self) -> bytes:
        return self.frontier.root()

    def grow(self, leaves: Sequence[bytes], want: Sequence[int] = ()) -> Growth:
        """What the leaf hashes `leaves` make of the tree, with inclusion proofs for the positions `want` of them."""
        frontier = self.frontier.copy()
        if len(leaves) == 1:  # a lone entry: its siblings are the frontier itself; saves two thirds of `extend`
            proof = tuple(reversed(frontier.hashes))
            root, proofs = _climb(leaves[0], proof), {0: proof} if want else {}
            frontier.append(leaves[0])
        else:
            root, proofs = extend(frontier, leaves, want)
        if len(self.rows[0]) + len(leaves) < TILE_WIDTH:
            return Growth(frontier, root, proofs, [], None, leaves)
        nodes, rows = self._fill(leaves)
        return Growth(frontier, root, proofs, nodes, rows, leaves)

    def _fill(self, leaves: Sequence[bytes]) -> tuple[list[tuple[int, int, bytes]], list[list[bytes]]]:
        nodes: list[tuple[int, int, bytes]] = []
        rows: list[list[bytes]] = []
        arriving: Sequence[bytes] = leaves
        for tile_level in range(len(self.rows) + 1):
            row = [*(self.rows[tile_level] if tile_level < len(self.rows) else ()), *arriving]
            full = len(row) // TILE_WIDTH
            level, first = 8 * (tile_level + 1), self.size >> 8 * (tile_level + 1)
            arriving = [subtree_root(row[at : at + TILE_WIDTH]) for at in range(0, full * TILE_WIDTH, TILE_WIDTH)]
            nodes += [(level, first + n, root) for n, root in enumerate(arriving)]
            rows.append(row[full * TILE_WIDTH :])
            if not arriving:
                break
        return nodes, rows + self.rows[len(rows) :]

    def accept(self, growth: Growth) -> None:
        """Take over what `grow` returned for the present state."""
        if growth.rows is None:
            self.rows[0].extend(growth.leaves)
        else:
            self.rows = growth.rows
        self.frontier = growth.frontier


def _climb(leaf: bytes, proof: Sequence[bytes]) -> bytes:
    root = leaf
    for sibling in proof:
        root = node_hash(sibling, root)
    return root
