"""Reference manifests of accelerators in the operator's folder, brought with a machine's endorsements."""

from __future__ import annotations

from pathlib import Path

from gateway.fleet.collateral import CollateralService
from gateway.fleet.vendor_services import MAX_FILE_BYTES, MAX_MANIFESTS, SuppliedFolder
from gateway.verify.node_evidence import TeeEvidence
from gateway.verify.tee.roots import VENDOR_ROOTS


def put(folder: Path, name: str, data: bytes) -> None:
    (folder / "nvidia").mkdir(exist_ok=True)
    (folder / "nvidia" / name).write_bytes(data)


def test_manifests_are_read_by_their_names(tmp_path: Path) -> None:
    """Each XML file is there under its name; other files, and one over the limit, are passed over; so is no folder."""
    supplied = SuppliedFolder(tmp_path)
    assert supplied.manifests() == {}
    put(tmp_path, "NV_GPU_DRIVER_GH100_590.12.xml", b"<a/>")
    put(tmp_path, "notes.txt", b"x")
    put(tmp_path, "large.xml", bytes(MAX_FILE_BYTES + 1))
    assert supplied.manifests() == {"rim:NV_GPU_DRIVER_GH100_590.12": b"<a/>"}
    for number in range(MAX_MANIFESTS + 5):
        put(tmp_path, f"a{number:03}.xml", b"<a/>")
    assert len(supplied.manifests()) == MAX_MANIFESTS


async def test_they_come_with_machines_that_have_accelerators_alone(tmp_path: Path) -> None:
    """Evidence with an accelerators' payload brings the manifests along; evidence without one does not."""
    put(tmp_path, "m.xml", b"<a/>")
    supplied = SuppliedFolder(tmp_path)
    service = CollateralService([supplied], roots=VENDOR_ROOTS, now=lambda: 0.0, manifests=supplied.manifests)
    with_gpu = await service.endorse(TeeEvidence("nitro", "doc", b"d", b"{}"))
    assert (with_gpu.blobs, with_gpu.problem) == ({"rim:m": b"<a/>"}, None)
    assert (await service.endorse(TeeEvidence("nitro", "doc", b"d"))).blobs == {}
    await service.close()
