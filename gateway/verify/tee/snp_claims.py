"""What an SEV-SNP report and its certificates say, in the vocabulary of the claims record (docs/verification.md).

Two stages, because the record of a refused report holds what was read and nothing that was not shown: what the report
says of itself, and, once every check has held, whose chip it is and which TCB was certified.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from gateway.model.tee import Collateral, HostTrust, Root, TcbStatus

from .amd_certificates import CSP_ID, PRODUCT, AmdCertificate, parse_certificate
from .snp_report import SnpReport

#: What the common name of an endorsement key's certificate says that it is.
ROLES = {"SEV-VCEK": "VCEK", "SEV-VLEK": "VLEK"}


class Chain:
    """The three certificates of one report and the anchor that they end in."""

    __slots__ = ("all", "ark", "ask", "ek", "family", "product", "role", "root")

    def __init__(self, ek: bytes, ask: bytes, ark: bytes) -> None:
        self.ek, self.ask, self.ark = parse_certificate(ek), parse_certificate(ask), parse_certificate(ark)
        self.all = (self.ek, self.ask, self.ark)
        self.role = ROLES.get(self.ek.common_name)
        self.product = self.ek.text(PRODUCT) or ""
        self.family = self.product.partition("-")[0]
        self.root: Root | None = None

    @property
    def expires(self) -> float:
        return min(certificate.not_after for certificate in self.all)


def collateral_claims(
    certificates: Sequence[AmdCertificate],
    crl: str | None = None,
    issued: float = float("inf"),
    expires: float = float("inf"),
) -> Collateral:
    return Collateral(
        hashes=tuple(c.sha256 for c in certificates) + ((crl,) if crl else ()),
        issued_min=min(issued, *(c.not_before for c in certificates)),
        expires=min(expires, *(c.not_after for c in certificates)),
    )


def report_claims(report: SnpReport) -> dict[str, Any]:
    """What the report says, before it is known who says so."""
    platform = report.platform_bits()
    return {
        "evidence_format": f"snp-report-v{report.version}",
        "tcb_status": TcbStatus.NOT_APPLICABLE,
        "debug": report.debug,
        "flags": {
            "vmpl": report.vmpl,
            "migratable": report.migratable,
            "smt": platform["smt_en"],
            "alias_check": platform["alias_check_complete"],
            "provisional_firmware": report.provisional,
        },
        "measurements": {
            "launch": report.measurement.hex(),
            "host_data": report.host_data.hex(),
            "id_key_digest": report.id_key_digest.hex(),
            "author_key_digest": report.author_key_digest.hex(),
            "family_id": report.family_id.hex(),
            "image_id": report.image_id.hex(),
        },
        "report_data": report.report_data.hex(),
        "raw": _raw(report),
    }


def _raw(report: SnpReport) -> dict[str, Any]:
    raw = {
        "signing_key": report.signing_key,
        "version": report.version,
        "migratable": report.migratable,
        "vmpl": report.vmpl,
        "policy": f"{report.policy:#x}",
        "policy_bits": report.policy_bits(),
        "platform_bits": report.platform_bits(),
        "platform_info": f"{report.platform_info:#x}",
        "chip_id": report.chip_id.hex(),
        "guest_svn": report.guest_svn,
        "fw_current": list(report.current_firmware),
        "fw_committed": list(report.committed_firmware),
        "provisional_firmware": report.provisional,
        "report_id": report.report_id.hex(),
        "signed_sha256": hashlib.sha256(report.signed).hexdigest(),
    }
    if report.cpuid is not None:
        raw["cpuid"] = list(report.cpuid)
    if report.mitigations is not None:
        raw["mitigation_vectors"] = [f"{vector:#x}" for vector in report.mitigations]
    return raw


def certified_claims(report: SnpReport, chain: Chain, tcb: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """What holds once every check has: whose chip it is, and whose machine."""
    cloud = chain.ek.text(CSP_ID) if chain.role == "VLEK" else None
    chip = chain.role == "VCEK"
    return {
        # What a policy's least versions are held to: the guest began under one, the firmware may go back to another.
        "tcb": {**tcb, "svn": {part: min(parts[part] for parts in tcb.values()) for part in tcb["reported"]}},
        "machine_id": hashlib.sha256(report.chip_id).hexdigest() if chip else None,
        "machine_id_kind": "chip_id" if chip else "csp_id",
        "host_trust": HostTrust.HYPERSCALER if cloud else HostTrust.UNKNOWN_OPERATOR,
        "raw": _raw(report)
        | {
            "tcb": tcb,
            "csp_id": cloud,
            "chain": [c.sha256 for c in chain.all],
            "collateral_expires": chain.expires,
        },
    }
