"""Intel quotes from end to end: each step passes genuine evidence and refuses each kind of lie by its own name."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

import dcap_qvl
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, x25519
from cryptography.hazmat.primitives.serialization import Encoding
from tee_worlds.intel import (
    DAY,
    PCK,
    PLATFORM_CA,
    SIGNER,
    World,
    certificate,
    crl,
    key_of,
    level,
    mark,
    pem,
    point,
    sgx_extension,
    td_report,
)

from gateway.errors import FormatError
from gateway.model.tee import FreshnessClass, HostTrust, Platform, TcbStatus, TeeResult
from gateway.model.verdict import Outcome
from gateway.policy import parse_policy
from gateway.verify.tee import dcap, pcs
from gateway.verify.tee.findings import NotAuthentic
from gateway.verify.tee.intel import PLAN, from_inputs, verify_intel
from gateway.verify.tee.roots import VENDOR_ROOTS, Anchor, TrustRoots
from gateway.verify.tee.rules import judge as rules_of_a_machine
from gateway.verify.tee.rules import violations

W = World()
OTHER = World(seed="other")
NOW = W.now
SEPT = 1 << 28


def judge(quote: bytes | None = None, collateral: bytes | None = None, world: World = W, **how: Any) -> TeeResult:
    how = {"roots": world.roots, "now": world.now, **how}
    return verify_intel(
        world.quote() if quote is None else quote, world.collateral() if collateral is None else collateral, **how
    )


def dcap_says(quote: bytes, collateral: bytes, world: World = W, now: float = NOW) -> str:
    handed = dcap_qvl.QuoteCollateralV3.from_json(collateral.decode())
    try:
        return dcap_qvl.verify_with_root_ca(quote, handed, world.root_der, int(now)).status
    except ValueError as error:
        return str(error).split("\n")[0].removeprefix("Verification failed: ")


def stopped(result: TeeResult) -> str:
    """The id of the one check that failed, after holding the list to its form."""
    assert tuple(check.id for check in result.checks) == PLAN
    outcomes = [check.outcome for check in result.checks]
    at = outcomes.index(Outcome.CONTRAINDICATED)
    assert outcomes[:at] == [Outcome.AFFIRMING] * at
    assert all(check.reason == "not_reached" for check in result.checks[at + 1 :])
    failed = result.checks[at]
    assert (failed.reason, result.claims.authentic) == (result.claims.reject_code, False)
    return failed.id


# --- What is genuine


@pytest.mark.parametrize(
    ("quote", "collateral", "platform", "form"),
    [
        (W.quote(), W.collateral(), Platform.INTEL_TDX, "tdx-quote-v4"),
        (W.quote(version=5), W.collateral(), Platform.INTEL_TDX, "tdx-quote-v5"),
        (W.quote(version=5, tee_tcb_svn2=None), W.collateral(), Platform.INTEL_TDX, "tdx-quote-v5"),
        (W.sgx_quote(), W.collateral(sgx=True), Platform.INTEL_SGX, "sgx-quote-v3"),
    ],
    ids=["tdx-v4", "tdx-v5-td15", "tdx-v5-td10", "sgx-v3"],
)
def test_genuine_quotes_hold(quote: bytes, collateral: bytes, platform: Platform, form: str) -> None:
    """A genuine quote passes every check of the plan, and dcap-qvl under the same root says the same."""
    result = judge(quote, collateral)
    assert [check.outcome for check in result.checks] == [Outcome.AFFIRMING] * len(PLAN)
    claims = result.claims
    assert (claims.authentic, claims.platform, claims.evidence_format) == (True, platform, form)
    assert claims.tcb_status is TcbStatus.UP_TO_DATE
    assert dcap_says(quote, collateral) == "UpToDate" == claims.raw["dcap_qvl"]


def test_the_claims_of_a_tdx_quote() -> None:
    """Registers, flags, machine and collateral are read into the record under their fixed names."""
    rtmrs = [mark(f"r{place}") for place in range(4)]
    quote = W.quote(report_data=b"n" * 64, mrtd=mark("td"), rtmrs=rtmrs, mr_config_id=mark("config"))
    claims = judge(quote).claims
    expected = {"mr_td": mark("td"), "mr_config_id": mark("config"), "mr_owner": bytes(48), "mr_seam": mark("mr_seam")}
    expected |= {f"rtmr{place}": value for place, value in enumerate(rtmrs)}
    assert {name: claims.measurements[name] for name in expected} == {k: v.hex() for k, v in expected.items()}
    assert claims.report_data == "6e" * 64
    assert (claims.debug, claims.product, claims.machine_id_kind) == (False, "10A06F000000", "ppid")
    assert claims.machine_id == hashlib.sha256(hashlib.md5(b"ppid").digest()).hexdigest()
    assert claims.flags == {
        "sept_ve_disable": True, "migratable": False, "service_td": False, "profiling": False, "service_td_ext": False,
        "unnamed_attributes": False,
        "dynamic_platform": True, "cached_keys": False, "smt": True,
    }  # fmt: skip
    assert claims.tcb == {
        "platform_status": "UpToDate", "module_status": "UpToDate", "qe_status": "UpToDate",
        "tcb_date": "2026-06-10T00:00:00Z", "eval_number": 20,
        "svn": {
            **{"cpu": "03030202040100050000000000000000", "pce": 13, "qe": 6, "tee": "07010300000000000000000000000000"},
            **{f"cpu{at}": level for at, level in enumerate(bytes.fromhex("03030202040100050000000000000000"))},
            **{f"tee{at}": level for at, level in enumerate(bytes([7, 1, 3, *[0] * 13]))},
        },
    }  # fmt: skip
    assert (claims.collateral.issued_min, claims.collateral.expires) == (NOW - DAY, NOW + 29 * DAY)
    assert len(set(claims.collateral.hashes)) == 4
    assert claims.freshness.kind is FreshnessClass.UNDATED
    assert claims.host_trust is HostTrust.UNKNOWN_OPERATOR
    assert claims.revocation.crl == "ok"
    assert len(claims.signer_chain) == 3
    assert claims.signer_chain[-1] == W.anchor.sha256
    assert len(claims.raw["platform_instance_id"]) == 32


def test_the_claims_of_an_sgx_quote() -> None:
    """An SGX quote gives enclave and signer; TD's flags are null in raw and absent from the record."""
    claims = judge(W.sgx_quote(attributes=7), W.collateral(sgx=True)).claims
    assert claims.measurements == {"mr_enclave": mark("mr_enclave", 32).hex(), "mr_signer": mark("mr_signer", 32).hex()}
    assert (claims.debug, claims.raw["sept_ve_disable"], claims.raw["migratable"]) == (True, None, None)
    assert "sept_ve_disable" not in claims.flags
    assert (claims.raw["isv_prod_id"], claims.raw["isv_svn"]) == (1, 2)
    assert "tee" not in claims.tcb["svn"]


def test_a_test_root_marks_its_verdicts() -> None:
    """What chains to a test anchor says so in its claims."""
    root = judge().claims.root
    assert root is not None
    assert (root.test, root.name) == (True, "Intel SGX Root CA (test)")


def test_a_machine_of_the_processor_ca() -> None:
    """A PCK of the Processor CA has no instance id and no configuration, and neither is made up."""
    world = World(processor=True, seed="desktop")
    claims = judge(world.sgx_quote(), world.collateral(sgx=True), world).claims
    assert claims.authentic
    assert claims.raw["platform_instance_id"] is None
    assert claims.flags == {}


# --- Genuine, and not for everybody: flags, not refusals


@pytest.mark.parametrize(
    ("report", "flag", "rule"),
    [
        ({"attributes": SEPT | 1}, ("debug", True), "Debug mode is enabled"),
        ({"attributes": SEPT | 1 << 4}, ("profiling", True), "TD profiling is enabled"),
        ({"attributes": SEPT | 1 << 6}, ("debug", True), "TD profiling is enabled"),
        ({"attributes": SEPT | 1 << 17}, ("service_td_ext", True), "SERVTD_EXT is enabled"),
        ({"attributes": SEPT | 1 << 1}, ("debug", True), "Reserved bits in TD attributes are set"),
        ({"attributes": 0}, ("sept_ve_disable", False), "SEPT_VE_DISABLE is not enabled"),
        ({"attributes": SEPT | 1 << 29}, ("migratable", True), "TD migration is enabled"),
        ({"attributes": SEPT | 1 << 40}, ("unnamed_attributes", True), "Reserved bits in TD attributes are set"),
        ({"version": 5, "mr_service_td": b"s" * 48}, ("service_td", True), "Invalid MR service TD"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_dcap_qvl_never_lets_pass_is_authentic_with_its_flag(
    report: dict[str, Any], flag: tuple[str, bool], rule: str
) -> None:
    """Debug, SEPT off, migratable, unnamed bits and service TDs are genuine; the flag is there for policy."""
    quote = W.quote(**report)
    claims = judge(quote).claims
    assert claims.authentic
    assert claims.tcb_status is TcbStatus.UP_TO_DATE
    assert (claims.debug if flag[0] == "debug" else claims.flags[flag[0]]) is flag[1]
    assert claims.raw["dcap_qvl"] == f"refused by rule: {rule}"
    assert dcap_says(quote, W.collateral()) == rule


@pytest.mark.parametrize("bit", [16, 27, 30, 31, 62, 63])
def test_named_attributes_are_no_surprise(bit: int) -> None:
    """ICSSD, LASS, PKS, KL, TPA and PERFMON are names that both verifiers know."""
    claims = judge(W.quote(attributes=SEPT | 1 << bit)).claims
    assert claims.authentic
    assert claims.flags["unnamed_attributes"] is False
    assert claims.raw["dcap_qvl"] == "UpToDate"


# --- What is refused, by whom and as what


def edited(**members: Any) -> bytes:
    return json.dumps({**json.loads(W.collateral()), **members}).encode()


def put(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def flipped(data: bytes, at: int) -> bytes:
    return put(data, at, bytes([data[at] ^ 1]))


def without_nul(world: World = W) -> bytes:
    return world.sign_quote(td_report(), chain_text=pem(world.pck, world.ca, world.root).encode())


def pem_of(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(der) + b"\n-----END CERTIFICATE-----\n"


QE_AT = 48 + 584 + 4 + 128 + 6  # where the QE report of a version 4 quote starts
LEAF_CA = certificate(SIGNER, W.signer_key, W.root, W.root_key, ca=True, begins=NOW - DAY, ends=NOW + 90 * DAY)
OLD_SIGNER = certificate(SIGNER, W.signer_key, W.root, W.root_key, begins=NOW - 90 * DAY, ends=NOW - 1)
NEW_SIGNER = certificate(SIGNER, W.signer_key, W.root, W.root_key, begins=NOW + 60, ends=NOW + DAY)
NOT_A_CA = certificate(PLATFORM_CA, W.ca_key, W.root, W.root_key, begins=NOW - DAY, ends=NOW + 90 * DAY)
NO_EXTENSION = certificate(PCK, W.pck_key, W.ca, W.ca_key, begins=NOW - DAY, ends=NOW + 90 * DAY)
P384 = key_of("p384", ec.SECP384R1)
BIG_PCK = certificate(PCK, P384, W.ca, W.ca_key, begins=NOW - DAY, ends=NOW + 90 * DAY, extension=sgx_extension())
FORGED_PCK = certificate(
    PCK, W.pck_key, W.ca, OTHER.ca_key, begins=NOW - DAY, ends=NOW + DAY, extension=sgx_extension()
)
FOREIGN_CRL = {"begins": NOW - DAY, "ends": NOW + DAY}

Case = tuple[str, str, Callable[[], TeeResult]]
REFUSED: dict[str, Case] = {
    # 1. form
    "empty": ("tee_format", "quote_too_short", lambda: judge(b"")),
    "huge": ("tee_format", "malformed", lambda: judge(bytes(1 << 21))),
    "long": ("tee_format", "quote_too_long", lambda: judge(bytes(65_537))),
    "trailing": ("tee_format", "quote_trailing_bytes", lambda: judge(W.quote() + b"junk")),
    "trailing-behind-zeros": ("tee_format", "quote_trailing_bytes", lambda: judge(W.quote() + bytes(9) + b"x")),
    "truncated": ("tee_format", "quote_truncated", lambda: judge(W.quote()[:-1])),
    "no-json": ("tee_format", "collateral_malformed", lambda: judge(collateral=b"{")),
    "json-list": ("tee_format", "collateral_malformed", lambda: judge(collateral=b"[]")),
    "json-too-long": ("tee_format", "collateral_malformed", lambda: judge(collateral=b" " * 524_289)),
    "member-missing": ("tee_format", "collateral_malformed", lambda: judge(collateral=b'{"pck_crl":""}')),
    "member-twice": ("tee_format", "collateral_malformed", lambda: judge(collateral=W.collateral()[:-1] + b',"tcb_info":"{}"}')),
    "member-of-another-type": ("tee_format", "collateral_malformed", lambda: judge(collateral=edited(pck_crl=[1]))),
    "crl-not-hex": ("tee_format", "collateral_malformed", lambda: judge(collateral=edited(pck_crl="zz"))),
    "crl-with-spaces": ("tee_format", "collateral_malformed", lambda: judge(collateral=edited(pck_crl="30 00"))),
    "crl-empty": ("tee_format", "collateral_malformed", lambda: judge(collateral=edited(pck_crl=""))),
    "crl-no-der": ("tee_format", "collateral_malformed", lambda: judge(collateral=edited(root_ca_crl="3000"))),
    "crl-version": ("tee_format", "collateral_malformed", lambda: judge(collateral=edited(
        pck_crl=json.loads(W.collateral())["pck_crl"].replace("020101300a", "020121300a", 1)))),
    "crl-issuer-broken": ("tee_format", "collateral_malformed", lambda: judge(collateral=edited(
        root_ca_crl=json.loads(W.collateral())["root_ca_crl"].replace("0603550403", "0703550403", 1)))),
    "crl-entry-broken": ("tee_format", "collateral_malformed", lambda: judge(collateral=edited(
        pck_crl=json.loads(W.collateral(revoked=[W.signer]))["pck_crl"].replace(
            f"{W.signer.serial_number:x}"[-30:] + "17", f"{W.signer.serial_number:x}"[-30:] + "16", 1)))),
    "pck-version": ("tee_format", "pck_malformed", lambda: judge(W.sign_quote(td_report(), chain_text=pem_of(
        W.pck.public_bytes(Encoding.DER).replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x21", 1))))),
    "crl-partial": ("tee_format", "collateral_malformed", lambda: judge(collateral=edited(pck_crl=crl(
        W.ca, W.ca_key, begins=NOW - 1, ends=NOW + 1, extra=x509.DeltaCRLIndicator(1)).hex()))),
    "signature-short": ("tee_format", "collateral_malformed", lambda: judge(collateral=edited(tcb_info_signature="00"))),
    "chain-no-pem": ("tee_format", "collateral_malformed", lambda: judge(
        collateral=edited(tcb_info_issuer_chain="-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----"))),
    "pck-no-pem": ("tee_format", "pck_malformed", lambda: judge(
        W.sign_quote(td_report(), chain_text=b"-----BEGIN CERTIFICATE-----\n"))),
    # 2. chains
    "root-not-pinned": ("tee_chain", "chain_untrusted_root", lambda: judge(roots=OTHER.roots)),
    "root-of-another-vendor": ("tee_chain", "chain_untrusted_root", lambda: judge(
        roots=TrustRoots((Anchor("amd", "x", W.anchor.sha256),)))),
    "pck-of-another-root": ("tee_chain", "chain_untrusted_root", lambda: judge(OTHER.quote())),
    "pck-of-another-pinned-root": ("tee_chain", "chain_untrusted_root", lambda: judge(
        OTHER.quote(), roots=TrustRoots((W.anchor, OTHER.anchor)))),
    "no-signer": ("tee_chain", "chain_empty", lambda: judge(collateral=edited(qe_identity_issuer_chain=""))),
    "no-pck": ("tee_chain", "chain_empty", lambda: judge(W.sign_quote(td_report(), chain_text=b"\0"))),
    "root-left-out": ("tee_chain", "chain_untrusted_root", lambda: judge(W.sign_quote(td_report(), chain=(W.pck, W.ca)))),
    "pck-under-root": ("tee_chain", "cert_wrong_role", lambda: judge(W.sign_quote(td_report(), chain=(W.pck, W.root)))),
    "pck-signs-documents": ("tee_chain", "cert_wrong_role", lambda: judge(collateral=W.collateral(
        signer_chain=(W.pck, W.ca, W.root), signer_key=W.pck_key))),
    "ca-signs-documents": ("tee_chain", "cert_wrong_role", lambda: judge(collateral=W.collateral(
        signer_chain=(W.ca, W.root), signer_key=W.ca_key))),
    "signer-quotes": ("tee_chain", "cert_wrong_role", lambda: judge(
        W.sign_quote(td_report(), chain=(W.signer, W.ca, W.root), pck_key=W.signer_key))),
    "leaf-is-ca": ("tee_chain", "cert_wrong_role", lambda: judge(collateral=W.collateral(signer_chain=(LEAF_CA, W.root)))),
    "signer-expired": ("tee_chain", "cert_expired_or_not_yet_valid", lambda: judge(
        collateral=W.collateral(signer_chain=(OLD_SIGNER, W.root)))),
    "signer-from-the-future": ("tee_chain", "cert_expired_or_not_yet_valid", lambda: judge(
        collateral=W.collateral(signer_chain=(NEW_SIGNER, W.root)))),
    "before-the-pck": ("tee_chain", "cert_expired_or_not_yet_valid", lambda: judge(now=NOW - 2 * DAY)),
    "ca-is-none": ("tee_chain", "issuer_not_ca", lambda: judge(W.sign_quote(td_report(), chain=(W.pck, NOT_A_CA, W.root)))),
    "pck-not-signed-by-ca": ("tee_chain", "chain_broken", lambda: judge(
        W.sign_quote(td_report(), chain=(FORGED_PCK, W.ca, W.root)))),
    # 3. documents
    "tcb-info-edited": ("tee_collateral", "tcb_bad_signature", lambda: judge(collateral=W.collateral().replace(b"OutOfDate", b"UpToDate ", 1))),
    "tcb-info-respelled": ("tee_collateral", "tcb_bad_signature", lambda: judge(collateral=edited(
        tcb_info=json.dumps(W.tcb_info())))),
    "tcb-info-by-another": ("tee_collateral", "tcb_bad_signature", lambda: judge(collateral=W.collateral(signer_key=W.ca_key))),
    "tcb-info-tomorrow": ("tee_collateral", "tcb_not_yet_valid", lambda: judge(collateral=W.collateral(
        tcb_info=W.tcb_info(issueDate="2027-01-15T08:00:01Z")))),
    "tcb-info-old": ("tee_collateral", "tcb_expired", lambda: judge(collateral=W.collateral(
        tcb_info=W.tcb_info(nextUpdate="2027-01-15T07:59:59Z")))),
    "tcb-info-no-json": ("tee_collateral", "tcb_malformed", lambda: judge(collateral=W.collateral(tcb_info="{"))),
    "qe-identity-junk-signature": ("tee_collateral", "qe_bad_signature", lambda: judge(collateral=edited(
        qe_identity_signature="11" * 64))),
    "qe-identity-tomorrow": ("tee_collateral", "qe_not_yet_valid", lambda: judge(collateral=W.collateral(
        qe_identity=W.qe_identity(issueDate="2027-01-15T08:00:01Z")))),
    "qe-identity-old": ("tee_collateral", "qe_expired", lambda: judge(collateral=W.collateral(
        qe_identity=W.qe_identity(nextUpdate="2027-01-15T07:59:59Z")))),
    "qe-identity-no-json": ("tee_collateral", "qe_malformed", lambda: judge(collateral=W.collateral(qe_identity="[]"))),
    "evaluation-tcb": ("tee_collateral", "tcb_evaluation_too_low", lambda: judge(lowest_evaluation=21)),
    "evaluation-qe": ("tee_collateral", "tcb_evaluation_too_low", lambda: judge(lowest_evaluation=20, collateral=W.collateral(
        qe_identity=W.qe_identity(tcbEvaluationDataNumber=19)))),
    # 4. revocation
    "root-crl-of-ca": ("tee_revocation", "root_no_crl", lambda: judge(collateral=edited(
        root_ca_crl=json.loads(W.collateral())["pck_crl"]))),
    "pck-crl-of-root": ("tee_revocation", "pck_no_crl", lambda: judge(collateral=edited(
        pck_crl=json.loads(W.collateral())["root_ca_crl"]))),
    "root-crl-forged": ("tee_revocation", "crl_bad_signature", lambda: judge(collateral=edited(
        root_ca_crl=crl(W.root, OTHER.root_key, **FOREIGN_CRL).hex()))),
    "pck-crl-forged": ("tee_revocation", "crl_bad_signature", lambda: judge(collateral=edited(
        pck_crl=crl(W.ca, OTHER.ca_key, **FOREIGN_CRL).hex()))),
    "pck-crl-signed-by-another-kind-of-key": ("tee_revocation", "crl_bad_signature", lambda: judge(collateral=edited(
        pck_crl=crl(W.ca, P384, **FOREIGN_CRL).hex()))),
    "pck-crl-of-no-known-algorithm": ("tee_revocation", "crl_bad_signature", lambda: judge(collateral=edited(
        pck_crl=json.loads(W.collateral())["pck_crl"].replace("2a8648ce3d040302", "2a8648ce3d04037f")))),
    "crl-expired": ("tee_revocation", "crl_expired", lambda: judge(collateral=W.collateral(crl_ends=NOW - 1))),
    "crl-from-the-future": ("tee_revocation", "crl_not_yet_valid", lambda: judge(collateral=W.collateral(crl_begins=NOW + 1))),
    "root-revoked": ("tee_revocation", "root_revoked", lambda: judge(collateral=W.collateral(revoked=[W.root]))),
    "signer-revoked": ("tee_revocation", "tcb_signer_revoked", lambda: judge(collateral=W.collateral(revoked=[W.signer]))),
    "ca-revoked": ("tee_revocation", "pck_revoked", lambda: judge(collateral=W.collateral(revoked=[W.ca]))),
    "pck-revoked": ("tee_revocation", "pck_revoked", lambda: judge(collateral=W.collateral(revoked=[W.pck]))),
    # 5. signatures
    "report-changed": ("tee_signature", "quote_bad_signature", lambda: judge(flipped(W.quote(), 48 + 520))),
    "header-changed": ("tee_signature", "quote_bad_signature", lambda: judge(flipped(W.quote(), 30))),
    "debug-cleared": ("tee_signature", "quote_bad_signature", lambda: judge(flipped(W.quote(attributes=SEPT | 1), 168))),
    "signature-zero": ("tee_signature", "quote_bad_signature", lambda: judge(put(W.quote(), 636, bytes(64)))),
    "qe-report-changed": ("tee_signature", "qe_report_bad_signature", lambda: judge(flipped(W.quote(), QE_AT))),
    "qe-auth-changed": ("tee_signature", "qe_report_data_mismatch", lambda: judge(flipped(W.quote(), QE_AT + 450))),
    "qe-report-data-beyond-the-digest": ("tee_signature", "qe_report_data_mismatch", lambda: judge(W.sign_quote(
        td_report(), qe={"report_data": hashlib.sha256(point(W.attestation_key) + bytes(range(32))).digest() + b"x"}))),
    "key-not-named": ("tee_signature", "qe_report_data_mismatch", lambda: judge(W.sign_quote(
        td_report(), attestation_key=OTHER.attestation_key, named_key=point(W.attestation_key)))),
    "key-no-point": ("tee_signature", "quote_bad_signature", lambda: judge(put(
        W.sign_quote(td_report(), named_key=b"\1" * 64), 636 + 64, b"\1" * 64))),
    "foreign-pck": ("tee_signature", "qe_report_bad_signature", lambda: judge(W.sign_quote(td_report(), pck_key=OTHER.pck_key))),
    "pck-of-another-curve": ("tee_signature", "qe_report_bad_signature", lambda: judge(
        W.sign_quote(td_report(), chain=(BIG_PCK, W.ca, W.root)))),
    # 6. identity
    "pck-says-nothing": ("tee_identity", "pck_malformed", lambda: judge(
        W.sign_quote(td_report(), chain=(NO_EXTENSION, W.ca, W.root)))),
    "qe-of-sgx": ("tee_identity", "qe_identity_mismatch", lambda: judge(collateral=W.collateral(qe_identity=W.qe_identity(sgx=True)))),
    "qe-identity-version": ("tee_collateral", "qe_malformed", lambda: judge(W.sgx_quote(), W.collateral(
        sgx=True, qe_identity=W.qe_identity(sgx=True, version=3)))),
    "qe-miscselect": ("tee_identity", "qe_identity_mismatch", lambda: judge(W.sign_quote(td_report(), qe={"misc_select": 1}))),
    "qe-attributes": ("tee_identity", "qe_identity_mismatch", lambda: judge(W.sign_quote(td_report(), qe={"attributes": 0x05}))),
    "qe-signer": ("tee_identity", "qe_identity_mismatch", lambda: judge(W.sign_quote(td_report(), qe={"mr_signer": bytes(32)}))),
    "qe-product": ("tee_identity", "qe_identity_mismatch", lambda: judge(W.sign_quote(td_report(), qe={"product": 9}))),
    "qe-debug": ("tee_identity", "qe_identity_mismatch", lambda: judge(W.sign_quote(td_report(), qe={"attributes": 0x17}))),
    "qe-debug-unmasked": ("tee_identity", "qe_identity_mismatch", lambda: judge(
        W.sign_quote(td_report(), qe={"attributes": 0x17}),
        W.collateral(qe_identity=W.qe_identity(attributesMask="F9" + "FF" * 15, attributes="11" + "00" * 7 + "E7" + "00" * 7)))),
    "fmspc": ("tee_identity", "tcb_info_mismatch", lambda: judge(collateral=W.collateral(tcb_info=W.tcb_info(fmspc="00" * 6)))),
    "pceid": ("tee_identity", "tcb_info_mismatch", lambda: judge(collateral=W.collateral(tcb_info=W.tcb_info(pceId="0001")))),
    "tcb-info-of-sgx": ("tee_identity", "tcb_info_mismatch", lambda: judge(collateral=W.collateral(tcb_info=W.tcb_info(sgx=True)))),
    # 7. TCB
    "no-level": ("tee_tcb", "tcb_not_supported", lambda: judge(W.quote(tee_tcb_svn=bytes([7, 1, 1, *[0] * 13])))),
    "no-module": ("tee_tcb", "tdx_module_mismatch", lambda: judge(W.quote(tee_tcb_svn=bytes([7, 9, 3, *[0] * 13])))),
    "qe-below-all": ("tee_tcb", "qe_tcb_not_supported", lambda: judge(W.sign_quote(td_report(), qe={"svn": 1}))),
    "level-revoked": ("tee_tcb", "tcb_revoked", lambda: judge(collateral=W.collateral(
        tcb_info=W.tcb_info(tcbLevels=[level("Revoked")])))),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_stop_at_their_check(name: str) -> None:
    """Each lie is refused at the check that is about it, under its own reason, with the rest not reached."""
    step, reason, act = REFUSED[name]
    result = act()
    assert (stopped(result), result.claims.reject_code) == (step, reason)


def test_a_chain_without_its_closing_nul_is_read() -> None:
    """The PEM chain ends with or without a NUL, as QEs of both habits write it."""
    assert judge(without_nul()).claims.authentic


@pytest.mark.parametrize(
    ("name", "status"),
    [("level-revoked", TcbStatus.REVOKED), ("no-level", TcbStatus.UNSUPPORTED), ("no-module", TcbStatus.UNSUPPORTED)],
)
def test_refused_levels_stand_in_the_claims(name: str, status: TcbStatus) -> None:
    """A revoked or unlisted level is refused, and the claims say which of the two it was."""
    assert REFUSED[name][2]().claims.tcb_status is status


def test_a_list_of_a_key_that_cannot_sign() -> None:
    """A revocation list held against a key that signs nothing at all is not signed by it."""
    key = x25519.X25519PrivateKey.from_private_bytes(b"k" * 32).public_key()
    builder = x509.CertificateBuilder().subject_name(W.ca.subject).issuer_name(W.root.subject).public_key(key)
    dates = W.ca.not_valid_before_utc, W.ca.not_valid_after_utc
    builder = builder.serial_number(1).not_valid_before(dates[0]).not_valid_after(dates[1])
    listed = pcs.load_crl(bytes.fromhex(json.loads(W.collateral())["pck_crl"]))
    with pytest.raises(NotAuthentic) as caught:
        pcs.check_crl(listed, builder.sign(W.root_key, hashes.SHA256()), NOW)
    assert caught.value.reason == "crl_bad_signature"


@pytest.mark.parametrize(("moment", "held"), [(-1.0, True), (-0.5, True), (0.0, False), (0.5, False)])
def test_the_last_moment_of_collateral(moment: float, held: bool) -> None:
    """Collateral holds until the second at which its lists end, and not a moment longer."""
    assert judge(now=NOW + 29 * DAY + moment).claims.authentic is held


# --- Pitfalls of public verifiers


def test_pitfall_qe_identity_signature_unchecked() -> None:
    """A QE identity with a forged signer and a junk signature is refused (CVE-2026-22696)."""
    forged = json.dumps(W.qe_identity(mrsigner="00" * 32))
    result = judge(collateral=edited(qe_identity=forged, qe_identity_signature="11" * 64))
    assert result.claims.reject_code == "qe_bad_signature"


def test_pitfall_status_ignored() -> None:
    """OutOfDate comes back authentic and as OutOfDate, with its advisories: no caller can miss it by catching errors."""
    info = W.tcb_info(tcbLevels=[level("OutOfDate", advisories=["INTEL-SA-00106"])])
    claims = judge(collateral=W.collateral(tcb_info=info)).claims
    assert (claims.authentic, claims.tcb_status) == (True, TcbStatus.OUT_OF_DATE)
    assert claims.advisory_ids == ("INTEL-SA-00106",)


def test_pitfall_old_collateral_replayed() -> None:
    """Validly signed collateral in date is refused when a higher evaluation number was seen for the platform."""
    assert judge(lowest_evaluation=20).claims.authentic
    assert judge(lowest_evaluation=21).claims.reject_code == "tcb_evaluation_too_low"


def test_pitfall_trailing_bytes_accepted() -> None:
    """dcap-qvl takes a quote with junk behind it for UpToDate; here it is refused, and only zeros are padding."""
    assert dcap_says(W.quote() + b"junk", W.collateral()) == "UpToDate"
    assert not judge(W.quote() + b"junk").claims.authentic
    assert judge(W.quote() + bytes(3000)).claims.authentic


def test_pitfall_raw_quote_as_replay_key() -> None:
    """Copies that differ in unsigned bytes have other digests and the same identity."""
    plain, padded = judge(W.quote()).claims, judge(W.quote() + bytes(7)).claims
    assert plain.evidence_sha256 != padded.evidence_sha256
    assert plain.raw["identity"] == padded.raw["identity"] == judge(without_nul()).claims.raw["identity"]
    assert plain.raw["identity"] != judge(W.quote(report_data=b"x")).claims.raw["identity"]


def test_pitfall_clock_not_injectable() -> None:
    """The verdict is a function of `now`: the same bytes hold, expire, and hold again."""
    verdicts = [judge(now=moment).claims.authentic for moment in (NOW, NOW + 40 * DAY, NOW)]
    assert verdicts == [True, False, True]


def test_pitfall_crl_from_the_future_accepted() -> None:
    """dcap-qvl accepts a revocation list that is issued tomorrow; here it is refused."""
    collateral = W.collateral(crl_begins=NOW + 1)
    assert dcap_says(W.quote(), collateral) == "UpToDate"
    assert judge(collateral=collateral).claims.reject_code == "crl_not_yet_valid"


def test_pitfall_debug_taken_for_production() -> None:
    """A debug TD says so in the claims, and a debug quoting enclave is refused altogether."""
    assert judge(W.quote(attributes=SEPT | 1)).claims.debug is True
    assert REFUSED["qe-debug"][2]().claims.reject_code == "qe_identity_mismatch"


def test_pitfall_report_data_free() -> None:
    """An authentic quote is bound to nothing by itself: no claim calls it bound or fresh."""
    claims = judge(W.quote(report_data=b"anything")).claims
    assert (claims.binding.status.value, claims.nonce) == ("unbound", None)
    assert claims.freshness.age_s is None


def test_pitfall_only_version_4_read() -> None:
    """Version 5 with either body is read to the same registers as version 4."""
    quotes = [W.quote(), W.quote(version=5), W.quote(version=5, tee_tcb_svn2=None)]
    registers = [judge(quote).claims.measurements for quote in quotes]
    assert registers[0] == registers[2]
    assert registers[0].items() < registers[1].items()
    assert set(registers[1]) - set(registers[0]) == {"mr_service_td", "tee_tcb_svn2"}


# --- The second opinion


def test_disagreement_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """When dcap-qvl says another status, other advisories or no, the quote is refused and both words are given."""
    for second, words in [
        (dcap.Opinion(TcbStatus.OUT_OF_DATE), "OutOfDate"),
        (dcap.Opinion(TcbStatus.UP_TO_DATE, frozenset({"INTEL-SA-00001"})), "UpToDate"),
        (dcap.Opinion(no="No matching TCB level found"), "refused: No matching TCB level found"),
    ]:
        monkeypatch.setattr(dcap, "opinion", lambda *_, second=second: second)
        result = judge()
        assert (stopped(result), result.claims.reject_code) == ("tee_tcb", "verifiers_disagree")
        assert result.checks[-1].found == words
        assert result.claims.raw["dcap_qvl"] == words


@pytest.mark.parametrize(
    ("quote", "collateral", "words"),
    [
        (flipped(W.quote(attributes=SEPT | 1), 48 + 520), {}, "ISV enclave report signature is invalid"),
        (W.quote(attributes=SEPT | 1, tee_tcb_svn=bytes(16)), {}, "No matching TCB level found"),
        (W.quote(attributes=SEPT | 1), {"tcb_info": W.tcb_info(tcbLevels=[level("Revoked")])}, "TCB status is invalid: Revoked"),
        (W.quote(attributes=SEPT | 1), {"tcb_info": W.tcb_info(nextUpdate="2027-01-15T07:59:59Z")}, "TCBInfo expired"),
        (W.sign_quote(td_report(attributes=SEPT | 1), qe={"product": 9}), {}, "QE ISVPRODID mismatch: expected 2, got 9"),
        (W.sign_quote(td_report(attributes=SEPT | 1), qe={"svn": 1}), {}, "QE ISVSVN 1 is below minimum required 2"),
    ],
    ids=["signature", "level", "revoked", "expired", "qe", "qe-level"],
)  # fmt: skip
def test_dcap_qvl_comes_to_its_rules_last(quote: bytes, collateral: dict[str, Any], words: str) -> None:
    """A debug quote with another fault is refused by dcap-qvl for the fault: a rule's refusal means that all else held."""
    assert dcap_says(quote, W.collateral(**collateral)).startswith(words)


def refused_by(monkeypatch: pytest.MonkeyPatch, error: Exception, quote: bytes) -> TeeResult:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(dcap_qvl, "verify_with_root_ca", refuse)
    return judge(quote)


@pytest.mark.parametrize(
    "words",
    ["Debug mode is enabled", "SEPT_VE_DISABLE is not enabled", "Invalid MR service TD", "TD migration is enabled",
     "TD profiling is enabled", "SERVTD_EXT is enabled",
     "Reserved bits in TD attributes are set"],
)  # fmt: skip
def test_a_rule_counts_only_where_it_applies(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    """A refusal in a policy rule's words is a contradiction when our own reading does not bear the rule out."""
    result = refused_by(monkeypatch, ValueError(words), W.quote())
    assert result.claims.reject_code == "verifiers_disagree"


def test_unknown_words_are_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever text dcap-qvl fails with, hostile or long, fails closed and comes out short and printable."""
    result = refused_by(monkeypatch, ValueError("\x1b[31m" + "x" * 500), W.quote(attributes=SEPT | 1))
    assert result.claims.reject_code == "verifiers_disagree"
    assert result.checks[-1].found is not None
    assert result.checks[-1].found.isprintable()
    assert len(result.checks[-1].found) < 100


def test_an_unknown_status_word_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A status that Intel has no word for is not mapped onto one."""
    report = type("Report", (), {"status": "Splendid", "advisory_ids": []})()
    monkeypatch.setattr(dcap_qvl, "verify_with_root_ca", lambda *_: report)
    assert judge().claims.reject_code == "verifiers_disagree"


def test_a_moment_before_1970_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time that dcap-qvl cannot take is a disagreement, not a crash."""
    assert refused_by(monkeypatch, OverflowError("negative"), W.quote()).claims.reject_code == "verifiers_disagree"


def test_intels_own_root_is_the_built_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under Intel's root dcap-qvl uses the root that is compiled into it; the two are the same certificate."""
    pinned = [anchor.sha256 for anchor in VENDOR_ROOTS.anchors if anchor.vendor == "intel"]
    assert pinned == [dcap.BUILT_IN_ROOT]
    monkeypatch.setattr(dcap, "BUILT_IN_ROOT", W.anchor.sha256)
    result = judge()
    assert result.claims.reject_code == "verifiers_disagree"  # the compiled root is not this world's


# --- From a manifest


def test_from_inputs_takes_the_manifests_roles() -> None:
    """Roles and parameters of a manifest give the same result as the call."""
    blobs = {"quote": W.quote(), "collateral": W.collateral(), "root:intel_sgx_root_ca": W.root_der}
    assert from_inputs(blobs, {}, W.roots, NOW) == judge()
    result = from_inputs(blobs, {"lowest_evaluation": 21}, W.roots, NOW)
    assert result.claims.reject_code == "tcb_evaluation_too_low"


@pytest.mark.parametrize(
    ("blobs", "params", "reason"),
    [
        ({"collateral": b""}, {}, "input_missing"),
        ({"quote": b""}, {}, "input_missing"),
        ({"quote": b"", "collateral": b""}, {"lowest_evaluation": "9"}, "param_malformed"),
        ({"quote": b"", "collateral": b""}, {"lowest_evaluation": True}, "param_malformed"),
    ],
)
def test_from_inputs_needs_its_roles(blobs: dict[str, bytes], params: dict[str, Any], reason: str) -> None:
    """A missing role or a parameter of another type is an error of the manifest, not a verdict."""
    with pytest.raises(FormatError) as caught:
        from_inputs(blobs, params, W.roots, NOW)
    assert caught.value.reason == reason


def test_a_root_blob_is_not_believed() -> None:
    """A root that only comes along with the evidence changes nothing: what is not pinned is not trusted."""
    blobs = {"quote": OTHER.quote(), "collateral": OTHER.collateral(), "root:intel_sgx_root_ca": OTHER.root_der}
    assert from_inputs(blobs, {}, W.roots, NOW).claims.reject_code == "chain_untrusted_root"


def test_the_world_is_deterministic() -> None:
    """The same arguments give the same bytes, so that a stored case can be made again."""
    again = World()
    assert (again.quote(), again.collateral()) == (W.quote(), W.collateral())
    assert World(seed="other").quote() != W.quote()


@pytest.mark.parametrize(("least", "bad"), [("tee2:3", ()), ("tee2:4", ("svn_low",)), ("cpu4:5", ("svn_low",))])
def test_a_policy_asks_for_single_components(least: str, bad: tuple[str, ...]) -> None:
    """Each component of the machine's and the module's version has a name that a policy can hold to a least value."""
    text = (
        f'name = "p"\nversion = 1\n[require]\nall = ["evidence"]\n[tee]\nminimum_svn = ["{least}"]\nbinding = "any"\n'
    )
    rules = msgspec.structs.replace(parse_policy("p.toml", text.encode()).tee_rules, test_roots="allow")
    assert violations(rules_of_a_machine(judge(W.quote()).claims, rules)) == bad
