"""Invented exchanges for `veriroute tui --demo`: every outcome and every way of failing, in a repeating pattern.

Names carry `demo` and the origin is under `.invalid`, so that nothing made here can be taken for a record of anything.
The receipts are real in form: signed, logged and checkable, by keys that stand in this file and prove nothing.
"""

from __future__ import annotations

import hashlib
from base64 import standard_b64encode
from typing import NamedTuple

from gateway.log.receipt import encode_receipt, subject
from gateway.model.admin import Row
from gateway.model.receipt import (
    FORM_BYTES,
    FORM_UTF8,
    REQUEST_BODY,
    RESPONSE_CONTENT,
    Caller,
    Delivery,
    Forwarded,
    LogRef,
    PolicyRef,
    Receipt,
    Rejected,
    RequestPart,
    Route,
    Served,
    Sha256,
    Timings,
    Usage,
    Verifier,
    instant,
)
from gateway.model.ulid import UlidFactory
from gateway.model.verdict import Check, Claim, Outcome, Release

ORIGIN = "demo.veriroute.invalid/log"
POLICY = b"# a demo policy: nothing reads it\n"
_POLICY = PolicyRef("demo-strict", "veriroute:policy/demo-strict@1", Sha256(hashlib.sha256(POLICY).hexdigest()))
_VERIFIER = Verifier("urn:veriroute:verifier:demo", (_POLICY,))
_AGENTS = ("demo-agent-eu", "demo-agent-us", "demo-batch")
_MODELS = ("demo-8b-instruct", "demo-70b-instruct", "demo-coder-32b")
_NODES = (("demo-node-a", "demo-net", "demo-operator"), ("demo-node-b", "demo-net", "demo-operator"))
_DISHONEST = ("demo-node-x", "demo-net", "demo-stranger")
_NODE_CHECKS = ("evidence", "key_bound", "key_weak", "keyset_valid", "fresh", "channel_bound", "replayed_nonce")
_RESPONSE_CHECKS = (
    *("signature", "key_bound", "request_bound", "response_bound", "replay", "fresh", "model_echo", "malformed"),
    *("shape", "executable_uncovered", "tool_undeclared", "tool_arguments", "output_kind"),
)
_CLAIMS = (
    Claim("tee_attested", "unknown", None, "the node shows no hardware evidence"),
    Claim("key_bound", "asserted", "verifier_derived"),
    Claim("request_bound", "asserted", "verifier_derived"),
    Claim("response_bound", "asserted", "verifier_derived"),
    Claim("model_bound", "asserted", "provider_asserted"),
    Claim("executed_in_tee", "unknown", None, "no evidence says where the model ran"),
)


class Plot(NamedTuple):
    """How one exchange goes: the failing check and what was found, what became of it, and why."""

    verdict: Outcome
    release: Release
    status: int
    reason: str | None = None
    check: str | None = None
    found: str | None = None
    expected: str | None = None
    altered: bool = False


_GOOD = Plot(Outcome.AFFIRMING, Release.RELEASED, 200)
_FAIL = (Outcome.CONTRAINDICATED, Release.WITHHELD, 502)
#: Which exchange of each hundred goes how; all others are good.
PLOTS = {
    4: Plot(*_FAIL, "response_bound", "response_bound", "sha256 9c1d…07", "sha256 5c0a…9e"),
    11: Plot(Outcome.WARNING, Release.RELEASED, 200, None, "output_kind", "text that parses as a tool call", "text"),
    19: Plot(Outcome.NONE, Release.REFUSED, 503, "no_eligible_node"),
    23: Plot(*_FAIL, "model_echo", "model_echo", "demo-1b-tiny", "the model that was asked for"),
    37: Plot(*_FAIL, "signature", "signature", "a signature by another key", "a key of the keyset"),
    48: Plot(Outcome.AFFIRMING, Release.RELEASED, 200, altered=True),
    52: Plot(*_FAIL, "replay", "replay", "a receipt seen 4 m ago", "a receipt for this request"),
    66: Plot(Outcome.WARNING, Release.RELEASED, 200, None, "output_kind", "text that parses as a tool call", "text"),
    71: Plot(Outcome.NONE, Release.WITHHELD, 502, "truncated"),
    83: Plot(Outcome.NONE, Release.ABANDONED, 499, "client_closed"),
}


class Made(NamedTuple):
    """One exchange: its row (the index is still to come), the payload to sign, and what its openings hold."""

    row: Row
    payload: bytes
    seed: bytes
    openings: dict[str, bytes]
    altered: bool


def make(number: int, created_ms: int, ulids: UlidFactory) -> Made:
    """The exchange with this number. The same number and time make the same exchange."""
    plot = PLOTS.get(number % 100, _GOOD)
    seed = hashlib.sha256(b"demo exchange %d" % number).digest()
    dice = seed[0]
    model, agent = _MODELS[seed[1] % 3], _AGENTS[seed[2] % 3]
    network_node = _DISHONEST if plot.verdict is Outcome.CONTRAINDICATED else _NODES[seed[3] % 2]
    served = plot.release is not Release.REFUSED
    latency = 180.0 + 9 * dice
    receipt_id = ulids.mint(created_ms, seed[:16])
    bodies = _bodies(number, model, answered=plot.release is Release.RELEASED)
    subjects = [
        subject(seed, name, data, FORM_BYTES if name == REQUEST_BODY else FORM_UTF8) for name, data in bodies.items()
    ]
    predicate = Receipt(
        receipt_id=receipt_id,
        nonce=standard_b64encode(seed[:16]).decode(),
        verifier=_VERIFIER,
        time_created=instant(created_ms + int(latency)),
        request=RequestPart(
            subjects[0].digest,
            "/v1/chat/completions",
            model,
            bool(dice % 2),
            Forwarded(subjects[0].digest, True) if served else None,
        ),
        caller=Caller(agent, f"demo-request-{number}"),
        served=_served(network_node, model, seed) if served else None,
        route=_route(plot, dice),
        verdict=plot.verdict,
        release=plot.release,
        reason=plot.reason,
        delivery=Delivery(
            form="verbatim" if plot.release is Release.RELEASED else "none",
            mode="chained" if dice % 2 else "buffer",
            bytes=700 + dice if plot.release is Release.RELEASED else 0,
            uncovered=(),
            dropped=(),
        ),
        checks=_checks(plot) if served else (),
        claims=_CLAIMS if served else (),
        evidence=(),
        timings=Timings(instant(created_ms), latency / 3, latency, 1.4) if served else Timings(instant(created_ms)),
        usage=Usage(20 + dice, 60 + dice, True) if plot.release is Release.RELEASED else None,
        log=LogRef(ORIGIN),
    )
    row = Row(
        id=receipt_id,
        key_id=agent,
        client_request_id=f"demo-request-{number}",
        created_ms=created_ms,
        verdict=plot.verdict.value,
        release=plot.release.value,
        reason=plot.reason,
        policy=_POLICY.name,
        network=network_node[1] if served else None,
        node=network_node[0] if served else None,
        model=model,
        endpoint="/v1/chat/completions",
        stream=bool(dice % 2),
        status=plot.status,
        latency_ms=latency,
        index=0,
    )
    return Made(row, encode_receipt(subjects, predicate), seed, bodies, plot.altered)


def _bodies(number: int, model: str, *, answered: bool) -> dict[str, bytes]:
    asked = b'{"model":"%s","messages":[{"role":"user","content":"demo question %d"}]}' % (model.encode(), number)
    return {REQUEST_BODY: asked, **({RESPONSE_CONTENT: b"demo answer %d" % number} if answered else {})}


def _served(node: tuple[str, str, str], model: str, seed: bytes) -> Served:
    name, network, operator = node
    return Served(
        network=network,
        node=name,
        operator=operator,
        model=model,
        session=hashlib.sha256(b"session" + name.encode()).hexdigest(),
        keyset_digest="sha256:" + hashlib.sha256(b"keyset" + name.encode()).hexdigest(),
        evidence_digest="sha256:" + hashlib.sha256(b"evidence" + seed).hexdigest(),
    )


def _route(plot: Plot, dice: int) -> Route:
    if plot.release is Release.REFUSED:
        gone = tuple(Rejected(name, "session_expired", "connect_failed") for name, _, _ in _NODES)
        return Route("refused", 0, len(gone), gone)
    if dice % 5 == 0:
        return Route("fallback", 2, 3, (Rejected(_DISHONEST[0], "keyset_valid", "keyset_expired"),))
    return Route("primary", 1, 2)


def _checks(plot: Plot) -> tuple[Check, ...]:
    node = [Check(name, Outcome.AFFIRMING) for name in _NODE_CHECKS]
    response: list[Check] = []
    for name in _RESPONSE_CHECKS:
        if plot.reason in ("truncated", "client_closed"):
            response.append(Check(name, Outcome.NONE, f"not run: {plot.reason}"))
        elif name == plot.check:
            response.append(Check(name, plot.verdict, _WHY[name], plot.found, plot.expected, "the answer's bytes"))
        else:
            response.append(Check(name, Outcome.AFFIRMING))
    return (*node, *response)


_WHY = {
    "response_bound": "the bytes that arrived are not the bytes that were signed",
    "model_echo": "the receipt names another model",
    "signature": "the signature does not hold under the key that it names",
    "replay": "this receipt was given to us before",
    "output_kind": "the text reads as a tool call; the policy lets it pass as text",
}
