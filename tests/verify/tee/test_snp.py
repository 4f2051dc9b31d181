"""SEV-SNP reports under a test root: what is authentic, what each refusal is called, and what claims follow."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tee_worlds.amd import CPUID, DAY, LEVELS, NOW, World, ec_key, integer, rsa_key, spki, tlv

from gateway.errors import FormatError
from gateway.model.tee import HostTrust, Platform, TcbStatus, TeeResult
from gateway.model.verdict import Outcome
from gateway.policy import parse_policy
from gateway.verify.tee.roots import VENDOR_ROOTS, TrustRoots
from gateway.verify.tee.rules import TeeRules, judge, violations
from gateway.verify.tee.snp import PLAN, from_inputs

MILAN, GENOA, TURIN = World("Milan"), World("Genoa"), World("Turin")
CLOUD = World("Milan", vlek=True)
LOW, HIGH = LEVELS | {"snp": 23}, LEVELS | {"snp": 25}


def outcomes(result: TeeResult) -> dict[str, tuple[str, str | None]]:
    assert [check.id for check in result.checks] == list(PLAN)
    return {check.id: (check.outcome.value, check.reason) for check in result.checks}


@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("world", [MILAN, GENOA, TURIN, CLOUD], ids=["milan", "genoa", "turin", "vlek"])
def test_genuine_reports_are_authentic(world: World, version: int) -> None:
    """Every product, role and version that AMD makes is authentic, and the missing list is told."""
    result = world.verify(world.report(version=version))
    assert result.claims.authentic, result.claims.reject_detail
    held = dict.fromkeys(PLAN, ("affirming", None))
    assert outcomes(result) == held | {"tee_revocation": ("none", "no_crl")}
    assert result.claims.evidence_format == f"snp-report-v{version}"


def test_claims_of_a_chip() -> None:
    """A VCEK report names its chip, its certified levels and its chain, and no operator."""
    report = GENOA.report(
        version=5,
        report_data=b"\x01" * 64,
        measurement=b"\x02" * 48,
        host_data=b"\x03" * 32,
        id_key_digest=b"\x04" * 48,
        author_key_digest=b"\x05" * 48,
        guest_svn=7,
        vmpl=1,
        reported=LEVELS,
        current=HIGH,
        committed=LEVELS,
        mitigations=(1, 0x2A),
    )
    claims = GENOA.verify(report).claims
    assert (claims.platform, claims.product, claims.tcb_status) == (
        Platform.AMD_SEV_SNP,
        "Genoa",
        TcbStatus.NOT_APPLICABLE,
    )
    assert claims.evidence_sha256 == hashlib.sha256(report).hexdigest()
    levels = {k: v for k, v in LEVELS.items() if k != "fmc"}
    assert claims.tcb["reported"] == claims.tcb["committed"] == claims.tcb["launch"] == levels
    assert claims.tcb["current"] == levels | {"snp": 25}
    assert claims.measurements["launch"] == "02" * 48
    assert claims.measurements["host_data"] == "03" * 32
    assert claims.measurements["id_key_digest"] == "04" * 48
    assert claims.measurements["author_key_digest"] == "05" * 48
    assert claims.report_data == "01" * 64
    assert dict(claims.flags) == {
        "vmpl": 1,
        "migratable": False,
        "smt": True,
        "alias_check": True,
        "provisional_firmware": True,
    }
    assert (claims.machine_id, claims.machine_id_kind) == (hashlib.sha256(GENOA.chip).hexdigest(), "chip_id")
    assert claims.host_trust is HostTrust.UNKNOWN_OPERATOR
    assert claims.signer_chain == tuple(hashlib.sha256(der).hexdigest() for der in (GENOA.ek, GENOA.ask, GENOA.ark))
    assert claims.root is not None
    assert (claims.root.name, claims.root.test) == ("TEST ARK-Genoa", True)
    assert claims.collateral.expires == NOW + 2000 * DAY
    assert claims.collateral.issued_min == NOW - 2000 * DAY
    assert claims.raw["mitigation_vectors"] == ["0x1", "0x2a"]
    assert claims.raw["cpuid"] == list(CPUID["Genoa"])
    assert claims.raw["signed_sha256"] == hashlib.sha256(report[:0x2A0]).hexdigest()
    assert claims.raw["guest_svn"] == 7


def test_claims_of_a_cloud() -> None:
    """A VLEK report names a cloud provider and no machine."""
    claims = CLOUD.verify(CLOUD.report()).claims
    assert (claims.machine_id, claims.machine_id_kind) == (None, "csp_id")
    assert (claims.host_trust, claims.raw["csp_id"]) == (HostTrust.HYPERSCALER, "CN=cc-test-1.example")
    assert claims.raw["chip_id"] == "00" * 64


@pytest.mark.parametrize(("debug", "migrate"), [(False, False), (True, False), (False, True)])
def test_debug_and_migration_are_told(debug: bool, migrate: bool) -> None:
    """A debug or migratable guest is authentic and says so: refusing it is policy's."""
    claims = GENOA.verify(GENOA.report(debug=debug, migrate_ma=migrate)).claims
    assert (claims.authentic, claims.debug, claims.flags["migratable"]) == (True, debug, migrate)


@pytest.mark.parametrize(
    ("changes", "provisional"),
    [({}, False), ({"committed_firmware": (1, 55, 39)}, True), ({"current": HIGH}, True)],
)
def test_provisional_firmware(changes: dict[str, object], provisional: bool) -> None:
    """Firmware that is not committed is told, by its version or by its TCB."""
    assert GENOA.verify(GENOA.report(**changes)).claims.flags["provisional_firmware"] is provisional  # type: ignore[arg-type]


def test_what_was_read_of_a_refused_report_is_kept() -> None:
    """The record of a refused report has what it states, and nothing that was not shown."""
    claims = GENOA.verify(GENOA.report(report_data=b"x"), now=NOW + 5000 * DAY).claims
    assert (claims.authentic, claims.reject_code) == (False, "cert_expired_or_not_yet_valid")
    assert claims.report_data == b"x".hex().ljust(128, "0")
    assert (claims.root, claims.machine_id, dict(claims.tcb)) == (None, None, {})


def patch(report: bytes, at: int, value: bytes) -> bytes:
    return report[:at] + value + report[at + len(value) :]


REPORTS: list[tuple[str, str, Callable[[], bytes]]] = [
    ("snp_bad_length", "tee_format", lambda: b""),
    ("snp_bad_length", "tee_format", lambda: GENOA.report()[:-1]),
    ("snp_bad_length", "tee_format", lambda: GENOA.report() + b"\0"),
    ("snp_bad_version", "tee_format", lambda: GENOA.report(version=1)),
    ("snp_bad_version", "tee_format", lambda: GENOA.report(version=6)),
    ("snp_reserved_nonzero", "tee_format", lambda: GENOA.report(patch={0x4C: b"\1"})),
    ("snp_reserved_nonzero", "tee_format", lambda: GENOA.report(patch={0x18B: b"\1"})),
    ("snp_reserved_nonzero", "tee_format", lambda: GENOA.report(patch={0x19F: b"\1"})),
    ("snp_reserved_nonzero", "tee_format", lambda: GENOA.report(patch={0x1EB: b"\1"})),
    ("snp_reserved_nonzero", "tee_format", lambda: GENOA.report(patch={0x1EF: b"\1"})),
    ("snp_reserved_nonzero", "tee_format", lambda: GENOA.report(patch={0x1F8: b"\1"})),
    ("snp_reserved_nonzero", "tee_format", lambda: GENOA.report(patch={0x200: b"\1"})),
    ("snp_reserved_nonzero", "tee_format", lambda: GENOA.report(version=5, patch={0x208: b"\1"})),
    ("snp_reserved_nonzero", "tee_format", lambda: GENOA.report(version=5, patch={0x29F: b"\1"})),
    ("snp_reserved_nonzero", "tee_format", lambda: GENOA.report(version=2, patch={0x188: b"\1"})),
    ("snp_reserved_nonzero", "tee_format", lambda: GENOA.report(policy=0x30000 | 1 << 26)),
    ("snp_reserved_nonzero", "tee_format", lambda: GENOA.report(flags=1 << 5)),
    ("snp_policy_bit17_clear", "tee_format", lambda: GENOA.report(policy=0x10000)),
    ("snp_bad_sig_algo", "tee_format", lambda: GENOA.report(algorithm=2)),
    ("snp_unsigned", "tee_format", lambda: GENOA.report(flags=7 << 2)),
    ("snp_unsigned", "tee_format", lambda: GENOA.report(flags=2 << 2)),
    ("snp_signing_key_mismatch", "tee_identity", lambda: GENOA.report(flags=1 << 2)),
    ("snp_cpuid_mismatch", "tee_identity", lambda: GENOA.report(cpuid=CPUID["Milan"])),
    ("snp_cpuid_mismatch", "tee_identity", lambda: GENOA.report(cpuid=CPUID["Turin"])),
    ("snp_chip_key_masked", "tee_identity", lambda: GENOA.report(mask_chip=True)),
    ("snp_chip_id_mismatch", "tee_identity", lambda: GENOA.report(patch={0x1A0: bytes(64)})),
    ("snp_chip_id_mismatch", "tee_identity", lambda: GENOA.report(patch={0x1DF: b"\0\1"[1:]})),
    ("snp_tcb_cert_mismatch", "tee_tcb", lambda: GENOA.report(reported=LOW, current=LEVELS)),
    ("snp_tcb_cert_mismatch", "tee_tcb", lambda: GENOA.report(reported=HIGH)),
    ("snp_reported_gt_current", "tee_tcb", lambda: GENOA.report(current=LOW, committed=LOW)),
    ("snp_committed_gt_current", "tee_tcb", lambda: GENOA.report(committed=HIGH)),
    ("snp_reserved_nonzero", "tee_tcb", lambda: GENOA.report(patch={0x3A: b"\1"})),
    ("snp_reserved_nonzero", "tee_tcb", lambda: GENOA.report(patch={0x1F5: b"\1"})),
    ("snp_signature_reserved_nonzero", "tee_signature", lambda: patch(GENOA.report(), 0x330, b"\1")),
    ("snp_signature_reserved_nonzero", "tee_signature", lambda: patch(GENOA.report(), 0x49F, b"\1")),
    ("snp_bad_signature", "tee_signature", lambda: patch(GENOA.report(), 0x2A0, bytes(144))),
    ("snp_bad_signature", "tee_signature", lambda: patch(GENOA.report(), 0x2E7, b"\1")),
    ("snp_bad_signature", "tee_signature", lambda: patch(GENOA.report(), 0x2A0, b"\xff" * 144)),
    ("snp_bad_signature", "tee_signature", lambda: World("Genoa", label="other").report()),
]


@pytest.mark.parametrize(
    ("reason", "check_id", "make"), REPORTS, ids=[f"{r}-{n}" for n, (r, _, _) in enumerate(REPORTS)]
)
def test_other_reports_are_refused(reason: str, check_id: str, make: Callable[[], bytes]) -> None:
    """Each way in which a report can fail has its reason, at its check, and what follows is not reached."""
    result = GENOA.verify(make())
    found = outcomes(result)
    assert (result.claims.authentic, result.claims.reject_code) == (False, reason)
    assert found[check_id] == ("contraindicated", reason)
    assert [i for i, (outcome, _) in found.items() if outcome == "contraindicated"] == [check_id]
    if check_id == "tee_signature":
        assert found["tee_identity"] == found["tee_tcb"] == ("none", "not_reached")


SHARED = rsa_key("ask")
CHAINS: list[tuple[str, str, Callable[[], TeeResult]]] = [
    ("malformed", "tee_chain", lambda: GENOA.verify(GENOA.report(), ek=b"")),
    ("malformed", "tee_chain", lambda: GENOA.verify(GENOA.report(), ask=GENOA.ask + b"\0")),
    ("malformed", "tee_chain", lambda: GENOA.verify(GENOA.report(), ark=b"\x30\x00")),
    ("snp_untrusted_root", "tee_chain", lambda: GENOA.verify(GENOA.report(), roots=VENDOR_ROOTS)),
    ("snp_untrusted_root", "tee_chain", lambda: GENOA.verify(GENOA.report(), roots=TrustRoots())),
    ("snp_untrusted_root", "tee_chain", lambda: GENOA.verify(GENOA.report(), ark=GENOA.ask)),
    ("snp_ask_not_issued_by_ark", "tee_chain", lambda: GENOA.verify(GENOA.report(), ask=TURIN.ask)),
    ("snp_ek_not_issued_by_ask", "tee_chain", lambda: GENOA.verify(GENOA.report(), ek=TURIN.ek)),
    ("snp_ek_not_issued_by_ask", "tee_chain", lambda: GENOA.verify(GENOA.report(), ek=CLOUD.ek)),
    ("snp_ek_not_issued_by_ask", "tee_chain", lambda: MILAN.verify(MILAN.report(), ask=CLOUD.ask)),
    ("snp_ek_not_issued_by_ask", "tee_chain", lambda: GENOA.verify(GENOA.report(), ek=GENOA.endorsement(key=rsa_key("asvk")))),
    ("issuer_not_ca", "tee_chain", lambda: GENOA.verify(GENOA.report(), ask=GENOA.issuer(GENOA.ask_name, SHARED, extensions=[]))),
    ("cert_expired_or_not_yet_valid", "tee_chain", lambda: GENOA.verify(GENOA.report(), now=NOW - 101 * DAY)),
    ("cert_expired_or_not_yet_valid", "tee_chain", lambda: GENOA.verify(GENOA.report(), now=NOW + 2000 * DAY + 1)),
    ("cert_expired_or_not_yet_valid", "tee_chain", lambda: GENOA.verify(GENOA.report(), ask=GENOA.issuer(GENOA.ask_name, SHARED, not_after=NOW - 1))),
    ("snp_signing_key_mismatch", "tee_identity", lambda: GENOA.verify(GENOA.report(), ek=GENOA.endorsement(common_name="VCEK"))),
    ("snp_signing_key_mismatch", "tee_identity", lambda: GENOA.verify(GENOA.report(), ek=GENOA.endorsement(common_name="SEV-VLEK"))),
    ("snp_signing_key_mismatch", "tee_identity", lambda: GENOA.verify(GENOA.report(), ek=GENOA.endorsement(common_name="\x1b]0;x\x07"))),
    ("snp_product_root_mismatch", "tee_identity", lambda: GENOA.verify(GENOA.report(), ek=GENOA.endorsement(amd={"2": tlv(0x16, b"Milan-B0")}))),
    ("snp_product_root_mismatch", "tee_identity", lambda: GENOA.verify(GENOA.report(), ek=GENOA.endorsement(amd={"2": None}))),
    ("snp_product_root_mismatch", "tee_identity", lambda: GENOA.verify(GENOA.report(), ek=GENOA.endorsement(amd={"2": tlv(0x16, b"Venice")}))),
    ("malformed", "tee_chain", lambda: GENOA.verify(GENOA.report(), ek=GENOA.endorsement(amd={"2": b"Genoa"}))),
    ("snp_ek_bad_key", "tee_signature", lambda: GENOA.verify(GENOA.report(), ek=GENOA.endorsement(public=spki(ec_key("x", ec.SECP256R1))))),
    ("malformed", "tee_identity", lambda: GENOA.verify(GENOA.report(), ek=GENOA.endorsement(amd={"4": b"short"}))),
    ("snp_chip_id_mismatch", "tee_identity", lambda: GENOA.verify(GENOA.report(), ek=GENOA.endorsement(amd={"4": None}))),
    ("snp_bad_extension", "tee_identity", lambda: CLOUD.verify(CLOUD.report(), ek=CLOUD.endorsement(amd={"5": None}))),
    ("snp_bad_extension", "tee_identity", lambda: CLOUD.verify(CLOUD.report(), ek=CLOUD.endorsement(amd={"5": tlv(0x16)}))),
    ("snp_bad_extension", "tee_tcb", lambda: GENOA.verify(GENOA.report(), ek=GENOA.endorsement(amd={"3.3": None}))),
    ("snp_bad_extension", "tee_tcb", lambda: GENOA.verify(GENOA.report(), ek=GENOA.endorsement(amd={"3.3": b"\x18"}))),
    ("snp_bad_extension", "tee_tcb", lambda: TURIN.verify(TURIN.report(), ek=TURIN.endorsement(amd={"3.9": None}))),
    ("snp_tcb_cert_mismatch", "tee_tcb", lambda: TURIN.verify(TURIN.report(), ek=TURIN.endorsement(amd={"3.9": integer(2)}))),
    ("snp_crl_bad_signature", "tee_revocation", lambda: from_inputs(GENOA.inputs(GENOA.report(), crl=GENOA.crl(key=SHARED)), {}, GENOA.roots, NOW)),
    ("snp_crl_bad_signature", "tee_revocation", lambda: from_inputs(GENOA.inputs(GENOA.report(), crl=TURIN.crl()), {}, GENOA.roots, NOW)),
    ("malformed", "tee_revocation", lambda: GENOA.verify(GENOA.report(), crl=b"")),
]  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "check_id", "verify"), CHAINS, ids=[f"{r}-{n}" for n, (r, _, _) in enumerate(CHAINS)]
)
def test_other_certificates_are_refused(reason: str, check_id: str, verify: Callable[[], TeeResult]) -> None:
    """Each way in which a chain or certificate can fail has its reason, at its check."""
    result = verify()
    assert (result.claims.authentic, result.claims.reject_code) == (False, reason)
    assert outcomes(result)[check_id] == ("contraindicated", reason)
    for check in result.checks:
        for text in (check.found, check.expected):
            assert text is None or (text.isprintable() and len(text) <= 120)


def test_a_pinned_root_that_is_not_self_signed_is_refused() -> None:
    """Pinning is not enough: a root signs itself."""
    world = World("Genoa")
    ark = GENOA.issuer(world.ark_name, rsa_key("asvk"))  # signed with the ARK's key, holding another
    anchor = world.roots.anchors[0].__class__("amd", "odd", hashlib.sha256(ark).hexdigest(), test=True)
    result = world.verify(world.report(), ark=ark, roots=TrustRoots((anchor,)))
    assert result.claims.reject_code == "snp_ark_not_self_signed"


# ---- revocation


def test_a_fresh_list_that_names_others_affirms() -> None:
    """A list in date that does not name the ASK is told as ok, and limits how long the claims hold."""
    result = GENOA.verify(GENOA.report(), crl=GENOA.crl([1, 2]))
    assert outcomes(result)["tee_revocation"] == ("affirming", None)
    assert (result.claims.authentic, result.claims.revocation.crl) == (True, "ok")
    assert result.claims.collateral.expires == NOW + 29 * DAY
    assert len(result.claims.collateral.hashes) == 4


@pytest.mark.parametrize(("serial", "reason"), [(65537, "snp_ask_revoked"), (65536, "snp_ark_revoked")])
def test_a_revoked_issuer_is_refused(serial: int, reason: str) -> None:
    """A list that names the ASK or the ARK refuses every report below it."""
    result = GENOA.verify(GENOA.report(), crl=GENOA.crl([5, serial]))
    assert (result.claims.authentic, result.claims.reject_code, result.claims.revocation.crl) == (False, reason, "ok")


@pytest.mark.parametrize(
    "times",
    [{"next_update": NOW - 1}, {"this_update": NOW + 1}, {"next_update": None}],
    ids=["past", "future", "no_end"],
)
def test_a_stale_list_is_refused(times: dict[str, float | None]) -> None:
    """A list out of date, or without an end, refuses and is told as stale."""
    result = GENOA.verify(GENOA.report(), crl=GENOA.crl(**times))  # type: ignore[arg-type]
    assert (result.claims.authentic, result.claims.reject_code) == (False, "snp_crl_stale")
    assert result.claims.revocation.crl == "stale"


def test_no_list_is_absent_and_no_pass() -> None:
    """Without a list the check is none and the claim absent."""
    result = GENOA.verify(GENOA.report())
    assert result.claims.revocation.crl == "absent"
    assert next(c for c in result.checks if c.id == "tee_revocation").outcome is Outcome.NONE


def test_pitfall_revocation_by_serial_zero() -> None:
    """An entry for serial number 0 revokes no endorsement key: all of them have it, and the ARK issued none."""
    assert GENOA.verify(GENOA.report(), crl=GENOA.crl([0])).claims.authentic


# ---- what others forgot


def test_pitfall_chip_compared_with_the_wrong_name() -> None:
    """The chip is compared although AMD's common name is SEV-VCEK and not VCEK."""
    other = World("Genoa", chip=b"\x07" * 64)
    result = GENOA.verify(GENOA.report(), ek=GENOA.endorsement(amd={"4": other.chip}))
    assert result.claims.reject_code == "snp_chip_id_mismatch"


def test_pitfall_turin_layout() -> None:
    """Turin's TCB has the FMC first and its chip eight bytes; read in Genoa's order it would not match."""
    world = World("Turin", tcb={"fmc": 5, "bl": 6, "tee": 7, "snp": 8, "ucode": 9})
    claims = world.verify(world.report()).claims
    assert claims.authentic
    assert claims.tcb["reported"] == {"fmc": 5, "bl": 6, "tee": 7, "snp": 8, "ucode": 9}
    assert not world.verify(world.report(patch={0x1A8: b"\1"})).claims.authentic


def test_a_rule_can_ask_for_least_versions() -> None:
    """Least versions are held to the lower of what is reported and what the guest was launched on."""
    levels = {part: level for part, level in GENOA.levels.items() if part != "fmc"}
    below = levels | {"ucode": levels["ucode"] - 1}
    least = TeeRules(minimum_svn={"ucode": levels["ucode"], "snp": levels["snp"]}, test_roots="allow", binding="any")
    for launch, reasons in ((levels, ()), (below, ("svn_low",))):
        claims = GENOA.verify(GENOA.report(launch=launch)).claims
        assert claims.tcb["svn"] == launch
        assert violations(judge(claims, least)) == reasons


def test_pitfall_vlek_taken_for_vcek() -> None:
    """A VLEK's report is not believed from a VCEK, nor a VCEK's from a VLEK, though the keys are equal."""
    vcek = MILAN.endorsement(public=spki(CLOUD.ek_key))
    assert CLOUD.verify(CLOUD.report(), ek=vcek, ask=MILAN.ask).claims.reject_code == "snp_signing_key_mismatch"
    asvk_as_ask = MILAN.endorsement(issuer=CLOUD.ask_name, key=rsa_key("asvk"))
    result = MILAN.verify(MILAN.report(), ek=asvk_as_ask, ask=CLOUD.ask)
    assert result.claims.reject_code == "snp_ask_role_mismatch"
    ask_as_asvk = CLOUD.endorsement(issuer=MILAN.ask_name, key=rsa_key("ask"))
    assert CLOUD.verify(CLOUD.report(), ek=ask_as_asvk, ask=MILAN.ask).claims.reject_code == "snp_ask_role_mismatch"


def test_pitfall_clock_is_given() -> None:
    """The same bytes hold at one time and not at another."""
    report = GENOA.report()
    assert GENOA.verify(report, now=NOW).claims.authentic
    assert not GENOA.verify(report, now=NOW + 10_000 * DAY).claims.authentic


def test_pitfall_trailing_and_unsigned_bytes() -> None:
    """Nothing outside the signature's range can be changed: neither appended nor written behind the signature."""
    report = GENOA.report()
    for at in range(0x2A0, 0x4A0):
        assert not GENOA.verify(patch(report, at, bytes([report[at] ^ 1]))).claims.authentic, hex(at)


def test_pitfall_report_version_4() -> None:
    """Version 4 has the layout of version 3; its CPUID is compared too."""
    assert GENOA.verify(GENOA.report(version=4)).claims.authentic
    wrong = GENOA.report(version=4, cpuid=CPUID["Milan"])
    assert GENOA.verify(wrong).claims.reject_code == "snp_cpuid_mismatch"


def test_pitfall_hash_of_a_report_as_replay_key() -> None:
    """Signature s and n - s both hold, so the report's hash changes; the hash of what is signed does not."""
    order = ec.SECP384R1().group_order
    report = GENOA.report()
    s = int.from_bytes(report[0x2E8 : 0x2E8 + 72], "little")
    twin = patch(report, 0x2E8, (order - s).to_bytes(72, "little"))
    one, two = GENOA.verify(report).claims, GENOA.verify(twin).claims
    assert one.authentic
    assert two.authentic
    assert one.evidence_sha256 != two.evidence_sha256
    assert one.raw["signed_sha256"] == two.raw["signed_sha256"]


# ---- inputs


@pytest.mark.parametrize("role", ["report", "ek", "ask", "root:ark"])
def test_missing_inputs_are_told(role: str) -> None:
    """A role that is not there raises FormatError with the reason input_missing."""
    blobs = {k: v for k, v in GENOA.inputs(GENOA.report()).items() if k != role}
    with pytest.raises(FormatError) as caught:
        from_inputs(blobs, {}, GENOA.roots, NOW)
    assert caught.value.reason == "input_missing"


def test_the_root_is_chosen_by_the_issuers_name() -> None:
    """Of several roots the one that the ASK names is used; broken ones are passed over."""
    blobs = GENOA.inputs(GENOA.report()) | {"root:a": b"junk", "root:aa": TURIN.ark}
    assert from_inputs(blobs, {}, GENOA.roots, NOW).claims.authentic
    del blobs["root:ark"]
    assert from_inputs(blobs, {}, GENOA.roots, NOW).claims.reject_code == "malformed"


@pytest.mark.parametrize(
    ("least", "bad"),
    [("snp:24", ()), ("snp:25", ("svn_low",)), ("ucode:220", ("svn_low",)), ("fmc:0", ("svn_unknown",))],
)
def test_a_policy_asks_for_least_versions(least: str, bad: tuple[str, ...]) -> None:
    """A policy's least versions are those of the components that AMD certifies, by the names in the claims."""
    text = (
        f'name = "p"\nversion = 1\n[require]\nall = ["evidence"]\n[tee]\nminimum_svn = ["{least}"]\nbinding = "any"\n'
    )
    rules = msgspec.structs.replace(parse_policy("p.toml", text.encode()).tee_rules, test_roots="allow")
    assert violations(judge(GENOA.verify(GENOA.report(current=LEVELS | {"snp": 25})).claims, rules)) == bad


@pytest.mark.parametrize("part", ["committed", "launch"])
def test_pitfall_a_level_that_is_new_only_now(part: str) -> None:
    """What the guest began under, and what the firmware may go back to, count as much as what is reported."""
    claims = GENOA.verify(GENOA.report(**{part: LEVELS | {"snp": 7}})).claims
    assert claims.authentic
    assert claims.tcb["svn"]["snp"] == 7
    assert claims.raw["tcb"] == {name: levels for name, levels in claims.tcb.items() if name != "svn"}
