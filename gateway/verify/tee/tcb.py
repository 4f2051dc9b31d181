"""What Intel says of a platform's security version: TCB info, QE identity, and the status that follows from both.

TCB info version 3 and enclave identity version 2 (Intel, "PCS API version 4"; the rules are those of Intel's
Quote Verification Library, `TcbLevelCheck`, `TdxModuleCheck`, `TDRelaunchCheck`). docs/verification.md.
The documents come here after their signatures held, and still nothing in them is taken for granted: a number
out of range, fifteen components for sixteen, or a status that is no status is a malformed document.

A status is a fact, not a verdict: `OutOfDate` is returned like `UpToDate`, and a policy says what is good enough. Only
two answers refuse by themselves: no level fits (`tcb_not_supported`), and the level that fits is revoked.
"""

from __future__ import annotations

import datetime
from functools import lru_cache
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError
from gateway.model.tee import TcbStatus
from gateway.text import plain

from .findings import NotAuthentic
from .pck import Pck
from .quote import EnclaveReport, TdReport

MAX_DOCUMENT_BYTES = 262_144

_Svn = Annotated[int, Meta(ge=0, le=0xFF)]
_Svn16 = Annotated[int, Meta(ge=0, le=0xFFFF)]
_Number = Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)]
_Time = Annotated[str, Meta(pattern=r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\Z")]
_Hex2 = Annotated[str, Meta(pattern=r"\A[0-9A-Fa-f]{4}\Z")]
_Hex4 = Annotated[str, Meta(pattern=r"\A[0-9A-Fa-f]{8}\Z")]
_Hex6 = Annotated[str, Meta(pattern=r"\A[0-9A-Fa-f]{12}\Z")]
_Hex8 = Annotated[str, Meta(pattern=r"\A[0-9A-Fa-f]{16}\Z")]
_Hex16 = Annotated[str, Meta(pattern=r"\A[0-9A-Fa-f]{32}\Z")]
_Hex32 = Annotated[str, Meta(pattern=r"\A[0-9A-Fa-f]{64}\Z")]
_Hex48 = Annotated[str, Meta(pattern=r"\A[0-9A-Fa-f]{96}\Z")]
_Advisory = Annotated[str, Meta(pattern=r"\A[A-Z0-9-]{1,32}\Z")]
_Advisories = Annotated[tuple[_Advisory, ...], Meta(max_length=256)]
_PlatformStatus = Literal[
    "UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate",
    "OutOfDateConfigurationNeeded", "Revoked",
]  # fmt: skip
_PartStatus = Literal["UpToDate", "OutOfDate", "Revoked"]
_ADVISORIES = {"advisories": "advisoryIDs"}


class Component(msgspec.Struct, frozen=True):
    svn: _Svn


_Components = Annotated[tuple[Component, ...], Meta(min_length=16, max_length=16)]


class LevelTcb(msgspec.Struct, frozen=True):
    sgxtcbcomponents: _Components
    pcesvn: _Svn16
    tdxtcbcomponents: _Components | None = None

    @property
    def sgx(self) -> bytes:
        return bytes(component.svn for component in self.sgxtcbcomponents)

    @property
    def tdx(self) -> bytes:
        return bytes(component.svn for component in self.tdxtcbcomponents or ())


class Level(msgspec.Struct, frozen=True, rename={**_ADVISORIES, "date": "tcbDate", "status": "tcbStatus"}):
    """One row of TCB info: who has at least these versions stands like this."""

    tcb: LevelTcb
    date: _Time
    status: _PlatformStatus
    advisories: _Advisories = ()


class PartTcb(msgspec.Struct, frozen=True):
    isvsvn: _Svn16


class PartLevel(msgspec.Struct, frozen=True, rename={**_ADVISORIES, "date": "tcbDate", "status": "tcbStatus"}):
    """One row for a part with a single version: a TDX module or the quoting enclave."""

    tcb: PartTcb
    date: _Time
    status: _PartStatus
    advisories: _Advisories = ()


_PartLevels = Annotated[tuple[PartLevel, ...], Meta(max_length=256)]


class Module(msgspec.Struct, frozen=True, rename={"attributes_mask": "attributesMask"}):
    mrsigner: _Hex48
    attributes: _Hex8
    attributes_mask: _Hex8


class ModuleIdentity(msgspec.Struct, frozen=True, rename={"attributes_mask": "attributesMask", "levels": "tcbLevels"}):
    id: str
    mrsigner: _Hex48
    attributes: _Hex8
    attributes_mask: _Hex8
    levels: _PartLevels


class TcbInfo(msgspec.Struct, frozen=True, rename="camel"):
    """TCB info of one FMSPC. Dates are text of one form."""

    id: Literal["SGX", "TDX"]
    version: Literal[3]
    issue_date: _Time
    next_update: _Time
    fmspc: _Hex6
    pce_id: _Hex2
    tcb_type: Literal[0]
    tcb_evaluation_data_number: _Number
    tcb_levels: Annotated[tuple[Level, ...], Meta(max_length=256)]
    tdx_module: Module | None = None
    tdx_module_identities: Annotated[tuple[ModuleIdentity, ...], Meta(max_length=64)] = ()


class QeIdentity(msgspec.Struct, frozen=True, rename="camel"):
    """What a genuine quoting enclave looks like, and how its versions stand."""

    id: str
    version: Literal[2]
    issue_date: _Time
    next_update: _Time
    tcb_evaluation_data_number: _Number
    miscselect: _Hex4
    miscselect_mask: _Hex4
    attributes: _Hex16
    attributes_mask: _Hex16
    mrsigner: _Hex32
    isvprodid: _Svn16
    tcb_levels: _PartLevels


class Standing(msgspec.Struct, frozen=True):
    """How a platform stands. `status` is the whole, the next three its parts; `module` is None where none is listed."""

    status: TcbStatus
    platform: TcbStatus
    module: TcbStatus | None
    qe: TcbStatus
    date: str
    advisories: tuple[str, ...]


# --- Reading

_T = TypeVar("_T", TcbInfo, QeIdentity)


@lru_cache(maxsize=16)
def read_tcb_info(text: bytes) -> TcbInfo:
    """TCB info from its text, levels highest first. Raises `FormatError` with the reason `tcb_malformed`."""
    info = _read(text, TcbInfo, "tcb_malformed")
    if info.id == "TDX" and (info.tdx_module is None or not all(level.tcb.tdx for level in info.tcb_levels)):
        raise FormatError("TCB info for TDX says nothing of TDX", reason="tcb_malformed")
    levels = sorted(info.tcb_levels, key=lambda level: (level.tcb.sgx, level.tcb.pcesvn, level.tcb.tdx), reverse=True)
    return msgspec.structs.replace(info, tcb_levels=tuple(levels))


@lru_cache(maxsize=16)
def read_qe_identity(text: bytes) -> QeIdentity:
    """QE identity from its text. Raises `FormatError` with the reason `qe_malformed`."""
    return _read(text, QeIdentity, "qe_malformed")


def _read(text: bytes, kind: type[_T], reason: str) -> _T:
    try:
        document = msgspec.convert(strict_json(text, max_bytes=MAX_DOCUMENT_BYTES), kind)
        unix(document.issue_date), unix(document.next_update)
    except msgspec.ValidationError as error:
        raise FormatError(f"a document is not what it should be: {plain(str(error), 80)}", reason=reason) from None
    except FormatError as error:
        raise FormatError(error.message, reason=reason) from None
    return document


def unix(text: str) -> float:
    """A document's date in Unix seconds. Raises `FormatError` for one that no calendar has."""
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise FormatError("a document has a date that no calendar has") from None


# --- Whose documents these are


def check_qe(report: EnclaveReport, identity: QeIdentity, tee: str) -> None:
    """Hold the quoting enclave's report to its identity. Raises `NotAuthentic` with the reason `qe_identity_mismatch`.

    The identity's mask covers the debug bit of the enclave's attributes, and a debug quoting enclave is refused even if
    one day it should not: its memory can be read, its key with it.
    """
    if identity.id != ("TD_QE" if tee == "tdx" else "QE"):
        raise _qe_mismatch("id")
    pairs = (
        ("miscselect", report.misc_select, identity.miscselect, identity.miscselect_mask),
        ("attributes", report.attributes, identity.attributes, identity.attributes_mask),
    )
    for name, found, wanted, mask in pairs:
        if not _masked_equal(found, bytes.fromhex(wanted), bytes.fromhex(mask)):
            raise _qe_mismatch(name)
    if report.mr_signer != bytes.fromhex(identity.mrsigner):
        raise _qe_mismatch("mrsigner")
    if report.isv_prod_id != identity.isvprodid:
        raise _qe_mismatch("isvprodid")
    if report.debug:
        raise _qe_mismatch("debug")


def _qe_mismatch(member: str) -> NotAuthentic:
    return NotAuthentic(
        f"the quoting enclave is not the one that Intel describes ({member})",
        reason="qe_identity_mismatch",
        found=member,
    )


def _masked_equal(found: bytes, wanted: bytes, mask: bytes) -> bool:
    return all((a ^ b) & m == 0 for a, b, m in zip(found, wanted, mask, strict=True))


def check_tcb_info(info: TcbInfo, pck: Pck, tee: str) -> None:
    """Hold TCB info to the machine and TEE. Raises `NotAuthentic` with the reason `tcb_info_mismatch`."""
    found = (info.id, info.fmspc.lower(), info.pce_id.lower())
    wanted = (tee.upper(), pck.fmspc.hex(), pck.pce_id.hex())
    if found != wanted:
        raise NotAuthentic(
            "the TCB info is for another platform or TEE",
            reason="tcb_info_mismatch",
            found=" ".join(found),
            expected=" ".join(wanted),
        )


# --- The status


def standing(info: TcbInfo, identity: QeIdentity, pck: Pck, body: TdReport | EnclaveReport, qe_svn: int) -> Standing:
    """Find the levels that fit and bring their statuses together, as Intel's library does.

    Raises `NotAuthentic` with the reason qe_tcb_not_supported|tcb_not_supported|tdx_module_mismatch|tcb_revoked.
    """
    qe = _part_level(identity.tcb_levels, qe_svn)
    if qe is None:
        raise NotAuthentic("no TCB level fits the quoting enclave", reason="qe_tcb_not_supported", found=f"{qe_svn}")
    sgx, level = _platform_levels(info, pck, body)
    module = _module_level(info, body) if isinstance(body, TdReport) else None
    status = TcbStatus(level.status)
    if module is not None:
        status = converge(status, module.status)
    if isinstance(body, TdReport) and body.tee_tcb_svn2 is not None and module is not None:
        status = _relaunch(status, info, body.tee_tcb_svn2, sgx, module, qe)
    status = converge(status, qe.status)
    if status is TcbStatus.REVOKED:
        raise NotAuthentic("the TCB level that fits is revoked", reason="tcb_revoked")
    rows: tuple[Level | PartLevel, ...] = (level, qe) if module is None else (level, qe, module)
    return Standing(
        status,
        TcbStatus(level.status),
        None if module is None else TcbStatus(module.status),
        TcbStatus(qe.status),
        level.date,
        tuple(sorted({advisory for row in rows for advisory in row.advisories})),
    )


def converge(status: TcbStatus, part: str) -> TcbStatus:
    """Let a part (TDX module or quoting enclave) pull the platform's status down."""
    if part == "Revoked":
        return TcbStatus.REVOKED
    if part != "OutOfDate":
        return status
    if status in (TcbStatus.UP_TO_DATE, TcbStatus.SW_HARDENING):
        return TcbStatus.OUT_OF_DATE
    if status in (TcbStatus.CONFIGURATION, TcbStatus.CONFIGURATION_SW_HARDENING):
        return TcbStatus.OUT_OF_DATE_CONFIGURATION
    return status


def _part_level(levels: tuple[PartLevel, ...], svn: int) -> PartLevel | None:
    """The highest level that `svn` reaches."""
    reached = [level for level in levels if level.tcb.isvsvn <= svn]
    return max(reached, key=lambda level: level.tcb.isvsvn, default=None)


def _platform_levels(info: TcbInfo, pck: Pck, body: TdReport | EnclaveReport) -> tuple[Level, Level]:
    """The first level that the platform's SGX versions reach, and the first that its TDX versions reach as well."""
    first: Level | None = None
    for level in info.tcb_levels:
        if not (_reaches(pck.components, level.tcb.sgx) and pck.pce_svn >= level.tcb.pcesvn):
            continue
        first = first or level
        if isinstance(body, EnclaveReport) or _reaches_tdx(body.tee_tcb_svn, level.tcb.tdx):
            return first, level
    raise NotAuthentic("no TCB level fits the platform", reason="tcb_not_supported")


def _reaches(found: bytes, wanted: bytes) -> bool:
    return all(a >= b for a, b in zip(found, wanted, strict=True))


def _reaches_tdx(svn: bytes, wanted: bytes) -> bool:
    # With a versioned module, bytes 0 and 1 say which module it is, and `tdxModuleIdentities` judges it.
    start = 2 if svn[1] > 0 else 0
    return _reaches(svn[start:], wanted[start:])


def _module_level(info: TcbInfo, body: TdReport) -> PartLevel | None:
    """The level of the TDX module that the report names, after its signer and attributes were held to the document."""
    svn, identity = body.tee_tcb_svn, None
    if svn[1] > 0:
        identity = _module_identity(info, svn[1])
    _check_module(identity or info.tdx_module, body)
    if identity is None:
        return None
    level = _part_level(identity.levels, svn[0])
    if level is None:
        raise NotAuthentic("no TCB level fits the TDX module", reason="tcb_not_supported", found=f"module {svn[0]}")
    return level


def _module_identity(info: TcbInfo, version: int) -> ModuleIdentity:
    wanted = f"TDX_{version:02X}"
    for identity in info.tdx_module_identities:
        if identity.id.upper() == wanted:
            return identity
    raise NotAuthentic("Intel lists no such TDX module", reason="tdx_module_mismatch", found=wanted)


def _check_module(module: Module | ModuleIdentity | None, body: TdReport) -> None:
    if module is None or body.mr_signer_seam != bytes.fromhex(module.mrsigner):
        raise NotAuthentic("the TDX module is not signed by whom Intel names", reason="tdx_module_mismatch")
    mask = bytes.fromhex(module.attributes_mask)
    beyond = any(a & ~m & 0xFF for a, m in zip(body.seam_attributes, mask, strict=True))
    if beyond or not _masked_equal(body.seam_attributes, bytes.fromhex(module.attributes), mask):
        raise NotAuthentic("the TDX module's attributes are not those that Intel names", reason="tdx_module_mismatch")


_CONFIGURATION = {
    TcbStatus.CONFIGURATION,
    TcbStatus.CONFIGURATION_SW_HARDENING,
    TcbStatus.OUT_OF_DATE_CONFIGURATION,
}
_OUT_OF_DATE = {TcbStatus.OUT_OF_DATE, TcbStatus.OUT_OF_DATE_CONFIGURATION}
_SOUND = {
    TcbStatus.UP_TO_DATE,
    TcbStatus.SW_HARDENING,
    TcbStatus.CONFIGURATION,
    TcbStatus.CONFIGURATION_SW_HARDENING,
}


def _relaunch(status: TcbStatus, info: TcbInfo, svn2: bytes, sgx: Level, module: PartLevel, qe: PartLevel) -> TcbStatus:
    """Soften OutOfDate where only the launch was: the module was updated since, and `svn2` (TD 1.5) says so."""
    platform = TcbStatus(sgx.status)
    only_module = platform in _SOUND and status in _OUT_OF_DATE and module.status == "OutOfDate"
    if not only_module or qe.status != "UpToDate":
        return status
    latest = info.tcb_levels[0].tcb.tdx
    least = latest[0]
    if svn2[1] > 0:
        least = max((row.tcb.isvsvn for row in _module_identity(info, svn2[1]).levels), default=0x10000)
    if svn2[0] < least or svn2[2] < latest[2]:
        return status
    if platform in _CONFIGURATION or status in _CONFIGURATION:
        return TcbStatus.RELAUNCH_CONFIGURATION
    return TcbStatus.RELAUNCH
