"""SEV-SNP reports as inference networks serve them, verified as far as their certificates go."""

from __future__ import annotations

import base64
import gzip
import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest

from gateway.crypto.certificates import der_of, load_pem_chain
from gateway.model.tee import TeeResult
from gateway.verify.tee.amd_certificates import parse_certificate, parse_crl, signed_by
from gateway.verify.tee.roots import VENDOR_ROOTS
from gateway.verify.tee.snp import from_inputs
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


def ungzip(text: str) -> bytes:
    """One gzip member in base64; the captured ones may carry no bytes after it."""
    return zlib.decompress(base64.b64decode(text), wbits=31)


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
    """A report of version 4 from Google parses, and the CPUID in it is a product's."""
    (report,) = blocks(NETWORKS / "openpcc/gce-snp/gce_sevsnp_report.txt", "REPORT")
    assert parse_snp_report(report[:REPORT_BYTES]).version == 4


@pytest.mark.parametrize("number", range(3))
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


def _input(folder: Path) -> tuple[bytes, bytes, float]:
    members: dict[str, Any] = json.loads((folder / "input.json").read_text())
    report = gzip.decompress(base64.b64decode(members["attestation_doc_b64"]))
    return report, base64.b64decode(members["vcek_der_b64"]), float(members["expiration_check_date_unix"])
