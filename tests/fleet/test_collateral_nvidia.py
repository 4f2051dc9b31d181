"""What accelerators are held against is fetched from NVIDIA's services for genuine devices, checked, kept and renewed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog
from collateral_kit import CollateralBench, settled
from cryptography import x509
from cryptography.x509 import ocsp
from tee_worlds import nvidia, tokens
from tee_worlds.vendors import Answer, Vendors, vendors

from gateway.fleet.attest import Endorsements
from gateway.fleet.collateral import RETRY_MAX_S
from gateway.fleet.vendor_services import files_of
from gateway.verify.node_evidence import TeeEvidence
from gateway.verify.tee.endorsements import roles_of
from gateway.verify.tee.needs import NrasKeys, NvidiaPart, RimNeed, ocsp_needs
from gateway.verify.tee.nvidia_payload import verify_payload

NOW, DAY = nvidia.NOW, nvidia.DAY
DRIVER = f"NV_GPU_DRIVER_GH100_{nvidia.DRIVER}"
VBIOS = "NV_GPU_VBIOS_G520_0200_885_9600A50001"
CHAIN, RIM_CHAIN = nvidia.device_chain(), nvidia.rim_chain()
BOOT_ROM = ocsp_needs(CHAIN)[1]
RIMS = {DRIVER: nvidia.signed(nvidia.manifest()), VBIOS: nvidia.signed(nvidia.manifest(nvidia.VBIOS, (20, 21)))}
JWKS = "/.well-known/jwks.json"
EVIDENCE = TeeEvidence("nitro", "doc", b"", nvidia.payload((nvidia.report(), nvidia.pem_of(CHAIN))))


class Bench(CollateralBench):
    """NVIDIA's three services, and collateral services over them."""

    def __init__(self, service: Vendors, folder: Path) -> None:
        url = service.url
        addresses = {"nvidia_rim_url": f"{url}/", "nvidia_ocsp_url": f"{url}/ocsp", "nvidia_nras_url": url}
        super().__init__(service, folder, nvidia.roots(), NOW, addresses)
        for name, data in RIMS.items():
            service.take_manifest(name, data)
        for place in (1, 2, 3):  # about the leaf, nobody has a word
            self.say(CHAIN, place)
        self.say(RIM_CHAIN, 0, issuer_key="rim root")
        service.answers[JWKS] = Answer(tokens.nras_key_set())

    def say(self, chain: tuple[x509.Certificate, ...], place: int, **changes: Any) -> None:
        self.vendors.take_status(chain[place], nvidia.ocsp_response(chain, place, **changes))

    @property
    def supplied(self) -> Path:
        (self.folder / "kept" / "supplied" / "nvidia").mkdir(parents=True, exist_ok=True)
        return self.folder / "kept" / "supplied"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with vendors() as service:
        made = Bench(service, tmp_path)
        yield made
        await made.close()


def claims_of(endorsed: Endorsements, now: float = NOW) -> Any:
    """The device's claims under what was brought."""
    answers = {role[5:]: data for role, data in endorsed.blobs.items() if role.startswith("ocsp:")}
    rims = [data for role, data in endorsed.blobs.items() if role.startswith("rim:")]
    assert EVIDENCE.gpu is not None
    return verify_payload(EVIDENCE.gpu, roots=nvidia.roots(), now=now, rims=rims, answers=answers).claims


async def test_a_device_is_measured_and_its_certificates_are_asked_about(bench: Bench) -> None:
    """Two manifests and four answers are fetched once, and make of a bare report a measured device."""
    service = bench.open()
    endorsed = await service.endorse(EVIDENCE)
    assert endorsed.problem is None
    device = claims_of(endorsed).children[0]
    assert (device.authentic, device.revocation.ocsp) == (True, "ok")
    assert {golden.kind.partition(":")[0] for golden in device.golden if not golden.mismatched} == {"driver", "vbios"}
    assert (bench.vendors.count("/v1/rim/"), bench.vendors.count("/ocsp")) == (2, 4)
    assert await service.endorse(EVIDENCE) == endorsed
    assert len(bench.vendors.asked) == 6


async def test_what_was_kept_serves_after_a_restart_and_offline(bench: Bench) -> None:
    """From disk, verified anew, with the vendor out of reach; and a folder of the operator's does as well."""
    before = await bench.open().endorse(EVIDENCE)
    asked = len(bench.vendors.asked)
    assert await bench.open(offline=True).endorse(EVIDENCE) == before
    parts: dict[NvidiaPart, bytes] = {RimNeed(name): data for name, data in RIMS.items()}
    parts |= {need: before.blobs[need.role] for need in (*ocsp_needs(CHAIN[1:]), *ocsp_needs(RIM_CHAIN))}
    parts[NrasKeys()] = tokens.nras_key_set()
    elsewhere = bench.folder / "elsewhere"
    for part, data in parts.items():
        (file,) = files_of(part).values()
        assert (set(files_of(part)), file.split("/")[0]) == (set(roles_of(part)), "nvidia")
        (elsewhere / "supplied" / "nvidia").mkdir(parents=True, exist_ok=True)
        (elsewhere / "supplied" / file).write_bytes(data)
    alone = bench.open(offline=True, directory=str(elsewhere))
    assert await alone.endorse(EVIDENCE) == before
    assert (await alone.fetch(NrasKeys())).blobs == {"jwks": tokens.nras_key_set()}
    assert len(bench.vendors.asked) == asked


async def test_nothing_is_asked_for_a_payload_that_does_not_hold(bench: Bench) -> None:
    """Nor for evidence without one."""
    service = bench.open()
    altered = msgspec.structs.replace(EVIDENCE, gpu=EVIDENCE.gpu.replace(b"A", b"B", 1))  # type: ignore[union-attr]
    for item in (altered, msgspec.structs.replace(EVIDENCE, gpu=None)):
        assert await service.endorse(item) == Endorsements({})
    assert bench.vendors.asked == []


def bad_manifests() -> dict[str, tuple[str, str, Callable[[Vendors], None]]]:
    """name -> problem, detail, what the service does."""
    path = f"/v1/rim/{DRIVER}"
    foreign = nvidia.signed(nvidia.manifest(), key="stranger")
    unavailable, invalid = "collateral_unavailable", "collateral_invalid"
    return {
        "absent": (unavailable, "status 404", lambda v: v.answers.pop(path)),
        "html": (invalid, "collateral_malformed", lambda v: v.answers.update({path: Answer(b"<html>")})),
        "altered": (invalid, "xml_bad_signature", lambda v: v.take_manifest(DRIVER, foreign)),
        "another": (invalid, "rim_of_another", lambda v: v.take_manifest(DRIVER, RIMS[VBIOS])),
        "flood": (unavailable, "too_large", lambda v: v.answers.update({path: Answer(b" " * 300_000)})),
    }


@pytest.mark.parametrize("name", list(bad_manifests()))
async def test_a_bad_manifest_is_refused_and_not_kept(bench: Bench, name: str) -> None:
    """It has a stable problem, replaces nothing, and leaves the device genuine and unmeasured."""
    problem, detail, misbehave = bad_manifests()[name]
    good, service = bench.open(), bench.open(directory=str(bench.folder / "fresh"))
    before = await good.fetch(RimNeed(DRIVER))
    misbehave(bench.vendors)
    fetched = await service.fetch(RimNeed(DRIVER))
    assert (fetched.blobs, fetched.problem, fetched.detail) == ({}, problem, detail)
    assert not (bench.folder / "fresh" / "parts").exists()
    endorsed = await service.endorse(EVIDENCE)
    assert f"rim:{DRIVER}" not in endorsed.blobs
    device = claims_of(endorsed).children[0]
    assert (device.authentic, [g.kind.partition(":")[0] for g in device.golden]) == (True, ["vbios"])
    bench.now += DAY
    good.renew()
    await settled(good)
    assert await good.fetch(RimNeed(DRIVER)) == before


async def test_a_revocation_is_kept_and_refuses_the_device(bench: Bench) -> None:
    """A later word replaces a good one that is still in date, even when it ends sooner."""
    service = bench.open(refresh_s=3600.0)
    assert claims_of(await service.endorse(EVIDENCE)).authentic
    revoked = ocsp.OCSPCertStatus.REVOKED
    bench.say(CHAIN, 1, status=revoked, since=NOW, until=NOW + DAY / 2)
    bench.now += 3600
    service.renew()
    await settled(service)
    claims = claims_of(await service.endorse(EVIDENCE), bench.now)
    assert (claims.authentic, claims.reject_code) == (False, "ocsp_revoked")
    # An older good word does not undo it.
    bench.say(CHAIN, 1)
    bench.now += 3600
    service.renew()
    await settled(service)
    assert not claims_of(await service.endorse(EVIDENCE), bench.now).authentic
    assert not claims_of(await bench.open(offline=True).endorse(EVIDENCE), bench.now).authentic


@pytest.mark.parametrize(
    ("answer", "problem", "detail"),
    [
        (Answer(b"", status=500), "collateral_unavailable", "status 500"),
        (Answer(b"<html>"), "collateral_invalid", "ocsp_malformed"),
        (Answer(nvidia.ocsp_response(CHAIN, 2)), "collateral_invalid", "ocsp_foreign"),
        (Answer(nvidia.ocsp_response(CHAIN, 1, until=NOW - 1)), "collateral_invalid", "ocsp_stale"),
        (Answer(nvidia.ocsp_response(CHAIN, 1, issuer_key="x")), "collateral_invalid", "ocsp_bad_signature"),
    ],
    ids=("status 500", "malformed", "foreign", "stale", "bad signature"),
)
async def test_a_bad_answer_leaves_revocation_open(bench: Bench, answer: Answer, problem: str, detail: str) -> None:
    """Never a pass: what is not answered is absent in the claims, and policy can refuse that."""
    service = bench.open()
    bench.vendors.answers["/ocsp"] = answer
    fetched = await service.fetch(BOOT_ROM)
    assert (fetched.blobs, fetched.problem, fetched.detail) == ({}, problem, detail)
    device = claims_of(await service.endorse(EVIDENCE)).children[0]
    assert (device.authentic, device.revocation.ocsp) == (True, "absent")


async def test_answers_are_renewed_before_they_end_and_not_used_after(bench: Bench) -> None:
    """At half of what is left a new one is asked for; without one, the old serves to its last second."""
    service = bench.open()
    await service.fetch(BOOT_ROM)
    bench.now += DAY / 2
    bench.say(CHAIN, 1, since=bench.now, until=bench.now + DAY)
    service.renew()
    await settled(service)
    assert (await service.fetch(BOOT_ROM)).expires == NOW + 1.5 * DAY
    bench.vendors.responses.clear()
    bench.now = NOW + 1.5 * DAY
    assert (await service.fetch(BOOT_ROM)).problem == "collateral_unavailable"


async def test_the_key_set_is_fetched_and_one_that_is_none_refused(bench: Bench) -> None:
    """A page in its place does not replace it; without it there is a problem."""
    service = bench.open()
    assert (await service.fetch(NrasKeys())).blobs == {"jwks": tokens.nras_key_set()}
    bench.vendors.answers[JWKS] = Answer(b"<html>")
    fresh = await bench.open(directory=str(bench.folder / "fresh")).fetch(NrasKeys())
    assert (fresh.problem, fresh.detail) == ("collateral_invalid", "jwks_malformed")
    bench.now += DAY / 2
    service.renew()
    await settled(service)
    assert (await service.fetch(NrasKeys())).problem is None


async def test_many_who_ask_at_once_cause_one_question_each(bench: Bench) -> None:
    """Fifty appraisals of one machine ask what one does."""
    service = bench.open()
    endorsed = await asyncio.gather(*(service.endorse(EVIDENCE) for _ in range(50)))
    assert len({frozenset(one.blobs.items()) for one in endorsed}) == 1
    assert len(bench.vendors.asked) == 6


async def test_the_operators_manifest_stands_before_nvidias(bench: Bench) -> None:
    """It is taken as it lies there and nothing is asked for it; its signer is asked about all the same."""
    own = nvidia.signed(nvidia.manifest(indices=(1, 4)))
    (bench.supplied / "nvidia" / f"{DRIVER}.xml").write_bytes(own)
    endorsed = await bench.open().endorse(EVIDENCE)
    assert endorsed.blobs[f"rim:{DRIVER}"] == own
    assert (bench.vendors.count(DRIVER), bench.vendors.count(VBIOS)) == (0, 1)
    assert ocsp_needs(RIM_CHAIN)[0].role in endorsed.blobs


async def test_a_silent_vendor_does_not_hold_an_appraisal_for_ever(bench: Bench) -> None:
    """What there is after two timeouts is used; the rest is there for the next appraisal."""
    service = bench.open(timeout_s=0.3)
    bench.vendors.gate.clear()
    service._slots = asyncio.Semaphore(1)  # so that six questions take longer than that
    with structlog.testing.capture_logs() as logs:
        async with asyncio.timeout(5):
            endorsed = await service.endorse(EVIDENCE)
    assert (endorsed.blobs, endorsed.problem) == ({}, None)
    assert "collateral.late" in [entry["event"] for entry in logs]
    bench.vendors.gate.set()
    await settled(service)
    bench.now += RETRY_MAX_S
    assert claims_of(await service.endorse(EVIDENCE)).revocation.ocsp == "ok"
