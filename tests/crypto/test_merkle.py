"""The Merkle tree against a recursive definition straight out of RFC 6962."""

import contextlib
import random
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.crypto.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    extend,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_at,
    root_from_inclusion,
    subtree_root,
    verify_consistency,
    verify_inclusion,
)
from gateway.errors import FormatError, ProofError

SIZE = 70
LEAVES = [leaf_hash(b"entry %d" % number) for number in range(SIZE)]


def split(size: int) -> int:
    return 1 << (size - 1).bit_length() - 1


def tree(leaves: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1."""
    if len(leaves) <= 1:
        return leaves[0] if leaves else sha256(b"").digest()
    half = split(len(leaves))
    return sha256(b"\1" + tree(leaves[:half]) + tree(leaves[half:])).digest()


def path(index: int, leaves: list[bytes]) -> tuple[bytes, ...]:
    """PATH of RFC 6962 section 2.1.1."""
    if len(leaves) == 1:
        return ()
    half = split(len(leaves))
    if index < half:
        return (*path(index, leaves[:half]), tree(leaves[half:]))
    return (*path(index - half, leaves[half:]), tree(leaves[:half]))


def subproof(old: int, leaves: list[bytes], whole: bool) -> tuple[bytes, ...]:
    """SUBPROOF of RFC 6962 section 2.1.2."""
    if old == len(leaves):
        return () if whole else (tree(leaves),)
    half = split(len(leaves))
    if old <= half:
        return (*subproof(old, leaves[:half], whole), tree(leaves[half:]))
    return (*subproof(old - half, leaves[half:], False), tree(leaves[:half]))


def read(level: int, index: int) -> bytes:
    """The stored subtrees of a log of SIZE leaves; asking for one that is not complete is an error."""
    start, end = index << level, (index + 1) << level
    assert end <= SIZE
    return tree(LEAVES[start:end])


ROOTS = [tree(LEAVES[:size]) for size in range(SIZE + 1)]


def grown(size: int) -> Frontier:
    frontier = Frontier()
    for leaf in LEAVES[:size]:
        frontier.append(leaf)
    return frontier


def test_hashes_are_domain_separated():
    """A leaf can't be taken for a node: their hashes begin with different bytes."""
    assert leaf_hash(b"") == sha256(b"\0").digest()
    assert node_hash(b"l" * 32, b"r" * 32) == sha256(b"\1" + b"l" * 32 + b"r" * 32).digest()
    assert Frontier().root() == EMPTY_ROOT == sha256(b"").digest()


def test_appending_one_by_one_gives_every_root():
    """At every size the frontier's root is the recursive definition's, and it has one hash a bit of the size."""
    frontier = Frontier()
    for size, leaf in enumerate(LEAVES):
        assert frontier.root() == ROOTS[size] == root_at(size, read)
        assert len(frontier.hashes) == size.bit_count()
        frontier.append(leaf)


@pytest.mark.parametrize("old", range(0, 36))
def test_extending_by_a_batch_proves_it(old):
    """From every size and by every batch, `extend` gives the root, the frontier and the proofs that the RFC gives."""
    chance = random.Random(old)
    for count in range(0, 35):
        new, batch = old + count, LEAVES[old : old + count]
        frontier = grown(old)
        want = chance.sample(range(count), chance.randint(0, count))
        root, proofs = extend(frontier, batch, want)
        assert (root, frontier.size, frontier.root()) == (ROOTS[new], new, ROOTS[new])
        assert frontier.hashes == grown(new).hashes
        assert proofs == {position: path(old + position, LEAVES[:new]) for position in want}


@pytest.mark.parametrize("want", [[1], [-1], [0, 5]])
def test_extending_refuses_positions_outside_the_batch(want):
    """A wanted position that is not in the batch leaves the frontier alone."""
    frontier = grown(3)
    with pytest.raises(IndexError):
        extend(frontier, LEAVES[3:4], want)
    assert frontier.root() == ROOTS[3]


def test_a_copy_grows_alone():
    """What happens to a copied frontier does not reach the original."""
    frontier = grown(7)
    extend(frontier.copy(), LEAVES[7:20], ())
    assert (frontier.size, frontier.root()) == (7, ROOTS[7])


@pytest.mark.parametrize("size", [0, 1, 2, 3, 7, 8, 31, 64, 69])
def test_a_frontier_is_stored_and_read_back(size):
    """Size and bytes restore the same frontier."""
    stored = grown(size).to_bytes()
    restored = Frontier.from_bytes(size, stored)
    assert (restored.size, restored.hashes) == (size, grown(size).hashes)
    assert restored.root() == ROOTS[size]


def test_the_largest_frontier_is_restored():
    """A log of 2**63 - 1 leaves has 63 hashes, and nothing larger is restored."""
    assert len(Frontier.from_bytes(2**63 - 1, bytes(63 * 32)).hashes) == 63


@pytest.mark.parametrize(("size", "length"), [(0, 32), (1, 0), (1, 31), (3, 32), (4, 64), (-1, 0), (2**63, 32)])
def test_a_stored_frontier_must_fit_its_size(size, length):
    """A length that is not one hash a bit of the size is refused."""
    with pytest.raises(FormatError, match="does not belong to a tree"):
        Frontier.from_bytes(size, bytes(length))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 64])
def test_subtree_root_is_the_tree_over_hashes(count):
    """`subtree_root` joins any number of hashes as the tree does."""
    assert subtree_root(LEAVES[:count]) == ROOTS[count]


def test_every_inclusion_proof_is_made_and_accepted():
    """For every leaf of every size the stored subtrees give the RFC's proof, and it leads to the root."""
    for size in range(1, 36):
        for index in range(size):
            proof = inclusion_proof(index, size, read)
            assert proof == path(index, LEAVES[:size])
            assert root_from_inclusion(LEAVES[index], index, size, proof) == ROOTS[size]
            verify_inclusion(LEAVES[index], index, size, proof, ROOTS[size])


def test_every_consistency_proof_is_made_and_accepted():
    """Between every two sizes the stored subtrees give the RFC's proof, and it is accepted."""
    for new in range(36):
        for old in range(new + 1):
            proof = consistency_proof(old, new, read)
            assert proof == (subproof(old, LEAVES[:new], True) if old else ())
            verify_consistency(old, new, proof, ROOTS[old], ROOTS[new])


def flipped(value: bytes) -> bytes:
    return bytes([value[0] ^ 1]) + value[1:]


def inclusion_mutations(index, size, proof):
    yield LEAVES[index], index, size, (*proof, LEAVES[0]), ROOTS[size]
    yield flipped(LEAVES[index]), index, size, proof, ROOTS[size]
    yield LEAVES[index], index, size, proof, flipped(ROOTS[size])
    yield LEAVES[index], index ^ 1, size, proof, ROOTS[size]
    yield LEAVES[index], -1, size, proof, ROOTS[size]
    yield LEAVES[index], size, size, proof, ROOTS[size]
    yield LEAVES[index], index, 2**63, proof, ROOTS[size]
    yield LEAVES[index][:31], index, size, proof, ROOTS[size]
    for at in range(len(proof)):
        yield LEAVES[index], index, size, proof[:at] + proof[at + 1 :], ROOTS[size]
        yield LEAVES[index], index, size, (*proof[:at], flipped(proof[at]), *proof[at + 1 :]), ROOTS[size]
        yield LEAVES[index], index, size, (*proof[:at], proof[at] + b"\0", *proof[at + 1 :]), ROOTS[size]


def test_every_altered_inclusion_proof_is_refused():
    """A proof with a hash more, less or changed, another index, leaf, root or size does not prove."""
    for size in range(2, 20):
        for index in range(size):
            for altered in inclusion_mutations(index, size, path(index, LEAVES[:size])):
                with pytest.raises(ProofError):
                    verify_inclusion(*altered)


def test_hashes_cannot_be_cut_elsewhere():
    """A leaf and its sibling cut at another byte join to the same node, and are refused for their lengths."""
    left, right = LEAVES[0], LEAVES[1]
    with pytest.raises(ProofError, match="every hash has 32 bytes"):
        verify_inclusion(left + right[:1], 0, 2, (right[1:],), ROOTS[2])
    first, *rest = consistency_proof(3, 4, read)
    with pytest.raises(ProofError, match="every hash has 32 bytes"):
        verify_consistency(3, 4, (first + rest[0][:1], rest[0][1:], *rest[1:]), ROOTS[3], ROOTS[4])


def consistency_mutations(old, new, proof):
    yield old, new, (*proof, LEAVES[0]), ROOTS[old], ROOTS[new]
    yield old, new, proof, flipped(ROOTS[old]), ROOTS[new]
    yield old, new, proof, ROOTS[old], flipped(ROOTS[new])
    yield new + 1, new, proof, ROOTS[old], ROOTS[new]
    yield -1, new, proof, ROOTS[old], ROOTS[new]
    yield old, 2**63, proof, ROOTS[old], ROOTS[new]
    yield old, new, proof, ROOTS[old], b""
    if old != new:
        yield old, new, proof, ROOTS[new], ROOTS[old]
    if proof:
        yield old, new, (), ROOTS[old], ROOTS[new]
    for at in range(len(proof)):
        yield old, new, proof[:at] + proof[at + 1 :], ROOTS[old], ROOTS[new]
        yield old, new, (*proof[:at], flipped(proof[at]), *proof[at + 1 :]), ROOTS[old], ROOTS[new]


def test_every_altered_consistency_proof_is_refused():
    """A proof with a hash more, less or changed, or with other sizes or roots, does not prove."""
    for new in range(1, 20):
        for old in range(1, new + 1):
            for altered in consistency_mutations(old, new, consistency_proof(old, new, read)):
                with pytest.raises(ProofError):
                    verify_consistency(*altered)


def test_a_path_ends_at_the_root_that_the_sizes_say():
    """A hash more or less is refused also where it leads to the root that is given: one above or beneath the tree's."""
    more, above = LEAVES[0], [node_hash(LEAVES[0], ROOTS[size]) for size in (3, 5)]
    with pytest.raises(ProofError, match="too many"):
        verify_inclusion(LEAVES[2], 2, 3, (*path(2, LEAVES[:3]), more), above[0])
    with pytest.raises(ProofError, match="too many"):
        verify_consistency(3, 5, (*consistency_proof(3, 5, read), more), *above)
    with pytest.raises(ProofError, match="too few"):
        verify_inclusion(LEAVES[0], 0, 4, (LEAVES[1],), ROOTS[2])
    with pytest.raises(ProofError, match="too few"):
        verify_consistency(2, 4, (), ROOTS[2], ROOTS[2])


def test_the_empty_tree_is_consistent_with_everything_by_nothing():
    """From size 0 an empty proof and the empty root are asked for, and nothing can be said of the new root."""
    verify_consistency(0, 5, (), EMPTY_ROOT, ROOTS[5])
    verify_consistency(0, 0, (), EMPTY_ROOT, EMPTY_ROOT)
    for old_root, proof in ((ROOTS[1], ()), (EMPTY_ROOT, (LEAVES[0],))):
        with pytest.raises(ProofError):
            verify_consistency(0, 5, proof, old_root, ROOTS[5])
    with pytest.raises(ProofError, match="wrong root at size 0"):
        verify_consistency(0, 0, (), ROOTS[1], ROOTS[1])


def test_asking_for_proofs_that_cannot_be_is_refused():
    """There is no leaf at or past the size, and no larger prefix."""
    for index, size in ((0, 0), (5, 5), (-1, 5)):
        with pytest.raises(ProofError, match="there is no leaf"):
            inclusion_proof(index, size, read)
    for old, new in ((6, 5), (-1, 5)):
        with pytest.raises(ProofError, match="no prefix"):
            consistency_proof(old, new, read)


HASHES = st.binary(min_size=30, max_size=33) | st.sampled_from(LEAVES)


@settings(max_examples=200, deadline=None)
@given(HASHES, st.integers(-2, 2**64), st.integers(-2, 2**64), st.lists(HASHES, max_size=70), HASHES)
def test_checking_raises_proof_error_only(leaf, first, second, proof, root):
    """Whatever the numbers and hashes, a check returns or raises ProofError."""
    for check in (
        lambda: verify_inclusion(leaf, first, second, proof, root),
        lambda: verify_consistency(first, second, proof, leaf, root),
    ):
        with contextlib.suppress(ProofError):
            check()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_any_cutting_into_batches_gives_the_same_log(cuts, chance):
    """However a log is cut into batches, roots agree, and proofs from the batch verify under the root of the moment."""
    whole, pieces, number = Frontier(), Frontier(), 0
    for count in cuts:
        batch = [leaf_hash(b"%d" % (number + at)) for at in range(count)]
        want = chance.sample(range(count), min(count, 3))
        root, proofs = extend(pieces, batch, want)
        for leaf in batch:
            whole.append(leaf)
        assert root == whole.root()
        for position in want:
            verify_inclusion(batch[position], number + position, pieces.size, proofs[position], root)
        number += count
