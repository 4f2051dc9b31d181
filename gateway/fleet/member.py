"""One node of the fleet: its session and health, as requests, renewals and withheld answers change them; why it is out.

Two doubts are told apart. Its TLS key may be another by now (`doubtful`): anybody in between can cast that, so the
session stays. An answer may name another keyset than the session does (`rekeyed`): the node has changed its keys, or
lies, and serves nobody until evidence says which (`settle`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import structlog

from gateway.adapter import Adapter
from gateway.exchange.reply import SignedUnder
from gateway.model.node import AttestedSession, Node
from gateway.model.receipt import CODE, Rejected
from gateway.model.verdict import Outcome
from gateway.policy.machine import under
from gateway.policy.schema import CompiledPolicy
from gateway.routing import Health, on_attempt, on_end, on_failure, on_success, on_wait, quarantine, view_of
from gateway.text import plain
from gateway.upstream.origin import Origin
from gateway.verify.response import OTHER_KEYSET

from .attest import Attestation
from .collateral import PROBLEMS

log = structlog.get_logger("veriroute.fleet")

#: How often doubt about a node's key may make us ask it again.
DOUBT_S = 60.0
#: Reasons for which a node without a session in date is passed over.
WAITING = frozenset(("session_missing", "session_expired", "fresh"))
#: Characters of a cause that are told: codes are shorter, and an adapter may be anybody's.
CAUSE_MAX = 80
#: What receipts and errors say of a cause that has no code of ours: an adapter's own words, which may be a node's.
UNLISTED = "unlisted"
_CODE = re.compile(CODE)
#: For how many pairs of a reason and a policy a member keeps what receipts say of it.
_MOST_KEPT = 64


class Member:
    """One node under way: what routing knows of it, and what the relay needs to talk to it."""

    def __init__(self, node: Node, adapter: Adapter, origin: Origin, mono: Callable[[], float]) -> None:
        self.node = node
        self.adapter = adapter
        self.origin = origin
        self.view = view_of(node)
        self.view.health = Health(heard_at=mono())
        self.last: Attestation | None = None
        self.failure: str | None = None  # why the last request to it failed
        self.conviction: str | None = None  # what it is, or was, quarantined for
        self.next_try = 0.0
        self.tries = 0
        self.permits: frozenset[str] = frozenset()  # the policies that its last sound session satisfied
        self.unkept: Callable[[], None] | None = None  # archives the session, once an exchange needs it
        self.flight: asyncio.Task[None] | None = None
        self.mono = mono
        self._doubted = -DOUBT_S
        self._rekeyed = -DOUBT_S  # when a change of keys was last taken for an excuse, or none is to be
        #: Answers under a keyset that no session has shown yet: what fails, and what tells whether one does.
        self._unsettled: list[tuple[str, SignedUnder]] = []
        self._excused = False  # whether answers were excused because its session has the keyset that they name
        self._shun: Callable[[str], None] | None = None  # of whoever has its id, once it is not listed any more
        self._rejected: dict[tuple[str, str], Rejected] = {}  # by reason and policy, until something happens to it

    @property
    def session(self) -> AttestedSession | None:
        return self.view.session

    @property
    def current(self) -> AttestedSession | None:
        """The session while it is in force: one that could not be renewed stays `session`."""
        return self.view.session if self.mono() < self.view.lease_until else None

    def cause(self, reason: str, policy: CompiledPolicy) -> str | None:
        """What is behind `reason`, for which routing passes it over under `policy`; None where that says all.

        Why it has no session: the reason of the last attempt to establish one. Why a check failed: the check's own.
        """
        found = self._behind(reason, policy)
        return None if found is None else plain(found, CAUSE_MAX)

    def rejected(self, reason: str, policy: CompiledPolicy) -> Rejected:
        """What a receipt says of it when routing passes it over for `reason` under `policy`: `cause`, as a code of
        ours. Kept, because a node that is out is passed over by every request."""
        key = (reason, policy.digest)
        kept = self._rejected.get(key)
        if kept is None:
            if len(self._rejected) >= _MOST_KEPT:
                self._rejected.clear()
            kept = self._rejected[key] = Rejected(self.node.id, reason, self._code(reason, policy))
        return kept

    def _code(self, reason: str, policy: CompiledPolicy) -> str | None:
        found = self._behind(reason, policy)
        foreign = None if self.last is None else self.last.words
        return found if found is None or (_CODE.match(found) and found != foreign) else UNLISTED

    def _behind(self, reason: str, policy: CompiledPolicy) -> str | None:
        if reason == "quarantined":
            found = self.conviction
        elif reason == "circuit_open":
            found = self.failure
        else:
            found = self._unshown(reason, policy)
        return found if found and found != reason else None

    def _unshown(self, reason: str, policy: CompiledPolicy) -> str | None:
        attempt = () if self.last is None else self.last.result.checks
        checks = attempt if self.session is None else under(self.session, policy)
        named = next((c for c in checks if c.id == reason and c.outcome is not Outcome.AFFIRMING), None)
        if named is None and reason in WAITING and self.last is not None and self.last.session is None:
            named = next((c for c in attempt if c.outcome is not Outcome.AFFIRMING), None)
        return None if named is None else named.reason

    def attested(self, attestation: Attestation) -> None:
        """There was an attempt to appraise it, whatever came of it."""
        self.last = attestation
        self._rejected.clear()
        before, after = self.session, attestation.session
        if after is not None and (before is None or before.keyset_digest != after.keyset_digest):
            self._excused = False

    def enter(self) -> float:
        """An attempt begins. Gives back how long it is the one probe of a half-open circuit, 0 when it is none."""
        self.view.in_flight += 1
        if self.unkept is not None:
            self.keep()
        if self.view.health.failures:
            before, self.view.health = self.view.health, on_attempt(self.view.health, self.mono())
            if self.view.health is not before:
                return self.view.health.probe_until
        return 0.0

    def keep(self) -> None:
        """Archive the session, if that is still to be done."""
        if self.unkept is not None:
            self.unkept, archive = None, self.unkept
            archive()

    def leave(self, probe_until: float = 0.0) -> None:
        """The attempt is over whose `enter` gave `probe_until` back."""
        self.view.in_flight -= 1
        if probe_until:
            self.view.health = on_end(self.view.health, probe_until)

    def served(self, first_byte_ms: float) -> None:
        self.view.health = on_success(self.view.health, first_byte_ms, self.mono())

    def failed(self, reason: str) -> None:
        """It could not be reached, broke off or answered nonsense."""
        self.failure = reason
        self._rejected.clear()
        self.view.health = on_failure(self.view.health, self.mono())
        log.info("node.failed", node=self.node.id, reason=reason, failures=self.view.health.failures)

    def outwaited(self, waited_ms: float) -> None:
        """Others answered while it was waited for so long: no failure, and a time that it takes at least."""
        self.view.health = on_wait(self.view.health, waited_ms, self.mono())

    def doubtful(self) -> bool:
        """Its key may be another by now: it is asked for evidence again soon, at most once in `DOUBT_S`; whether it is.

        Whoever stands in between can make us doubt, so the session stays as it is until there is a newer one.
        """
        now = self.mono()
        if now - self._doubted < DOUBT_S:
            return False
        self._doubted = now
        self.next_try = min(self.next_try, now)
        return True

    def rekeyed(self, reason: str, signed: SignedUnder | None) -> None:
        """An answer of its was withheld for `reason`, and nothing speaks against it but that it names a keyset that its
        session does not know: the node has changed its keys, or lies.

        It serves nobody until evidence that is asked for now says which (`settle`): whether a session is one that the
        answer was `signed` under. One that came meanwhile says so at once. A change of keys excuses all the answers
        that it meets, and counts as a failure; whoever needs another excuse within `DOUBT_S` is convicted.
        """
        known = signed is not None and self.session is not None and signed(self.session)
        if known and self._excused:
            return
        unasked = self._shun is not None and not known  # nobody will ask it for evidence any more
        if signed is None or unasked or not (self._unsettled or self._changed()):
            self.contradicted(reason)
        elif not known:
            self._unsettled.append((reason, signed))
            self._suspend()
        self._excused = self._excused or known

    def _changed(self) -> bool:
        """Whether it may be taken to have changed its keys: it is asked for evidence then, at most once in `DOUBT_S`,
        whatever doubt there was about its TLS key, which may have changed with them and which anybody can cast.
        That is a failure as well, for who does so again and again and never serves in between."""
        now = self.mono()
        if now - self._rekeyed < DOUBT_S:
            return False
        self._rekeyed = now
        self.next_try = min(self.next_try, now)
        self.failed(OTHER_KEYSET)
        return True

    @property
    def unsettled(self) -> int:
        """How many answers wait for evidence that tells whether the node signed them."""
        return len(self._unsettled)

    def settle(self, session: AttestedSession | None, asked: int) -> None:
        """`session` is what came of evidence that was asked for when `asked` answers were unsettled. If its keys did
        not sign those, the node is convicted, and also if they did, and not those that came since: that is one change
        more. Evidence that was asked for before any of them may be of a keyset that is older, and is asked for anew."""
        if session is None or not self._unsettled:
            return
        if unendorsed(session):  # held against nothing, so it tells nothing yet
            self._suspend()
            return
        left = [(reason, signed) for reason, signed in self._unsettled if not signed(session)]
        self._excused = self._excused or len(left) < len(self._unsettled)
        self._unsettled = [] if asked else left
        if left and asked:
            self.contradicted(left[0][0])
        elif left:
            self._suspend()
            self.next_try = min(self.next_try, self.mono())
        else:
            log.info("node.rekeyed", node=self.node.id, keyset=session.keyset_digest)

    def _suspend(self) -> None:
        self.view.lease_until = min(self.view.lease_until, self.mono())

    def replaced(self, shun: Callable[[str], None]) -> None:
        """It is not listed any more, or as another: that is whom its last answers are held against, by `shun`."""
        self._shun = shun
        self._unsettled = []

    def contradicted(self, reason: str) -> None:
        """An answer of its was contraindicated: it serves nobody for a while, and is asked for evidence anew. One that
        came back with other keys would else be held to the old ones, and be convicted again, until its renewal."""
        if self._shun is not None:
            self._shun(reason)
            return
        self.conviction = reason
        self._rejected.clear()
        self._rekeyed = self.mono()
        self.view.health = quarantine(self.view.health, self._rekeyed)
        self.doubtful()
        log.warning("node.quarantined", node=self.node.id, reason=reason)


def unendorsed(session: AttestedSession) -> bool:
    """Whether its evidence was held against nothing, as we lacked the vendor's documents: they may come in a moment."""
    return any(check.id == "evidence" and check.reason in PROBLEMS for check in session.checks)


def coded(reason: str) -> str:
    """The reason for which an adapter brings no node, in errors and receipts: a code, never its words for a person."""
    return reason if _CODE.match(reason) else UNLISTED
