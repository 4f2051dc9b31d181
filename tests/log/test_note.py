"""Signed notes: keys as text, signing, and every way in which a note is refused."""

import base64
import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import FormatError, ProofError
from gateway.log.note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_MLDSA44,
    ED25519,
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    NoteSigner,
    SignatureLine,
    Vkey,
    key_id,
    open_note,
    parse_note,
    parse_signature_lines,
    parse_skey,
    parse_vkey,
    sign_note,
)

ALICE = NoteSigner("alice.example/log", bytes(31) + b"\1")
BOB = NoteSigner("bob.example/log", bytes(31) + b"\2")
TEXT = "first line\n\nafter an empty one: é\n"
NOTE = sign_note(TEXT, [ALICE])


def test_reads_the_note_of_the_go_documentation():
    """The example of golang.org/x/mod/sumdb/note, made by another implementation, opens."""
    key = parse_vkey("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    text = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
    line = (
        "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    )
    assert open_note((text + "\n" + line).encode(), [key]).verified == (key,)


def test_keys_round_trip_as_text():
    """A signer's vkey and skey read back as the same key."""
    key = parse_vkey(ALICE.vkey)
    assert (key.name, key.alg, key.public) == ("alice.example/log", ED25519, ALICE.public_key)
    assert key.keyid == ALICE.keyid == f"alice.example/log+{key.id.hex()}"
    assert str(key) == ALICE.vkey
    assert parse_skey(ALICE.skey).vkey == ALICE.vkey


def test_a_signer_does_not_show_its_seed():
    """`repr` of a signer names the key and nothing secret."""
    assert repr(ALICE) == f"NoteSigner({ALICE.keyid})"
    assert ALICE.skey not in repr(vars(type(ALICE)))


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u00a0b", "a\u2028b", "a\nb", "a\x01b", "\ud800", "\x1f"])
def test_some_names_cannot_name_a_key(name):
    """Empty names, spaces of any script, plus signs, control characters and surrogates are refused."""
    with pytest.raises(FormatError, match="key name"):
        key_id(name, ED25519, bytes(32))


def as_vkey(name: str, alg: int, public: bytes) -> str:
    return str(Vkey(name, key_id(name, alg, public), alg, public))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has the form"),
        ("alice.example/log+00000000", "has the form"),
        (ALICE.vkey.replace("alice", "alicf"), "does not belong"),
        (ALICE.vkey.replace(ALICE.keyid, ALICE.keyid.upper()), "does not belong"),
        (ALICE.vkey + "=", "not base64"),
        ("a+" + "0" * 8 + "+", "neither Ed25519"),
        (as_vkey("a", 0x02, bytes(32)), "neither Ed25519"),
        (as_vkey("a", ED25519, bytes(31)), "neither Ed25519"),
        (as_vkey("a", COSIGNATURE_MLDSA44, bytes(32)), "neither Ed25519"),
        (as_vkey("a", ED25519, b"\1" + bytes(31)), "weak"),
        (as_vkey("a", COSIGNATURE_ED25519, b"\2" + bytes(31)), "weak"),
    ],
)
def test_refuses_malformed_and_weak_verifier_keys(text, message):
    """A verifier key whose form, id, type, length or point is wrong is refused."""
    with pytest.raises(FormatError, match=message):
        parse_vkey(text)


def test_takes_keys_of_every_type_that_is_read():
    """The two kinds of witness key are verifier keys too."""
    for alg, public in ((COSIGNATURE_ED25519, ALICE.public_key), (COSIGNATURE_MLDSA44, bytes(1312))):
        assert parse_vkey(as_vkey("w", alg, public)).alg == alg


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ALICE.vkey, "has the form PRIVATE"),
        ("", "has the form PRIVATE"),
        (ALICE.skey.replace("PRIVATE", "PUBLIC"), "has the form PRIVATE"),
        (ALICE.skey.replace("alice", "alicf"), "does not belong"),
        (ALICE.skey[:-4], "signer key's material"),
        ("PRIVATE+KEY+a+00000000+" + base64.b64encode(b"\2" + bytes(32)).decode(), "type 0x02 is not supported"),
    ],
)
def test_refuses_malformed_signer_keys_without_quoting_them(text, message):
    """A signer key that can't be read is refused, and the message does not repeat it."""
    with pytest.raises(FormatError, match=message) as caught:
        parse_skey(text)
    assert not text or text not in str(caught.value)


def test_a_note_opens_under_its_signers_keys():
    """A note by two signers names the known ones as verified and keeps the other's line."""
    data = sign_note(TEXT, [ALICE, BOB])
    assert open_note(data, [BOB.key, ALICE.key]).verified == (ALICE.key, BOB.key)
    note = open_note(data, [BOB.key])
    assert (note.text, note.verified) == (TEXT, (BOB.key,))
    assert [line.keyid for line in note.unverified] == [ALICE.keyid]
    assert str(note.unverified[0]) == ALICE.sign_line(TEXT)


def test_a_key_that_signed_twice_is_listed_once():
    """Two good lines by one key are one signer."""
    assert open_note(NOTE + ALICE.sign_line(TEXT).encode(), [ALICE.key]).verified == (ALICE.key,)


def bad_line(name: str = ALICE.name, ident: bytes = ALICE.key.id) -> bytes:
    return str(SignatureLine(name, ident, bytes(64))).encode()


@pytest.mark.parametrize(
    "data", [NOTE + bad_line(), TEXT.encode() + b"\n" + bad_line() + ALICE.sign_line(TEXT).encode()]
)
def test_a_known_keys_bad_line_refuses_the_note(data):
    """A bad line refuses the note before or after a good line by the same key."""
    with pytest.raises(ProofError, match="does not hold"):
        open_note(data, [ALICE.key])


@pytest.mark.parametrize("line", [bad_line(ident=b"\0\0\0\0"), bad_line(name=BOB.name)])
def test_lines_that_share_only_name_or_id_are_passed_over(line):
    """A line counts as a known key's only when both name and id match."""
    assert len(open_note(NOTE + line, [ALICE.key]).unverified) == 1


def test_a_strangers_signature_may_have_any_length():
    """One byte after the key id is enough for a line that nobody judges."""
    line = SignatureLine("stranger", b"1234", b"x")
    assert open_note(NOTE + str(line).encode(), [ALICE.key]).unverified == (line,)


def test_a_note_by_strangers_is_refused():
    """A well-formed note without a known signer, or for no keys at all, does not open."""
    for keys in ([BOB.key], []):
        with pytest.raises(ProofError, match="not signed by any known key"):
            open_note(NOTE, keys)


def test_cosigner_keys_do_not_open_notes():
    """A key type that signs checkpoints only is refused when a plain note is opened."""
    with pytest.raises(FormatError, match="does not sign this kind of note"):
        open_note(NOTE, [ALICE.key, Vkey("w", b"1234", COSIGNATURE_ED25519, bytes(32))])


TAIL = NOTE[NOTE.rindex(b"\n\n") + 2 :]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "blank line"),
        (TEXT.encode(), "signature lines|em dash"),
        (b"text\n\n", "signature lines that end"),
        (b"text\n" + TAIL, "blank line"),
        (NOTE[:-1], "end in newlines"),
        (NOTE + b"\n", "signature lines that end in newlines"),
        (NOTE.replace(b"\n", b"\r\n"), "control character"),
        (NOTE.replace(b"first", b"fir\tst"), "control character"),
        (NOTE.replace(b"first", b"fir\0st"), "control character"),
        (NOTE.replace(b"first", b"fir\xffst"), r"not UTF-8 \(byte 3\)"),
        (NOTE.replace("—".encode(), b"-"), "em dash"),
        (NOTE.replace("— ".encode(), "—  ".encode()), "not base64|key name"),
        (NOTE.replace(b"alice.example/log ", b"alice.example/log"), "em dash|not base64|too short"),
        (NOTE.replace(b"alice.example/log", b"al+ice"), "key name"),
        (NOTE.replace(b"=\n", b"\n"), "not base64"),
        (NOTE.replace(TAIL, "— a AAAAAA==\n".encode()), "too short"),
        (NOTE.replace(TAIL, "— a \n".encode()), "too short"),
        (NOTE.replace(TAIL, "— a\n".encode()), "too short"),
        (NOTE + TAIL * MAX_SIGNATURES, "more than"),
        (NOTE + b" " * MAX_NOTE_BYTES, "over the limit"),
    ],
)
def test_refuses_what_is_no_note(data, message):
    """A note with another shape, encoding or size is a format error."""
    with pytest.raises(FormatError, match=message):
        open_note(data, [ALICE.key])


def test_accepts_as_many_signatures_as_its_bound():
    """A note with a hundred lines is read; the specification asks for sixteen."""
    assert len(parse_note(NOTE + TAIL * (MAX_SIGNATURES - 1))[1]) == MAX_SIGNATURES


@pytest.mark.parametrize("text", ["", "no newline", "tab\t\n", "\ud800\n", "a\r\n"])
def test_refuses_to_sign_what_is_no_note_text(text):
    """Text that could not be read back is not signed."""
    with pytest.raises(FormatError, match="ends in a newline"):
        sign_note(text, [ALICE])


def test_refuses_to_write_a_note_without_signature():
    """A note has at least one signature."""
    with pytest.raises(FormatError, match="needs a signature"):
        sign_note(TEXT, [])


def test_reads_signature_lines_on_their_own():
    """A witness's answer, lines without a note, is read by the same rules."""
    assert parse_signature_lines(TAIL.decode() * 2)[1].keyid == ALICE.keyid
    assert len(parse_signature_lines(TAIL.decode() * MAX_SIGNATURES)) == MAX_SIGNATURES
    for text, message in (
        ("", "newlines"),
        (TAIL.decode()[:-1], "newlines"),
        ("x\n", "em dash"),
        (TAIL.decode() * 101, "more"),
    ):
        with pytest.raises(FormatError, match=message):
            parse_signature_lines(text)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(NOTE) - 1), st.binary(max_size=3), st.binary(max_size=60))
def test_damage_never_opens_and_never_raises_anything_else(at, replacement, noise):
    """A damaged note opens only if nothing that counts was changed, and otherwise raises a FormatError."""
    damaged = NOTE[:at] + replacement + NOTE[at + 1 :]
    for data in (damaged, noise, NOTE + noise):
        with contextlib.suppress(FormatError):
            assert open_note(data, [ALICE.key]).text == TEXT


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60) | st.text("+ABab=/", max_size=60).map(ALICE.vkey.__add__))
def test_key_parsers_raise_format_error_only(text):
    """Whatever the text, keys and lines are read back as themselves or refused."""
    with contextlib.suppress(FormatError):
        assert str(parse_vkey(text)) == text
    with contextlib.suppress(FormatError):
        assert parse_skey(text).skey == text
    with contextlib.suppress(FormatError):
        assert "".join(map(str, parse_signature_lines(text))) == text
