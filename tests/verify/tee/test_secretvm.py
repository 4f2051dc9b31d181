"""SecretVM workloads: registers find the rows of the registry, and RTMR3 decides between them."""

from __future__ import annotations

import contextlib
import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tee_worlds.dstack import APP_ID, COMPOSE, MRTD, claims, replay, runtime_digest

from gateway.errors import FormatError
from gateway.model.tee import Platform, TeeResult
from gateway.model.verdict import Outcome
from gateway.verify.tee.secretvm import PLAN, Row, appraise_secretvm, parse_registry, workload_rtmr3

TEXT = COMPOSE.encode()
ROOTFS, DEV_ROOTFS = hashlib.sha256(b"rootfs").digest(), hashlib.sha256(b"dev rootfs").digest()
REGISTERS = [hashlib.sha384(bytes([i])).digest() for i in range(3)]


def row(rootfs: bytes = ROOTFS, environment: str = "prod", mrtd: str = MRTD) -> Row:
    return Row("small", environment, "v1", mrtd, *(r.hex() for r in REGISTERS), rootfs.hex())


REGISTRY = (row(mrtd="00" * 48), row(DEV_ROOTFS, "dev"), row())


def guest(compose: bytes = TEXT, rootfs: bytes = ROOTFS, files: bytes | None = None) -> list[bytes]:
    values = [hashlib.sha256(compose).digest(), rootfs, *([files] if files else [])]
    return [*REGISTERS, replay([value + bytes(16) for value in values])]


def appraise(compose: bytes | None = TEXT, rtmrs: list[bytes] | None = None, **members: Any) -> TeeResult:
    found = claims(guest() if rtmrs is None else rtmrs, **members.pop("claims", {}))
    return appraise_secretvm(found, compose, **{"registry": REGISTRY, **members})


def reasons(result: TeeResult) -> list[str | None]:
    assert tuple(c.id for c in result.checks) == PLAN
    return [c.reason for c in result.checks]


def test_a_sound_guest() -> None:
    """The row whose root file system fits RTMR3 names the image, and the compose text is the one that runs."""
    result = appraise()
    assert reasons(result) == [None, None, None]
    assert {c.outcome for c in result.checks} == {Outcome.AFFIRMING}
    assert result.claims.raw["secretvm"] == {
        "workload": "authentic_match", "template": "small", "environment": "prod", "version": "v1",
    }  # fmt: skip
    assert result.claims.golden[0].kind == "secretvm-registry"


def test_register() -> None:
    """RTMR3 is extended by raw hashes that are filled with zeros to 48 bytes."""
    assert workload_rtmr3(TEXT, ROOTFS) == guest()[3]
    assert workload_rtmr3(TEXT, ROOTFS, b"\1" * 32) == guest(files=b"\1" * 32)[3]


@pytest.mark.parametrize("files", [None, b"\1" * 32])
def test_guests_that_measure_named_events(files: bytes | None) -> None:
    """A guest with an app-id extends RTMR3 by dstack's events, and fits with that id alone."""
    events = [("app-id", APP_ID), ("compose-hash", hashlib.sha256(TEXT).digest()), ("os-image-hash", ROOTFS)]
    events += [("docker-files-hash", files)] if files else []
    rtmrs = [*REGISTERS, replay([runtime_digest(name, payload) for name, payload in events])]
    assert reasons(appraise(rtmrs=rtmrs, docker_files_sha256=files, app_id=APP_ID)) == [None, None, None]
    for app_id in (None, b"", bytes(20)):
        assert reasons(appraise(rtmrs=rtmrs, docker_files_sha256=files, app_id=app_id))[1] == "compose_mismatch"


def test_docker_files() -> None:
    """A guest with an archive of files needs its digest, and no other does."""
    rtmrs = guest(files=b"\1" * 32)
    assert reasons(appraise(rtmrs=rtmrs, docker_files_sha256=b"\1" * 32)) == [None, None, None]
    assert reasons(appraise(rtmrs=rtmrs))[1] == "compose_mismatch"
    assert reasons(appraise(docker_files_sha256=b"\1" * 32))[1] == "compose_mismatch"


def test_pitfall_development_image_with_production_registers() -> None:
    """The development build has the same MRTD and RTMR0 to RTMR2: only RTMR3 tells, and it is refused."""
    result = appraise(rtmrs=guest(rootfs=DEV_ROOTFS))
    assert reasons(result) == ["os_image_development", None, None]
    assert result.claims.raw["secretvm"]["environment"] == "dev"


@pytest.mark.parametrize(
    ("members", "expected", "workload"),
    [
        ({"compose": TEXT + b" "}, ["compose_not_bound", "compose_mismatch", "compose_not_bound"], "authentic_mismatch"),
        ({"compose": None}, ["compose_not_bound", "no_app_compose", "compose_not_bound"], None),
        ({"registry": ()}, ["no_reference", "os_image_unknown", "compose_not_bound"], "not_authentic"),
        ({"registry": REGISTRY[:1]}, ["os_image_unknown", "os_image_unknown", "compose_not_bound"], "not_authentic"),
        ({"claims": {"debug": True}}, ["td_debug", None, None], "authentic_match"),
        ({"claims": {"debug": None}}, ["debug_unknown", None, None], "authentic_match"),
        ({"claims": {"measurements": {}}}, ["no_registers"] * 3, None),
        ({"claims": {"authentic": False}}, ["quote_not_authentic"] * 3, None),
        ({"claims": {"platform": Platform.AMD_SEV_SNP}}, ["platform_unsupported"] * 3, None),
        ({"compose": b"services: {a: {image: b}}", "rtmrs": guest(b"services: {a: {image: b}}")}, [None, None, "image_by_tag"], "authentic_match"),
        ({"compose": b"\xff", "rtmrs": guest(b"\xff")}, [None, None, "malformed"], "authentic_match"),
        ({"compose": b"[", "rtmrs": guest(b"[")}, [None, None, "malformed"], "authentic_match"),
    ],
)  # fmt: skip
def test_each_way_of_being_wrong(members: dict[str, Any], expected: list[str | None], workload: str | None) -> None:
    """What does not fit, or is not given, fails or leaves open exactly what depends on it."""
    result = appraise(**members)
    assert reasons(result) == expected
    assert all((c.outcome is Outcome.AFFIRMING) == (c.reason is None) for c in result.checks)
    assert result.claims.raw.get("secretvm", {}).get("workload") == workload


HEADER = "template_name,vm_type,artifacts_ver,mrtd,rtmr0,rtmr1,rtmr2,rootfs_data,host_id"


def line(**members: str) -> str:
    cells = {
        "template_name": "small",
        "vm_type": "prod",
        "artifacts_ver": "v1",
        "mrtd": MRTD,
        "rootfs_data": ROOTFS.hex(),
    }
    cells |= {f"rtmr{i}": r.hex() for i, r in enumerate(REGISTERS)} | {"host_id": "x"} | members
    return ",".join(cells[name] for name in HEADER.split(","))


def test_registry() -> None:
    """A registry is read by the names of its columns; others are passed over."""
    text = f"{HEADER}\n{line()}\n\n{line(vm_type='dev')}\n"
    assert parse_registry(text.encode()) == (row(), row(environment="dev"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "lacks a column"),
        (HEADER.replace("rootfs_data,", "").encode(), "lacks a column"),
        ((HEADER + ",mrtd").encode(), "lacks a column"),
        (f"{HEADER}\n{line()},".encode(), "10 cells"),
        (f"{HEADER}\n{line(mrtd='00')}".encode(), "not lower-case hex"),
        (f"{HEADER}\n{line(mrtd=MRTD.upper())}".encode(), "not lower-case hex"),
        (f"{HEADER}\n{line(rootfs_data='00')}".encode(), "not lower-case hex"),
        (b"\xff", "UTF-8"),
        (b" " * (4 << 20) + b" ", "over the limit"),
    ],
)
def test_registry_refused(text: bytes, message: str) -> None:
    """A registry that is not whole is not used in part."""
    with pytest.raises(FormatError, match=message):
        parse_registry(text)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=100), st.integers(0, len(TEXT) - 1).map(lambda i: TEXT[:i] + b"~" + TEXT[i + 1 :])))
def test_no_other_text_matches(text: bytes) -> None:
    """Any other compose text is a mismatch."""
    result = appraise(compose=text)
    assert result.claims.raw["secretvm"]["workload"] == "authentic_mismatch"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_registry_or_malformed(text: bytes) -> None:
    """Nothing but `FormatError` comes out of the reader."""
    with contextlib.suppress(FormatError):
        assert parse_registry(text) == ()
