"""An SPDM report of the shared vectors gets the verdict, code and claims of its manifest."""

from __future__ import annotations

from typing import Any

import pytest
from tee_worlds.nvidia_vectors import SHARED, blobs_of, differences, manifest, roots_of

from gateway.errors import FormatError
from gateway.model.tee import TeeResult
from gateway.verify.tee import nvidia_gpu
from gateway.verify.tee.rim import check_rim, compare, parse_rim
from gateway.verify.tee.spdm import parse_report

KIND = "nvidia_spdm"
MANIFEST = manifest(KIND)


@pytest.mark.parametrize("case", MANIFEST["cases"], ids=lambda case: case["id"])
def test_the_verdict_is_the_manifests(case: dict[str, Any]) -> None:
    """Authentic or not, for the reason given, with every expected claim in the record or in raw."""
    blobs = blobs_of(KIND, MANIFEST, case)
    now = float(case["evaluation_time"])
    result = nvidia_gpu.from_inputs(blobs, case["params"], roots_of(KIND, MANIFEST), now)
    claims, expected = result.claims, case["expected"]
    assert (claims.authentic, claims.reject_code) == (expected["authentic"], expected.get("reject_code"))
    assert differences(expected.get("claims", {}), claims) == []
    assert [check.id for check in result.checks] == list(nvidia_gpu.PLAN)


FOLDER = SHARED / "tee" / KIND
ROOTS = roots_of(KIND, MANIFEST)
GOOD, EXPIRED, EDITED, BAD, SWITCH = (entry["file"] for entry in MANIFEST["rims"])


def rim_of(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


@pytest.mark.parametrize("pair", MANIFEST["rim_pairs"], ids=lambda pair: f"{pair['report']}-{pair['rim'][-20:]}")
def test_index_i_of_a_manifest_is_block_i_plus_1(pair: dict[str, Any]) -> None:
    """The genuine manifests match their devices at every active index, the edited one fails where it was edited."""
    report = parse_report((FOLDER / f"reports/{pair['report']}.bin").read_bytes())
    found = compare(parse_rim(rim_of(pair["rim"])), "driver", report.blocks)
    assert len(found.mismatched) == pair["mismatches"]
    assert found.matched + len(found.mismatched) == pair["active"]


@pytest.mark.parametrize(
    ("name", "now", "reason"),
    [
        (GOOD, 1776000000, None),
        (SWITCH, 1790000000, None),
        (SWITCH, 1776000000, "cert_expired_or_not_yet_valid"),  # signed in May 2026
        (EXPIRED, 1776000000, None),
        (EDITED, 1776000000, "xml_digest_mismatch"),
        (BAD, 1776000000, "xml_bad_signature"),
    ],
)
def test_the_signature_of_a_manifest(name: str, now: float, reason: str | None) -> None:
    """NVIDIA's signatures hold over Canonical XML 1.1; an edited manifest and an edited signature are told apart."""
    if reason is None:
        assert check_rim(parse_rim(rim_of(name)), ROOTS, now).expired is (name == EXPIRED)
    else:
        with pytest.raises(FormatError) as refused:
            check_rim(parse_rim(rim_of(name)), ROOTS, now)
        assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("device", "rim", "collateral", "golden", "matched"),
    [
        ("h100_550_secretvm", GOOD, "affirming", "driver:550.144.03", 20),
        ("h100_535", EXPIRED, "warning", "vbios:96.00.5E.00.01", 12),
        ("ls10_switch", SWITCH, "affirming", "vbios:96.10.55.00.01", 31),
    ],
)
def test_a_device_against_its_manifest(device: str, rim: str, collateral: str, golden: str, matched: int) -> None:
    """A genuine device with its genuine manifest: all that are compared are equal; an old signer is a warning.

    One fewer than the manifest has active for the driver: the H100's video decoder is off, so index 35 is not held.
    """
    result = from_files(device, rim)
    checks = {check.id: check.outcome.value for check in result.checks}
    assert result.claims.authentic
    assert checks["tee_collateral"] == collateral
    assert checks["tee_tcb"] == ("affirming" if device == "ls10_switch" else "none")  # a GPU has two manifests
    assert [(g.kind, g.matched, g.mismatched) for g in result.claims.golden] == [(golden, matched, ())]


@pytest.mark.parametrize(
    ("device", "rim", "reason"),
    [
        ("h100_590", GOOD, "rim_for_another_device"),
        ("h100_535", EDITED, "xml_digest_mismatch"),
        ("h100_550_secretvm", BAD, "xml_bad_signature"),
    ],
)
def test_a_manifest_that_is_none(device: str, rim: str, reason: str) -> None:
    """A manifest of another driver, or without a signature that holds, is no reference and fails the examination."""
    assert from_files(device, rim).claims.reject_code == reason


def from_files(device: str, rim: str) -> TeeResult:
    return nvidia_gpu.verify_spdm(
        (FOLDER / f"reports/{device}.bin").read_bytes(),
        (FOLDER / f"chains/{device}.pem").read_bytes(),
        roots=ROOTS,
        now=1790000000 if device == "ls10_switch" else 1776000000,
        rims=[rim_of(rim)],
    )


@pytest.mark.parametrize(
    ("device", "rim"), [("h100_550_secretvm", GOOD), ("h100_535", EXPIRED), ("ls10_switch", SWITCH)]
)
def test_the_names_of_manifests(device: str, rim: str) -> None:
    """The name that is made from the report is the name of the genuine file."""
    assert rim.removeprefix("rims/").removesuffix(".xml") in from_files(device, rim).claims.raw["rim_ids"]
