"""SEV-SNP reports as inference networks serve them, verified as far as their certificates go."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.crypto.certificates import der_of, load_pem_chain
from gateway.model.tee import TeeResult
from gateway.verify.tee.amd_certificates import parse_certificate, parse_crl, signed_by
from gateway.verify.tee.roots import VENDOR_ROOTS, Anchor, TrustRoots
from gateway.verify.tee.snp import from_inputs, verify_snp
from gateway.verify.tee.snp_report import REPORT_BYTES, parse_snp_report

SHARED = Path(__file__).parents[2].parent / "shared/vectors"
NETWORKS, SNP = SHARED / "networks", SHARED / "tee/snp"
if not NETWORKS.is_dir() or not SNP.is_dir():
    pytest.skip("the shared network and SNP vectors are not beside this checkout", allow_module_level=True)

ROOTS = {f"root:{path.stem}": path.read_bytes() for path in (SNP / "roots").glob("*.der")}
GENOA = (SNP / "certs/SEV-Genoa.der").read_bytes()
SEV = sorted((NETWORKS / "tinfoil/conformance/attestation-sev").iterdir())


def verify(report: bytes, ek: bytes, ask: bytes, now: float, **more: bytes) -> TeeResult:
    return from_inputs({"report": report, "ek": ek, "ask": ask} | ROOTS | more, {}, VENDOR_ROOTS, now)


def pem(path: Path) -> bytes:
    return der_of(load_pem_chain(path.read_bytes())[0])


def blocks(path: Path, label: str) -> list[bytes]:
    found = re.findall(rf"-----BEGIN {label}-----(.*?)-----END {label}-----", path.read_text(), re.DOTALL)
    return [base64.b64decode("".join(block.split())) for block in found]


def test_dstack() -> None:
    """The report inside a dstack attestation is authentic under its VCEK."""
    folder = NETWORKS / "dstack/sev-snp"
    report = (folder / "attestation.bin").read_bytes()[4 : 4 + REPORT_BYTES]
    ek = pem(folder / "vcek.pem")
    result = verify(report, ek, pem(folder / "ask.pem"), parse_certificate(ek).not_before + 86_400)
    assert result.claims.authentic, result.claims.reject_detail
    assert result.claims.measurements["host_data"].startswith("783f0057820acb99")


def test_secret() -> None:
    """SecretVM's report has no certificate beside it: it parses, and no foreign VCEK makes it authentic."""
    report = base64.b64decode((NETWORKS / "secret/snp-plain/cpu.txt").read_text())
    parsed = parse_snp_report(report)
    assert (parsed.version, parsed.vmpl, parsed.family_id[:14]) == (3, 1, b"prod-small-sev")
    for path in sorted((SNP / "certs").glob("ek_*.der")):
        ek = parse_certificate(path.read_bytes())
        assert not verify(report, ek.der, GENOA, ek.not_before + 1).claims.authentic


def test_openpcc() -> None:
    """A report of version 4 from Google's Milan parses, and the Genoa VCEK beside it is told to be another product's."""
    folder = NETWORKS / "openpcc/gce-snp"
    (report,) = blocks(folder / "gce_sevsnp_report.txt", "REPORT")
    vcek = parse_certificate(blocks(folder / "sev_certificates.txt", "CERTIFICATE")[-1])
    result = verify(report[:REPORT_BYTES], vcek.der, GENOA, vcek.not_before + 86_400)
    assert result.claims.evidence_format == "snp-report-v4"
    assert (result.claims.authentic, result.claims.reject_code) == (False, "snp_cpuid_mismatch")


@pytest.mark.parametrize("number", range(2))
def test_amds_own_revocation_lists(number: int) -> None:
    """Real lists of AMD are read, are signed by the pinned ARK, and name no ASK that is in use."""
    crl = parse_crl(blocks(NETWORKS / "openpcc/gce-snp/sev_certificates.txt", "X509 CRL")[number])
    issuers = [ark for ark in map(parse_certificate, ROOTS.values()) if signed_by(crl, ark)]
    assert len(issuers) == 1
    asks = [parse_certificate(p.read_bytes()) for p in (SNP / "certs").glob("SEV-*.der")]
    assert not any(ask.serial in crl.revoked for ask in asks if signed_by(ask, issuers[0]))


def test_a_real_list_in_a_verification() -> None:
    """AMD's list affirms while in date and refuses as stale afterwards."""
    crls = blocks(NETWORKS / "openpcc/gce-snp/sev_certificates.txt", "X509 CRL")
    genoa = next(p for p in ROOTS if "genoa" in p)
    (crl,) = [c for c in crls if signed_by(parse_crl(c), parse_certificate(ROOTS[genoa]))][:1]
    report = (SNP / "reports/azure_genoa_v3.bin").read_bytes()
    ek = (SNP / "certs/ek_c065f7299e27.der").read_bytes()
    result = verify(report, ek, GENOA, 1748053308, crl=crl)
    assert (result.claims.authentic, result.claims.revocation.crl) == (True, "ok")
    result = verify(report, ek, GENOA, (parse_crl(crl).next_update or 0) + 1, crl=crl)
    assert (result.claims.authentic, result.claims.reject_code) == (False, "snp_crl_stale")


#: Tinfoil's conformance cases: authentic or our reason. Where they pin values or forbid debug and migration, the
#: report is authentic all the same, and refusing it is policy's.
TINFOIL = {
    "200-real-sev-snp-happy": None,
    "211-truncated-report": "snp_bad_length",
    "220-signature-byte-flipped": "snp_bad_signature",
    "230-vcek-first-byte-flipped": "malformed",
    "231-vcek-signature-tampered": "snp_ek_not_issued_by_ask",
    "400-measurement-pin-mismatch": None,
    "410-host-data-pin-mismatch": None,
    "440-author-key-digest-pin-mismatch": None,
    "451-tcb-ucode-spl-below-min": None,
    "460-measurement-pin-match": None,
    "600-synth-debug-bit-set": None,
    "601-synth-reserved-mbo-cleared": "snp_policy_bit17_clear",
    "602-synth-reserved-mbz-set": "snp_reserved_nonzero",
    "603-synth-migrate-ma-set": None,
    "701-vcek-bl-spl-mismatch": "snp_tcb_cert_mismatch",
    "702-vcek-ucode-spl-mismatch": "snp_tcb_cert_mismatch",
    "703-vcek-missing-hwid-extension": "snp_chip_id_mismatch",
}


@pytest.mark.parametrize("folder", SEV, ids=lambda folder: folder.name)
def test_tinfoil(folder: Path) -> None:
    """Tinfoil's conformance inputs are authentic or refused for the reason that was built into them."""
    members: dict[str, Any] = json.loads((folder / "input.json").read_text())
    report = gzip.decompress(base64.b64decode(members["attestation_doc_b64"]))
    ek, now = base64.b64decode(members["vcek_der_b64"]), float(members["expiration_check_date_unix"])
    if "ask_pem" in members:
        ask, ark = (der_of(load_pem_chain(members[name].encode())[0]) for name in ("ask_pem", "amd_root_ca_pem"))
        anchor = Anchor("amd", "Tinfoil's synthetic root", hashlib.sha256(ark).hexdigest(), test=True)
        result = verify_snp(report, ek, ask, ark, roots=TrustRoots((anchor,)), now=now)
    else:
        result = verify(report, ek, GENOA, now)
    assert result.claims.reject_code == TINFOIL[folder.name], result.claims.reject_detail
    assert result.claims.authentic is (TINFOIL[folder.name] is None)
    if "synth" in folder.name and result.claims.authentic:
        assert (result.claims.debug, result.claims.flags["migratable"]) in ((True, False), (False, True))


def test_tinfoil_router() -> None:
    """The router's bundle of January 2026 is authentic, its measurement that of the bundle's own statement."""
    bundle = json.loads((NETWORKS / "tinfoil/atc-bundle-router-2026-01/attestation-bundle.json").read_text())
    report = gzip.decompress(base64.b64decode(bundle["enclaveAttestationReport"]["body"]))
    ek = base64.b64decode(bundle["vcek"])
    result = verify(report, ek, GENOA, parse_certificate(ek).not_before + 30 * 86_400)
    assert result.claims.authentic, result.claims.reject_detail
