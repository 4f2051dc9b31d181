"""The trust file: the specification's grammar, our receipt keys in it, and the quorum."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.crypto.signatures import Ed25519Signer
from gateway.errors import FormatError, ProofError
from gateway.log.checkpoint import Checkpoint, format_checkpoint, sign_checkpoint
from gateway.log.cosignature import cosign
from gateway.log.note import COSIGNATURE_ED25519, COSIGNATURE_MLDSA44, NoteSigner, Vkey, key_id
from gateway.log.trust import (
    MAX_LINES,
    MAX_TRUST_BYTES,
    Group,
    Log,
    Witness,
    open_with_trust,
    parse_trust,
    verify_checkpoint,
)

LOG = NoteSigner("log.example/one", bytes(31) + b"\1")
RECEIPTS = NoteSigner("log.example/receipts", bytes(31) + b"\2")
POINT = Checkpoint(LOG.name, 5, bytes(range(32)))
TEXT = format_checkpoint(POINT)
NOTE = sign_checkpoint(POINT, LOG)


class Cosigner:
    def __init__(self, name: str, number: int) -> None:
        self.name, self.signer = name, Ed25519Signer(bytes(31) + bytes([number]))
        public = self.signer.public_key
        self.key = Vkey(name, key_id(name, COSIGNATURE_ED25519, public), COSIGNATURE_ED25519, public)

    def line(self) -> bytes:
        return str(cosign(self.name, self.signer, TEXT, 1)).encode()


W = [Cosigner(f"w{number}.example", 0x20 + number) for number in range(6)]
WITNESSES = "".join(f"witness X{number} {w.key}\n" for number, w in enumerate(W))
NESTED = f"""
# Two organisations.
log {LOG.vkey} https://log.example/one/

{WITNESSES}
 \tgroup  Xs 2 X0\tX1 X2 \t
group Ys any X3 X4 X5
group both all Xs Ys
quorum both
#!receipt {RECEIPTS.vkey}
"""


def test_reads_every_kind_of_line():
    """Logs, witnesses, groups, the quorum and receipt keys are read, with any whitespace between words."""
    trust = parse_trust(NESTED)
    assert trust.logs == (Log(LOG.key, "https://log.example/one/"),)
    assert trust.witnesses[1] == Witness("X1", W[1].key)
    assert trust.groups[0] == Group("Xs", 2, ("X0", "X1", "X2"))
    assert [group.threshold for group in trust.groups] == [2, 1, 2]
    assert trust.quorum == "both"
    assert trust.receipt_keys == (RECEIPTS.key,)
    assert trust.receipt_key_map == {RECEIPTS.keyid: RECEIPTS.public_key}
    assert parse_trust(NESTED.encode()) == trust


def test_a_policy_may_ask_for_no_witness():
    """`quorum none` is the least that a policy can say, and any checkpoint of a known log then passes."""
    assert parse_trust("quorum none").logs == ()
    trust = parse_trust(f"quorum none\nlog {LOG.vkey}\n")
    assert verify_checkpoint(NOTE, trust).checkpoint == POINT


@pytest.mark.parametrize(
    ("cosigners", "met"),
    [
        ((), False),
        ((0, 1), False),
        ((0, 3), False),
        ((3, 4, 5), False),
        ((0, 1, 3), True),
        ((1, 2, 5), True),
        (range(6), True),
    ],
)
def test_a_nested_quorum_counts_groups(cosigners, met):
    """Two of one group and one of the other are needed, and nothing less suffices."""
    trust = parse_trust(NESTED)
    data = NOTE + b"".join(W[number].line() for number in cosigners)
    assert len(open_with_trust(data, trust, LOG.name).cosignatures) == len(cosigners)
    assert trust.quorum_met(W[number].key for number in cosigners) is met
    if met:
        assert verify_checkpoint(data, trust, LOG.name).checkpoint == POINT
    else:
        with pytest.raises(ProofError, match=rf"cosigned by {len(cosigners)} of 6 .* quorum 'both'"):
            verify_checkpoint(data, trust, LOG.name)


def test_a_quorum_may_be_one_witness():
    """A witness's own name is a quorum."""
    trust = parse_trust(f"log {LOG.vkey}\n{WITNESSES}quorum X2\n")
    assert verify_checkpoint(NOTE + W[2].line(), trust).cosignatures[0].key == W[2].key
    with pytest.raises(ProofError, match="does not meet"):
        verify_checkpoint(NOTE + W[1].line(), trust)


def test_an_unknown_log_is_refused_whatever_the_quorum():
    """Without a line by a listed log nothing opens."""
    with pytest.raises(ProofError, match="not signed by any known key"):
        open_with_trust(NOTE, parse_trust("quorum none\n"))


def test_takes_post_quantum_logs_and_witnesses():
    """Keys of type 0x06 may stand for logs and witnesses."""
    names = ("pq.example/log", "pq.example/w")
    keys = [Vkey(n, key_id(n, COSIGNATURE_MLDSA44, bytes(1312)), COSIGNATURE_MLDSA44, bytes(1312)) for n in names]
    trust = parse_trust(f"log {keys[0]}\nwitness w {keys[1]}\nquorum w\n")
    assert (trust.log_keys, trust.witness_keys) == ((keys[0],), (keys[1],))


def test_names_are_opaque_octets():
    """Octets that are no UTF-8 may stand in names, and different octets stay different names."""
    body = b"witness \xff %b\nwitness \xfe %b\ngroup g all \xff \xfe\nquorum g\n"
    trust = parse_trust(body % (str(W[0].key).encode(), str(W[1].key).encode()))
    assert len({witness.name for witness in trust.witnesses}) == 2


def test_reads_policies_up_to_their_bounds():
    """The longest file and the most lines that are allowed are read."""
    head = "quorum none\n"
    assert parse_trust(head + "#" * (MAX_TRUST_BYTES - len(head))).quorum is None
    assert parse_trust(head + "\n" * (MAX_LINES - 2)).quorum is None


RENAMED = str(Vkey("other", key_id("other", 1, LOG.public_key), 1, LOG.public_key))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no quorum line"),
        (WITNESSES, "no quorum line"),
        ("quorum", "line 1: expected: quorum"),
        ("quorum none none", "line 1: expected: quorum"),
        ("quorum none\nquorum none", "line 2: there is a quorum already"),
        ("quorum X0\n" + WITNESSES, "line 1: 'X0' is not defined above"),
        ("# ok\nfrobnicate a", "line 2: a line begins with log"),
        ("Log x", "line 1: a line begins with log"),
        ("log", "expected: log"),
        (f"log {LOG.vkey} url more", "expected: log"),
        ("log nonsense", "line 1: a verifier key has the form"),
        (f"log {W[0].key}", "has type 0x04"),
        (f"log {LOG.vkey}\nlog {LOG.vkey}", "line 2: the key .* stands twice"),
        (f"log {LOG.vkey}\nlog {RENAMED}", "line 2: the key .* stands twice, whatever its name"),
        ("witness X", "expected: witness"),
        (f"witness X {W[0].key} url more", "expected: witness"),
        (f"witness X {LOG.vkey}", r"has type 0x01.* it is written log\.example/one\+[0-9a-f]{8}\+B"),
        (f"witness none {W[0].key}", "the name 'none' is taken"),
        (f"witness X {W[0].key}\nwitness X {W[1].key}", "the name 'X' is taken"),
        (f"witness X {W[0].key}\nwitness Y {W[0].key}", "stands twice"),
        (WITNESSES + "group g all", "expected: group"),
        (WITNESSES + "group X0 all X1", "the name 'X0' is taken"),
        (WITNESSES + "group none all X1", "the name 'none' is taken"),
        (WITNESSES + "group g all g", "'g' is not defined above"),
        (WITNESSES + "group g any none", "'none' is not defined above"),
        (WITNESSES + "group g any X0 X0", "'X0' is a member already"),
        (WITNESSES + "group g any X0\ngroup h any X0", "'X0' is a member already"),
        (WITNESSES + "group g 0 X0", "threshold must be from 1 to 1"),
        (WITNESSES + "group g 3 X0 X1", "threshold must be from 1 to 2"),
        (WITNESSES + "group g 01 X0", "threshold is not a plain"),
        (WITNESSES + "group g some X0", "threshold is not a plain"),
        ("#!receipt", "expected: #!receipt"),
        (f"#!receipt {RECEIPTS.vkey} x", "expected: #!receipt"),
        (f"#!receipt {W[0].key}", "has type 0x04"),
        (f"#!receipt {RECEIPTS.vkey}\n#!receipt {RECEIPTS.vkey}", "line 2: the key .* stands twice"),
        (f"#!reciept {RECEIPTS.vkey}", "there is no directive '#!reciept'"),
        ("quorum none\r\n", "control characters"),
        ("quorum\x0bnone\n", "control characters"),
        ("# \x7f", "control characters"),
        ("# \ud800", "lone surrogate"),
        ("#" * (MAX_TRUST_BYTES + 1), "at most"),
        ("\n" * MAX_LINES, "at most"),
    ],
)
def test_refuses_malformed_policies_naming_the_line(text, message):
    """Every rule of the grammar that is broken is refused, with its line."""
    with pytest.raises(FormatError, match=message):
        parse_trust(text)


WORDS = [
    "log",
    "witness",
    "group",
    "quorum",
    "#!receipt",
    "none",
    "any",
    "all",
    "1",
    "g",
    "w",
    "X",
    " ",
    "\n",
    "\t",
    "#",
]
WORDS += [LOG.vkey, str(W[0].key), str(W[1].key), "+"]


@settings(max_examples=250, deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=20).map(" ".join) | st.text(max_size=40), st.binary(max_size=40))
def test_parsing_raises_format_error_only(text, data):
    """Whatever the text or bytes, a policy comes out or a format error."""
    for source in (text, text + "\nquorum none", data):
        with contextlib.suppress(FormatError):
            trust = parse_trust(source)
            assert trust.quorum_met(trust.witness_keys)
