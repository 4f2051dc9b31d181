"""The Merkle tree of RFC 6962 section 2.1: hashes, growth, proofs, and checking proofs.

    leaf hash  SHA-256(0x00 || entry)      node hash  SHA-256(0x01 || left || right)      empty tree  SHA-256("")

A *complete subtree* at level L, index i covers leaves [i * 2**L, (i + 1) * 2**L). A tree of size n is the row of the
complete subtrees that the bits of n name, largest first: the *frontier*. That is all a log needs in memory to grow and
to prove what it has just added; older proofs read stored subtree hashes through a `NodeReader`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

from gateway.crypto.encoding import MAX_COUNT
from gateway.errors import FormatError, ProofError

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()

#: `read(level, index)` gives the hash of the complete subtree of `2**level` leaves that starts at `index * 2**level`.
NodeReader = Callable[[int, int], bytes]


def leaf_hash(entry: bytes) -> bytes:
    """The hash of one log entry."""
    return sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node over its two children."""
    return sha256(b"\1" + left + right).digest()


class Frontier:
    """A growing tree: its size, and the hashes of its complete subtrees, largest first."""

    __slots__ = ("hashes", "size")

    def __init__(self) -> None:
        self.size = 0
        self.hashes: list[bytes] = []

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        hashes, carry = self.hashes, self.size
        while carry & 1:
            leaf = sha256(b"\1" + hashes.pop() + leaf).digest()
            carry >>= 1
        hashes.append(leaf)
        self.size += 1

    def root(self) -> bytes:
        """The root of the tree at its present size."""
        return _fold(self.hashes)

    def copy(self) -> Frontier:
        """An independent frontier at the same size, to try something on."""
        twin = Frontier()
        twin.size, twin.hashes = self.size, self.hashes.copy()
        return twin

    def to_bytes(self) -> bytes:
        """The hashes one after the other, largest subtree first; `size` is kept beside it."""
        return b"".join(self.hashes)

    @classmethod
    def from_bytes(cls, size: int, data: bytes) -> Frontier:
        """The frontier that `to_bytes` wrote at `size`; `FormatError` when the length doesn't fit the size."""
        if not 0 <= size <= MAX_COUNT or len(data) != HASH_BYTES * size.bit_count():
            raise FormatError(f"a frontier of {len(data)} bytes does not belong to a tree of {size} leaves")
        frontier = cls()
        frontier.size = size
        frontier.hashes = [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]
        return frontier


def extend(
    frontier: Frontier, leaf_hashes: Sequence[bytes], want: Sequence[int]
) -> tuple[bytes, dict[int, tuple[bytes, ...]]]:
    """Append a whole batch to `frontier`, in place, and prove parts of it.

    Returns the root at the new size and, for each position in `want` (0-based within the batch), its inclusion proof
    at the new size, from the leaf's sibling up. Needs nothing but the frontier and the batch. A position outside the
    batch raises `IndexError` before anything is changed.
    """
    old, new = frontier.size, frontier.size + len(leaf_hashes)
    if want and not (min(want) >= 0 and max(want) < len(leaf_hashes)):
        raise IndexError("a wanted position lies outside the batch")
    if not leaf_hashes:
        return frontier.root(), {}

    # Level by level: `row` holds the complete subtrees from the pair that the batch begins in to the new end. Where
    # bit `level` of the old size is set, its left neighbour is the frontier's next smallest hash.
    hashes = frontier.hashes
    row: list[bytes] = list(leaf_hashes)
    rows: list[list[bytes]] = []
    partials: list[bytes | None] = []  # per level: the hash of the leaves after the last complete subtree
    partial: bytes | None = None
    peaks: list[bytes] = []  # the new frontier's hashes that the batch had a part in, smallest first
    level, left, kept = 0, old, len(hashes)
    while left != new >> level:
        if left & 1:
            kept -= 1
            row.insert(0, hashes[kept])
        rows.append(row)
        partials.append(partial)
        if new >> level & 1:
            peak = row[-1]
            peaks.append(peak)
            partial = peak if partial is None else sha256(b"\1" + peak + partial).digest()
        pairs = iter(row)
        row = [sha256(b"\1" + a + b).digest() for a, b in zip(pairs, pairs, strict=False)]
        level += 1
        left = old >> level

    # From here up the batch lies in one unfinished subtree, whose siblings are the old hashes that remain.
    above = tuple(hashes[kept - 1 :: -1]) if kept else ()
    assert partial is not None
    root = partial
    for sibling in above:
        root = sha256(b"\1" + sibling + root).digest()
    hashes[kept:] = peaks[::-1]
    frontier.size = new
    return root, _batch_proofs(old, new, rows, partials, above, want) if want else {}


def _batch_proofs(
    old: int,
    new: int,
    rows: list[list[bytes]],
    partials: list[bytes | None],
    above: tuple[bytes, ...],
    want: Sequence[int],
) -> dict[int, tuple[bytes, ...]]:
    """Inclusion proofs from the rows of `extend`, top down, so that entries share the upper part of their paths."""
    first, last = old + min(want), old + max(want)
    paths = {first >> len(rows): above}
    for level in range(len(rows) - 1, 0, -1):
        row, base, end, partial = rows[level], (old >> level) & ~1, new >> level, partials[level]
        beneath: dict[int, tuple[bytes, ...]] = {}
        for index in range(first >> level, (last >> level) + 1):
            sibling, path = index ^ 1, paths[index >> 1]
            if sibling < end:
                path = (row[sibling - base], *path)
            elif sibling == end and partial is not None:
                path = (partial, *path)
            beneath[index] = path
        paths = beneath
    row, base = rows[0], old & ~1
    proofs: dict[int, tuple[bytes, ...]] = {}
    for position in want:
        sibling, path = (old + position) ^ 1, paths[(old + position) >> 1]
        proofs[position] = (row[sibling - base], *path) if sibling < new else path
    return proofs


def subtree_root(hashes: Sequence[bytes]) -> bytes:
    """The root of the tree whose leaf hashes are `hashes`; of a full tile, the hash one tile level up."""
    frontier = Frontier()
    return extend(frontier, hashes, ())[0]


def _fold(hashes: Sequence[bytes]) -> bytes:
    """Join complete subtrees, largest first, into the root above them."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in hashes[-2::-1]:
        root = sha256(b"\1" + left + root).digest()
    return root


def _range_root(start: int, end: int, read: NodeReader) -> bytes:
    """The root over leaves [start, end), where `start` is a multiple of the smallest power of two >= end - start."""
    hashes = []
    while start < end:
        level = (end - start).bit_length() - 1
        hashes.append(read(level, start >> level))
        start += 1 << level
    return _fold(hashes)


def root_at(size: int, read: NodeReader) -> bytes:
    """The root that the log had at `size`, from stored subtree hashes. `read` raises as it likes."""
    return _range_root(0, size, read)


def inclusion_proof(index: int, size: int, read: NodeReader) -> tuple[bytes, ...]:
    """The proof that leaf `index` is in the tree of `size` leaves, sibling first (RFC 6962 section 2.1.1)."""
    if not 0 <= index < size:
        raise ProofError(f"there is no leaf {index} in a tree of {size}")
    path = []
    level = 0
    while (size - 1) >> level:
        sibling = (index >> level) ^ 1
        start = sibling << level
        if start < size:
            path.append(_range_root(start, min(start + (1 << level), size), read))
        level += 1
    return tuple(path)


def consistency_proof(old: int, new: int, read: NodeReader) -> tuple[bytes, ...]:
    """The proof that the tree of `old` leaves is a prefix of the tree of `new` (RFC 6962 section 2.1.2).

    Empty when the sizes are equal or `old` is 0.
    """
    if not 0 <= old <= new:
        raise ProofError(f"a tree of {old} leaves is no prefix of a tree of {new}")
    if old in (0, new):
        return ()
    start, end, remains, whole = 0, new, old, True
    path: list[bytes] = []  # from the root down; a proof runs from the leaves up
    while remains != end - start:
        half = 1 << (end - start - 1).bit_length() - 1
        if remains <= half:
            path.append(_range_root(start + half, end, read))
            end = start + half
        else:
            path.append(read(half.bit_length() - 1, start >> half.bit_length() - 1))
            start, remains, whole = start + half, remains - half, False
    if not whole:
        path.append(_range_root(start, end, read))
    return tuple(reversed(path))


def root_from_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """The root that `proof` leads to from leaf hash `leaf` (RFC 9162 section 2.1.3.2); `ProofError` if it can't."""
    if not 0 <= index < size <= MAX_COUNT:
        raise ProofError(f"inclusion proof: there is no leaf {index} in a tree of {size}")
    _check_hashes("inclusion", leaf, *proof)
    position, last, root = index, size - 1, leaf
    for sibling in proof:
        if not last:
            raise ProofError(f"inclusion proof: {len(proof)} hashes are too many for leaf {index} of {size}")
        if position & 1 or position == last:
            root = node_hash(sibling, root)
            while position and not position & 1:  # levels on which the right edge has no sibling
                position, last = position >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise ProofError(f"inclusion proof: {len(proof)} hashes are too few for leaf {index} of {size}")
    return root


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Show that leaf hash `leaf` stands at `index` in the tree of `size` leaves with `root`; else `ProofError`."""
    if root_from_inclusion(leaf, index, size, proof) != root:
        raise ProofError(f"inclusion proof: leaf {index} of {size} does not lead to the root")


def verify_consistency(old: int, new: int, proof: Sequence[bytes], old_root: bytes, new_root: bytes) -> None:
    """Show that the tree `old`, `old_root` is a prefix of `new`, `new_root` (RFC 9162 section 2.1.4.2).

    Raises `ProofError` otherwise. From the empty tree the proof is empty and there is nothing to show but that
    `old_root` is the empty root (tlog-witness); a tree is consistent with itself by an empty proof.
    """
    if not 0 <= old <= new <= MAX_COUNT:
        raise ProofError(f"consistency proof: a tree of {old} leaves is no prefix of a tree of {new}")
    _check_hashes("consistency", old_root, new_root, *proof)
    if old in (0, new):
        if proof:
            raise ProofError(f"consistency proof: from {old} to {new} it must be empty")
        if old_root != (new_root if old == new else EMPTY_ROOT) or (new == 0 and new_root != EMPTY_ROOT):
            raise ProofError(f"consistency proof: wrong root at size {old}")
        return
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    position, last = old - 1, new - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    if not path:
        raise ProofError(f"consistency proof: too few hashes from {old} to {new}")
    first = second = path[0]
    for sibling in path[1:]:
        if not last:
            raise ProofError(f"consistency proof: too many hashes from {old} to {new}")
        if position & 1 or position == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while position and not position & 1:
                position, last = position >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise ProofError(f"consistency proof: too few hashes from {old} to {new}")
    if first != old_root or second != new_root:
        raise ProofError(f"consistency proof: {old} and {new} are not one growing tree")


def _check_hashes(kind: str, *hashes: bytes) -> None:
    if any(len(value) != HASH_BYTES for value in hashes):
        raise ProofError(f"{kind} proof: every hash has {HASH_BYTES} bytes")
