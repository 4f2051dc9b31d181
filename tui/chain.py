"""The provenance of one exchange as a tree of lines: request, policy, route, node, response, receipt.

A line is a check (it has an outcome) or a fact (it has none). A branch has the worst outcome of what is below it, by
`gateway.model.verdict.worst`; nothing is judged here. Every line can explain itself, in the words of the registry.

Two hands write into the tree, and each line says which: what the signed receipt *claims*, and what was *re-verified
here* from the stored bytes. Until the second hand has written, every branch is a claim.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from gateway.model.admin import Row
from gateway.model.receipt import Delivery, Receipt, Statement
from gateway.model.verdict import Check, Claim, Outcome, Release, worst
from gateway.verify.checks import CHECKS, CLAIMS, Phase, claim_title, title_of

from .columns import number, short_id
from .verdicts import outcome as parse_outcome
from .verdicts import released, verdict_sentence

CLAIMED = "claimed by the gateway, in its signed receipt"
LISTED = "claimed by the gateway, in its list of receipts"
HERE = "re-verified here, from the stored bytes"


class Line(msgspec.Struct, kw_only=True):
    """One line. Strings are raw: the widget cleans what it draws.

    `told` says by whom the line is known; `facts` and `words` are what the explaining pane shows; `copy` is the digest
    or id that the line is about.
    """

    key: str
    text: str = ""
    outcome: Outcome | None = None
    below: list[Line] = msgspec.field(default_factory=list)
    told: str = CLAIMED
    title: str = ""
    facts: list[tuple[str, str]] = msgspec.field(default_factory=list)
    words: list[str] = msgspec.field(default_factory=list)
    copy: str | None = None

    def walk(self) -> Iterator[Line]:
        """This line and everything below it, in order."""
        yield self
        for line in self.below:
            yield from line.walk()

    @property
    def is_check(self) -> bool:
        """Whether the outcome is the line's own, and not the sum of checks below it."""
        return all(below.judged is None for below in self.below)

    @property
    def judged(self) -> Outcome | None:
        """The line's own outcome, or the worst below it; None when nothing here is judged."""
        if self.outcome is not None:
            return self.outcome
        found = [child for line in self.below if (child := line.judged) is not None]
        return worst(found) if found else None


def chain(row: Row, statement: Statement | None, below_receipt: list[Line]) -> Line:
    """The tree for one exchange. `below_receipt` is what is known of the receipt's place in the log."""
    stored = parse_outcome(row.verdict)
    root = Line(
        key=short_id(row.id),
        text=f"{row.policy}  {number(row.latency_ms)} ms",
        outcome=stored,
        told=CLAIMED if statement is not None else LISTED,
        title="The verdict of this exchange",
        facts=[("receipt", row.id), ("released", released(row.release)), ("reason", row.reason or "–")],
        words=[f"{stored.value}: {verdict_sentence(stored)}."],
        copy=row.id,
    )
    if statement is None:
        root.below = [
            _listed(row),
            Line(key="receipt", text="", below=below_receipt, title="The receipt and its place"),
        ]
        return root
    receipt = statement.predicate
    node, response = split_checks(receipt.checks)
    root.below = [
        _request(receipt),
        _policy(receipt),
        _route(receipt),
        _node(receipt, node),
        _response(receipt, response, statement),
        Line(
            key="receipt",
            text=receipt.log.origin,
            told=HERE if below_receipt else CLAIMED,
            below=below_receipt,
            title="The receipt, and its place in the log",
            facts=[("origin", receipt.log.origin), ("created", receipt.time_created)],
            words=["The receipt is signed, and its leaf is in an append-only log whose checkpoints are signed too."],
            copy=receipt.receipt_id,
        ),
    ]
    return root


def split_checks(checks: tuple[Check, ...]) -> tuple[list[Check], list[Check]]:
    """The checks put to the node, and those put to the answer. The receipt lists the node's first.

    Two ids are questions of both phases; the first time they ask about the node, unless an answer's check came before.
    """
    node: list[Check] = []
    response: list[Check] = []
    for check in checks:
        entry = CHECKS.get(check.id)
        phases = entry.phases if entry else (Phase.RESPONSE,)
        both = len(phases) > 1
        first = both and not response and all(seen.id != check.id for seen in node)
        (node if phases == (Phase.NODE,) or first else response).append(check)
    return node, response


def check_line(check: Check, *, told: str = CLAIMED) -> Line:
    """One check, explained by the registry.

    A check that found nothing to look at, and says so with the reason that the registry gives for it, is a fact and no
    problem: its outcome is still said where it is explained.
    """
    entry = CHECKS.get(check.id)
    idle = check.outcome is Outcome.NONE and entry is not None and entry.idle == check.reason is not None
    seen = [("found", check.found), ("expected", check.expected), ("reason", check.reason), ("over", check.over)]
    facts = [(name, value) for name, value in seen if value is not None]
    if idle:
        facts.insert(0, ("outcome", "none: there was nothing for this check to look at"))
    words = [] if entry is None else [f"If it fails: {entry.meaning}"]
    if entry is not None:
        facts.append(("specification", entry.reference))
    return Line(
        key=check.id,
        text=f"nothing to look at ({check.reason})" if idle else _said(check),
        outcome=None if idle else check.outcome,
        told=told,
        title=title_of(check.id),
        facts=[("check", check.id), *facts],
        words=words,
        copy=check.found,
    )


def _said(check: Check) -> str:
    """The check in a line. The title is true when it affirms, so it never stands alone beside another outcome."""
    title, reason = title_of(check.id), check.reason
    if check.outcome is Outcome.AFFIRMING:
        return title
    if reason is not None and " " in reason:
        return reason
    code = f" ({reason})" if reason and reason != check.id else ""
    word = {Outcome.CONTRAINDICATED: "refuted", Outcome.WARNING: "with a reservation"}.get(check.outcome, "not shown")
    return f"{word}{code}: {title[:1].lower()}{title[1:]}"


def claim_line(claim: Claim) -> Line:
    """One typed claim. Its status is not an outcome: what a policy makes of it is the policy's word."""
    entry = CLAIMS.get(claim.name)
    by = f"  ({claim.source})" if claim.source else ""
    reason = f"  {claim.reason}" if claim.reason else ""
    return Line(
        key=claim.name,
        text=f"{claim.status}{by}{reason}",
        title=claim_title(claim.name),
        facts=[("status", claim.status), ("source", claim.source or "–"), ("reason", claim.reason or "–")],
        words=[entry.meaning] if entry else [],
    )


def problems(root: Line) -> list[Line]:
    """The lines that `n` walks: contraindicated first, then warnings, then what was not shown. Checks, not branches."""
    leaves = [line for line in root.walk() if line.outcome is not None and line.is_check]
    ranked = (Outcome.CONTRAINDICATED, Outcome.WARNING, Outcome.NONE)
    return [line for tier in ranked for line in leaves if line.outcome is tier]


def unfolded(root: Line) -> set[int]:
    """Which lines start open, by identity: the root, and the way down to the first problem."""
    found = problems(root)
    opened = {id(root)}
    if found:
        opened |= {id(line) for line in root.walk() if any(below is found[0] for below in line.walk())}
    return opened


def _listed(row: Row) -> Line:
    facts = [("node", row.node or "–"), ("model", row.model or "–"), ("endpoint", row.endpoint), ("agent", row.key_id)]
    return Line(
        key="exchange",
        text=f"{row.node or 'no node'}  {row.model or '–'}  {row.endpoint}",
        told=LISTED,
        title="What the list of receipts says",
        facts=facts,
        words=["The receipt itself could not be read, so nothing more is known than this."],
    )


def _request(receipt: Receipt) -> Line:
    asked = receipt.request
    line = Line(
        key="request",
        text=f"{asked.endpoint}  {asked.model}  by {receipt.caller.key_id}",
        title="What the agent asked",
        facts=[
            ("endpoint", asked.endpoint),
            ("model", asked.model),
            ("stream", "yes" if asked.stream else "no"),
            ("agent's key", receipt.caller.key_id),
            ("agent's own id", receipt.caller.client_request_id or "–"),
            ("received", receipt.timings.received),
            ("digest", f"sha256 {asked.digest.sha256}"),
        ],
        words=["The digest is salted: it says nothing about the prompt until the salt is shown with it."],
        copy=asked.digest.sha256,
    )
    line.below = [_digest_line("body", "salted digest of the body", asked.digest.sha256)]
    if asked.forwarded is not None:
        how = "the same bytes went to the node" if asked.forwarded.verbatim else "another body went to the node"
        line.below.append(_digest_line("forwarded", how, asked.forwarded.digest.sha256))
    return line


def _policy(receipt: Receipt) -> Line:
    policies = receipt.verifier.policies
    line = Line(
        key="policy",
        text="  ".join(policy.uri.removeprefix("veriroute:policy/") for policy in policies) or "none named",
        title="The policy that the answer was judged by",
        facts=[("verifier", receipt.verifier.id)],
        words=[
            "A policy is a reviewed file; its digest is in the receipt, so a later edit does not change this verdict."
        ],
        copy=policies[0].digest.sha256 if policies else None,
    )
    line.below = [_digest_line(policy.name, "the policy file", policy.digest.sha256) for policy in policies]
    return line


def _route(receipt: Receipt) -> Line:
    route = receipt.route
    dropped = f"  ({len(route.rejected)} dropped)" if route.rejected else ""
    to = receipt.served.node if receipt.served is not None else "no node"
    line = Line(
        key="route",
        text=f"{route.candidates} considered → {to}{dropped}",
        outcome=Outcome.NONE if receipt.served is None else None,
        title="Why this node and not another",
        facts=[("decision", route.decision), ("attempt", str(route.attempt)), ("considered", str(route.candidates))],
        words=["A node that was dropped is part of the record: it says why the prompt did not go there."],
    )
    if receipt.served is None:
        line.facts.append(("reason", receipt.reason or "–"))
        line.words.insert(0, f"No answer of a node is behind this: {_unserved(receipt)}.")
    line.below = [
        Line(
            key=f"dropped {rejected.node}",
            text=rejected.reason + (f" ({rejected.cause})" if rejected.cause else ""),
            title="A node that was not used",
            facts=[("node", rejected.node), ("reason", rejected.reason), ("cause", rejected.cause or "–")],
        )
        for rejected in route.rejected
    ]
    return line


def _node(receipt: Receipt, checks: list[Check]) -> Line:
    served = receipt.served
    if served is None:
        return Line(key="node", text=_unserved(receipt), title="No node served this")
    line = Line(
        key="node",
        text=f"{served.node}  ({served.network})  {len(checks)} checks",
        title="The node, and what was shown about it",
        facts=[
            ("node", served.node),
            ("network", served.network),
            ("operator", served.operator or "–"),
            ("model", served.model),
            ("attested session", served.session),
            ("keyset", served.keyset_digest),
            ("evidence", served.evidence_digest),
        ],
        words=["An attested session is one appraisal of one node's channel; prompts went only under it."],
        copy=served.session,
    )
    line.below = [check_line(check) for check in checks]
    if receipt.claims:
        counts = {
            status: sum(claim.status == status for claim in receipt.claims)
            for status in ("asserted", "refuted", "unknown")
        }
        line.below.append(
            Line(
                key="claims",
                text="  ".join(f"{count} {status}" for status, count in counts.items() if count),
                title="What the evidence says, claim by claim",
                words=["`unknown` is never a pass. Whether a claim is needed is the policy's word."],
                below=[claim_line(claim) for claim in receipt.claims],
            )
        )
    return line


def _unserved(receipt: Receipt) -> str:
    """What left, where no answer did. A quorum that was not reached has shown the prompt to all that it asked."""
    asked = sum(len(part.answers) for part in receipt.proofs)
    if asked:
        return f"the prompt went to {asked} nodes, none of whose answers was chosen"
    return "no prompt byte left for any node" if receipt.release is Release.REFUSED else "no node is named"


def _response(receipt: Receipt, checks: list[Check], statement: Statement) -> Line:
    delivery = receipt.delivery
    line = Line(
        key="response",
        text=f"{receipt.release}  {_left(delivery)}  {len(checks)} checks",
        title="The answer, and what was shown about it",
        facts=[
            ("released", released(receipt.release)),
            ("form", delivery.form),
            ("mode", delivery.mode),
            ("bytes", number(delivery.bytes)),
            ("uncovered", ", ".join(delivery.uncovered) or "nothing"),
            ("kept back", ", ".join(delivery.dropped) or "nothing"),
            *_usage(receipt),
        ],
        words=["Bytes that no evidence covers are named; nothing executable is released without evidence over it."],
    )
    subjects = [s for s in statement.subject if s.name.startswith("response.")]
    line.below = [check_line(check) for check in checks]
    line.below += [_digest_line(s.name.removeprefix("response."), "salted digest", s.digest.sha256) for s in subjects]
    return line


def _left(delivery: Delivery) -> str:
    if not delivery.bytes:
        return "nothing left for the agent"
    return f"{number(delivery.bytes)} B {delivery.form}, {delivery.mode}"


def _usage(receipt: Receipt) -> list[tuple[str, str]]:
    usage = receipt.usage
    if usage is None:
        return []
    backed = "covered by evidence" if usage.covered else "not covered by evidence"
    return [("tokens", f"{usage.input_tokens} in, {usage.output_tokens} out ({backed})")]


def _digest_line(key: str, what: str, digest: str) -> Line:
    return Line(
        key=key, text=f"sha256 {digest[:8]}…{digest[-6:]}  {what}", title=what, facts=[("sha256", digest)], copy=digest
    )
