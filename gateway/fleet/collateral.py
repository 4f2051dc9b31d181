"""Endorsements on hand: the vendors' documents that evidence is held against, fetched by us and kept ahead of expiry.

    service = open_collateral(settings, pool, roots=roots, now=time.time)      # raises ConfigError
    fetched = await service.fetch(need_of("tdx", {"quote": quote}))
    fetched.blobs["collateral"], fetched.problem
    Attester(…, endorse=service.endorse, roots=roots)                          # the same, as the attester takes it
    task = asyncio.create_task(service.run())                                  # renews; ends by cancellation
    await service.close()

Whoever chooses the collateral chooses the verdict (docs/verification.md), so it is never taken from a node. What
holds here:

* Nothing is handed out that `endorsements.check_part` has not found signed, complete and in date, and nothing after
  its end: there is no grace. Until then a failing vendor changes nothing.
* A bad answer replaces nothing. A good one replaces what is held when it is newer.
* The highest evaluation number seen for a platform is remembered across restarts, and collateral below it is refused.
* Each part is fetched once for all who wait, and again by `run` well before its end, so that nobody waits then.
* A problem is one of `PROBLEMS`, never an empty answer. What accelerators lack is no problem of the machine's, but
  stays open in their claims, and policy says whether that will do (`tee.gpu`, `tee.revocation`).

Sources are asked in this order: the operator's folder, what an earlier run kept, the vendors' services.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import structlog

from gateway.adapter import Alarm
from gateway.errors import FormatError
from gateway.settings import Settings, collateral_dir
from gateway.upstream.limits import Deadlines
from gateway.upstream.pool import UpstreamPool
from gateway.upstream.transport import control_client
from gateway.verify.node_evidence import TeeEvidence
from gateway.verify.tee.endorsements import Checked, check_part
from gateway.verify.tee.needs import AmdKey, AmdNeed, IntelNeed, Need, OcspNeed, Part, RimNeed, need_of
from gateway.verify.tee.nvidia_needs import device_needs, signer_needs
from gateway.verify.tee.roots import TrustRoots
from gateway.verify.tee.vendor_answers import MAX_ANSWER_BYTES

from .attest import Endorsements
from .collateral_store import CollateralStore
from .vendor_services import Source, SuppliedFolder, Unavailable, VendorServices

log = structlog.get_logger("veriroute.collateral")

#: Why there are no endorsements.
PROBLEMS: Mapping[str, str] = {
    "collateral_unavailable": "no source has them now",
    "collateral_invalid": "what a source gave is unsigned, out of date, of another platform or malformed",
    "evaluation_lowered": "what a source gave is of an older TCB evaluation than one seen before",
}
DAY_S = 86_400.0
#: A part that could not be had is asked for again after this long, doubling up to the limit.
RETRY_S, RETRY_MAX_S = 2.0, 300.0
#: How often `run` looks for what is due, and the least time between two renewals of one part.
TICK_S, LEAST_S = 1.0, 60.0
#: A part that nobody asked for in this long is no longer renewed.
IDLE_S = 7 * DAY_S
#: Evidence is not yet verified when it says what it needs, so a node can ask for any number of platforms.
FLIGHTS, WAITING, PARTS = 4, 64, 1024


class Fetched(msgspec.Struct, frozen=True):
    """Endorsements by role, or the `problem` and a short `detail` of ours. `expires` in Unix seconds."""

    blobs: Mapping[str, bytes] = {}
    problem: str | None = None
    detail: str | None = None
    expires: float | None = None
    evaluation: int | None = None


class _Held(msgspec.Struct):
    """A part in hand. `beside` is what it was checked against; `refresh_at` and `used_at` are Unix seconds."""

    part: Part
    blobs: Mapping[str, bytes]
    beside: Mapping[str, bytes]
    checked: Checked
    source: str
    refresh_at: float = 0.0
    used_at: float = 0.0
    tries: int = 0


class _Failure(msgspec.Struct, frozen=True):
    problem: str
    detail: str
    until: float = 0.0
    tries: int = 0


#: Called once for each source and platform with an evaluation that is lower than one seen before.
Raise = Callable[[Alarm], None]


class CollateralService:
    """All endorsements of one gateway. One event loop. `close` it."""

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        roots: TrustRoots,
        now: Callable[[], float],
        store: CollateralStore | None = None,
        refresh_s: float = DAY_S / 2,
        timeout_s: float = 20.0,
        manifests: Callable[[], Mapping[str, bytes]] | None = None,
        alarm: Raise = lambda alarm: None,
    ) -> None:
        """`sources` in the order in which they are asked, the last one decides; `manifests` brings the accelerators'
        reference values that are on hand, under `rim:<name>`. Raises `ConfigError` (`store`)."""
        self._manifests = manifests
        self._alarm = alarm
        self._told: set[tuple[str, str, int]] = set()  # the alarms that were given
        self._sources = tuple(sources)
        self._roots, self._now = roots, now
        self._refresh, self._timeout = refresh_s, timeout_s
        self._store = store
        self._floors = store.open() if store is not None else {}
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._failures: OrderedDict[str, _Failure] = OrderedDict()
        self._flights: dict[str, asyncio.Task[_Held | _Failure]] = {}
        self._slots = asyncio.Semaphore(FLIGHTS)
        self._writing = asyncio.Lock()

    async def endorse(self, item: TeeEvidence) -> Endorsements:
        """What `item` has to be held against, as the attester asks. Raises `FormatError` for evidence that is none."""
        need = need_of(item.kind, {item.role: item.data})
        fetched = Fetched() if need is None else await self.fetch(need)
        if item.gpu is None or fetched.problem is not None:
            return Endorsements(fetched.blobs, fetched.problem)
        return Endorsements({**fetched.blobs, **await self._accelerators(item.gpu)})

    async def _accelerators(self, payload: bytes) -> Mapping[str, bytes]:
        """Manifests and OCSP answers for the devices of `payload`, as many as come in the time of two parts. What
        comes later is there for the next appraisal. The operator's own manifests stand before those that are fetched.
        """
        found = {} if self._manifests is None else dict(await asyncio.to_thread(self._manifests))
        try:
            async with asyncio.timeout(2 * self._timeout):
                needs = await asyncio.to_thread(device_needs, payload, self._roots, self._now())
                await self._gather((need for need in needs if need.role not in found), found)
                manifests = [data for role, data in found.items() if role.startswith("rim:")]
                signers = await asyncio.to_thread(signer_needs, manifests, self._roots, self._now())
                await self._gather(signers, found)
        except TimeoutError:
            log.warning("collateral.late", count=len(found))
        return found

    async def _gather(self, needs: Iterable[RimNeed | OcspNeed], found: dict[str, bytes]) -> None:
        """Fetch all of `needs`, and put what there is into `found` as it comes."""

        async def one(need: RimNeed | OcspNeed) -> None:
            found.update((await self.fetch(need)).blobs)

        await asyncio.gather(*(one(need) for need in needs))

    async def fetch(self, need: Need) -> Fetched:
        """The endorsements of `need`. Waits for a source only when they are not in hand. Raises nothing of its own."""
        if not isinstance(need, AmdNeed):
            return _fetched(await self._get(need, {}))
        first: Fetched | None = None
        for product in need.products:  # more than one only for a report that does not say what it is of
            found = await self._amd(need, product)
            if found.problem is None:
                return found
            first = first if first is not None and first.problem != "collateral_unavailable" else found
        assert first is not None
        return first

    async def _amd(self, need: AmdNeed, product: str) -> Fetched:
        chain = await self._get(need.chain(product), {})
        key = need.key(product)
        if isinstance(chain, _Failure) or key is None:
            return _fetched(chain)
        return _fetched(chain, await self._get(key, chain.blobs))

    # -- one part -----------------------------------------------------------------------------------------------------

    async def _get(self, part: Part, beside: Mapping[str, bytes]) -> _Held | _Failure:
        """The part from memory, or by a flight that all who ask share."""
        held, now = self._in_date(part), self._now()
        if held is not None:
            held.used_at = now
            self._held.move_to_end(part.name)
            return held
        failure = self._failures.get(part.name)
        if part.name not in self._flights:
            if failure is not None and now < failure.until:
                return failure
            if len(self._flights) >= WAITING:
                return _Failure("collateral_unavailable", "too many platforms are being asked for")
        # One who waits and gives up must not take the answer away from the others.
        return await asyncio.shield(self._fly(part, beside))

    def _in_date(self, part: Part) -> _Held | None:
        """What is held, while it may be used: before its end, and not of an older evaluation than one seen since."""
        held = self._held.get(part.name)
        if held is None or self._now() >= held.checked.expires or self._is_lowered(held):
            return None
        return held

    def _is_lowered(self, held: _Held) -> bool:
        """Both PCK CAs share a platform's documents: a newer one that came with either's ends those of the other."""
        return held.checked.evaluation is not None and held.checked.evaluation < self._floor(held.part)

    def _floor(self, part: Part) -> int:
        return self._floors.get(_platform(part), 0)

    def _fly(self, part: Part, beside: Mapping[str, bytes]) -> asyncio.Task[_Held | _Failure]:
        flight = self._flights.get(part.name)
        if flight is None:
            flight = self._flights[part.name] = asyncio.create_task(self._seek(part, beside))
            flight.add_done_callback(lambda done: self._landed(part.name, done))
        return flight

    def _landed(self, name: str, flight: asyncio.Task[_Held | _Failure]) -> None:
        self._flights.pop(name, None)
        if not flight.cancelled() and flight.exception() is not None:
            log.error("collateral.failed", key=name, exc_info=flight.exception())

    async def _seek(self, part: Part, beside: Mapping[str, bytes]) -> _Held | _Failure:
        """Ask the sources in order for something better than what is in hand."""
        async with self._slots:
            outcome: _Held | _Failure = _Failure("collateral_unavailable", "no source is configured")
            for source in self._sources:
                found = await self._ask(source, part, beside)
                if isinstance(found, _Held) and self._is_newer(found):
                    return await self._take(found)
                if source.name != _Kept.name:  # of all that is no help, what the last real source said is told
                    outcome = found
        held = self._in_date(part)
        if held is None:
            # A good answer that is no newer than what was in hand, which ended meanwhile, has ended too.
            ended = _Failure("collateral_invalid", "expired")
            return self._failed(part, outcome if isinstance(outcome, _Failure) else ended)
        if isinstance(outcome, _Failure):
            held.tries += 1
            held.refresh_at = self._now() + _backoff(held.tries)
            seconds = round(held.checked.expires - self._now())
            log.warning(
                "collateral.not_renewed", key=part.name, reason=outcome.problem, error=outcome.detail, seconds=seconds
            )
        else:  # what is in hand is the newest there is
            held.tries, held.refresh_at = 0, self._due(part, held.checked)
        return held

    async def _ask(self, source: Source, part: Part, beside: Mapping[str, bytes]) -> _Held | _Failure:
        """What `source` has, judged."""
        try:
            async with asyncio.timeout(self._timeout):
                blobs = await source.bring(part)
            now = self._now()
            checked = check_part(part, blobs, beside, roots=self._roots, now=now)
            if checked.expires <= now:  # a verifier takes the last second itself, but nothing could use it after this
                raise FormatError("it ends now", reason="expired")
        except TimeoutError:
            return self._refused(source, part, _Failure("collateral_unavailable", "timeout"))
        except Unavailable as error:
            return self._refused(source, part, _Failure("collateral_unavailable", str(error)))
        except FormatError as error:
            return self._refused(source, part, _Failure("collateral_invalid", error.reason or "malformed"))
        floor = self._floor(part)
        if checked.evaluation is not None and checked.evaluation < floor:
            detail = f"evaluation {checked.evaluation}, seen {floor}"
            self._lowered(source, part, checked.evaluation, floor)
            return self._refused(source, part, _Failure("evaluation_lowered", detail))
        return _Held(part, blobs, beside, checked, source.name)

    def _lowered(self, source: Source, part: Part, evaluation: int, seen: int) -> None:
        """Give the alarm, once: a source that stands still is asked again and again."""
        told = (source.name, _platform(part), evaluation)
        if told not in self._told and len(self._told) < PARTS:
            self._told.add(told)
            about = {"source": source.name, "platform": told[1], "evaluation": evaluation, "seen": seen}
            self._alarm(Alarm("evaluation_lowered", about))

    def _refused(self, source: Source, part: Part, failure: _Failure) -> _Failure:
        if failure.problem != "collateral_unavailable":
            reason, detail = failure.problem, failure.detail
            log.warning("collateral.refused", key=part.name, kind=source.name, reason=reason, error=detail)
        return failure

    def _is_newer(self, found: _Held) -> bool:
        held = self._in_date(found.part)
        if held is None:
            return True
        ours, theirs = held.checked, found.checked
        if theirs.evaluation != ours.evaluation:
            return (theirs.evaluation or 0) > (ours.evaluation or 0)
        if theirs.said != ours.said:  # by each member: the first to end says nothing of how new the others are
            return all(later >= before for before, later in zip(ours.said, theirs.said, strict=True))
        return theirs.expires > ours.expires

    async def _take(self, found: _Held) -> _Held:
        """Keep what was judged good: the evaluation number first, so that no crash forgets what was relied on."""
        part, evaluation, platform = found.part, found.checked.evaluation, _platform(found.part)
        raised = evaluation is not None and evaluation > self._floor(part)
        if evaluation is not None and raised:
            self._floors[platform] = evaluation
        if self._store is not None:
            async with self._writing:
                await asyncio.to_thread(self._keep, self._store, found, dict(self._floors) if raised else None)
        before = self._held.get(part.name)
        now = self._now()
        found.used_at = now if before is None else before.used_at
        # What an earlier run kept may be old by now, though in date: look for newer soon, and make nobody wait for it.
        stale = found.source == _Kept.name and not isinstance(part, AmdKey)
        found.refresh_at = now if stale else self._due(part, found.checked)
        self._failures.pop(part.name, None)
        self._held[part.name] = found
        while len(self._held) > PARTS:
            self._held.popitem(last=False)
        seconds = round(found.checked.expires - now)
        log.info("collateral.taken", key=part.name, kind=found.source, seconds=seconds, seq=evaluation)
        return found

    def _keep(self, store: CollateralStore, found: _Held, floors: dict[str, int] | None) -> None:
        try:
            if floors is not None:
                store.save_evaluations(floors)
            if found.source != _Kept.name:
                store.save(found.part.name, found.blobs)
        except OSError as error:
            log.error("collateral.not_kept", key=found.part.name, path=str(store.folder), error=error.strerror)

    def _failed(self, part: Part, failure: _Failure) -> _Failure:
        """Remember a failure for a while, longer each time, so that a vendor is not asked for every request."""
        before = self._failures.pop(part.name, None)
        tries = (before.tries if before is not None else 0) + 1
        failure = msgspec.structs.replace(failure, until=self._now() + _backoff(tries), tries=tries)
        self._failures[part.name] = failure
        log.warning("collateral.missing", key=part.name, reason=failure.problem, error=failure.detail, failures=tries)
        while len(self._failures) > PARTS:
            self._failures.popitem(last=False)
        return failure

    def _due(self, part: Part, checked: Checked) -> float:
        """When to look for something newer."""
        now = self._now()
        left = checked.expires - now
        if isinstance(part, AmdKey):  # never changes; AMD asks that nobody fetches it twice
            return checked.expires - min(DAY_S, left / 2)
        return now + max(min(self._refresh, left / 2), LEAST_S)

    # -- ahead of expiry ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Renew what is in use before it ends. Ends by cancellation."""
        while True:
            self.renew()
            await asyncio.sleep(TICK_S)

    def renew(self) -> None:
        """Begin a flight for each part that is due; forget those that nobody asked for in a week."""
        now = self._now()
        for name, held in list(self._held.items()):
            if now - held.used_at > IDLE_S:
                del self._held[name]
            elif held.refresh_at <= now and len(self._flights) < WAITING:
                self._fly(held.part, held.beside)

    async def close(self) -> None:
        """End what is under way."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        for source in self._sources:
            await source.close()


class _Kept:
    """The store as a source."""

    name = "kept"

    def __init__(self, store: CollateralStore) -> None:
        self._store = store

    async def bring(self, part: Part) -> Mapping[str, bytes]:
        blobs = await asyncio.to_thread(self._store.load, part.name)
        if blobs is None:
            raise Unavailable("not kept")
        return blobs

    async def close(self) -> None:
        """Nothing is held open."""


def open_collateral(
    settings: Settings,
    pool: UpstreamPool,
    *,
    roots: TrustRoots,
    now: Callable[[], float],
    alarm: Raise = lambda alarm: None,
) -> CollateralService:
    """The service that `settings.collateral` describes, over `pool`. Raises `ConfigError`. Needs a running loop."""
    wanted, folder = settings.collateral, Path(collateral_dir(settings))
    store = CollateralStore(folder)
    supplied = SuppliedFolder(folder / "supplied")
    sources: list[Source] = [supplied, _Kept(store)]
    if not wanted.offline:
        deadlines = Deadlines(first_byte_s=wanted.timeout_s, idle_s=wanted.timeout_s, total_s=wanted.timeout_s)
        # The web's rules for TLS; private addresses are allowed, because the operator wrote the URL.
        client = control_client(pool, allow_private=True, max_body=MAX_ANSWER_BYTES, deadlines=deadlines)
        sources.append(
            VendorServices(
                client,
                intel_url=wanted.intel_url,
                intel_crl_url=wanted.intel_crl_url,
                amd_url=wanted.amd_url,
                nvidia_rim_url=wanted.nvidia_rim_url,
                nvidia_ocsp_url=wanted.nvidia_ocsp_url,
                nvidia_nras_url=wanted.nvidia_nras_url,
            )
        )
    return CollateralService(
        sources,
        roots=roots,
        now=now,
        store=store,
        refresh_s=wanted.refresh_s,
        timeout_s=wanted.timeout_s,
        manifests=supplied.manifests,
        alarm=alarm,
    )


def _fetched(*outcomes: _Held | _Failure) -> Fetched:
    """The parts as one answer; the first problem is the answer's."""
    blobs: dict[str, bytes] = {}
    ends, evaluations = [], []
    for outcome in outcomes:
        if isinstance(outcome, _Failure):
            return Fetched(problem=outcome.problem, detail=outcome.detail)
        blobs.update(outcome.blobs)
        ends.append(outcome.checked.expires)
        evaluations.append(outcome.checked.evaluation)
    return Fetched(blobs, expires=min(ends), evaluation=evaluations[0])


def _platform(part: Part) -> str:
    """What an evaluation number counts for: both PCK CAs of a platform share its documents."""
    return f"{part.tee}-{part.fmspc}" if isinstance(part, IntelNeed) else ""


def _backoff(tries: int) -> float:
    return min(RETRY_S * 2.0 ** min(tries - 1, 10), RETRY_MAX_S)
