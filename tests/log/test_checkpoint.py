"""Checkpoints: one spelling, signed by the key that bears the log's name."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.crypto.merkle import EMPTY_ROOT
from gateway.errors import FormatError, ProofError
from gateway.log.checkpoint import (
    Checkpoint,
    format_checkpoint,
    open_checkpoint,
    parse_checkpoint,
    sign_checkpoint,
)
from gateway.log.note import NoteSigner, sign_note

LOG = NoteSigner("log.example/one", bytes(31) + b"\1")
OTHER = NoteSigner("log.example/two", bytes(31) + b"\2")
ROOT = bytes(range(32))
POINT = Checkpoint("log.example/one", 257, ROOT)
TEXT = "log.example/one\n257\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"


def test_has_one_spelling():
    """A checkpoint is written as the specification says and read back."""
    assert format_checkpoint(POINT) == TEXT
    assert parse_checkpoint(TEXT) == POINT
    empty = Checkpoint("o", 0, EMPTY_ROOT)
    assert parse_checkpoint(format_checkpoint(empty)) == empty
    largest = Checkpoint("o", 2**63 - 1, ROOT)
    assert parse_checkpoint(format_checkpoint(largest)) == largest


def test_reads_extension_lines():
    """Extension lines are read, kept and written back in order."""
    point = parse_checkpoint(TEXT + "one\ntwo\n")
    assert point.extensions == ("one", "two")
    assert format_checkpoint(point) == TEXT + "one\ntwo\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "each on a line"),
        (TEXT[:-1], "each on a line"),
        ("log.example/one\n257\n", "each on a line"),
        (TEXT.replace("257", "0257"), "size is not a plain"),
        (TEXT.replace("257", "-1"), "size is not a plain"),
        (TEXT.replace("257", "257 "), "size is not a plain"),
        (TEXT.replace("257", "9223372036854775808"), "size is over"),
        (TEXT.replace("257", "0"), "root of an empty log"),
        (TEXT.replace("8=", "8"), "root is not base64"),
        (TEXT.replace("h8=", "h9="), "root is not base64 in canonical form"),
        (TEXT.replace("AAECAwQF", "AAEC"), "root has"),
        (TEXT.replace("log.example/one", ""), "no empty lines"),
        (TEXT + "\n", "no empty lines"),
        (TEXT + "ext\n\n", "no empty lines"),
    ],
)
def test_refuses_every_other_spelling(text, message):
    """Missing and empty lines, other decimals and other base64 are refused."""
    with pytest.raises(FormatError, match=message):
        parse_checkpoint(text)


@pytest.mark.parametrize(
    "point",
    [
        Checkpoint("", 1, ROOT),
        Checkpoint("a\nb", 1, ROOT),
        Checkpoint("a", -1, ROOT),
        Checkpoint("a", 2**63, ROOT),
        Checkpoint("a", 1, ROOT[:31]),
        Checkpoint("a", 0, ROOT),
        Checkpoint("a", 1, ROOT, ("",)),
        Checkpoint("a", 1, ROOT, ("x\ny",)),
    ],
)
def test_refuses_to_write_what_would_not_read_back(point):
    """Values without a spelling are refused by the writer too."""
    with pytest.raises(FormatError):
        format_checkpoint(point)


def test_a_signed_checkpoint_opens_under_the_logs_key():
    """The log's key opens it, whether or not the origin is asked for and whoever else is known."""
    data = sign_checkpoint(POINT, LOG)
    assert open_checkpoint(data, [LOG.key]) == POINT
    assert open_checkpoint(data, [OTHER.key, LOG.key], "log.example/one") == POINT


def test_another_logs_key_does_not_speak_for_this_one():
    """A known key counts only for the log that it is named after."""
    data = sign_note(TEXT, [OTHER])
    with pytest.raises(ProofError, match="another log's key"):
        open_checkpoint(data, [LOG.key, OTHER.key])
    with pytest.raises(FormatError, match="named like its origin"):
        sign_checkpoint(POINT, OTHER)


def test_another_origin_than_asked_for_is_refused():
    """A checkpoint of a known log is not one of the log that was asked for."""
    with pytest.raises(ProofError, match=r"of log 'log.example/one', not 'log.example/two'"):
        open_checkpoint(sign_checkpoint(POINT, LOG), [LOG.key], "log.example/two")


def test_a_signed_note_that_is_no_checkpoint_is_refused():
    """A good signature over other text does not make a checkpoint."""
    with pytest.raises(FormatError, match="size is not"):
        open_checkpoint(sign_note("log.example/one\nx\ny\n", [LOG]), [LOG.key])


@settings(max_examples=200, deadline=None)
@given(
    st.text("0123456789=\n AZaz/+", max_size=80) | st.integers(0, len(TEXT)).map(lambda at: TEXT[:at] + "=" + TEXT[at:])
)
def test_parsing_raises_format_error_only(text):
    """Whatever parses is written back as it was; everything else is a format error."""
    with contextlib.suppress(FormatError):
        assert format_checkpoint(parse_checkpoint(text)) == text
