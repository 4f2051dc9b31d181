"""What the recorder writes, whatever an exchange left behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.backlog import Backlog
from gateway.exchange.answer import Content
from gateway.exchange.head import parse_head
from gateway.exchange.render import VerificationPolicy
from gateway.log.dsse import parse_envelope
from gateway.log.note import NoteSigner
from gateway.log.receipt import parse_receipt
from gateway.model.receipt import MAX_INTEGER, EvidenceForm, PolicyRef, Receipt, Sha256, Verifier
from gateway.model.verdict import Check, Claim, Outcome, Release
from gateway.recorder import MAX_NAMES, Ending, Exchange, PolicyUse, Recorder
from gateway.storage.packing import Packer

BODY = b'{"model":"m","messages":[]}'
REF = PolicyRef("p", "veriroute:policy/p@1", Sha256("0" * 64))
POLICY = PolicyUse("p", "0" * 64, Verifier("urn:veriroute:verifier:1", (REF,)), "none", VerificationPolicy("p", "d"))


def exchange() -> Exchange:
    return Exchange(
        receipt_id="01ARZ3NDEKTSV4RRFFQ69G5FAV",
        received_ms=1,
        t0=0.0,
        seed=b"s" * 32,
        nonce16=b"n" * 16,
        key_id="key_1",
        client_request_id=None,
        head=parse_head("/v1/chat/completions", BODY),
        body=BODY,
        policy=POLICY,
    )


def written(x: Exchange, **end: Any) -> Receipt:
    """The receipt of `x`, read back from the bytes that are signed."""

    def append(entry: object) -> Any:
        raise AssertionError("nothing is appended here")

    packer = Packer(0, b"", lambda *_: asyncio.Future())
    backlog = Backlog(append, now_ms=lambda: 1)
    signer = NoteSigner("o/receipts", b"\1" * 32)
    recorder = Recorder(append, signer, "o", backlog=backlog, now_ms=lambda: 1, mono=lambda: 1.0, packer=packer)
    ending = {"verdict": Outcome.AFFIRMING, "release": Release.RELEASED, "status": 200, **end}
    _, sealed = recorder.entry(x, Ending(**ending))
    return parse_receipt(parse_envelope(sealed.envelope).payload).predicate


@pytest.mark.parametrize("count", [0, 1, MAX_INTEGER])
def test_counts_of_tokens_are_written(count: int) -> None:
    """Every count that a receipt can hold stands in it as the node reported it."""
    usage = written(exchange(), input_tokens=count, output_tokens=count, covered=True).usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.covered) == (count, count, True)


@pytest.mark.parametrize("count", [None, -1, MAX_INTEGER + 1, 2**60, 2**63 - 1])
def test_counts_that_no_receipt_can_hold_are_left_out(count: int | None) -> None:
    """A count that is absent, negative or above 2^53 leaves a receipt without usage, and readable."""
    assert written(exchange(), input_tokens=count, output_tokens=1).usage is None
    assert written(exchange(), input_tokens=1, output_tokens=count).usage is None


def test_names_from_a_node_do_not_make_a_receipt_too_long() -> None:
    """Of very many or very long names of members the receipt has the first, cut, and can be read."""
    x = exchange()
    x.sent = True
    x.dropped_members = tuple([f"x_veriroute_{n}" for n in range(100_000)])
    x.uncovered = x.unsupported = ("\0" * 2_000_000,) * 100
    read = written(x)
    assert read.delivery.dropped == x.dropped_members[:MAX_NAMES]
    assert read.delivery.uncovered == ("\0" * 200,) * MAX_NAMES
    assert read.request.forwarded is not None
    assert read.request.forwarded.unsupported == read.delivery.uncovered


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)  # parsers let no lone surrogate through
NAMES = st.lists(TEXT, max_size=100).map(tuple)
COUNT = st.none() | st.integers() | st.sampled_from([-1, 0, MAX_INTEGER, MAX_INTEGER + 1])
ENDINGS = st.fixed_dictionaries(
    {
        "verdict": st.sampled_from(Outcome),
        "release": st.sampled_from(Release),
        "status": st.integers(),
        "reason": st.none() | TEXT,
        "form": st.sampled_from(["verbatim", "rebuilt", "none"]),
        "checks": st.lists(st.builds(Check, TEXT, st.sampled_from(Outcome), TEXT, TEXT, TEXT, TEXT)).map(tuple),
        "claims": st.lists(st.builds(Claim, TEXT, TEXT, TEXT, TEXT)).map(tuple),
        "body": st.none() | st.binary(),
        "content": st.none() | st.builds(Content, st.text(), st.binary()),
        "evidence": st.none() | st.binary(),
        "evidence_form": st.none() | st.builds(EvidenceForm, TEXT, TEXT),
        "input_tokens": COUNT,
        "output_tokens": COUNT,
        "covered": st.booleans(),
    }
)


@settings(max_examples=200, deadline=None)
@given(ENDINGS, NAMES, NAMES, st.booleans())
@example({"input_tokens": -1, "output_tokens": 2**60}, ("x_veriroute",) * 99, (), True)
@example({"content": Content("\ud800", b"")}, (), (), True)
def test_whatever_an_ending_holds_its_receipt_can_be_read(
    end: dict[str, Any], dropped: tuple[str, ...], uncovered: tuple[str, ...], sent: bool
) -> None:
    """No number and no text, from a node or from us, makes a receipt that its own reader refuses."""
    x = exchange()
    x.sent, x.dropped_members, x.uncovered = sent, dropped, uncovered
    read = written(x, **end)
    assert read.verdict == end.get("verdict", Outcome.AFFIRMING)
    assert read.checks == end.get("checks", ())
