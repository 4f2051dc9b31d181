"""Endorsements are fetched once, checked before they are kept, renewed before they end, and refused rather than guessed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from behind_front import behind_front
from collateral_kit import CollateralBench, settled
from ledger import Ledger
from tee_worlds import amd, intel
from tee_worlds.vendors import Answer, Vendors, key_path, vendors

from gateway.adapter import Alarm
from gateway.errors import ConfigError, FormatError
from gateway.fleet import collateral
from gateway.fleet.collateral import (
    IDLE_S,
    PROBLEMS,
    RETRY_MAX_S,
    CollateralService,
    Fetched,
    open_collateral,
)
from gateway.fleet.collateral_store import CollateralStore
from gateway.fleet.vendor_services import MAX_FILE_BYTES, SuppliedFolder, Unavailable, VendorServices, files_of
from gateway.settings import Settings, load
from gateway.upstream.pool import UpstreamPool
from gateway.verify.node_evidence import TeeEvidence
from gateway.verify.tee.endorsements import roles_of
from gateway.verify.tee.intel import verify_intel
from gateway.verify.tee.needs import AmdChain, AmdKey, AmdNeed, IntelNeed, Part, need_of
from gateway.verify.tee.roots import TrustRoots
from gateway.verify.tee.snp import from_inputs

NOW, DAY = amd.NOW, intel.DAY
FMSPC = "10a06f000000"
TDX = IntelNeed("tdx", FMSPC, "platform")
TCB, QE = "/tdx/certification/v4/tcb", "/tdx/certification/v4/qe/identity"
PCK_CRL, ROOT_CRL = "/sgx/certification/v4/pckcrl", "/root.der"


class Bench(CollateralBench):
    """Intel and AMD, and services over them."""

    def __init__(self, service: Vendors, folder: Path) -> None:
        self.intel, self.amd = intel.World(now=NOW), amd.World("Genoa")
        roots = TrustRoots(self.intel.roots.anchors + self.amd.roots.anchors)
        url = service.url
        addresses = {"intel_url": url, "intel_crl_url": f"{url}/root.der", "amd_url": f"{url}/"}
        super().__init__(service, folder, roots, float(NOW), addresses)
        service.take_intel(self.intel)
        service.take_amd(self.amd)

    def snp(self, **report: Any) -> AmdNeed:
        need = need_of("snp", {"report": self.amd.report(**report)})
        assert isinstance(need, AmdNeed)
        return need


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with vendors() as service:
        made = Bench(service, tmp_path)
        yield made
        await made.close()


def issued(world: intel.World, at: float) -> dict[str, Any]:
    """`World.collateral`'s arguments for documents and lists of the time `at`."""
    dates = {"issueDate": intel.iso(at - DAY), "nextUpdate": intel.iso(at + 29 * DAY)}
    documents = {"tcb_info": world.tcb_info(**dates), "qe_identity": world.qe_identity(**dates)}
    return {**documents, "crl_begins": at - DAY, "crl_ends": at + 29 * DAY}


def problem(fetched: Fetched) -> tuple[str | None, str | None]:
    assert not fetched.blobs
    assert fetched.expires is None
    assert fetched.problem in PROBLEMS
    return fetched.problem, fetched.detail


# --- What is asked for and handed out


async def test_a_quote_is_verified_with_what_was_fetched(bench: Bench) -> None:
    """Four answers of Intel's service make the collateral that the quote's verifier accepts; a second call asks none."""
    service, quote = bench.open(), bench.intel.quote()
    need = need_of("tdx", {"quote": quote})
    assert need == TDX
    fetched = await service.fetch(TDX)
    assert (fetched.problem, fetched.evaluation, fetched.expires) == (None, 20, NOW + 29 * DAY)
    result = verify_intel(quote, fetched.blobs["collateral"], roots=bench.roots, now=NOW)
    assert result.claims.authentic
    assert result.claims.root is not None
    assert result.claims.root.test
    assert bench.vendors.asked == [
        f"{TCB}?fmspc=10A06F000000",
        QE,
        f"{PCK_CRL}?ca=platform&encoding=der",
        ROOT_CRL,
    ]
    assert await service.fetch(TDX) == fetched
    assert len(bench.vendors.asked) == 4


async def test_an_enclave_is_verified_with_its_own_documents(bench: Bench) -> None:
    """An SGX quote is held against SGX documents."""
    fetched = await bench.open().fetch(IntelNeed("sgx", FMSPC, "platform"))
    result = verify_intel(bench.intel.sgx_quote(), fetched.blobs["collateral"], roots=bench.roots, now=NOW)
    assert result.claims.authentic
    assert bench.vendors.count("/sgx/certification/v4/tcb") == 1


@pytest.mark.parametrize(
    ("product", "levels"),
    [
        ("Genoa", "blSPL=04&teeSPL=00&snpSPL=24&ucodeSPL=219"),
        ("Milan", "blSPL=04&teeSPL=00&snpSPL=24&ucodeSPL=219"),
        ("Turin", "fmcSPL=01&blSPL=04&teeSPL=00&snpSPL=24&ucodeSPL=219"),
    ],
)
async def test_a_report_is_verified_with_what_was_fetched(bench: Bench, product: str, levels: str) -> None:
    """Chain, list and the key of that chip at that TCB; chain and list are shared by all chips of a product."""
    bench.amd = amd.World(product)
    bench.roots = bench.amd.roots
    bench.vendors.take_amd(bench.amd)
    service, report = bench.open(), bench.amd.report(version=5)
    need = need_of("snp", {"report": report})
    assert need is not None
    fetched = await service.fetch(need)
    assert fetched.expires == NOW + 29 * DAY
    result = from_inputs({"report": report, **fetched.blobs}, {}, bench.roots, NOW)
    assert result.claims.authentic
    assert result.claims.revocation.crl == "ok"
    base = f"/vcek/v1/{product}"
    assert bench.vendors.asked == [
        f"{base}/cert_chain",
        f"{base}/crl",
        f"{base}/{key_path(bench.amd)}?{levels}",
    ]
    other = amd.World(product, label="another chip")
    bench.vendors.take_amd(other)
    second = need_of("snp", {"report": other.report(version=5)})
    assert second is not None
    assert (await service.fetch(second)).blobs["ek"] == other.ek
    assert bench.vendors.count("cert_chain") == 1


async def test_a_report_that_does_not_say_its_product_is_asked_for_at_both(bench: Bench) -> None:
    """Version 2 has no CPUID: Milan's service does not know the chip, Genoa's does."""
    milan = amd.World("Milan")
    bench.vendors.take_amd(milan)
    del bench.vendors.answers[f"/vcek/v1/Milan/{key_path(milan)}"]
    bench.roots = TrustRoots(bench.roots.anchors + milan.roots.anchors)
    service, need = bench.open(), bench.snp(version=2)
    assert need.products == ("Milan", "Genoa")
    fetched = await service.fetch(need)
    assert (fetched.problem, fetched.blobs["ek"]) == (None, bench.amd.ek)
    bench.vendors.answers.clear()
    bench.now += 3000 * DAY
    assert problem(await service.fetch(need))[0] == "collateral_unavailable"


async def test_the_more_telling_of_two_problems_is_told(bench: Bench) -> None:
    """When one product's chain is bad and the other's absent, the bad one is the problem."""
    milan = amd.World("Milan")
    bench.vendors.take_amd(milan)  # whose root is not among the roots
    del bench.vendors.answers["/vcek/v1/Genoa/crl"]
    assert problem(await bench.open().fetch(bench.snp(version=2))) == ("collateral_invalid", "snp_untrusted_root")


async def test_a_key_that_came_along_is_not_asked_for(bench: Bench) -> None:
    """The chain and the list are fetched, the endorsement key is the evidence's."""
    need = need_of("snp", {"report": bench.amd.report(), "ek": bench.amd.ek})
    assert need is not None
    fetched = await bench.open().fetch(need)
    assert set(fetched.blobs) == {"ask", "root:ark", "crl"}
    assert bench.vendors.count(key_path(bench.amd)) == 0


async def test_a_vlek_is_had_from_the_operators_folder_alone(bench: Bench) -> None:
    """AMD gives VLEK certificates to its cloud only; the chain and the list are public."""
    world = amd.World(vlek=True)
    bench.vendors.take_amd(world)
    bench.roots = world.roots
    need = need_of("snp", {"report": world.report()})
    assert isinstance(need, AmdNeed)
    service = bench.open()
    assert problem(await service.fetch(need))[0] == "collateral_unavailable"
    assert bench.vendors.asked == ["/vlek/v1/Genoa/cert_chain", "/vlek/v1/Genoa/crl"]
    supply(bench.folder / "kept" / "supplied", need.key("Genoa"), {"ek": world.ek})
    bench.now += RETRY_MAX_S
    fetched = await service.fetch(need)
    assert from_inputs({"report": world.report(), **fetched.blobs}, {}, bench.roots, NOW).claims.authentic


async def test_the_attester_is_served_by_kind(bench: Bench) -> None:
    """`endorse` takes evidence as the attester has it: blobs, a problem, or nothing to fetch."""
    service = bench.open()
    quote = TeeEvidence("tdx", "quote", bench.intel.quote())
    assert set((await service.endorse(quote)).blobs) == {"collateral"}
    assert (await service.endorse(TeeEvidence("nitro", "doc", b""))).problem is None
    stranger = intel.World(now=NOW, fmspc="AAAAAAAAAAAA").quote()
    endorsed = await service.endorse(TeeEvidence("tdx", "quote", stranger))
    assert (endorsed.blobs, endorsed.problem) == ({}, "collateral_invalid")
    with pytest.raises(FormatError):
        await service.endorse(TeeEvidence("tdx", "quote", b"no quote"))


# --- Bad answers


def bad_answers() -> dict[str, tuple[str, str, Callable[[Bench], None]]]:
    """name -> problem, detail, what the vendor does."""

    def answer(path: str, **changes: Any) -> Callable[[Bench], None]:
        def change(bench: Bench) -> None:
            before = bench.vendors.answers[path]
            parts = {"body": before.body, "headers": before.headers, "status": 200, "cut": None, **changes}
            bench.vendors.answers[path] = Answer(**parts)

        return change

    def collateral_of(**changes: Any) -> Callable[[Bench], None]:
        def change(bench: Bench) -> None:
            made = {name: make(bench.intel) if callable(make) else make for name, make in changes.items()}
            bench.vendors.take_intel(bench.intel, **made)

        return change

    def unsigned(bench: Bench) -> None:
        body = bench.vendors.answers[TCB].body
        answer(TCB, body=body.replace(b'"pcesvn":13', b'"pcesvn":12'))(bench)

    def silent(bench: Bench) -> None:
        bench.vendors.gate.clear()

    html = {"body": b"<html>Maintenance</html>", "headers": (("content-type", "text/html"),)}
    flood = {"body": b" " * 300_000}
    expired = lambda world: world.tcb_info(nextUpdate=intel.iso(NOW - 1))  # noqa: E731
    foreign = lambda world: world.tcb_info(fmspc="20A06F000000")  # noqa: E731
    unavailable, invalid = "collateral_unavailable", "collateral_invalid"
    return {
        "500": (unavailable, "status 500", answer(TCB, status=500)),
        "404": (unavailable, "status 404", answer(QE, status=404)),
        "redirect": (unavailable, "status 302", answer(TCB, status=302, headers=(("location", "http://127.0.0.1/"),))),
        "compressed": (unavailable, "content_encoding", answer(TCB, headers=(("content-encoding", "gzip"),))),
        "oversize": (unavailable, "too_large", answer(TCB, **flood)),
        "truncated": (unavailable, "truncated", answer(PCK_CRL, cut=20)),
        "silent": (unavailable, "timeout", silent),
        "wrong type": (invalid, "collateral_malformed", answer(TCB, **html)),
        "no chain": (invalid, "collateral_malformed", answer(QE, headers=())),
        "wrong list": (invalid, "collateral_malformed", answer(ROOT_CRL, body=b"-----BEGIN X509 CRL-----")),
        "unsigned": (invalid, "tcb_bad_signature", unsigned),
        "expired": (invalid, "tcb_expired", collateral_of(tcb_info=expired)),
        "wrong fmspc": (invalid, "collateral_of_another", collateral_of(tcb_info=foreign)),
        "list expired": (invalid, "crl_expired", collateral_of(crl_ends=NOW - 1)),
    }


@pytest.mark.parametrize("name", list(bad_answers()))
async def test_a_bad_answer_is_refused_and_replaces_nothing(bench: Bench, name: str) -> None:
    """With nothing in hand it is a problem; with something in hand that stays as it is, in memory and on disk."""
    expected, detail, misbehave = bad_answers()[name]
    fresh, holding = bench.open(timeout_s=0.5, directory=str(bench.folder / "empty")), bench.open(timeout_s=0.5)
    before = await holding.fetch(TDX)
    misbehave(bench)
    found = problem(await fresh.fetch(TDX))
    assert found[0] == expected
    assert found[1] == detail or (name == "silent" and str(found[1]).startswith("timeout"))
    assert not (bench.folder / "empty" / "parts").exists()
    bench.now += 6 * DAY
    holding.renew()
    assert holding._flights
    await settled(holding)
    assert await holding.fetch(TDX) == before
    bench.vendors.gate.set()
    bench.vendors.answers.clear()
    again = await bench.open().fetch(TDX)
    assert again == before


async def test_a_bad_key_of_a_chip_is_refused(bench: Bench) -> None:
    """AMD's answer for another chip is no answer; the chain stays."""
    path = f"/vcek/v1/Genoa/{key_path(bench.amd)}"
    bench.vendors.answers[path] = Answer(amd.World(label="other").ek)
    service = bench.open()
    assert problem(await service.fetch(bench.snp())) == ("collateral_invalid", "snp_chip_id_mismatch")
    bench.vendors.answers[path] = Answer(b"rate limit", status=429)
    bench.now += RETRY_MAX_S
    assert problem(await service.fetch(bench.snp())) == ("collateral_unavailable", "status 429")


async def test_a_lower_evaluation_is_refused_also_after_a_restart(bench: Bench) -> None:
    """Intel signs old and new evaluations side by side; once the newer was seen, the older is no longer taken."""
    assert (await bench.open().fetch(TDX)).evaluation == 20

    def older(world: intel.World) -> dict[str, Any]:
        return {"tcb_info": world.tcb_info(tcbEvaluationDataNumber=19)}

    bench.vendors.take_intel(bench.intel, **older(bench.intel))
    for path in (bench.folder / "kept" / "parts").iterdir():
        path.unlink()
    service = bench.open()
    assert problem(await service.fetch(TDX)) == ("evaluation_lowered", "evaluation 19, seen 20")
    # The processor's PCK authority is another part of the same platform.
    processor = intel.World(now=NOW, processor=True)
    bench.vendors.take_intel(processor, **older(processor))
    assert problem(await service.fetch(IntelNeed("tdx", FMSPC, "processor")))[0] == "evaluation_lowered"
    # One old document of the two is enough.
    bench.vendors.take_intel(bench.intel, qe_identity=bench.intel.qe_identity(tcbEvaluationDataNumber=19))
    bench.now += RETRY_MAX_S
    assert problem(await service.fetch(TDX))[0] == "evaluation_lowered"
    # Each of them told once, however often it is asked again.
    for _ in range(3):
        bench.now += RETRY_MAX_S
        assert problem(await service.fetch(TDX))[0] == "evaluation_lowered"
    about = {"source": "service", "platform": f"tdx-{FMSPC}", "evaluation": 19, "seen": 20}
    assert bench.alarms == [Alarm("evaluation_lowered", about)]
    # Another platform has numbers of its own.
    other = intel.World(now=NOW, fmspc="20A06F000000")
    bench.vendors.take_intel(other, tcb_info=other.tcb_info(tcbEvaluationDataNumber=17))
    assert (await service.fetch(IntelNeed("tdx", "20a06f000000", "platform"))).evaluation == 17


async def test_a_higher_evaluation_that_ends_earlier_is_newer(bench: Bench) -> None:
    """The evaluation number comes before the date."""
    service = bench.open()
    await service.fetch(TDX)
    ends = intel.iso(NOW + 10 * DAY)
    newer = bench.intel.tcb_info(tcbEvaluationDataNumber=21, nextUpdate=ends)
    bench.vendors.take_intel(
        bench.intel, tcb_info=newer, qe_identity=bench.intel.qe_identity(tcbEvaluationDataNumber=21)
    )
    bench.now += DAY
    service.renew()
    await settled(service)
    fetched = await service.fetch(TDX)
    assert (fetched.evaluation, fetched.expires) == (21, NOW + 10 * DAY)
    numbers = json.loads((bench.folder / "kept" / "evaluations.json").read_bytes())
    assert numbers == {f"tdx-{FMSPC}": 21}


@pytest.mark.parametrize(("at", "revoked"), [(DAY / 2, True), (-DAY / 2, False)], ids=["later", "earlier"])
async def test_a_list_counts_by_its_own_date(bench: Bench, at: float, revoked: bool) -> None:
    """A later revocation list is taken although the envelope ends when it did before, and an earlier one is not."""
    service = bench.open()
    soon = {"nextUpdate": intel.iso(NOW + 10 * DAY)}
    documents = {"tcb_info": bench.intel.tcb_info(**soon), "qe_identity": bench.intel.qe_identity(**soon)}
    bench.vendors.take_intel(bench.intel, **documents)
    first = await service.fetch(TDX)
    lists = {"crl_begins": NOW - DAY + at, "crl_ends": NOW + 29 * DAY + at, "revoked": [bench.intel.pck]}
    bench.vendors.take_intel(bench.intel, **documents, **lists)
    bench.now += DAY
    service.renew()
    await settled(service)
    second = await service.fetch(TDX)
    assert second.expires == first.expires
    quote = bench.intel.quote()
    result = verify_intel(quote, second.blobs["collateral"], roots=bench.roots, now=bench.now)
    assert result.claims.reject_code == ("pck_revoked" if revoked else None)


async def test_what_is_held_is_not_handed_out_once_a_newer_evaluation_was_seen(bench: Bench) -> None:
    """A newer evaluation that came with one PCK CA's list ends what is held for the other's of the same platform."""
    service = bench.open()
    assert (await service.fetch(TDX)).evaluation == 20
    processor = intel.World(now=NOW, processor=True)

    def newer(world: intel.World) -> dict[str, Any]:
        number = {"tcbEvaluationDataNumber": 21}
        return {"tcb_info": world.tcb_info(**number), "qe_identity": world.qe_identity(**number)}

    bench.vendors.take_intel(processor, **newer(processor))
    assert (await service.fetch(IntelNeed("tdx", FMSPC, "processor"))).evaluation == 21
    bench.vendors.take_intel(bench.intel)
    assert problem(await service.fetch(TDX)) == ("evaluation_lowered", "evaluation 20, seen 21")
    bench.vendors.take_intel(bench.intel, **newer(bench.intel))
    bench.now += RETRY_MAX_S
    assert (await service.fetch(TDX)).evaluation == 21


# --- One flight, no waiting, no hammering


async def test_fifty_who_ask_at_once_cause_one_fetch(bench: Bench) -> None:
    """All get the same answer; one who gives up takes nothing from the others."""
    service = bench.open()
    bench.vendors.gate.clear()
    callers = [asyncio.create_task(service.fetch(TDX)) for _ in range(50)]
    impatient = asyncio.create_task(service.fetch(TDX))
    while not bench.vendors.asked:
        await asyncio.sleep(0.005)
    impatient.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await impatient
    bench.vendors.gate.set()
    answers = await asyncio.gather(*callers)
    assert {a.problem for a in answers} == {None}
    assert len({a.blobs["collateral"] for a in answers}) == 1
    assert len(bench.vendors.asked) == 4


async def test_renewal_comes_before_expiry_and_nobody_waits_for_it(bench: Bench) -> None:
    """While the vendor thinks, what is in hand is handed out; then the new one is."""
    service = bench.open(refresh_s=100 * 86400.0)
    before = await service.fetch(TDX)
    renewing = asyncio.create_task(service.run())
    await asyncio.sleep(0)
    assert not service._flights
    bench.now += 15 * DAY
    await service.fetch(TDX)
    bench.vendors.take_intel(bench.intel, **issued(bench.intel, bench.now))
    bench.vendors.gate.clear()
    service.renew()
    while len(bench.vendors.asked) == 4:
        await asyncio.sleep(0.005)
    async with asyncio.timeout(1):
        assert await service.fetch(TDX) == before
    bench.vendors.gate.set()
    await settled(service)
    after = await service.fetch(TDX)
    assert after.expires == bench.now + 29 * DAY
    assert len(bench.vendors.asked) == 8
    renewing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await renewing


async def test_the_background_task_renews_by_itself(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` finds what is due."""
    monkeypatch.setattr(collateral, "TICK_S", 0.01)
    service = bench.open()
    await service.fetch(TDX)
    renewing = asyncio.create_task(service.run())
    bench.now += DAY
    bench.vendors.take_intel(bench.intel, **issued(bench.intel, bench.now))
    async with asyncio.timeout(5):
        while (await service.fetch(TDX)).expires != bench.now + 29 * DAY:
            await asyncio.sleep(0.01)
    renewing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await renewing


async def test_a_vendor_with_nothing_newer_is_asked_again_later(bench: Bench) -> None:
    """The same answer leaves what is in hand, and the next question waits its time."""
    service = bench.open(refresh_s=3600.0)
    before = await service.fetch(TDX)
    for asked in (4, 8, 12):
        assert len(bench.vendors.asked) == asked
        service.renew()
        assert not service._flights
        bench.now += 3600
        service.renew()
        await settled(service)
        assert await service.fetch(TDX) == before


async def test_a_failing_renewal_is_tried_again_with_longer_pauses(bench: Bench) -> None:
    """The pauses double up to a limit; what is in hand serves on, and success ends it."""
    service = bench.open(refresh_s=3600.0)
    before = await service.fetch(TDX)
    good = dict(bench.vendors.answers)
    bench.vendors.answers.clear()
    bench.now += 3600
    pauses = []
    for _ in range(10):
        asked = len(bench.vendors.asked)
        with structlog.testing.capture_logs() as logs:
            service.renew()
            await settled(service)
        assert len(bench.vendors.asked) == asked + 1
        assert [(e["event"], e["reason"]) for e in logs] == [("collateral.not_renewed", "collateral_unavailable")]
        assert await service.fetch(TDX) == before
        pauses.append(service._held[TDX.name].refresh_at - bench.now)
        bench.now = service._held[TDX.name].refresh_at
    assert pauses == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
    bench.vendors.answers.update(good)
    service.renew()
    await settled(service)
    assert service._held[TDX.name].refresh_at == bench.now + 3600


async def test_nothing_is_handed_out_after_its_end(bench: Bench) -> None:
    """There is no grace: at the second when it ends the answer is a problem, from memory and from disk."""
    service = bench.open()
    await service.fetch(TDX)
    bench.vendors.answers.clear()
    bench.now = NOW + 29 * DAY - 1
    assert (await service.fetch(TDX)).problem is None
    bench.now = NOW + 29 * DAY
    assert problem(await service.fetch(TDX))[0] == "collateral_unavailable"
    assert problem(await bench.open().fetch(TDX))[0] == "collateral_unavailable"


async def test_what_ends_while_it_is_renewed_is_not_handed_out(bench: Bench) -> None:
    """A vendor that gives the same again at its very end gives nothing."""
    service = bench.open()
    await service.fetch(TDX)
    bench.now = NOW + 29 * DAY - 1
    await service.fetch(TDX)
    service.renew()
    # What was kept and what the vendor gives are judged and compared just before the end, and used at it.
    moments = iter([bench.now] * 4)
    service._now = lambda: next(moments, float(NOW + 29 * DAY))
    await settled(service)
    assert service._failures[TDX.name].detail == "expired"
    assert problem(await service.fetch(TDX))[0] == "collateral_invalid"


async def test_a_missing_platform_is_not_asked_for_at_every_request(bench: Bench) -> None:
    """A failure is remembered for a while, longer each time; success forgets it."""
    service = bench.open()
    good = bench.vendors.answers.pop(TCB)
    for pause in (2, 4, 8):
        asked = len(bench.vendors.asked)
        for _ in range(3):
            assert problem(await service.fetch(TDX))[0] == "collateral_unavailable"
        assert len(bench.vendors.asked) == asked + 1
        bench.now += pause
    bench.vendors.answers[TCB] = good
    assert (await service.fetch(TDX)).problem is None
    assert not service._failures


async def test_a_node_cannot_make_us_ask_for_ever_more_platforms(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidence is unverified when it names its platform: flights, waiting and memory are bounded."""
    monkeypatch.setattr(collateral, "WAITING", 3)
    monkeypatch.setattr(collateral, "PARTS", 2)
    service = bench.open(refresh_s=60.0)
    needs = [IntelNeed("tdx", f"{n:012x}", "platform") for n in range(5)]
    bench.vendors.gate.clear()
    flying = [asyncio.create_task(service.fetch(need)) for need in needs[:3]]
    await asyncio.sleep(0.05)
    assert problem(await service.fetch(needs[3]))[1] == "too many platforms are being asked for"
    bench.vendors.gate.set()
    assert {problem(f)[0] for f in await asyncio.gather(*flying)} == {"collateral_invalid"}
    assert len(service._failures) == 2
    # Good answers are bounded too, and what was used last stays.
    worlds = [intel.World(now=NOW, fmspc=f"{n:012X}") for n in range(3)]
    parts = [IntelNeed("tdx", f"{n:012x}", "platform") for n in range(3)]
    bench.now += RETRY_MAX_S
    for n in (0, 1):
        bench.vendors.take_intel(worlds[n])
        assert (await service.fetch(parts[n])).problem is None
    await service.fetch(parts[0])
    bench.vendors.take_intel(worlds[2])
    await service.fetch(parts[2])
    assert set(service._held) == {parts[0].name, parts[2].name}
    # Renewals wait for room as well.
    monkeypatch.setattr(collateral, "WAITING", 0)
    bench.now += 2 * DAY
    service.renew()
    assert not service._flights


async def test_what_nobody_asks_for_is_forgotten(bench: Bench) -> None:
    """A part unused for a week is no longer renewed."""
    service = bench.open()
    await service.fetch(TDX)
    bench.now += IDLE_S + 1
    service.renew()
    assert not service._held
    assert not service._flights


async def test_a_chips_key_is_not_fetched_twice(bench: Bench) -> None:
    """It never changes, and AMD limits the rate: only chain and list are renewed, and a restart reads the key."""
    service = bench.open()
    await service.fetch(bench.snp())
    bench.now += DAY
    service.renew()
    await settled(service)
    assert (bench.vendors.count("cert_chain"), bench.vendors.count(key_path(bench.amd))) == (2, 1)
    again = bench.open()
    assert (await again.fetch(bench.snp())).problem is None
    again.renew()
    await settled(again)
    assert bench.vendors.count(key_path(bench.amd)) == 1


async def test_a_defect_of_a_source_is_told_to_who_asked(bench: Bench) -> None:
    """An exception that is none of ours is logged and not taken for an answer."""

    class Broken:
        name = "broken"

        async def bring(self, part: Part) -> dict[str, bytes]:
            raise ZeroDivisionError

        async def close(self) -> None:
            pass

    service = CollateralService([Broken()], roots=bench.roots, now=lambda: bench.now)
    with structlog.testing.capture_logs() as logs, pytest.raises(ZeroDivisionError):
        await service.fetch(TDX)
    await asyncio.sleep(0)
    assert [e["event"] for e in logs] == ["collateral.failed"]
    assert not service._flights


async def test_without_a_source_there_is_nothing(bench: Bench) -> None:
    """No source is a problem too, never an empty answer."""
    service = CollateralService([], roots=bench.roots, now=lambda: bench.now)
    assert problem(await service.fetch(TDX)) == ("collateral_unavailable", "no source is configured")


async def test_without_a_folder_everything_stays_in_memory(bench: Bench) -> None:
    """A service without a store works and writes nothing."""
    supply(bench.folder / "mine", TDX, {"collateral": bench.intel.collateral()})
    source = SuppliedFolder(bench.folder / "mine")
    service = CollateralService([source], roots=bench.roots, now=lambda: bench.now)
    assert (await service.fetch(TDX)).evaluation == 20
    assert [path.name for path in bench.folder.iterdir()] == ["mine"]


async def test_a_stop_ends_what_is_under_way(bench: Bench) -> None:
    """A caller that waits when the gateway stops is cancelled with it."""
    service = bench.open()
    bench.vendors.gate.clear()
    waiting = asyncio.create_task(service.fetch(TDX))
    while not bench.vendors.asked:
        await asyncio.sleep(0.005)
    await service.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


# --- On disk


async def test_a_restart_without_network_serves_what_was_kept(bench: Bench) -> None:
    """Kept documents are verified again, and renewed soon."""
    service = bench.open()
    before = await service.fetch(TDX), await service.fetch(bench.snp())
    bench.vendors.answers.clear()
    bench.vendors.asked.clear()
    again = bench.open()
    assert (await again.fetch(TDX), await again.fetch(bench.snp())) == before
    assert not bench.vendors.asked
    again.renew()
    await settled(again)
    assert bench.vendors.count(TCB) == 1


@pytest.mark.parametrize("harm", ["flip", "empty", "remove", "swap", "huge", "record", "path"])
async def test_a_damaged_file_is_fetched_again(bench: Bench, harm: str) -> None:
    """What does not have the digest of its name counts as missing; a record that names a path is none."""
    before = await bench.open().fetch(TDX)
    blob = next((bench.folder / "kept" / "blobs").iterdir())
    record = bench.folder / "kept" / "parts" / f"{TDX.name}.json"
    data = blob.read_bytes()
    {
        "flip": lambda: blob.write_bytes(data[:-1] + b"\0"),
        "empty": lambda: blob.write_bytes(b""),
        "remove": blob.unlink,
        "swap": lambda: record.write_text('{"ek": "' + blob.name + '"}'),
        "huge": lambda: blob.write_bytes(data + bytes(600_000)),
        "record": lambda: record.write_text("{"),
        "path": lambda: record.write_text('{"collateral": "../../evaluations.json"}'),
    }[harm]()
    asked = len(bench.vendors.asked)
    assert await bench.open().fetch(TDX) == before
    assert len(bench.vendors.asked) == asked + 4
    assert blob.read_bytes() == data


async def test_what_was_kept_is_verified_before_it_is_used(bench: Bench) -> None:
    """A file with the right digest and the wrong signer is not used, whoever wrote it there."""
    stranger = intel.World(now=NOW, seed="stranger").collateral()
    CollateralStore(bench.folder / "kept").save(TDX.name, {"collateral": stranger})
    with structlog.testing.capture_logs() as logs:
        fetched = await bench.open().fetch(TDX)
    assert fetched.blobs["collateral"] != stranger
    assert ("collateral.refused", "kept", "chain_untrusted_root") in {
        (e["event"], e.get("kind"), e.get("error")) for e in logs
    }


def test_old_documents_go_when_nothing_names_them(tmp_path: Path) -> None:
    """A document that two parts share stays until neither has it."""
    store = CollateralStore(tmp_path)
    store.save("one", {"ask": b"shared", "crl": b"old"})
    store.save("two", {"ask": b"shared"})
    store.save("one", {"ask": b"new", "crl": b"new list"})
    assert store.load("one") == {"ask": b"new", "crl": b"new list"}
    assert store.load("two") == {"ask": b"shared"}
    assert len(list((tmp_path / "blobs").iterdir())) == 3
    (tmp_path / "parts" / "three.json").write_text("-")
    store.save("two", {"ask": b"new"})
    assert len(list((tmp_path / "blobs").iterdir())) == 2
    assert store.load("none") is None


async def test_a_full_disk_is_told_and_stops_nobody(bench: Bench) -> None:
    """What cannot be written is handed out all the same, and nothing half-written stays."""
    (bench.folder / "kept").write_text("in the way")
    with structlog.testing.capture_logs() as logs:
        service = open_without_reading(bench)
        assert (await service.fetch(TDX)).problem is None
    assert "collateral.not_kept" in {e["event"] for e in logs}


def open_without_reading(bench: Bench) -> CollateralService:
    """A service whose folder goes bad after the start."""
    (bench.folder / "kept").rename(bench.folder / "aside")
    service = bench.open()
    (bench.folder / "aside").rename(bench.folder / "kept")
    return service


def test_a_failed_write_leaves_no_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old file stands, the new one is gone."""
    store = CollateralStore(tmp_path)
    store.save_evaluations({"a": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="No space"):
        store.save_evaluations({"a": 2})
    assert [path.name for path in tmp_path.iterdir()] == ["evaluations.json"]
    assert store.open() == {"a": 1}


@pytest.mark.parametrize("text", ["", "{", '{"a": "1"}', "[]", "\xff"])
def test_damaged_evaluation_numbers_refuse_the_start(tmp_path: Path, text: str) -> None:
    """Beginning anew silently would allow what the file is there to prevent."""
    (tmp_path / "evaluations.json").write_text(text, "latin-1")
    with pytest.raises(ConfigError, match="is damaged"):
        CollateralStore(tmp_path).open()


def test_a_folder_that_cannot_be_read_refuses_the_start(tmp_path: Path) -> None:
    """A folder in the file's place, for one."""
    (tmp_path / "evaluations.json").mkdir()
    with pytest.raises(ConfigError, match="cannot use"):
        CollateralStore(tmp_path).open()


# --- The operator's folder


def supply(folder: Path, part: Part | None, blobs: dict[str, bytes]) -> None:
    assert part is not None
    for role, file in files_of(part).items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blobs[role])


async def test_offline_only_the_folder_is_asked(bench: Bench) -> None:
    """Everything is verified as if it had been fetched; nothing is asked of anybody."""
    folder = bench.folder / "kept" / "supplied"
    world, need = bench.amd, bench.snp()
    service = bench.open(offline=True, refresh_s=3600.0)
    found = problem(await service.fetch(TDX))
    assert found == ("collateral_unavailable", f"tdx-{FMSPC}-platform.json: No such file or directory")
    supply(folder, TDX, {"collateral": bench.intel.collateral()})
    chain = {"ask": world.ask, "root:ark": world.ark, "crl": world.crl()}
    supply(folder, need.chain("Genoa"), chain)
    supply(folder, need.key("Genoa"), {"ek": world.ek})
    bench.now += RETRY_MAX_S
    assert (await service.fetch(TDX)).evaluation == 20
    assert (await service.fetch(need)).blobs == {**chain, "ek": world.ek}
    # A newer file is found by the renewal, a worse one is not taken.
    bench.now += DAY
    began, later = bench.now, issued(bench.intel, bench.now)
    supply(folder, TDX, {"collateral": bench.intel.collateral(**later)})
    service.renew()
    await settled(service)
    assert (await service.fetch(TDX)).expires == bench.now + 29 * DAY
    older = bench.intel.tcb_info(tcbEvaluationDataNumber=1)
    supply(folder, TDX, {"collateral": bench.intel.collateral(**{**later, "tcb_info": older})})
    bench.now += DAY
    service.renew()
    await settled(service)
    assert (await service.fetch(TDX)).evaluation == 20
    supply(folder, TDX, {"collateral": b"{}"})
    bench.now = began + 29 * DAY
    assert problem(await service.fetch(TDX)) == ("collateral_invalid", "collateral_malformed")
    assert not bench.vendors.asked


async def test_the_folder_is_asked_first(bench: Bench) -> None:
    """A good file saves the fetch; a bad one is told and the vendor asked."""
    folder = bench.folder / "kept" / "supplied"
    mine = bench.intel.collateral(crl_ends=NOW + 5 * DAY)
    supply(folder, TDX, {"collateral": mine})
    service = bench.open()
    assert (await service.fetch(TDX)).blobs["collateral"] == mine
    assert not bench.vendors.asked
    supply(folder, TDX, {"collateral": b"{}"})
    with structlog.testing.capture_logs() as logs:
        fetched = await bench.open(directory=str(bench.folder / "other")).fetch(TDX)
        bench.now += 5 * DAY
        fetched = await service.fetch(TDX)
    assert fetched.expires == NOW + 29 * DAY
    refused = [(e["kind"], e["error"]) for e in logs if e["event"] == "collateral.refused"]
    assert ("folder", "collateral_malformed") in refused


async def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    """The operator's files are bounded like any answer."""
    supply(tmp_path, TDX, {"collateral": bytes(MAX_FILE_BYTES + 1)})
    with pytest.raises(Unavailable, match="more than"):
        await SuppliedFolder(tmp_path).bring(TDX)


def test_the_folder_has_one_file_a_role() -> None:
    """The names are those of docs/configuration.md."""
    levels = (("bl", 4), ("tee", 0), ("snp", 24), ("ucode", 219))
    parts: dict[Part, dict[str, str]] = {
        TDX: {"collateral": f"intel/tdx-{FMSPC}-platform.json"},
        AmdChain("Milan", "vcek"): {
            "ask": "amd/Milan/ask.der",
            "root:ark": "amd/Milan/ark.der",
            "crl": "amd/Milan/vcek.crl",
        },
        AmdChain("Milan", "vlek"): {
            "ask": "amd/Milan/asvk.der",
            "root:ark": "amd/Milan/ark.der",
            "crl": "amd/Milan/vlek.crl",
        },
        AmdKey("Genoa", "vcek", "ab" * 64, levels): {
            "ek": f"amd/Genoa/vcek-{'ab' * 64}-bl4-tee0-snp24-ucode219.der",
        },
        AmdKey("Genoa", "vlek", "", levels): {"ek": "amd/Genoa/vlek-bl4-tee0-snp24-ucode219.der"},
    }
    for part, files in parts.items():
        assert files_of(part) == files
        assert set(files) == set(roles_of(part))


# --- Settings


@pytest.mark.parametrize(
    "key", ["intel_url", "intel_crl_url", "amd_url", "nvidia_rim_url", "nvidia_ocsp_url", "nvidia_nras_url"]
)
@pytest.mark.parametrize(
    "url", ["http://vendor.example", "ftp://127.0.0.1", "https://a@b.example", "https://x.example/?q=1"]
)
async def test_a_url_that_is_not_safe_refuses_the_start(bench: Bench, key: str, url: str) -> None:
    """Plain HTTP is for this machine; credentials and queries have no place in it."""
    with pytest.raises(ConfigError, match=f" collateral.{key}: "):
        bench.open(**{key: url})


@pytest.mark.parametrize("url", ["", "none"])
async def test_an_address_that_is_never_asked_refuses_no_start(url: str) -> None:
    """Where no vendor is asked, an operator may take their addresses out."""
    assert load(f'[collateral]\noffline = true\nintel_url = "{url}"').collateral.intel_url == url


async def test_the_vendors_own_services_are_the_default(tmp_path: Path) -> None:
    """Nobody else's: a third party that caches for us would choose what we believe to be current."""
    collateral_settings = Settings().collateral
    assert collateral_settings.intel_url == "https://api.trustedservices.intel.com"
    assert collateral_settings.intel_crl_url == "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
    assert collateral_settings.amd_url == "https://kdsintf.amd.com"
    assert collateral_settings.nvidia_rim_url == "https://rim.attestation.nvidia.com"
    assert collateral_settings.nvidia_ocsp_url == "https://ocsp.ndis.nvidia.com"
    assert collateral_settings.nvidia_nras_url == "https://nras.attestation.nvidia.com"
    pool = UpstreamPool()
    storage = load(f'[storage]\nurl = "sqlite:///{tmp_path}/a.db"')
    service = open_collateral(storage, pool, roots=TrustRoots(), now=lambda: NOW)
    assert service._store is not None
    assert service._store.folder == tmp_path / "a.db.collateral"
    assert isinstance(service._sources[-1], VendorServices)
    assert not list(tmp_path.iterdir())
    await service.close()
    await pool.close()


async def test_an_alarm_of_collateral_is_an_entry_of_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With when it was, and what it is about."""
    text = f"""
    auth.mode = "none"
    storage.url = "sqlite:///{tmp_path}/audit.db"
    nodes = [{{id = "n", base_url = "http://127.0.0.1:9", models = ["m"], pin = "sha256:{"0" * 64}"}}]
    """
    async with behind_front(text, monkeypatch) as gateway:
        gateway._collateral_alarm(Alarm("evaluation_lowered", {"platform": "tdx-00", "evaluation": 19, "seen": 20}))
    (alarm,) = Ledger(tmp_path / "audit.db").alarms("evaluation_lowered")
    assert alarm.pop("timeMs") > 0
    assert alarm == {"alarm": "evaluation_lowered", "platform": "tdx-00", "evaluation": 19, "seen": 20}
