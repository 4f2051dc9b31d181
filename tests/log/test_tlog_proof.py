"""Offline proofs: written, read back, checked, and refused when anything is off."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.crypto.merkle import Frontier, extend, leaf_hash
from gateway.errors import FormatError, ProofError
from gateway.log.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from gateway.log.note import NoteSigner
from gateway.log.proof import HEADER, MAX_PROOF_BYTES, TlogProof, check_inclusion, format_tlog_proof, parse_tlog_proof

LOG = NoteSigner("log.example/one", bytes(31) + b"\1")
ENTRIES = [b"entry %d\n" % number for number in range(21)]
FRONTIER = Frontier()
ROOT, PROOFS = extend(FRONTIER, [leaf_hash(entry) for entry in ENTRIES], range(21))
POINT = Checkpoint(LOG.name, 21, ROOT)
NOTE = sign_checkpoint(POINT, LOG)
TEXT = format_tlog_proof(13, PROOFS[13], NOTE)


@pytest.mark.parametrize("extra", [None, b"", b"some context"])
@pytest.mark.parametrize("index", [0, 13, 20])
def test_a_proof_reads_back_and_proves(index, extra):
    """What is written reads back and shows the entry under the checkpoint that it carries."""
    text = format_tlog_proof(index, PROOFS[index], NOTE, extra)
    proof = parse_tlog_proof(text)
    assert proof == TlogProof(index, PROOFS[index], NOTE, extra)
    check_inclusion(proof, ENTRIES[index], open_checkpoint(proof.checkpoint, [LOG.key]))
    with pytest.raises(ProofError):
        check_inclusion(proof, ENTRIES[index] + b"x", POINT)


def test_a_log_of_one_needs_no_hashes():
    """In a log of one the proof is empty, and the blank line follows the index."""
    frontier = Frontier()
    root, proofs = extend(frontier, [leaf_hash(b"only")], [0])
    point = Checkpoint(LOG.name, 1, root)
    text = format_tlog_proof(0, proofs[0], sign_checkpoint(point, LOG))
    assert text.startswith("c2sp.org/tlog-proof@v1\nindex 0\n\nlog.example/one\n1\n")
    check_inclusion(parse_tlog_proof(text), b"only", point)


HASH_LINE = TEXT.split("\n")[2] + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "begins with the line"),
        (HEADER, "begins with the line"),
        (TEXT.replace("@v1", "@v2"), "begins with the line"),
        (" " + TEXT, "begins with the line"),
        (TEXT.replace("\n", "\r\n"), "begins with the line"),
        (TEXT.replace("index 13\n", ""), "no index line"),
        (f"{HEADER}\n\n{NOTE.decode()}", "no index line"),
        (TEXT.replace("index 13", "index 013"), "index is not a plain"),
        (TEXT.replace("index 13", "index -1"), "index is not a plain"),
        (TEXT.replace("index 13", "index 13\nindex 13"), "a hash of the proof"),
        (TEXT.replace("index 13", "index 13\nextra QQ=="), "a hash of the proof"),
        (TEXT.replace("index 13", "extra QQ\nindex 13"), "extra data is not base64"),
        (TEXT.replace("index 13", "extra QQ==\nextra QQ==\nindex 13"), "no index line"),
        (TEXT.replace(HASH_LINE, HASH_LINE[:-2] + "\n"), "a hash of the proof"),
        (TEXT.replace(HASH_LINE, "QUJD\n"), "has 3 bytes, not 32"),
        (TEXT.replace(HASH_LINE, HASH_LINE * 64), "more than 63 hashes"),
        (TEXT.replace(HASH_LINE, HASH_LINE + "\n"), "no empty lines"),
        (TEXT[:-1], "end in newlines"),
        (TEXT.replace("\n21\n", "\n021\n"), "size is not"),
        (TEXT + "\ud800", "lone surrogate"),
        (" " * (MAX_PROOF_BYTES + 1), "over the limit"),
    ],
)
def test_refuses_what_is_no_proof(text, message):
    """Other headers, orders, spellings and checkpoints are refused."""
    with pytest.raises(FormatError, match=message):
        parse_tlog_proof(text)


@pytest.mark.parametrize(
    ("index", "hashes", "note"),
    [(-1, (), NOTE), (2**63, (), NOTE), (0, (bytes(31),), NOTE), (0, (bytes(32),) * 64, NOTE), (0, (), b"\xff")],
)
def test_refuses_to_write_what_would_not_read_back(index, hashes, note):
    """Parts without a spelling are refused by the writer too."""
    with pytest.raises(FormatError):
        format_tlog_proof(index, hashes, note)


def test_a_proof_may_have_as_many_hashes_as_any_tree():
    """Sixty-three hashes, as the largest tree needs, are written and read."""
    assert len(parse_tlog_proof(format_tlog_proof(2**63 - 1, [bytes(32)] * 63, NOTE)).hashes) == 63


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(TEXT) - 1), st.text(max_size=3), st.text(max_size=60))
def test_damage_raises_format_error_only(at, replacement, noise):
    """Whatever parses is written back as it was, and damage that parses does not prove what it did not."""
    for text in (TEXT[:at] + replacement + TEXT[at + 1 :], noise, HEADER + "\n" + noise):
        with contextlib.suppress(FormatError):
            proof = parse_tlog_proof(text)
            assert format_tlog_proof(proof.index, proof.hashes, proof.checkpoint, proof.extra) == text
            check_inclusion(proof, ENTRIES[13], open_checkpoint(proof.checkpoint, [LOG.key]))
            assert (proof.index, proof.hashes) == (13, PROOFS[13])
