"""Azure's chain of hardware report, runtime data, virtual TPM and PCRs, under a test root."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tee_worlds.amd import DAY, NOW, World, rsa_key
from tee_worlds.azure import ID_KEY, NONCE, PCRS, AzureWorld, attest, hcl, jwk, rsassa, runtime, td_quote, td_report

from gateway.errors import FormatError
from gateway.model.tee import FreshnessClass, HostTrust, Platform, Root, TcbStatus, TeeClaims, TeeResult
from gateway.model.verdict import Check, Outcome
from gateway.verify.tee.azure_hcl import MAX_HCL_BYTES, parse_hcl
from gateway.verify.tee.azure_vtpm import SNP_PLAN, TDX_PLAN, from_inputs
from gateway.verify.tee.findings import MAX_EVIDENCE_BYTES
from gateway.verify.tee.roots import VENDOR_ROOTS
from gateway.verify.tee.rules import TeeRules, accepted, judge, violations

WORLD = AzureWorld()
GENOA = AzureWorld(World("Genoa"))
GENUINE = WORLD.evidence()


def outcomes(result: TeeResult) -> dict[str, tuple[str, str | None]]:
    return {c.id: (c.outcome.value, c.reason) for c in result.checks}


def test_a_genuine_machine() -> None:
    """Every check but the missing list affirms, and the claims hold the hardware's and the TPM's."""
    result = WORLD.verify(GENUINE)
    claims = result.claims
    assert claims.authentic, claims.reject_detail
    assert outcomes(result) == dict.fromkeys(SNP_PLAN, ("affirming", None)) | {"tee_revocation": ("none", "no_crl")}
    assert (claims.platform, claims.evidence_format, claims.product) == (
        Platform.AZURE_VTPM,
        "azure-vtpm-snp",
        "Milan-B0",
    )
    assert (claims.debug, claims.tcb_status) == (False, TcbStatus.NOT_APPLICABLE)
    assert claims.measurements["pcr4"] == PCRS[4].hex()
    assert claims.measurements["launch"] == claims.children[0].measurements["launch"]
    assert (claims.flags["secure_boot"], claims.flags["vmpl"]) == (True, 0)
    assert (claims.nonce, claims.freshness.kind) == (NONCE.hex(), FreshnessClass.CHALLENGE)
    assert claims.host_trust is HostTrust.UNKNOWN_OPERATOR
    assert claims.machine_id == hashlib.sha256(WORLD.hardware.chip).hexdigest()
    assert claims.root is not None
    assert claims.root.test
    assert claims.children[0].platform is Platform.AMD_SEV_SNP
    assert claims.raw["report_type"] == "snp"
    assert claims.raw["hw"]["debug"] is False


def test_a_revocation_list_is_used() -> None:
    """AMD's list is held against the hardware's chain."""
    assert outcomes(WORLD.verify(GENUINE, crl=WORLD.hardware.crl()))["tee_revocation"] == ("affirming", None)
    assert WORLD.verify(GENUINE, crl=WORLD.hardware.crl([65537])).claims.reject_code == "snp_ask_revoked"


def test_pitfall_the_nonce_is_in_extra_data() -> None:
    """REPORT_DATA is the runtime data's hash and never the nonce; the nonce is compared with extraData."""
    claims = WORLD.verify(GENUINE).claims
    assert claims.report_data == hashlib.sha256(runtime()).hexdigest().ljust(128, "0")
    assert WORLD.verify(GENUINE, nonce=bytes.fromhex(claims.report_data)).claims.reject_code == "nonce_mismatch"
    assert outcomes(WORLD.verify(GENUINE, nonce=None))["tee_nonce"] == ("none", "no_nonce")


def test_pitfall_the_format_alone_is_not_azure() -> None:
    """Anybody's SNP machine can show an HCL report: without Microsoft's ID key the operator stays unknown."""
    genuine, elsewhere = GENOA.evidence(), GENOA.evidence(report={"id_key_digest": bytes(48)})
    assert GENOA.verify(genuine).claims.host_trust is HostTrust.HYPERSCALER
    assert GENOA.verify(elsewhere).claims.host_trust is HostTrust.UNKNOWN_OPERATOR
    assert GENOA.verify(genuine, id_keys=frozenset()).claims.host_trust is HostTrust.UNKNOWN_OPERATOR


def test_pitfall_a_forged_milan_names_any_id_key() -> None:
    """Who reads out a Milan's key writes Microsoft's ID key into a report, so there the key is no sign of a cloud."""
    claims = WORLD.verify(GENUINE).claims
    assert claims.measurements["id_key_digest"] == ID_KEY.hex()
    assert claims.host_trust is HostTrust.UNKNOWN_OPERATOR
    rules = TeeRules(binding="any", test_roots="allow")
    assert violations(judge(claims, rules)) == ("milan",)
    assert accepted(judge(GENOA.verify(GENOA.evidence()).claims, rules))


@pytest.mark.parametrize(("algorithm", "name"), [(1, "sha256"), (2, "sha384"), (3, "sha512")])
def test_runtime_hashes(algorithm: int, name: str) -> None:
    """The runtime data is bound by any of the three hashes, and by the whole of it."""
    digest = hashlib.new(name, runtime()).digest()
    evidence = WORLD.evidence(report={"report_data": digest}, blob={"algorithm": algorithm, "version": 2})
    assert WORLD.verify(evidence).claims.authentic
    longer = digest.ljust(63, b"\0") + b"\1"
    if algorithm < 3:
        refused = WORLD.evidence(report={"report_data": longer}, blob={"algorithm": algorithm})
        assert WORLD.verify(refused).claims.reject_code == "hcl_runtime_not_bound"


def edited(**changes: Any) -> bytes:
    return json.dumps(json.loads(GENUINE) | changes).encode()


def ak_runtime(**changes: Any) -> bytes:
    return WORLD.evidence(data=runtime(keys=[jwk(**changes)]))


def report() -> bytes:
    return WORLD.hardware.report(report_data=hashlib.sha256(runtime()).digest())


CASES: list[tuple[str, str, Callable[[], bytes]]] = [
    ("malformed", "tee_format", lambda: b""),
    ("malformed", "tee_format", lambda: b"[]"),
    ("malformed", "tee_format", lambda: b"{}"),
    ("malformed", "tee_format", lambda: b'{"a":' * 100),
    ("malformed", "tee_format", lambda: b" " * (MAX_EVIDENCE_BYTES + 1)),
    ("malformed", "tee_format", lambda: edited(hcl_report="48434C41")),
    ("malformed", "tee_format", lambda: edited(quote_message="")),
    ("malformed", "tee_format", lambda: edited(quote_signature=None)),
    ("malformed", "tee_format", lambda: edited(pcrs_sha256=None)),
    ("malformed", "tee_format", lambda: edited(vcek_der=7)),
    ("malformed", "tee_format", lambda: edited(ask_der="zz")),
    ("hcl_bad_magic", "tee_format", lambda: edited(hcl_report="")),
    ("hcl_bad_magic", "tee_format", lambda: edited(hcl_report="00" * 2000)),
    ("hcl_bad_length", "tee_format", lambda: edited(hcl_report=b"HCLA".hex())),
    ("hcl_bad_length", "tee_format", lambda: edited(hcl_report=(b"HCLA" + bytes(MAX_HCL_BYTES)).hex())),
    ("hcl_bad_runtime_data", "tee_format", lambda: WORLD.evidence(blob={"version": 3})),
    ("hcl_bad_runtime_data", "tee_format", lambda: WORLD.evidence(blob={"kind": 3})),
    ("hcl_bad_runtime_data", "tee_format", lambda: WORLD.evidence(blob={"algorithm": 4})),
    ("hcl_bad_runtime_data", "tee_format", lambda: WORLD.evidence(blob={"layout": 2})),
    ("hcl_bad_runtime_data", "tee_format", lambda: WORLD.evidence(blob={"request": 1})),
    ("hcl_bad_runtime_data", "tee_format", lambda: WORLD.evidence(blob={"length": 100_000})),
    ("hcl_bad_runtime_data", "tee_format", lambda: WORLD.evidence(blob={"used": 1})),
    ("hcl_bad_runtime_data", "tee_format", lambda: WORLD.evidence(blob={"reserved": bytes(15) + b"\1"})),
    ("hcl_bad_runtime_data", "tee_format", lambda: WORLD.evidence(blob={"size": 1})),
    ("hcl_trailing_bytes", "tee_format", lambda: WORLD.evidence(blob={"tail": b"\0\1"})),
    ("tpm_bad_magic", "tee_format", lambda: edited(quote_message=attest(magic=b"evil").hex())),
    ("malformed", "tee_chain", lambda: edited(vcek_der="")),
    ("malformed", "tee_chain", lambda: edited(ask_der="")),
    ("snp_ek_not_issued_by_ask", "tee_chain", lambda: edited(vcek_der=World("Genoa").ek.hex())),
    ("snp_policy_bit17_clear", "tee_format", lambda: WORLD.evidence(report={"policy": 0})),
    ("snp_bad_signature", "tee_signature", lambda: edited(hcl_report=hcl(World("Milan", label="b").report(), runtime()).hex())),
    ("snp_chip_id_mismatch", "tee_identity", lambda: WORLD.evidence(report={"patch": {0x1A0: bytes(64)}})),
    ("snp_tcb_cert_mismatch", "tee_tcb", lambda: WORLD.evidence(report={"reported": {"bl": 1, "tee": 0, "snp": 0, "ucode": 0}})),
    ("hcl_runtime_not_bound", "tee_parts", lambda: edited(hcl_report=hcl(report(), runtime(keys=[])).hex())),
    ("hcl_runtime_not_bound", "tee_parts", lambda: WORLD.evidence(report={"report_data": hashlib.sha256(runtime()).digest() + b"\1"})),
    ("malformed", "tee_parts", lambda: WORLD.evidence(data=b"not json")),
    ("malformed", "tee_parts", lambda: WORLD.evidence(data=b"[]")),
    ("malformed", "tee_parts", lambda: WORLD.evidence(data=b'{"keys":[],"keys":[]}')),
    ("malformed", "tee_parts", lambda: WORLD.evidence(data=b'{"keys":' + b"[" * 50 + b"]" * 50 + b"}")),
    ("hcl_no_ak", "tee_parts", lambda: WORLD.evidence(data=b"{}")),
    ("hcl_no_ak", "tee_parts", lambda: WORLD.evidence(data=runtime(keys=[7, {"kid": "other"}]))),
    ("hcl_no_ak", "tee_parts", lambda: WORLD.evidence(data=runtime(keys="HCLAkPub"))),
    ("hcl_no_ak", "tee_parts", lambda: WORLD.evidence(data=runtime(keys=[jwk(), jwk(rsa_key("evil", 2048))]))),
    ("hcl_no_ak", "tee_parts", lambda: ak_runtime(kty="EC")),
    ("malformed", "tee_parts", lambda: ak_runtime(n=None)),
    ("malformed", "tee_parts", lambda: ak_runtime(n="a=")),
    ("malformed", "tee_parts", lambda: ak_runtime(n="a+b/")),
    ("malformed", "tee_parts", lambda: ak_runtime(n="a")),
    ("malformed", "tee_parts", lambda: ak_runtime(n="é")),
    ("malformed", "tee_parts", lambda: ak_runtime(n="A" * 2049)),
    ("tpm_bad_key", "tee_parts", lambda: ak_runtime(n="AQAB")),
    ("tpm_bad_key", "tee_parts", lambda: ak_runtime(e="Aw")),
    ("tpm_bad_key", "tee_parts", lambda: ak_runtime(e="")),
    ("tpm_bad_key", "tee_parts", lambda: ak_runtime(**jwk(rsa_key("tiny", 1024)))),
    ("tpm_bad_signature", "tee_signature", lambda: WORLD.evidence(signature=rsassa(attest(), rsa_key("evil", 2048)))),
    ("nonce_mismatch", "tee_nonce", lambda: WORLD.evidence(quote=attest(nonce=b"old"))),
    ("tpm_pcr_digest_mismatch", "tee_parts", lambda: WORLD.evidence(pcrs=PCRS | {4: bytes(32)})),
    ("tpm_pcr_missing", "tee_parts", lambda: WORLD.evidence(pcrs={0: PCRS[0]})),
    ("hcl_td_report_mismatch", "tee_parts", lambda: WORLD.tdx_evidence(quote_data=bytes(64))),
    ("malformed", "tee_format", lambda: WORLD.tdx_evidence(td_quote=None)),
    ("malformed", "tee_format", lambda: WORLD.tdx_evidence(version=3)),
    ("malformed", "tee_format", lambda: WORLD.tdx_evidence(td_quote=td_quote(b"")[:600].hex())),
    ("malformed", "tee_format", lambda: WORLD.tdx_evidence(td_quote=(b"\4\0\2\0" + bytes(1000)).hex())),
    ("hcl_runtime_not_bound", "tee_parts", lambda: WORLD.tdx_evidence(quote_data=b"x", hcl_report=hcl(td_report(b"x"), runtime(), kind=4).hex())),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "check_id", "make"), CASES, ids=[f"{r}-{n}" for n, (r, _, _) in enumerate(CASES)])
def test_other_evidence_is_refused(reason: str, check_id: str, make: Callable[[], bytes]) -> None:
    """Each way in which the evidence can fail has its reason, at its check."""
    result = WORLD.verify(make())
    assert (result.claims.authentic, result.claims.reject_code) == (False, reason)
    assert outcomes(result)[check_id] == ("contraindicated", reason)
    assert [i for i, (o, _) in outcomes(result).items() if o == "contraindicated"] == [check_id]


def test_hardware_that_is_not_pinned_is_refused() -> None:
    """A hardware report under another root refuses the whole; no root at all does too."""
    assert WORLD.verify(GENUINE, roots=VENDOR_ROOTS).claims.reject_code == "snp_untrusted_root"
    assert WORLD.verify(GENUINE, arks=[]).claims.reject_code == "malformed"
    assert WORLD.verify(GENUINE, now=NOW + 9000 * DAY).claims.reject_code == "cert_expired_or_not_yet_valid"


def test_odd_vm_configuration_is_kept_raw() -> None:
    """A configuration of another shape sets no flag."""
    for vm in (None, [], {"secure-boot": "yes"}, {}):
        data = runtime(**{"vm-configuration": vm, "user-data": None})
        claims = WORLD.verify(WORLD.evidence(data=data)).claims
        assert claims.authentic
        assert "secure_boot" not in claims.flags
        assert claims.raw["vm_configuration"] == vm


# ---- TDX


@pytest.mark.parametrize("version", [4, 5])
def test_a_td_quote_without_collateral(version: int) -> None:
    """The parts fit together, and nothing is said of the hardware: no root, no TCB, no debug, no operator."""
    result = WORLD.verify(WORLD.tdx_evidence(version=version))
    assert result.claims.authentic, result.claims.reject_detail
    none = ("none", "no_collateral")
    hardware = ("tee_chain", "tee_collateral", "tee_revocation", "tee_identity", "tee_tcb")
    assert outcomes(result) == {i: none if i in hardware else ("affirming", None) for i in TDX_PLAN}
    claims = result.claims
    assert (claims.root, claims.debug, claims.tcb_status, claims.report_data, claims.children) == (
        None,
        None,
        None,
        None,
        (),
    )
    assert claims.host_trust is HostTrust.UNKNOWN_OPERATOR
    assert set(claims.measurements) == {f"pcr{i}" for i in range(24)}


def td_result(evidence: bytes, **changes: Any) -> TeeResult:
    """A result as the TDX verifier gives it for the quote in `evidence`."""
    quote = bytes.fromhex(json.loads(evidence)["td_quote"])
    checks = tuple(
        Check(i, Outcome.AFFIRMING) for i in ("tee_format", "tee_chain", "tee_collateral", "tee_signature", "tee_tcb")
    )
    claims = {
        "platform": Platform.INTEL_TDX,
        "evidence_sha256": hashlib.sha256(quote).hexdigest(),
        "authentic": True,
        "evaluated_at": NOW,
        "product": "90C06F000000",
        "tcb_status": TcbStatus.UP_TO_DATE,
        "debug": False,
        "measurements": {"mr_td": "00" * 48},
        "flags": {"sept_ve_disable": True},
        "root": Root("TEST Intel", "00" * 32, test=True),
    }
    return TeeResult(changes.pop("checks", checks), TeeClaims(**(claims | changes)))


def test_a_td_quote_that_was_appraised() -> None:
    """With Intel's result for this very quote the hardware's checks and claims are taken over."""
    evidence = WORLD.tdx_evidence()
    result = WORLD.verify(evidence, td=td_result(evidence))
    assert result.claims.authentic
    assert outcomes(result)["tee_collateral"] == ("affirming", None)
    assert outcomes(result)["tee_revocation"] == ("none", "not_in_hardware_result")
    assert (result.claims.tcb_status, result.claims.debug) == (TcbStatus.UP_TO_DATE, False)
    assert result.claims.measurements["mr_td"] == "00" * 48
    assert result.claims.flags["sept_ve_disable"] is True
    assert result.claims.root is not None


@pytest.mark.parametrize(
    "changes",
    [{"platform": Platform.AMD_SEV_SNP}, {"evidence_sha256": "00" * 32}, {"evaluated_at": NOW - 90 * DAY}],
    ids=["platform", "quote", "time"],
)
def test_a_result_for_another_quote_is_refused(changes: dict[str, Any]) -> None:
    """A result that is not for the quote in the evidence cannot stand in."""
    evidence = WORLD.tdx_evidence()
    result = WORLD.verify(evidence, td=td_result(evidence, **changes))
    assert (result.claims.authentic, result.claims.reject_code) == (False, "hcl_other_quote")


@pytest.mark.parametrize(("failed", "shown_at"), [("tee_tcb", "tee_tcb"), ("tee_age", "tee_identity")])
def test_a_refused_td_quote_refuses_the_machine(failed: str, shown_at: str) -> None:
    """What failed at the hardware fails here under the same reason."""
    evidence = WORLD.tdx_evidence()
    checks = (Check(failed, Outcome.CONTRAINDICATED, "tdx_reason"),)
    td = td_result(evidence, checks=checks, authentic=False, reject_code="tdx_reason", reject_detail="it failed")
    result = WORLD.verify(evidence, td=td)
    assert (result.claims.authentic, result.claims.reject_code) == (False, "tdx_reason")
    assert outcomes(result)[shown_at] == ("contraindicated", "tdx_reason")


def test_a_td_result_without_a_failed_check_is_refused_too() -> None:
    """A result that says that it is not authentic is believed, whatever its checks say."""
    evidence = WORLD.tdx_evidence()
    result = WORLD.verify(evidence, td=td_result(evidence, authentic=False))
    assert (result.claims.authentic, result.claims.reject_code) == (False, "hcl_hardware_refused")


# ---- inputs


def test_inputs() -> None:
    """The roles are read; a missing one raises FormatError with the reason input_missing."""
    blobs = {"evidence": GENUINE, "root:ark": WORLD.hardware.ark}
    assert from_inputs(blobs, {"nonce": NONCE.hex()}, WORLD.hardware.roots, NOW).claims.authentic
    for role in blobs:
        with pytest.raises(FormatError) as caught:
            from_inputs({k: v for k, v in blobs.items() if k != role}, {}, WORLD.hardware.roots, NOW)
        assert caught.value.reason == "input_missing"


def test_the_record_is_json() -> None:
    """The claims serialise, whatever the runtime data holds."""
    claims = WORLD.verify(GENUINE).claims
    assert msgspec.json.decode(msgspec.json.encode(claims))["raw"]["vm_configuration"]["secure-boot"] is True


def test_hcl_fields() -> None:
    """The blob's parts are cut where its header says."""
    parsed = parse_hcl(hcl(report(), runtime(), version=2))
    assert (parsed.version, parsed.kind, parsed.runtime) == (2, "snp", runtime())
    assert parsed.runtime_hash == hashlib.sha256(runtime()).digest()
