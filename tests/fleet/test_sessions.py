"""When a node is appraised again, and what becomes of what was found."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import msgspec
import pytest
import structlog
from scripted import ScriptedNode
from tee_worlds import amd

from adapters.aci import adapter as aci
from gateway.adapter import Adapter, RawEvidence
from gateway.entropy import Entropy
from gateway.errors import FormatError, PolicyFailed
from gateway.exchange.head import Head
from gateway.fleet import attest
from gateway.fleet import fleet as fleet_module
from gateway.fleet import member as member_module
from gateway.fleet.attest import Attestation, Attester, Endorsements
from gateway.fleet.fleet import EVIDENCE_RATE, RETRY_MAX_S, RETRY_S, Fleet
from gateway.fleet.member import UNLISTED, Member
from gateway.model.node import AttestedSession, Node, SigningKey
from gateway.model.receipt import Rejected
from gateway.model.verdict import AttestationResult, Check, Outcome
from gateway.policy.decide import Decision
from gateway.policy.schema import CompiledPolicy
from gateway.policy_files import read_policies
from gateway.routing import FAILURES_TO_OPEN
from gateway.upstream.pool import UpstreamPool
from gateway.verify import aci as aci_reports
from gateway.verify.node_evidence import TeeEvidence
from gateway.verify.tee.needs import need_of

NODE = Node("n", "net", "http://127.0.0.1:9001", ("m",))
SHOWN = ("evidence", "key_bound", "keyset_valid", "fresh")
BACKOFF = [RETRY_S, 4.0, 8.0, 16.0, 32.0, RETRY_MAX_S, RETRY_MAX_S]
LIFETIME_S = 600.0


class Row:
    """An adapter without a registry."""

    network, refresh_s = "net", None


class Scripted:
    """An attester that finds what the test says, or fails with it."""

    def __init__(self) -> None:
        self.finds: Attestation | Exception = ValueError("SECRET")

    async def attest(self, node: Node, adapter: object) -> Attestation:
        if isinstance(self.finds, Exception):
            raise self.finds
        return self.finds


def found(fresh: Outcome = Outcome.AFFIRMING, *, lease: float = LIFETIME_S, size: int = 1) -> Attestation:
    """A session in which all but `fresh` is shown, of evidence with `size` bytes."""
    checks = tuple(Check(name, fresh if name == "fresh" else Outcome.AFFIRMING) for name in SHOWN)
    session = AttestedSession(
        "s", "n", "net", NODE.base_url, "sha256:00", (SigningKey("k", "ed25519", b"k" * 32),), (), "00",
        5000.0, 5000.0 + lease, fresh, checks, (),
    )  # fmt: skip
    return Attestation(AttestationResult(checks), session, b"x" * size)


class World:
    """One node; `turn` appraises it once."""

    def __init__(self) -> None:
        self.mono = 1000.0
        self.attester = Scripted()
        self.archived: list[Attestation] = []
        self.fleet = Fleet(
            [NODE],
            {"net": cast("Adapter", Row())},
            cast("Attester", self.attester),
            mono=lambda: self.mono,
            lifetime_s=LIFETIME_S,
            allow_http=False,
            allow_private=True,
            archive=lambda node, attestation: self.archived.append(attestation),
        )
        self.fleet.use_policies(read_policies(None).values())

    @property
    def member(self) -> Member:
        return self.fleet.members["n"]

    async def turn(self, finds: Attestation | None = None) -> float:
        """Appraise when it is due, and find `finds`, or the same again; how long until the next time."""
        self.mono = max(self.mono, self.member.next_try)
        self.attester.finds = finds or self.attester.finds
        await self.fleet.attest_all(5.0)
        return self.member.next_try - self.mono


async def test_an_attester_that_fails_has_found_nothing() -> None:
    """An exception that nobody foresaw is an appraisal without a result, asked again later and later."""
    world = World()
    waits = [await world.turn() for _ in range(7)]
    assert waits == BACKOFF
    assert world.member.last is not None
    assert world.member.last.result.checks == (Check("evidence", Outcome.NONE, "appraisal_failed"),)
    assert (world.member.session, world.archived) == (None, [])


@pytest.mark.parametrize(
    "brings",
    [
        asyncio.CancelledError(),
        SystemExit("SECRET"),
        None,
        RawEvidence(cast("bytes", "text")),
        RawEvidence(None, cast("str", 3)),
    ],
)
async def test_an_adapter_that_keeps_no_promise_has_brought_nothing(brings: RawEvidence | BaseException | None) -> None:
    """A cancellation from within and what is no evidence are failures like others: told, and asked again later."""

    class Strange:
        network, refresh_s, node_rule = "net", None, "aci-report"
        asked = 0

        async def evidence(self, node: Node, nonce: str, client: object) -> Any:
            self.asked += 1
            if isinstance(brings, BaseException):
                raise brings
            return brings

    pool, strange = UpstreamPool(), Strange()
    attester = Attester(pool, now=time.time, lifetime_s=LIFETIME_S, allow_http=False, allow_private=True)
    world = World()
    world.fleet._attester = attester
    world.member.adapter = cast("Adapter", strange)
    running = asyncio.ensure_future(world.fleet.run())
    await asyncio.sleep(1.2)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert strange.asked == 1
    assert world.member.last is not None
    assert world.member.last.result.checks[0].reason == "adapter_failed"
    await attester.close()
    await pool.close()


async def test_a_session_is_renewed_halfway() -> None:
    """A lease that the gateway gave, and a shorter one that the node or its collateral has."""
    world = World()
    assert await world.turn(found()) == 300.0
    assert await world.turn(found(lease=100.0)) == 50.0
    assert await world.turn(found(lease=1e9)) == 300.0
    assert world.member.view.lease_until == world.mono + 1e9


async def test_short_leases_are_kept_up_with_as_far_as_the_archive_goes() -> None:
    """A short lease of little evidence is renewed in time; one of much is not, so that no node can fill the disk."""
    world = World()
    assert await world.turn(found(lease=8.0, size=20_000)) == 4.0
    assert await world.turn(found(lease=0.1, size=1)) == RETRY_S
    assert await world.turn(found(lease=0.1, size=100 * EVIDENCE_RATE)) == 100.0
    assert await world.turn(found(lease=0.1, size=4000 * EVIDENCE_RATE)) == 300.0
    assert await world.turn(found(size=100 * EVIDENCE_RATE)) == 300.0


@pytest.mark.parametrize("error", [PolicyFailed("SECRET"), KeyError("SECRET"), SystemExit("SECRET")], ids=repr)
async def test_h17_a_policy_that_cannot_be_applied_costs_no_session(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """The session is there under the other policies, archived and renewed in time; a request under this one meets the
    failure itself, and is refused by it."""
    world, head, judge = World(), Head("/v1/chat/completions", "m", False, 1, frozenset()), fleet_module.prospect
    broken = read_policies(None)["signed"]

    def fails(session: AttestedSession, policy: CompiledPolicy) -> Decision:
        if policy.digest == broken.digest:
            raise error
        return judge(session, policy)

    with monkeypatch.context() as failing, structlog.testing.capture_logs() as lines:
        failing.setattr(fleet_module, "prospect", fails)
        failing.setattr("gateway.routing.prospect", fails)
        assert await world.turn(found()) == 300.0
        world.fleet.use_policies(read_policies(None).values())
        assert len(world.archived) == 1
        assert world.member.view.decisions.keys() == {p.digest for p in read_policies(None).values()} - {broken.digest}
        with pytest.raises(type(error), match="SECRET"):
            await world.fleet.choose(head, broken, None, 0.0)
    told = [line for line in lines if line["event"] == "policy.failed"]
    assert [(line["node"], line["policy"], line["exc_info"]) for line in told] == [("n", "signed", error)] * 2
    assert await world.turn(found()) == 300.0
    assert broken.digest in world.member.view.decisions


async def test_a_policy_s_age_of_evidence_asks_for_it_anew() -> None:
    """A session that is in date and too old for the policy is renewed for the request that meets it, and what fails is
    not tried again by each request."""
    world, head = World(), Head("/v1/chat/completions", "m", False, 1, frozenset())
    policy = read_policies(None)["signed"]
    policy = msgspec.structs.replace(
        policy, freshness=msgspec.structs.replace(policy.freshness, evidence_max_age_s=60.0)
    )
    await world.turn(found())
    for after, appraised in ((60.0, 1000.0), (61.0, 1061.0), (100.0, 1061.0)):
        world.mono = 1000.0 + after
        choice = await world.fleet.choose(head, policy, None, 0.0)
        assert (len(choice.order), world.member.view.appraised_at) == (1, appraised)
    world.attester.finds = ValueError("down")
    world.mono = 1130.0
    for _ in range(3):
        (rejected,) = (await world.fleet.choose(head, policy, None, 0.0)).dropped
        assert (rejected.reason, world.member.tries) == ("fresh", 1)


async def test_a_node_whose_answer_was_contradicted_is_asked_for_evidence_anew() -> None:
    """At once, whenever its renewal was due; and not again for each answer that was under way."""
    world = World()
    await world.turn(found())
    world.mono += 100.0
    world.member.contradicted("signature")
    assert world.member.next_try == world.mono
    assert await world.turn() == 300.0
    world.member.contradicted("signature")
    assert world.member.next_try == world.mono + 300.0


async def test_nobody_waits_for_a_node_that_does_not_answer_while_others_do() -> None:
    """After a sleep, say, when no session is in date: a request waits for as many nodes as it needs."""
    silent = asyncio.Event()

    class Some:
        async def attest(self, node: Node, adapter: object) -> Attestation:
            if node.id == "silent":
                await silent.wait()
            return found()

    nodes = [msgspec.structs.replace(NODE, id=name, operator=name) for name in ("silent", "one", "two")]
    fleet = Fleet(
        nodes,
        {"net": cast("Adapter", Row())},
        cast("Attester", Some()),
        mono=time.monotonic,
        lifetime_s=LIFETIME_S,
        allow_http=False,
        allow_private=True,
        archive=lambda node, attestation: None,
    )
    policies, head = read_policies(None), Head("/v1/chat/completions", "m", False, 1, frozenset())
    alone = await asyncio.wait_for(fleet.choose(head, policies["signed"], None, 0.0), 5.0)
    assert [m.node.id for m in alone.order][:1] in (["one"], ["two"])
    both = await asyncio.wait_for(fleet.choose(head, policies["quorum"], None, 0.0), 5.0)
    assert {m.node.id for m in both.order} == {"one", "two"}
    fleet.members["two"].view.session = None  # as when only one was asked for it so far
    fleet.members["two"].next_try = 0.0
    again = await asyncio.wait_for(fleet.choose(head, policies["quorum"], None, 0.0), 5.0)
    assert {m.node.id for m in again.order} == {"one", "two"}
    nameless = fleet.members["one"]
    nameless.node = msgspec.structs.replace(nameless.node, operator=None)  # has no say in a quorum
    fleet.members["two"].view.session, fleet.members["two"].next_try = None, 0.0
    waiting = asyncio.ensure_future(fleet.choose(head, policies["quorum"], None, 0.0))
    await asyncio.sleep(0.05)
    assert not waiting.done()  # two sessions, of one operator: the silent node is needed
    fleet.members["two"].node = msgspec.structs.replace(NODE, id="two", operator="silent")
    vain = await asyncio.wait_for(fleet.choose(head, policies["quorum"], None, 0.0), 1.0)
    assert {m.node.id for m in vain.order} == {"one", "two"}  # nothing to wait for would bring a second operator
    silent.set()
    await waiting
    await fleet.attest_all(5.0)


@pytest.mark.parametrize("nothing", [found(Outcome.CONTRAINDICATED), found(lease=0.0), found(lease=-1000.0)])
async def test_a_session_that_is_of_no_use_is_no_success(nothing: Attestation) -> None:
    """One that is contraindicated, or over as it begins, is asked about later and later, and not archived."""
    world = World()
    assert [await world.turn(nothing) for _ in range(7)] == BACKOFF
    assert world.archived == []
    assert await world.turn(found()) == 300.0
    assert await world.turn(nothing) == RETRY_S


async def test_b16_a_node_without_collateral_is_asked_again_soon() -> None:
    """That we lacked the vendor's documents says nothing of the node, which is not to wait for its renewal."""
    world = World()
    bare = found(Outcome.NONE)
    assert bare.session is not None
    checks = (Check("evidence", Outcome.NONE, "collateral_unavailable"), *bare.session.checks[1:])
    bare = msgspec.structs.replace(bare, session=msgspec.structs.replace(bare.session, checks=checks))
    assert [await world.turn(bare) for _ in range(9)] == [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 300.0]
    assert await world.turn(found()) == 300.0


async def test_a_session_that_shows_less_is_doubted_soon() -> None:
    """What replaced a better one is asked about again at once, then ever later, until it is what the node has to show."""
    world = World()
    await world.turn(found())
    less = found(Outcome.NONE)
    assert [await world.turn(less) for _ in range(8)] == [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]
    assert [await world.turn(less) for _ in range(2)] == [300.0, 300.0]
    assert await world.turn(found()) == 300.0
    assert await World().turn(less) == 300.0


async def test_a_contraindicated_session_is_archived_once_it_is_used() -> None:
    """An exchange that begins under one, or runs when it comes, has its evidence archived; nothing else has."""
    world = World()
    good, bad, worse = found(), found(Outcome.CONTRAINDICATED), found(Outcome.CONTRAINDICATED, size=2)
    for attestation in (good, bad, bad):
        await world.turn(attestation)
    assert world.archived == [good]
    world.member.enter()
    world.member.enter()
    assert world.archived == [good, bad]
    await world.turn(worse)
    assert world.archived == [good, bad, worse]
    world.member.leave()
    world.member.leave()
    await world.turn(bad)
    await world.turn(good)
    world.member.enter()
    assert world.archived == [good, bad, worse, good]


@pytest.fixture
def node() -> Iterator[ScriptedNode]:
    node = ScriptedNode()
    yield node
    node.close()


@pytest.mark.parametrize("platform", ["software", "other"])
async def test_one_forged_answer_costs_a_node_seconds(node: ScriptedNode, platform: str) -> None:
    """Whoever stands in between answers for the node once: it is out, and asked again at once."""
    mono, signed, pool = 1000.0, read_policies(None)["signed"], UpstreamPool()
    attester = Attester(pool, now=time.time, lifetime_s=LIFETIME_S, allow_http=False, allow_private=True)
    fleet = Fleet(
        [Node("n", "aci", node.url, ("m",), pin=node.pin)], {"aci": aci}, attester, mono=lambda: mono,
        lifetime_s=LIFETIME_S, allow_http=False, allow_private=True, archive=lambda node, attestation: None,
    )  # fmt: skip
    fleet.use_policies([signed])
    member, honest = fleet.members["n"], node._report

    def forged(nonce: str) -> bytes:
        """With the node's own keyset, and no signature of its key."""
        return honest("00" * 32 if platform == "software" else nonce).replace(b'"software"', f'"{platform}"'.encode())

    for report, permit, wait in ((honest, True, 300.0), (forged, False, RETRY_S), (honest, True, 300.0)):
        node._report = report  # type: ignore[method-assign]
        mono = max(mono, member.next_try)
        await fleet.attest_all(5.0)
        assert member.view.decisions[signed.digest].permit is permit
        assert member.next_try - mono == pytest.approx(wait)
    await attester.close()
    await pool.close()


async def test_a_report_that_hides_its_chip_is_told_as_such(node: ScriptedNode) -> None:
    """It is genuine for all that is known, and nothing in it is malformed: nobody can be asked for its key."""
    report = amd.World().report(patch={0x1A0: bytes(64)}).hex().encode()
    honest = node._report
    node._report = lambda nonce: honest(nonce).replace(b'"software"', b'"snp","report":"%b"' % report)  # type: ignore[method-assign]

    async def endorse(item: TeeEvidence) -> Endorsements:
        need_of(item.kind, {item.role: item.data})
        return Endorsements({})

    pool = UpstreamPool()
    attester = Attester(
        pool, now=time.time, lifetime_s=LIFETIME_S, allow_http=False, allow_private=True, endorse=endorse
    )
    check = (await attester.attest(Node("n", "aci", node.url, ("m",)), cast(Adapter, aci))).result.checks[0]
    assert (check.id, check.outcome, check.reason) == ("evidence", Outcome.NONE, "chip_hidden")
    await attester.close()
    await pool.close()


async def test_evidence_is_verified_beside_the_loop(node: ScriptedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report may bring 64 devices to verify; what others asked for goes on meanwhile."""
    turn, loop, waited = threading.Event(), asyncio.get_running_loop(), []

    def verify(*_: Any, **__: Any) -> None:
        loop.call_soon_threadsafe(turn.set)
        waited.append(turn.wait(5))
        raise FormatError("evidence of another test")

    monkeypatch.setattr(attest, "verify_evidence", verify)
    honest = node._report
    node._report = lambda nonce: honest(nonce).replace(b'"software"', b'"tdx","quote":"00"')  # type: ignore[method-assign]
    pool = UpstreamPool()
    attester = Attester(pool, now=time.time, lifetime_s=LIFETIME_S, allow_http=False, allow_private=True)
    attestation = await attester.attest(Node("n", "aci", node.url, ("m",)), cast(Adapter, aci))
    assert (waited, attestation.result.checks[0].reason) == ([True], "malformed")
    await attester.close()
    await pool.close()


async def test_b32_a_report_is_read_beside_the_loop(node: ScriptedNode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever answers for a node may send 4 MiB of JSON; what others asked for goes on while they are read."""
    loop, read, waited = asyncio.get_running_loop(), aci_reports.parse_report, []

    def slowly(document: bytes) -> aci_reports.Report:
        turn = threading.Event()
        loop.call_soon_threadsafe(turn.set)
        waited.append(turn.wait(5))
        return read(document)

    monkeypatch.setattr(aci_reports, "parse_report", slowly)
    monkeypatch.setattr(attest, "parse_report", slowly)
    pool = UpstreamPool()
    attester = Attester(pool, now=time.time, lifetime_s=LIFETIME_S, allow_http=False, allow_private=True)
    await attester.attest(Node("n", "aci", node.url, ("m",)), cast(Adapter, aci))
    assert waited == [True, True]
    await attester.close()
    await pool.close()


@pytest.mark.parametrize(
    ("fresh", "level", "said"),
    [
        (Outcome.AFFIRMING, "info", None),
        (Outcome.NONE, "info", "fresh"),
        (Outcome.CONTRAINDICATED, "warning", "fresh"),
    ],
)
async def test_what_decided_a_session_is_logged(fresh: Outcome, level: str, said: str | None):
    """A node whose pin does not fit is a warning that names the check: its callers are told no more than that."""
    world = World()
    with structlog.testing.capture_logs() as logs:
        await world.turn(found(fresh))
    (event,) = [line for line in logs if line["event"] == "node.attested"]
    assert (event["log_level"], event["check"]) == (level, said)


async def test_b08_a_nonce_is_never_sent_twice() -> None:
    """Where randomness repeats, or there is none, a node is not asked, and is passed over with a reason that says so."""
    asked: list[str] = []

    class Asked:
        """An adapter that is told our nonce, and brings nothing."""

        network, refresh_s, node_rule = "net", None, "aci-report"

        async def evidence(self, node: Node, nonce: str, client: object) -> RawEvidence:
            asked.append(nonce)
            return RawEvidence(None, "evidence_fetch")

    def dry(count: int) -> bytes:
        raise OSError

    drawn, pool = iter([b"\1" * 7 + bytes(range(25))] * 2), UpstreamPool()
    world = World()
    world.member.adapter = cast("Adapter", Asked())
    policy = read_policies(None)["signed"]
    told = []
    repeats = Entropy(lambda _: next(drawn)).fresh
    for entropy in (repeats, repeats, Entropy(dry).fresh):
        world.fleet._attester = attester = Attester(
            pool, now=time.time, lifetime_s=LIFETIME_S, allow_http=False, allow_private=True, entropy=entropy
        )
        await world.fleet._fly(world.member)
        assert world.member.last is not None
        check = world.member.last.result.checks[0]
        choice = world.fleet._route(Head("/v1/chat/completions", "m", False, 1, frozenset()), policy, None, 0.0)
        dropped = choice.dropped[0].reason
        told.append((check.id, check.outcome, check.reason, dropped, world.member.cause(dropped, policy)))
        await attester.close()
    await pool.close()
    assert len(asked) == 1
    assert told[1:] == [
        ("replayed_nonce", Outcome.CONTRAINDICATED, "replayed_nonce", "replayed_nonce", None),
        ("replayed_nonce", Outcome.NONE, "no_entropy", "session_missing", "no_entropy"),
    ]


def under(keyset: str) -> Attestation:
    """A session with this keyset."""
    attestation = found()
    assert attestation.session is not None
    session = msgspec.structs.replace(attestation.session, keyset_digest=keyset)
    return Attestation(attestation.result, session, attestation.document)


def signed_under(keyset: str) -> Callable[[AttestedSession], bool]:
    return lambda session: session.keyset_digest == keyset


async def rekeyed_world() -> World:
    """A node with the keyset `old`, one of whose answers named `new`."""
    world = World()
    await world.turn(under("old"))
    world.mono += 60.0
    world.member.rekeyed("signature", signed_under("new"))
    return world


def state(world: World) -> tuple[bool, bool]:
    """Whether the node is in force, and whether it is in quarantine."""
    return world.member.current is not None, world.member.view.health.quarantined_until > world.mono


async def test_a_node_that_changed_its_keys_serves_again_once_it_shows_them() -> None:
    """In between it serves nobody, and is asked at once."""
    world = await rekeyed_world()
    assert state(world) == (False, False)
    assert world.member.next_try == world.mono
    await world.turn(under("new"))
    assert (state(world), world.member.unsettled) == ((True, False), 0)
    world.member.rekeyed("signature", signed_under("new"))  # asked for before, and only here now
    assert (state(world), world.member.unsettled) == ((True, False), 0)


async def test_a_node_whose_evidence_does_not_know_its_answer_is_convicted() -> None:
    """Of several answers it has to have signed each."""
    for shown, others in (("old", []), ("new", ["third"])):
        world = await rekeyed_world()
        for other in others:
            world.member.rekeyed("signature", signed_under(other))
        await world.turn(under(shown))
        assert (state(world), world.member.unsettled) == ((True, True), 0)
        assert world.member.conviction == "signature"


async def test_a_node_that_shows_nothing_serves_nobody_until_it_does() -> None:
    """To hold evidence back is no way out: the first that comes convicts."""
    world = await rekeyed_world()
    nothing = Attestation(AttestationResult((Check("evidence", Outcome.NONE, "evidence_fetch"),)), None, None)
    for _ in range(8):
        await world.turn(nothing)
        assert (state(world), world.member.unsettled) == ((False, False), 1)
    await world.turn(under("old"))
    assert state(world) == (True, True)


@pytest.mark.parametrize(("shown", "convicted"), [("new", False), ("old", True)])
async def test_evidence_that_was_asked_for_before_an_answer_does_not_convict_it(shown: str, convicted: bool) -> None:
    """A renewal may have been under way as the keys changed: evidence is asked for once more."""
    world = World()
    await world.turn(under("old"))
    world.mono = world.member.next_try
    gate = asyncio.Event()

    async def attest(node: Node, adapter: object) -> Attestation:
        await gate.wait()
        return under("old")

    scripted, world.fleet._attester = world.attester, cast("Attester", Held(attest))
    flight = world.fleet._fly(world.member)
    await asyncio.sleep(0)
    world.member.rekeyed("signature", signed_under("new"))
    gate.set()
    await flight
    assert (state(world), world.member.unsettled, world.member.next_try) == ((False, False), 1, world.mono)
    world.fleet._attester = cast("Attester", scripted)
    await world.turn(under(shown))
    assert state(world) == (True, convicted)


class Held:
    """An attester that takes its time."""

    def __init__(self, attest: Callable[[Node, object], Awaitable[Attestation]]) -> None:
        self.attest = attest


@pytest.mark.parametrize("how", ["again within a minute", "nothing is named"])
async def test_who_makes_us_doubt_too_often_is_convicted_at_once(how: str) -> None:
    """Evidence is asked for once a minute, so that no node is worth more of it than an answer a minute."""
    world = await rekeyed_world()
    await world.turn(under("new"))
    world.mono += member_module.DOUBT_S + (1 if how == "nothing is named" else -1)
    world.member.rekeyed("key_bound", None if how == "nothing is named" else signed_under("third"))
    assert (state(world), world.member.unsettled) == ((True, True), 0)
    assert world.member.conviction == "key_bound"


async def test_a_tls_key_that_was_in_doubt_takes_no_excuse_away() -> None:
    """It may change with the others, while connections of before go on; and whoever stands in between can make us
    doubt. Who was convicted within the minute has no excuse."""
    world = World()
    await world.turn(under("old"))
    world.mono += 60.0
    assert world.member.doubtful()
    world.member.rekeyed("signature", signed_under("new"))
    assert (state(world), world.member.unsettled) == ((False, False), 1)
    await world.turn(under("new"))
    assert state(world) == (True, False)
    world.mono += member_module.DOUBT_S
    world.member.contradicted("response_bound")
    world.member.rekeyed("signature", signed_under("third"))
    assert (world.member.unsettled, world.member.view.health.quarantines) == (0, 2)


async def test_keys_may_change_once_a_minute() -> None:
    """As when one is added first, and the old one goes later."""
    world = await rekeyed_world()
    await world.turn(under("new"))
    world.mono += member_module.DOUBT_S
    world.member.rekeyed("key_bound", signed_under("third"))
    assert state(world) == (False, False)
    await world.turn(under("third"))
    assert state(world) == (True, False)


async def test_a_renewal_that_shows_new_keys_meanwhile_excuses_one_change_a_minute() -> None:
    """Else a node could have a short lease, and answer each request once its next keyset is known, for ever."""
    world = World()
    await world.turn(under("old"))
    world.mono += 60.0
    await world.turn(under("new"))
    for _ in range(9):  # asked for before
        world.member.rekeyed("signature", signed_under("new"))
    assert (state(world), world.member.unsettled) == ((True, False), 0)
    for keyset in ("old", "new"):
        world.member.next_try = world.mono
        await world.turn(under(keyset))
    for _ in range(9):
        world.member.rekeyed("signature", signed_under("new"))
    assert state(world) == (True, True)
    assert world.member.view.health.quarantines == 1


async def test_an_answer_under_yet_another_keyset_is_not_excused_by_the_evidence_for_the_one_before() -> None:
    """Else a node could give the answers that it owes one by one, each for another piece of evidence."""
    world = await rekeyed_world()
    gate = asyncio.Event()

    async def attest(node: Node, adapter: object) -> Attestation:
        await gate.wait()
        return under("new")

    world.fleet._attester = cast("Attester", Held(attest))
    flight = world.fleet._fly(world.member)
    await asyncio.sleep(0)
    world.member.rekeyed("signature", signed_under("new"))
    world.member.rekeyed("key_bound", signed_under("third"))
    gate.set()
    await flight
    assert (state(world), world.member.unsettled, world.member.conviction) == ((True, True), 0, "key_bound")


async def test_answers_that_are_owed_do_not_hasten_the_next_attempt() -> None:
    """Evidence that does not come is asked for later and later, whatever else is withheld in between."""
    world = await rekeyed_world()
    nothing = Attestation(AttestationResult((Check("evidence", Outcome.NONE, "evidence_fetch"),)), None, None)
    for wait in BACKOFF:
        assert await world.turn(nothing) == wait
        world.member.rekeyed("signature", signed_under("new"))
        assert world.member.next_try - world.mono == wait


async def test_who_changes_keys_again_and_again_and_never_serves_has_failed() -> None:
    """Each change counts as one failure, for whatever number of answers; one answer that is released forgives it."""
    world = await rekeyed_world()
    for number in range(1, FAILURES_TO_OPEN):
        for _ in range(9):
            world.member.rekeyed("signature", signed_under("new" if number == 1 else str(number)))
        await world.turn(under("new" if number == 1 else str(number)))
        assert (state(world), world.member.view.health.failures) == ((True, False), number)
        world.mono += member_module.DOUBT_S
    world.member.rekeyed("signature", signed_under("last"))
    assert world.member.view.health.circuit_until > world.mono
    assert world.member.failure == "other_keyset"


@pytest.mark.parametrize(("shown", "convicted"), [("new", False), ("old", True)])
async def test_evidence_that_cannot_be_judged_for_want_of_documents_convicts_nobody(
    shown: str, convicted: bool
) -> None:
    """The vendor's are not the node's to have. It serves nobody meanwhile, also under policies that ask for less."""
    world = await rekeyed_world()
    unjudged = Check("evidence", Outcome.NONE, "collateral_unavailable")
    for wait in BACKOFF[:3]:
        attestation = under(shown)
        assert attestation.session is not None
        session = msgspec.structs.replace(attestation.session, checks=(unjudged,), outcome=Outcome.NONE)
        waits = await world.turn(Attestation(AttestationResult((unjudged,)), session, b"x"))
        assert (waits, state(world), world.member.unsettled) == (wait, (False, False), 1)
    await world.turn(under(shown))
    assert (state(world), world.member.unsettled) == ((True, convicted), 0)


def unshown(reason: str, words: str | None = None) -> Attestation:
    """An attempt that brought no evidence, for `reason`."""
    checks = (Check("evidence", Outcome.NONE, reason),)
    return Attestation(AttestationResult(checks), None, None, words=words)


async def test_why_a_node_is_passed_over_is_worked_out_once() -> None:
    """Requests share what their receipts say of it, until something happens to it; another policy has its own."""
    world = World()
    policies = read_policies(None)
    signed, observe = policies["signed"], policies["observe"]
    await world.turn(unshown("connect_failed"))
    missing = world.member.rejected("session_missing", signed)
    assert missing == Rejected("n", "session_missing", "connect_failed")
    assert world.member.rejected("session_missing", signed) is missing
    assert world.member.rejected("session_missing", observe) is not missing
    await world.turn(unshown("status_404"))
    assert world.member.rejected("session_missing", signed).cause == "status_404"
    for reason, told in (("circuit_open", world.member.failed), ("quarantined", world.member.contradicted)):
        for cause in ("truncated", "response_bound"):
            told(cause)
            assert world.member.rejected(reason, signed) == Rejected("n", reason, cause)


async def test_what_is_kept_of_why_a_node_is_passed_over_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers may tighten policies in many ways."""
    monkeypatch.setattr(member_module, "_MOST_KEPT", 2)
    world, policy = World(), read_policies(None)["signed"]
    for digest in "abcde":
        world.member.rejected("quarantined", msgspec.structs.replace(policy, digest=digest))
        assert len(world.member._rejected) <= 2


@pytest.mark.parametrize(
    ("found", "cause"),
    [
        (unshown("no_attestation_is_needed", words="no_attestation_is_needed"), UNLISTED),
        (unshown("connect_failed", words="other_words"), "connect_failed"),
        (unshown("The node's own sentence."), UNLISTED),
        (unshown("x" * 65), UNLISTED),
        (unshown("session_missing"), None),
    ],
)
async def test_a_receipt_has_no_words_of_others(found: Attestation, cause: str | None) -> None:
    """A cause is a code of ours, or it is not told."""
    world = World()
    await world.turn(found)
    assert world.member.rejected("session_missing", read_policies(None)["signed"]).cause == cause
