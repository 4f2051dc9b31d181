"""NVIDIA's public manifests are what the collateral service would keep under their names, and what was edited is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.errors import FormatError
from gateway.verify.tee.needs import RimNeed
from gateway.verify.tee.nvidia_collateral import RIM_HOLD_S, check_manifest
from gateway.verify.tee.roots import VENDOR_ROOTS

FOLDER = Path(__file__).parents[2].parent / "shared/vectors"
NOW = 1_795_000_000.0  # November 2026
NAMES = (
    "NV_GPU_DRIVER_GH100_550.144.03",
    "NV_GPU_VBIOS_1010_0200_882_96005E0001",
    "NV_SWITCH_BIOS_5612_0002_890_9610550001",
)


def manifest(name: str) -> bytes:
    found = sorted(FOLDER.rglob(f"{name}.xml"))
    if not found:
        pytest.skip("the shared vectors are not beside this checkout (manifests)")
    return found[0].read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_nvidias_own_manifests_are_kept_under_their_names_alone(name: str) -> None:
    """Signed under the pinned root; each is refused under the name of another."""
    ends, _, test = check_manifest(RimNeed(name), manifest(name), VENDOR_ROOTS, NOW)
    assert not test
    assert ends > NOW
    for other in set(NAMES) - {name}:
        with pytest.raises(FormatError) as caught:
            check_manifest(RimNeed(other), manifest(name), VENDOR_ROOTS, NOW)
        assert caught.value.reason == "rim_of_another"


@pytest.mark.parametrize(
    "name", ["NV_GPU_DRIVER_GH100_535.86.09_measurement_mismatch", "incorrect_signature_driver_rim"]
)
def test_an_edited_manifest_is_not_kept(name: str) -> None:
    """Under no name, whoever offers it."""
    data = manifest(name)
    for wanted in ("NV_GPU_DRIVER_GH100_535.86.09", "NV_GPU_DRIVER_GH100_550.144.03"):
        with pytest.raises(FormatError):
            check_manifest(RimNeed(wanted), data, VENDOR_ROOTS, NOW)


def test_a_manifest_whose_signer_has_run_out_is_held_for_a_while() -> None:
    """In thirty years all of today's signers have."""
    later = NOW + 30 * 365 * 86_400
    ends, _, _ = check_manifest(RimNeed(NAMES[0]), manifest(NAMES[0]), VENDOR_ROOTS, later)
    assert ends == later + RIM_HOLD_S
