"""Kept files: the checkpoint in each of the three forms, and a refusal of everything else."""

import json

import pytest
from receipt_world import small_world

from gateway.errors import FormatError
from gateway.log.bundle import format_bundle
from gateway.log.kept import kept_checkpoint

WORLD, INTENT, RECEIPT = small_world()
NOTE = WORLD.checkpoint()
PROOF = WORLD.proof(RECEIPT).encode()
BUNDLE = format_bundle(WORLD.bundle(RECEIPT, INTENT))


@pytest.mark.parametrize("data", [NOTE, PROOF, BUNDLE, b"\n" + json.dumps(json.loads(BUNDLE), indent=1).encode()])
def test_the_checkpoint_of_a_kept_file(data: bytes):
    """It is the same note, whichever file it came in."""
    assert kept_checkpoint(data) == NOTE


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "a note is text, a blank line"),
        (b"hello\n", "a note is text, a blank line"),
        (b'[server]\nport = 1\n\n[log]\norigin = "x"\n', "signature line"),
        (b"two\nlines\n\n" + NOTE.partition(b"\n\n")[2], "checkpoint"),
        (b"\xff", "not UTF-8"),
        (PROOF + b"\xff", "the tlog-proof is not UTF-8"),
        (PROOF.partition(b"\n")[0], "begins with the line"),
        (b'{"verification": {}}', "not a bundle"),
        (BUNDLE.replace(b"c2sp.org/tlog-proof@v1", b"c2sp.org/tlog-proof@v9"), "begins with the line"),
    ],
)
def test_other_files_are_refused(data: bytes, said: str):
    """The error says in what it is not the form that it begins like."""
    with pytest.raises(FormatError, match=said):
        kept_checkpoint(data)
