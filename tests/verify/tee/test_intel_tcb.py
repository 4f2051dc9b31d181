"""TCB levels: which one fits, what the parts make of it, and dcap-qvl's word on every combination."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from tee_worlds.intel import NOW, World, level, module, part_level, td_report

from gateway.errors import FormatError
from gateway.model.tee import TcbStatus, TeeClaims
from gateway.verify.tee import tcb
from gateway.verify.tee.intel import verify_intel

W = World()
PLATFORM = (
    "UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded", "OutOfDate",
    "OutOfDateConfigurationNeeded", "Revoked",
)  # fmt: skip
PART = ("UpToDate", "OutOfDate", "Revoked")
ADVISORIES = ("INTEL-SA-00001", "INTEL-SA-00002", "INTEL-SA-00003")


def judge(quote: bytes, *, qe: dict[str, Any] | None = None, sgx: bool = False, **info: Any) -> TeeClaims:
    collateral = W.collateral(tcb_info=W.tcb_info(sgx=sgx, **info), qe_identity=W.qe_identity(sgx=sgx, **(qe or {})))
    return verify_intel(quote, collateral, roots=W.roots, now=NOW).claims


def svn(*low: int) -> bytes:
    return bytes([*low, *[0] * (16 - len(low))])


# --- Converging


def expected(platform: str, module_status: str, qe: str, relaunchable: bool) -> str:
    """The rule in Intel's words, written as a table of what each part may do to the whole."""
    if "Revoked" in (platform, module_status, qe):
        return "Revoked"
    configuration = "Configuration" in platform
    if qe == "OutOfDate" or platform.startswith("OutOfDate"):
        return "OutOfDateConfigurationNeeded" if configuration else "OutOfDate"
    if module_status == "OutOfDate":
        word = "TDRelaunchAdvised" if relaunchable else "OutOfDate"
        return f"{word}ConfigurationNeeded" if configuration else word
    return platform


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("platform", PLATFORM)
def test_statuses_converge(version: int, platform: str) -> None:
    """Platform, module and QE make one status, of which dcap-qvl says the same in each of the combinations."""
    report = {} if version == 4 else {"tee_tcb_svn2": svn(9, 1, 3)}
    quote = W.quote(version=version, **report)
    for module_status, qe in itertools.product(PART, PART):
        claims = judge(
            quote,
            tcbLevels=[level(platform, advisories=ADVISORIES[:1])],
            tdxModuleIdentities=[module("TDX_01", part_level(9), part_level(7, module_status, ADVISORIES[1:2]))],
            qe={"tcbLevels": [part_level(8), part_level(6, qe, ADVISORIES[2:])]},
        )
        status = expected(platform, module_status, qe, version == 5)
        assert claims.tcb_status == status, (module_status, qe)
        if status == "Revoked":
            assert (claims.authentic, claims.reject_code) == (False, "tcb_revoked")
            continue
        assert (claims.authentic, claims.raw["dcap_qvl"]) == (True, status)
        assert claims.advisory_ids == ADVISORIES
        parts = [claims.tcb[name] for name in ("platform_status", "module_status", "qe_status")]
        assert parts == [platform, module_status, qe]


@pytest.mark.parametrize("platform", PLATFORM)
@pytest.mark.parametrize("qe", PART)
def test_sgx_has_no_module(platform: str, qe: str) -> None:
    """For an enclave only platform and QE count."""
    claims = judge(
        W.sgx_quote(), sgx=True, tcbLevels=[level(platform, tdx=None)], qe={"tcbLevels": [part_level(6, qe)]}
    )
    assert claims.tcb_status == expected(platform, "UpToDate", qe, False)
    if claims.authentic:
        assert (claims.tcb["module_status"], claims.raw["dcap_qvl"]) == (None, claims.tcb_status)


# --- Relaunch (TD 1.5)


@pytest.mark.parametrize(
    ("svn2", "status"),
    [
        (svn(9, 1, 3), "TDRelaunchAdvised"),
        (svn(9, 1, 2), "TDRelaunchAdvised"),
        (svn(8, 1, 3), "OutOfDate"),
        (svn(3, 3, 3), "TDRelaunchAdvised"),
        (svn(5, 0, 2), "TDRelaunchAdvised"),
    ],
)
def test_relaunch_is_advised_only_for_the_newest_module(svn2: bytes, status: str) -> None:
    """An old launch under a module that is now the newest is advised to relaunch; any older module is OutOfDate."""
    identities = [
        module("TDX_01", part_level(9), part_level(7, "OutOfDate")),
        module("TDX_03", part_level(3)),
        module("TDX_04"),
    ]
    claims = judge(W.quote(version=5, tee_tcb_svn2=svn2), tdxModuleIdentities=identities)
    assert (claims.tcb_status, claims.raw["dcap_qvl"], claims.authentic) == (status, status, True)


@pytest.mark.parametrize("svn2", [svn(9, 1, 1), svn(6, 1, 3), svn(4, 0, 2), svn(2, 3, 3), svn(9, 4, 3)], ids=bytes.hex)
def test_a_current_module_below_every_level_is_refused(svn2: bytes) -> None:
    """Intel's library leaves OutOfDate; dcap-qvl refuses a second version that fits no level, and so the quote falls."""
    known = module("TDX_01", part_level(9), part_level(7, "OutOfDate"))
    identities = [known, module("TDX_03", part_level(3)), module("TDX_04")]
    claims = judge(W.quote(version=5, tee_tcb_svn2=svn2), tdxModuleIdentities=identities)
    assert (claims.tcb_status, claims.reject_code) == ("OutOfDate", "verifiers_disagree")


@pytest.mark.parametrize(("platform", "status"), [("OutOfDate", "OutOfDate"), ("UpToDate", "TDRelaunchAdvised")])
def test_relaunch_helps_only_a_platform_that_is_sound(platform: str, status: str) -> None:
    """The first level that the SGX versions reach must be sound, even where a lower one was matched for TDX."""
    claims = judge(
        W.quote(version=5, tee_tcb_svn2=svn(9, 1, 9)),
        tcbLevels=[level(platform, tdx=(5, 0, 4)), level()],
        tdxModuleIdentities=[module("TDX_01", part_level(9), part_level(7, "OutOfDate"))],
    )
    assert (claims.tcb_status, claims.raw["dcap_qvl"], claims.authentic) == (status, status, True)


def test_relaunch_into_a_module_that_nobody_lists() -> None:
    """A second version that names an unlisted module is refused."""
    identities = [module("TDX_01", part_level(9), part_level(7, "OutOfDate"))]
    claims = judge(W.quote(version=5, tee_tcb_svn2=svn(1, 8, 3)), tdxModuleIdentities=identities)
    assert claims.reject_code == "tdx_module_mismatch"


def test_a_module_of_version_0_is_never_relaunched() -> None:
    """Without a versioned module the platform's level says it all, version 1.5 or not."""
    claims = judge(W.quote(version=5, tee_tcb_svn=svn(5, 0, 2), tee_tcb_svn2=svn(9, 1, 3)))
    assert (claims.tcb_status, claims.tcb["module_status"]) == ("UpToDate", None)


# --- Which level


@pytest.mark.parametrize(
    ("tee_tcb_svn", "found"),
    [
        (svn(7, 1, 3), "UpToDate"),
        (svn(4, 1, 3), "OutOfDate"),  # module 1 at 4: its second level
        (svn(3, 1, 3), "tcb_not_supported"),  # below the module's last level
        (svn(3, 3, 3), "UpToDate"),  # bytes 0 and 1 are the module's business, not the platform's
        (svn(5, 0, 2), "UpToDate"),
        (svn(4, 0, 2), "tcb_not_supported"),  # unversioned: byte 0 counts
        (svn(7, 1, 1), "tcb_not_supported"),  # byte 2 counts always
        (svn(7, 2, 3), "tdx_module_mismatch"),
    ],
)
def test_tdx_components(tee_tcb_svn: bytes, found: str) -> None:
    """Components are compared one by one; with a versioned module the first two are judged by its identity."""
    claims = judge(W.quote(tee_tcb_svn=tee_tcb_svn))
    assert (claims.reject_code or claims.tcb_status) == found


@pytest.mark.parametrize(
    ("levels", "date_of"),
    [
        ([level("UpToDate", sgx=(3, 3)), level("OutOfDate", sgx=(2, 2))], "UpToDate"),
        ([level("OutOfDate", sgx=(2, 2)), level("UpToDate", sgx=(3, 3))], "UpToDate"),  # out of order
        ([level("UpToDate", sgx=(3, 4)), level("OutOfDate", sgx=(2, 2))], "OutOfDate"),  # one component below
        ([level("UpToDate", pce=14), level("OutOfDate", pce=13)], "OutOfDate"),
        (
            [level("UpToDate", sgx=(4,), pce=1), level("SWHardeningNeeded", tdx=(0, 0, 4)), level("OutOfDate", pce=1)],
            "OutOfDate",
        ),
    ],
)
def test_the_first_level_that_fits(levels: list[dict[str, Any]], date_of: str) -> None:
    """The highest level fits that every component reaches, whatever order the document has."""
    assert judge(W.quote(), tcbLevels=levels).tcb_status == date_of


def test_qe_levels_are_taken_highest_first() -> None:
    """The QE's level is the highest that it reaches, in any order of the document."""
    claims = judge(W.quote(), qe={"tcbLevels": [part_level(2, "OutOfDate"), part_level(6)]})
    assert (claims.tcb["qe_status"], claims.reject_code) == ("UpToDate", "verifiers_disagree")


@pytest.mark.parametrize(
    ("changes", "body"),
    [
        ({"mrsigner": "01" * 48}, {}),
        ({"attributes": "01" + "00" * 7}, {}),
        ({}, {"mr_signer_seam": b"\1" * 48}),
        ({}, {"seam_attributes": b"\1" * 8}),
        ({"attributesMask": "00" * 8}, {"seam_attributes": b"\1" * 8}),  # a bit outside the mask
    ],
)
@pytest.mark.parametrize("version", [0, 1])
def test_the_module_is_intels(changes: dict[str, str], body: dict[str, bytes], version: int) -> None:
    """A module signed by another, or with other attributes, is refused, versioned or not."""
    plain = {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8, **changes}
    claims = judge(
        W.quote(tee_tcb_svn=svn(7, version, 3), **body),
        tdxModule=plain,
        tdxModuleIdentities=[module("TDX_01", part_level(7), **changes)],
    )
    assert claims.reject_code == "tdx_module_mismatch"


def test_module_names_are_compared_without_case() -> None:
    """The module's identity is found whichever case its name has."""
    claims = judge(W.quote(tee_tcb_svn=svn(7, 0x1B, 3)), tdxModuleIdentities=[module("TDX_1b", part_level(7))])
    assert claims.tcb_status == "UpToDate"


def test_no_module_identities_is_no_pass() -> None:
    """dcap-qvl falls back to tdxModule for a versioned module without identities; Intel's library refuses, and so do we."""
    claims = judge(W.quote(), tdxModuleIdentities=[])
    assert claims.reject_code == "tdx_module_mismatch"


def test_converge_leaves_what_is_already_low() -> None:
    """A part that is OutOfDate does not lift or change a status that is lower already."""
    assert tcb.converge(TcbStatus.OUT_OF_DATE, "OutOfDate") is TcbStatus.OUT_OF_DATE
    assert tcb.converge(TcbStatus.RELAUNCH, "UpToDate") is TcbStatus.RELAUNCH
    assert tcb.converge(TcbStatus.UP_TO_DATE, "Revoked") is TcbStatus.REVOKED


# --- Reading the documents

INFO, QE = W.tcb_info(), W.qe_identity()


def first_level(**changes: Any) -> dict[str, Any]:
    return {"tcbLevels": [{**level(), **changes}]}


BAD_INFO: dict[str, dict[str, Any]] = {
    "id": {"id": "CSME"},
    "version-2": {"version": 2},
    "version-text": {"version": "3"},
    "date-form": {"issueDate": "2027-01-15 08:00:00"},
    "date-offset": {"nextUpdate": "2027-01-15T08:00:00+00:00"},
    "date-nowhere": {"nextUpdate": "2027-02-30T08:00:00Z"},
    "date-newline": {"issueDate": "2027-01-15T08:00:00Z\n"},
    "fmspc-short": {"fmspc": "00"},
    "fmspc-no-hex": {"fmspc": "zz" * 6},
    "tcb-type": {"tcbType": 1},
    "evaluation-negative": {"tcbEvaluationDataNumber": -1},
    "evaluation-huge": {"tcbEvaluationDataNumber": 1 << 32},
    "no-module": {"tdxModule": None},
    "fifteen-components": first_level(tcb={"sgxtcbcomponents": [{"svn": 0}] * 15, "tdxtcbcomponents": [{"svn": 0}] * 16, "pcesvn": 0}),
    "seventeen-components": first_level(tcb={"sgxtcbcomponents": [{"svn": 0}] * 17, "tdxtcbcomponents": [{"svn": 0}] * 16, "pcesvn": 0}),
    "no-tdx-components": first_level(tcb={"sgxtcbcomponents": [{"svn": 0}] * 16, "pcesvn": 0}),
    "component-256": first_level(tcb={"sgxtcbcomponents": [{"svn": 256}] * 16, "tdxtcbcomponents": [{"svn": 0}] * 16, "pcesvn": 0}),
    "component-fraction": first_level(tcb={"sgxtcbcomponents": [{"svn": 0.5}] * 16, "tdxtcbcomponents": [{"svn": 0}] * 16, "pcesvn": 0}),
    "pcesvn-huge": first_level(tcb={"sgxtcbcomponents": [{"svn": 0}] * 16, "tdxtcbcomponents": [{"svn": 0}] * 16, "pcesvn": 65_536}),
    "status-unknown": first_level(tcbStatus="Fine"),
    "status-hostile": first_level(tcbStatus="\x1b[2J\u202e" * 50),
    "member-hostile": {"tdxModuleIdentities": [{"\x1b[2J": 1}]},
    "status-never-issued": first_level(tcbStatus="TDRelaunchAdvised"),
    "advisory-hostile": first_level(advisoryIDs=["\x1b[2J"]),
    "level-date": first_level(tcbDate="today"),
    "too-many-levels": {"tcbLevels": [level()] * 257},
    "module-status": {"tdxModuleIdentities": [module("TDX_01", part_level(1, "ConfigurationNeeded"))]},
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_INFO)
def test_tcb_info_out_of_form(name: str) -> None:
    """A value out of its range, form or set makes the document malformed, signed or not."""
    with pytest.raises(FormatError) as caught:
        tcb.read_tcb_info(json.dumps({**INFO, **BAD_INFO[name]}).encode())
    assert caught.value.reason == "tcb_malformed"
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 4}, {"mrsigner": "00"}, {"miscselect": "0"}, {"attributesMask": "00"}, {"isvprodid": 65_536},
        {"issueDate": "2027-13-01T00:00:00Z"}, {"tcbLevels": [part_level(1, "SWHardeningNeeded")]}, {"tcbLevels": None},
    ],
    ids=str,
)  # fmt: skip
def test_qe_identity_out_of_form(changes: dict[str, Any]) -> None:
    """The same for the QE identity."""
    with pytest.raises(FormatError) as caught:
        tcb.read_qe_identity(json.dumps({**QE, **changes}).encode())
    assert caught.value.reason == "qe_malformed"


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"null", b'{"id":"TDX","id":"TDX"}', b"[" * 100_000, b"\xff", b" " * 262_145],
    ids=lambda text: repr(text[:12]),
)
def test_what_is_no_document(text: bytes) -> None:
    """Bytes that are no strict JSON object end in our error, however deep or long."""
    for read in (tcb.read_tcb_info, tcb.read_qe_identity):
        with pytest.raises(FormatError):
            read(text)


def test_unknown_members_are_let_be() -> None:
    """A member that Intel adds one day does not make its documents unreadable."""
    info = tcb.read_tcb_info(json.dumps({**INFO, "news": [1]}).encode())
    assert info.tcb_evaluation_data_number == 20


def test_an_odd_authentication_data_is_dcap_qvls_no() -> None:
    """dcap-qvl reads authentication data of 32 bytes only, and what it cannot read we refuse too."""
    quote = W.sign_quote(td_report(), auth=b"")
    claims = verify_intel(quote, W.collateral(), roots=W.roots, now=NOW).claims
    assert (claims.reject_code, claims.tcb_status) == ("verifiers_disagree", "UpToDate")
