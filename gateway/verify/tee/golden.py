"""Manifests held against one device's report: which part each is about, and whether the measurements are its values.

Comparing is arithmetic; whether a mismatch matters is policy's word, so it is a warning here and a `golden` claim. A
manifest that is unsigned, foreign or contradictory is no reference at all and fails the check that it is collateral of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gateway.crypto.certificates import expires, fingerprint
from gateway.model.tee import Collateral, Golden
from gateway.model.verdict import Check, Outcome

from .findings import Findings, NotAuthentic
from .ocsp import covered
from .rim import NVDEC0_INDEX, Rim, SignedRim, check_no_conflict, check_rim, compare, parse_rim
from .roots import TrustRoots
from .spdm import CHIP_INFO, CHIP_SKU, DRIVER_VERSION, NVDEC0_STATUS, PROJECT, PROJECT_SKU, Report, vbios_version

MAX_RIMS = 4
NVDEC0_OFF = b"\x55"
_HOPPER = "GH100"
#: What the names of drivers' manifests begin with: Hopper's, and those of all later chips.
DRIVER_PREFIXES = ("NV_GPU_DRIVER_", "NV_GPU_CC_DRIVER_")


def check_manifests(
    f: Findings,
    report: Report,
    product: str | None,
    manifests: Sequence[bytes],
    roots: TrustRoots,
    chain_expires: float,
    answers: Mapping[str, bytes] = {},
) -> None:
    """The checks `tee_collateral` and `tee_tcb` of a device whose report has been found genuine.

    Raises `NotAuthentic` rim_malformed|rim_for_another_device|rim_duplicate|rim_index_conflict, `XmlSignatureError`,
    `ChainError`, and what `ocsp.covered` does for a signer that one of `answers` (OCSP, by the certificate's SHA-256)
    is about. A signer out of date is a warning: NVIDIA does not sign manifests anew.
    """
    if not manifests:
        f.absent("tee_collateral", "rim_missing")
        f.absent("tee_tcb", "rim_missing")
        return
    with f.step("tee_collateral") as step:
        signed = _signed(manifests, roots, f.evaluated_at)
        kinds = {kind_of(report, s.rim, product): s.rim for s in signed}
        if len(kinds) != len(signed):
            raise NotAuthentic("two manifests for the same part", reason="rim_duplicate")
        check_no_conflict([s.rim for s in signed])
        step.found = ", ".join(f"{kind} {rim.version}" for kind, rim in kinds.items())
        ends = [chain_expires, *(expires(s.chain) for s in signed if not s.expired)]
        ends += _answered(signed, answers, f.evaluated_at)
        f.set(collateral=Collateral(tuple(s.rim.sha256 for s in signed), expires=min(ends)))
    if any(s.expired for s in signed):
        f.checks["tee_collateral"] = Check("tee_collateral", Outcome.WARNING, "rim_signer_expired", step.found)
    golden = [compare(rim, kind, report.blocks, skip=skipped(report)) for kind, rim in kinds.items()]
    f.set(golden=tuple(golden))
    f.checks["tee_tcb"] = _tcb(golden, {"vbios", "driver"} if DRIVER_VERSION in report.opaque else {"vbios"})


def _signed(manifests: Sequence[bytes], roots: TrustRoots, now: float) -> list[SignedRim]:
    if len(manifests) > MAX_RIMS:
        raise NotAuthentic(f"more than {MAX_RIMS} manifests", reason="rim_malformed")
    return [check_rim(parse_rim(data), roots, now) for data in manifests]


def _answered(signed: Sequence[SignedRim], answers: Mapping[str, bytes], now: float) -> list[float]:
    """When the answers about the signers end."""
    ends: list[float] = []
    for s in signed:
        given = [answers[digest] for c in s.chain[:-1] if (digest := fingerprint(c)) in answers]
        ends += covered(given, s.chain, now).values()
    return ends


def kind_of(report: Report, rim: Rim, product: str | None) -> str:
    """Which part of this device the manifest is about: `driver` or `vbios` (a switch's BIOS included).

    Raises `NotAuthentic` rim_for_another_device.
    """
    if rim.product in (product, report.text(CHIP_INFO)):
        if rim.version == report.text(DRIVER_VERSION):
            return "driver"
        if rim.version == vbios_version(report):
            return "vbios"
    raise NotAuthentic(
        "a manifest is for another chip, driver or firmware",
        reason="rim_for_another_device",
        found=f"{rim.product} {rim.version}"[:80],
    )


def rim_ids(report: Report, product: str | None) -> tuple[str, ...]:
    """The names under which NVIDIA's service keeps this device's manifests, for whoever fetches them; made of what the
    report states, so only as good as a request. A switch does not state its project: those of the LS10 are constant.
    From Blackwell on a driver's manifest is named by the chip that the report states, and differently."""
    driver, vbios = report.text(DRIVER_VERSION), vbios_version(report)
    parts = [report.text(field) for field in (PROJECT, PROJECT_SKU, CHIP_SKU)]
    found = []
    chip = report.text(CHIP_INFO) or product
    if driver is not None and chip is not None:
        hopper, later = DRIVER_PREFIXES
        found.append(f"{hopper if product == _HOPPER else later}{chip}_{driver}")
    if vbios is not None and None not in parts:
        found.append("_".join(["NV_GPU_VBIOS", *(part or "" for part in parts), vbios.replace(".", "")]).upper())
    elif vbios is not None and product == "LS10":
        found.append(f"NV_SWITCH_BIOS_5612_0002_890_{vbios.replace('.', '')}".upper())
    return tuple(found)


def skipped(report: Report) -> tuple[int, ...]:
    """The indices that are not compared on this device: the video decoder's, while it is switched off."""
    return (NVDEC0_INDEX,) if report.opaque.get(NVDEC0_STATUS) == NVDEC0_OFF else ()


def _tcb(golden: Sequence[Golden], needed: set[str]) -> Check:
    found = ", ".join(f"{g.kind} {g.matched} equal, {len(g.mismatched)} not" for g in golden)
    if any(g.mismatched or not g.matched for g in golden):
        return Check("tee_tcb", Outcome.WARNING, "rim_mismatch", found)
    if needed - {g.kind.partition(":")[0] for g in golden}:
        return Check("tee_tcb", Outcome.NONE, "rim_missing", found)
    return Check("tee_tcb", Outcome.AFFIRMING, None, found)
