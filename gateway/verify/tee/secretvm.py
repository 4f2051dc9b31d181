"""SecretVM guests on TDX: the workload that RTMR3 commits to, by the rows of a registry.

These guests give no log: RTMR3 is computed from what they should have been started with, and compared.

    raw     (no app-id)    SHA-256(compose) || rootfs_data [|| SHA-256(files)], each filled with zeros to 48 bytes
    named   (with app-id)  the digests of app-id, compose-hash, os-image-hash [, docker-files-hash] as dstack's events

each extending RTMR3 from 48 zero bytes. MRTD and RTMR0 to RTMR2 find the rows of the registry; several rows share them
(the production and the development build of a version do) and differ in `rootfs_data` alone, so which image runs is
known only once RTMR3 fits one of them. The registry is a list of reference values that the caller trusts; nothing here
says where it comes from. docs/verification.md; secretvm-verify `node/src/rtmr.ts`.
"""

from __future__ import annotations

import hashlib
import re

import msgspec

from gateway.errors import FormatError
from gateway.model.tee import Golden, Platform, TeeClaims, TeeResult
from gateway.model.verdict import Check
from gateway.text import plain

from .compose import read_compose
from .dstack_compose import image_check
from .outcomes import fails, holds, refused, unknown
from .rtmr import event_digest, extend

PLAN = ("os_image", "compose_bound", "image_pinned")
MAX_REGISTRY_BYTES = 4 << 20
_COLUMNS = ("template_name", "vm_type", "artifacts_ver", "mrtd", "rtmr0", "rtmr1", "rtmr2", "rootfs_data")
_REGISTER = re.compile(r"[0-9a-f]{96}")
_ROOTFS = re.compile(r"[0-9a-f]{64}")
_REGISTERS = ("mr_td", "rtmr0", "rtmr1", "rtmr2", "rtmr3")


class Row(msgspec.Struct, frozen=True):
    """One artifact of the registry. `environment` is prod|dev; registers and `rootfs_data` are lower-case hex."""

    template: str
    environment: str
    version: str
    mrtd: str
    rtmr0: str
    rtmr1: str
    rtmr2: str
    rootfs_data: str


def parse_registry(text: bytes) -> tuple[Row, ...]:
    """The rows of a registry in CSV with a header line, by column name. Raises `FormatError`."""
    if len(text) > MAX_REGISTRY_BYTES:
        raise FormatError(f"a registry of {len(text)} bytes is over the limit of {MAX_REGISTRY_BYTES}")
    try:
        lines = text.decode().splitlines()
    except UnicodeDecodeError:
        raise FormatError("the registry is not UTF-8") from None
    header = lines[0].split(",") if lines else []
    if any(header.count(column) != 1 for column in _COLUMNS):
        raise FormatError("the registry lacks a column, or has one twice")
    at = [header.index(column) for column in _COLUMNS]
    return tuple(_row(line.split(","), at, len(header)) for line in lines[1:] if line)


def _row(cells: list[str], at: list[int], width: int) -> Row:
    if len(cells) != width:
        raise FormatError(f"a row of the registry has {len(cells)} cells, not {width}")
    row = Row(*(cells[i] for i in at))
    registers = (row.mrtd, row.rtmr0, row.rtmr1, row.rtmr2)
    if not all(_REGISTER.fullmatch(r) for r in registers) or _ROOTFS.fullmatch(row.rootfs_data) is None:
        raise FormatError("a row of the registry has a register that is not lower-case hex of its length")
    return row


def workload_rtmr3(
    compose: bytes, rootfs_data: bytes, docker_files_sha256: bytes | None = None, app_id: bytes | None = None
) -> bytes:
    """The RTMR3, 48 bytes, of a guest that was started with this compose text, root file system and files.

    With `app_id` it is that of a guest that measures named events.
    """
    named = {"compose-hash": hashlib.sha256(compose).digest(), "os-image-hash": rootfs_data}
    if docker_files_sha256 is not None:
        named["docker-files-hash"] = docker_files_sha256
    digests = [value.ljust(48, b"\0") for value in named.values()]
    if app_id is not None:
        digests = [event_digest(name, value) for name, value in {"app-id": app_id, **named}.items()]
    register = bytes(48)
    for digest in digests:
        register = extend(register, digest)
    return register


def appraise_secretvm(
    claims: TeeClaims,
    compose: bytes | None,
    *,
    registry: tuple[Row, ...],
    docker_files_sha256: bytes | None = None,
    app_id: bytes | None = None,
) -> TeeResult:
    """Appraise the workload behind the claims of a genuine TDX quote. Total: every check of `PLAN` is listed.

    `raw["secretvm"]["workload"]` is `authentic_match`, `authentic_mismatch` (a known guest that runs something else),
    or `not_authentic` (no such guest). `app_id` is what the guest says of itself; RTMR3 shows whether it is so.
    """
    if not claims.authentic or claims.platform is not Platform.INTEL_TDX:
        reason = "platform_unsupported" if claims.authentic else "quote_not_authentic"
        return TeeResult(tuple(unknown(i, reason) for i in PLAN), claims)
    registers = [claims.measurements.get(name) for name in _REGISTERS]
    if None in registers:
        return TeeResult(tuple(unknown(i, "no_registers") for i in PLAN), claims)
    rows = [r for r in registry if [r.mrtd, r.rtmr0, r.rtmr1, r.rtmr2] == registers[:4]]
    row = None
    if compose is not None:
        row = next((r for r in rows if _fits(r, compose, docker_files_sha256, app_id, str(registers[4]))), None)
    raw: dict[str, str] = {}
    if compose is not None or not rows:
        raw["workload"] = "not_authentic" if not rows else "authentic_match" if row else "authentic_mismatch"
    if row is not None:
        raw |= {"template": row.template, "environment": row.environment, "version": row.version}
    checks = (_os_image(claims, registry, rows, row), *_workload(rows, row, compose))
    golden = claims.golden if row is None else (*claims.golden, Golden("secretvm-registry", 5))
    return TeeResult(checks, msgspec.structs.replace(claims, raw={**claims.raw, "secretvm": raw}, golden=golden))


def _fits(row: Row, compose: bytes, files: bytes | None, app_id: bytes | None, rtmr3: str) -> bool:
    return workload_rtmr3(compose, bytes.fromhex(row.rootfs_data), files, app_id).hex() == rtmr3


def _os_image(claims: TeeClaims, registry: tuple[Row, ...], rows: list[Row], row: Row | None) -> Check:
    if claims.debug is not False:
        if claims.debug is None:
            return unknown("os_image", "debug_unknown")
        return fails("os_image", "td_debug", "TD attribute DEBUG")
    if not registry:
        return unknown("os_image", "no_reference")
    if not rows:
        return fails("os_image", "os_image_unknown", f"MRTD {claims.measurements['mr_td'][:16]}…")
    if row is None:  # the registers fit more than one root file system
        return unknown("os_image", "compose_not_bound", f"one of {len(rows)} rows")
    found = plain(f"{row.template} {row.version} {row.environment}", 80)
    if row.environment != "prod":
        return fails("os_image", "os_image_development", found, "prod")
    return holds("os_image", found, "MRTD, RTMR0 to RTMR3")


def _workload(rows: list[Row], row: Row | None, compose: bytes | None) -> tuple[Check, Check]:
    pinned = unknown("image_pinned", "compose_not_bound")
    if compose is None:
        return unknown("compose_bound", "no_app_compose"), pinned
    found = f"{hashlib.sha256(compose).hexdigest()[:16]}…"
    if not rows:
        return unknown("compose_bound", "os_image_unknown", found), pinned
    if row is None:
        return fails("compose_bound", "compose_mismatch", found, over="RTMR3"), pinned
    return holds("compose_bound", found, "RTMR3"), _image_pinned(compose)


def _image_pinned(compose: bytes) -> Check:
    try:
        return image_check(read_compose(compose.decode()))
    except UnicodeDecodeError:
        return fails("image_pinned", "malformed", "the compose text is not UTF-8")
    except FormatError as error:
        return refused("image_pinned", error)
