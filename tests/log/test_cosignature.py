"""Cosignatures in both forms: what they cover, and what a reader makes of good, bad and unknown ones."""

import contextlib

import pytest
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.crypto.signatures import Ed25519Signer
from gateway.errors import FormatError, ProofError
from gateway.log.checkpoint import Checkpoint, format_checkpoint, sign_checkpoint
from gateway.log.cosignature import Cosignature, cosign, ed25519_message, mldsa44_message, open_cosigned
from gateway.log.note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_MLDSA44,
    NoteSigner,
    SignatureLine,
    Vkey,
    key_id,
    parse_vkey,
    sign_note,
)

LOG = NoteSigner("log.example/one", bytes(31) + b"\1")
POINT = Checkpoint("log.example/one", 257, bytes(range(32)))
TEXT = format_checkpoint(POINT)
NOTE = sign_checkpoint(POINT, LOG)
NOW = 1_767_225_600

W1 = Ed25519Signer(bytes(31) + b"\x11")
PQ = MLDSA44PrivateKey.from_seed_bytes(bytes(31) + b"\x12")


def vkey(name: str, alg: int, public: bytes) -> Vkey:
    return parse_vkey(str(Vkey(name, key_id(name, alg, public), alg, public)))


W1_KEY = vkey("witness.example/w1", COSIGNATURE_ED25519, W1.public_key)
PQ_KEY = vkey("witness.example/pq", COSIGNATURE_MLDSA44, PQ.public_key().public_bytes_raw())


def ed_line(text: str = TEXT, time: int = NOW) -> bytes:
    return str(cosign(W1_KEY.name, W1, text, time)).encode()


def pq_line(point: Checkpoint = POINT, time: int = NOW, key: Vkey = PQ_KEY) -> bytes:
    payload = time.to_bytes(8, "big") + PQ.sign(mldsa44_message(key.name, time, point))
    return str(SignatureLine(key.name, key.id, payload)).encode()


PQ_LINE = pq_line()


def test_messages_are_those_of_the_specification():
    """The two signed messages have the specification's bytes."""
    assert ed25519_message(NOW, TEXT) == b"cosignature/v1\ntime 1767225600\n" + TEXT.encode()
    message = mldsa44_message("w", 5, POINT)
    origin = b"log.example/one"
    assert message == b"".join(
        [
            b"subtree/v1\n\0",
            b"\x01w",
            bytes(7),
            b"\5",
            bytes([len(origin)]),
            origin,
            bytes(8),
            bytes(6),
            b"\1\1",
            POINT.root,
        ]
    )


def test_both_forms_are_found_and_timed():
    """A checkpoint with an Ed25519 and an ML-DSA cosignature names both witnesses with their times."""
    found = open_cosigned(NOTE + ed_line() + pq_line(time=0), [LOG.key], [W1_KEY, PQ_KEY], POINT.origin)
    assert found.checkpoint == POINT
    assert found.log_keys == (LOG.key,)
    assert found.cosignatures == (Cosignature(W1_KEY, NOW), Cosignature(PQ_KEY, 0))


def test_unknown_witnesses_are_passed_over():
    """A checkpoint opens without its witnesses being known, and then has no cosignature."""
    assert open_cosigned(NOTE + ed_line() + PQ_LINE, [LOG.key], []).cosignatures == ()


def test_a_witness_that_signed_twice_counts_once_with_its_newest_time():
    """Two lines of one witness are one cosignature."""
    data = NOTE + ed_line(time=NOW + 9) + ed_line(time=NOW)
    assert open_cosigned(data, [LOG.key], [W1_KEY]).cosignatures == (Cosignature(W1_KEY, NOW + 9),)


def test_times_reach_to_their_bound():
    """A time of 2**63 - 1 is read in both forms; one more is refused below."""
    data = NOTE + ed_line(time=2**63 - 1) + pq_line(time=2**63 - 1)
    assert [c.time for c in open_cosigned(data, [LOG.key], [W1_KEY, PQ_KEY]).cosignatures] == [2**63 - 1] * 2


EXTENDED = Checkpoint(POINT.origin, POINT.size, POINT.root, ("extension",))


def test_the_two_forms_differ_on_extension_lines():
    """The Ed25519 form covers extension lines, the ML-DSA form does not."""
    note = sign_checkpoint(EXTENDED, LOG)
    assert open_cosigned(note + PQ_LINE, [LOG.key], [PQ_KEY]).checkpoint == EXTENDED
    with pytest.raises(ProofError, match="does not hold"):
        open_cosigned(note + ed_line(), [LOG.key], [W1_KEY])
    text = format_checkpoint(EXTENDED)
    assert len(open_cosigned(note + ed_line(text), [LOG.key], [W1_KEY]).cosignatures) == 1


def line(key: Vkey, payload: bytes) -> bytes:
    return str(SignatureLine(key.name, key.id, payload)).encode()


ED_PAYLOAD = cosign(W1_KEY.name, W1, TEXT, NOW).payload


@pytest.mark.parametrize(
    "bad",
    [
        line(W1_KEY, ED_PAYLOAD[:-1]),
        line(W1_KEY, ED_PAYLOAD[:5]),
        line(W1_KEY, bytes(8) + ED_PAYLOAD[8:]),
        line(W1_KEY, W1.sign(TEXT.encode())),
        line(W1_KEY, cosign(W1_KEY.name, W1, TEXT, 2**63).payload),
        line(PQ_KEY, bytes(8)),
        line(PQ_KEY, bytes(8 + 2420)),
        pq_line(Checkpoint(POINT.origin, 258, POINT.root)),
        pq_line(Checkpoint("log.example/two", 257, POINT.root)),
        pq_line(time=2**63),
        line(PQ_KEY, PQ.sign(b"x")),
    ],
)
def test_a_known_witness_line_that_does_not_hold_refuses_the_note(bad):
    """Wrong lengths, times, messages and forms by a known witness refuse the whole note."""
    with pytest.raises(ProofError, match="does not hold"):
        open_cosigned(NOTE + bad, [LOG.key], [W1_KEY, PQ_KEY])


def test_the_name_is_part_of_the_post_quantum_form():
    """An ML-DSA cosignature made under another name does not hold, though the key is the same."""
    other = vkey("witness.example/pr", COSIGNATURE_MLDSA44, PQ_KEY.public)
    stolen = line(other, PQ.sign(mldsa44_message(PQ_KEY.name, 0, POINT)))
    with pytest.raises(ProofError, match="does not hold"):
        open_cosigned(NOTE + stolen, [LOG.key], [other])


def test_witnesses_alone_do_not_make_a_checkpoint():
    """Without a line by the log a cosigned checkpoint is refused."""
    data = TEXT.encode() + b"\n" + ed_line()
    with pytest.raises(ProofError, match="not signed by any known log key"):
        open_cosigned(data, [LOG.key], [W1_KEY])


def test_a_log_may_sign_in_the_post_quantum_form():
    """An ML-DSA key named like the origin is a log key."""
    key = vkey(POINT.origin, COSIGNATURE_MLDSA44, PQ_KEY.public)
    data = TEXT.encode() + b"\n" + pq_line(key=key)
    assert open_cosigned(data, [key], []).log_keys == (key,)


def test_a_witness_key_is_no_log():
    """A key that can only cosign does not sign for a log, though it is named like one."""
    key = vkey(POINT.origin, COSIGNATURE_ED25519, W1.public_key)
    data = TEXT.encode() + b"\n" + str(cosign(key.name, W1, TEXT, NOW)).encode()
    with pytest.raises(FormatError, match="log key has type 0x01 or 0x06"):
        open_cosigned(data, [key], [])


def test_a_plain_key_is_no_witness():
    """A key of the log's type among the witnesses is refused, not ignored."""
    with pytest.raises(FormatError, match="witness key has type"):
        open_cosigned(NOTE, [LOG.key], [LOG.key])


@pytest.mark.parametrize("origin", ["x" * 256, "x" * 255])
def test_names_must_fit_their_length_byte(origin):
    """An origin of 256 bytes has no ML-DSA message, one of 255 has."""
    log = NoteSigner(origin, bytes(32))
    note = sign_note(format_checkpoint(Checkpoint(origin, 257, POINT.root)), [log])
    with pytest.raises(FormatError) as caught:
        open_cosigned(note + PQ_LINE, [log.key], [PQ_KEY])
    assert isinstance(caught.value, ProofError) == (len(origin) == 255)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, len(NOTE + PQ_LINE) - 1), st.binary(max_size=3))
def test_damage_raises_format_error_only(at, replacement):
    """A damaged cosigned checkpoint opens as what it was or not at all."""
    data = NOTE + PQ_LINE
    with contextlib.suppress(FormatError):
        found = open_cosigned(data[:at] + replacement + data[at + 1 :], [LOG.key], [PQ_KEY])
        assert found.checkpoint == POINT
