"""AMD SEV-SNP: from a report and its certificates to claims (docs/verification.md).

What is shown, in AMD's order:

1. `tee_format`      length, version, reserved bytes zero, policy bit 17, signature algorithm, a key signed at all
2. `tee_chain`       EK <- ASK or ASVK <- ARK, RSASSA-PSS SHA-384; the ARK is pinned; all in date at `now`
3. `tee_identity`    the EK's role is the one that the report names, its product is the ARK's, CPUID agrees
4. `tee_revocation`  the ARK-signed list is in date and does not name the ASK; `none` when no list was given
5. `tee_signature`   ECDSA P-384 with SHA-384 over bytes 0 to 0x2A0, and nothing behind the signature
6. `tee_identity`    the certified chip is the report's (VCEK; a VLEK names a cloud and no chip)
7. `tee_tcb`         the certified TCB equals REPORTED_TCB; neither it nor the committed one is above the current one

Steps 3 and 6 are one line of the list; until the chip was compared it says that it was not reached. There is no step
for the vendor's TCB list, because AMD publishes none: `tcb_status` is NotApplicable, and how new a TCB has to be is
policy's word, as are DEBUG, migration, VMPL and whom REPORT_DATA speaks for. A report holds no time.

The signed bytes cannot be changed; the signature can be (s and n - s both hold), so the hash of a whole report is no
replay key. `raw.signed_sha256` is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from gateway.errors import FormatError
from gateway.model.tee import Platform, Revocation, Root, TeeResult
from gateway.text import plain

from .amd_certificates import CSP_ID, AmdCertificate, p384_key, parse_certificate, parse_crl, signed_by
from .findings import Findings, NotAuthentic, examine
from .roots import TrustRoots
from .snp_claims import ROLES, Chain, certified_claims, collateral_claims, report_claims
from .snp_report import ECDSA_P384_SHA384, SnpReport, parse_snp_report, tcb_parts

PLAN = ("tee_format", "tee_chain", "tee_revocation", "tee_signature", "tee_identity", "tee_tcb")

#: Families and models of each product (AMD document 57230, table 1; Bergamo and Siena are Genoa's line).
_CPUIDS = {
    "Milan": ((0x19, range(0x00, 0x10)),),
    "Genoa": ((0x19, range(0x10, 0x20)), (0x19, range(0xA0, 0xB0))),
    "Turin": ((0x1A, range(0x00, 0x20)),),
}
_HWID_BYTES = {"Milan": 64, "Genoa": 64, "Turin": 8}


def verify_snp(
    report: bytes, ek: bytes, ask: bytes, ark: bytes, *, roots: TrustRoots, now: float, crl: bytes | None = None
) -> TeeResult:
    """Appraise one SEV-SNP report (versions 2 to 5; Milan, Genoa, Turin; VCEK or VLEK).

    `report` is 1184 bytes; `ek` (VCEK or VLEK), `ask` (ASK or ASVK), `ark` and `crl` are DER; `now` is Unix seconds.
    `ark` is believed when `roots.find("amd", ark)` knows it. Raises nothing for any bytes.
    """
    return examine(Platform.AMD_SEV_SNP, report, now, PLAN, lambda f: _verify(f, report, (ek, ask, ark), crl, roots))


def from_inputs(blobs: Mapping[str, bytes], params: Mapping[str, Any], roots: TrustRoots, now: float) -> TeeResult:
    """`verify_snp` over the roles `report`, `ek`, `ask`, `root:…` and optionally `crl`; `params` has nothing for it.

    Raises `FormatError` with the reason `input_missing`.
    """
    report, ek, ask = (needed(blobs, role) for role in ("report", "ek", "ask"))
    return verify_snp(report, ek, ask, ark_of(ask, offered_roots(blobs)), roots=roots, now=now, crl=blobs.get("crl"))


def needed(blobs: Mapping[str, bytes], role: str) -> bytes:
    """The input of that role. Raises `FormatError` with the reason `input_missing`."""
    try:
        return blobs[role]
    except KeyError:
        raise FormatError(f"the input {role!r} is missing", reason="input_missing") from None


def offered_roots(blobs: Mapping[str, bytes]) -> tuple[bytes, ...]:
    """The certificates of the roles `root:…`. Raises `FormatError` (`input_missing`) when there is none."""
    offered = tuple(blob for role, blob in sorted(blobs.items()) if role.startswith("root:"))
    if not offered:
        raise FormatError("no root certificate is among the inputs", reason="input_missing")
    return offered


def ark_of(ask: bytes, offered: Sequence[bytes]) -> bytes:
    """Of the roots offered the one that `ask` names as its issuer, or else the first, which then fails the chain."""
    for der in offered:
        try:
            if parse_certificate(der).subject == parse_certificate(ask).issuer:
                return der
        except FormatError:  # whatever is wrong is told by the verification itself
            continue
    return offered[0]


def _verify(
    f: Findings, data: bytes, certificates: tuple[bytes, bytes, bytes], crl: bytes | None, roots: TrustRoots
) -> None:
    with f.step("tee_format") as step:
        report = parse_snp_report(data)
        _format(report)
        step.found = f"version {report.version}, signed by a {report.signing_key}"
        f.set(**report_claims(report))
    with f.step("tee_chain") as step:
        chain = Chain(*certificates)
        f.set(
            signer_chain=tuple(c.sha256 for c in chain.all),
            product=chain.product,
            collateral=collateral_claims(chain.all),
        )
        chain.root = _check_chain(chain, roots, f.evaluated_at)
        f.set(root=chain.root)
        step.found = ", ".join(plain(certificate.common_name, 24) for certificate in chain.all)
        step.expected = f"pinned root {plain(chain.root.name, 40)}"
    with f.step("tee_identity"):
        _check_role(report, chain)
    f.absent("tee_identity", "not_reached", "role and product agree; the chip was not compared")
    _check_revocation(f, chain, crl)
    with f.step("tee_signature") as step:
        _check_signature(report, chain.ek)
        step.over = "bytes 0 to 672"
    with f.step("tee_identity") as step:
        step.found = _check_chip(report, chain)
    with f.step("tee_tcb") as step:
        tcb = _check_tcb(report, chain)
        step.found = f"reported {_spell(tcb['reported'])}, as certified; current {_spell(tcb['current'])}"
    f.set(**certified_claims(report, chain, tcb))


def _format(report: SnpReport) -> None:
    if report.algorithm != ECDSA_P384_SHA384:
        raise NotAuthentic(
            "the signature algorithm is not ECDSA P-384 with SHA-384",
            reason="snp_bad_sig_algo",
            found=str(report.algorithm),
            expected=str(ECDSA_P384_SHA384),
        )
    if report.signing_key not in ROLES.values():
        raise NotAuthentic("no key signed this report", reason="snp_unsigned", found=report.signing_key)


def _check_chain(chain: Chain, roots: TrustRoots, now: float) -> Root:
    root = roots.find("amd", chain.ark.der)
    if root is None:
        raise NotAuthentic(
            "the root certificate is not one that is pinned", reason="snp_untrusted_root", found=chain.ark.sha256
        )
    if not signed_by(chain.ark, chain.ark):
        raise NotAuthentic("the root certificate is not self-signed", reason="snp_ark_not_self_signed")
    if not signed_by(chain.ask, chain.ark):
        raise NotAuthentic("the root did not issue the ASK", reason="snp_ask_not_issued_by_ark")
    if not signed_by(chain.ek, chain.ask):
        raise NotAuthentic("the ASK did not issue the endorsement key", reason="snp_ek_not_issued_by_ask")
    if not (chain.ask.is_ca and chain.ark.is_ca):
        raise NotAuthentic("an issuer of the chain is not a CA", reason="issuer_not_ca")
    for name, certificate in zip(("EK", "ASK", "ARK"), chain.all, strict=True):
        if not certificate.in_date(now):
            raise NotAuthentic(
                f"the {name} is not in date",
                reason="cert_expired_or_not_yet_valid",
                found=f"{certificate.not_before:.0f} to {certificate.not_after:.0f}",
                expected=f"{now:.0f}",
            )
    return root


def _check_role(report: SnpReport, chain: Chain) -> None:
    """What the EK is for: the CN that AMD writes is SEV-VCEK, not VCEK; comparing with the latter never matches."""
    if chain.role != report.signing_key:
        raise NotAuthentic(
            "the certificate has another role than the key that the report names",
            reason="snp_signing_key_mismatch",
            found=plain(chain.ek.common_name, 40),
            expected=f"SEV-{report.signing_key}",
        )
    if chain.family not in _CPUIDS or chain.ark.common_name != f"ARK-{chain.family}":
        raise NotAuthentic(
            "the certificate is for another product than the root",
            reason="snp_product_root_mismatch",
            found=plain(chain.product, 40),
            expected=plain(chain.ark.common_name, 40),
        )
    issuer = f"SEV-{chain.family}" if chain.role == "VCEK" else f"SEV-VLEK-{chain.family}"
    if chain.ask.common_name != issuer:
        raise NotAuthentic(
            "the intermediate certificate is for another role or product",
            reason="snp_ask_role_mismatch",
            found=plain(chain.ask.common_name, 40),
            expected=issuer,
        )
    if report.cpuid is not None and not _cpuid_fits(report.cpuid, chain.family):
        raise NotAuthentic(
            "the CPUID in the report is of another product than the certificate",
            reason="snp_cpuid_mismatch",
            found=f"family {report.cpuid[0]}, model {report.cpuid[1]}",
            expected=chain.family,
        )


def cpuid_product(cpuid: tuple[int, int, int]) -> str | None:
    """The product whose CPUID (family, model, stepping) this is; None for one that is not read."""
    return next((product for product in _CPUIDS if _cpuid_fits(cpuid, product)), None)


def _cpuid_fits(cpuid: tuple[int, int, int], product: str) -> bool:
    return any(cpuid[0] == family and cpuid[1] in models for family, models in _CPUIDS[product])


def _check_revocation(f: Findings, chain: Chain, data: bytes | None) -> None:
    if data is None:
        f.absent("tee_revocation", "no_crl")
        return
    with f.step("tee_revocation") as step:
        crl = parse_crl(data)
        if not signed_by(crl, chain.ark):
            raise NotAuthentic("the revocation list is not the root's", reason="snp_crl_bad_signature")
        if crl.next_update is None or not crl.this_update <= f.evaluated_at <= crl.next_update:
            f.set(revocation=Revocation(crl="stale", checked=("ASK", "ARK")))
            raise NotAuthentic("the revocation list is not in date", reason="snp_crl_stale")
        f.set(
            revocation=Revocation(crl="ok", checked=("ASK", "ARK")),
            collateral=collateral_claims(chain.all, hashlib.sha256(data).hexdigest(), crl.this_update, crl.next_update),
        )
        # The list speaks of what the ARK issued. EKs come from the ASK and all have serial 0, so an entry 0 means
        # nothing for them.
        for name, certificate in (("ASK", chain.ask), ("ARK", chain.ark)):
            if certificate.serial in crl.revoked:
                raise NotAuthentic(
                    f"the {name} is revoked", reason=f"snp_{name.lower()}_revoked", found=f"serial {certificate.serial}"
                )
        step.found = f"{len(crl.revoked)} entries, the ASK not among them"


def _check_signature(report: SnpReport, ek: AmdCertificate) -> None:
    key = p384_key(ek)
    if key is None:
        raise NotAuthentic("the endorsement key is not on P-384", reason="snp_ek_bad_key")
    if any(report.after_signature):
        raise NotAuthentic(
            "bytes after the signature are not zero",
            reason="snp_signature_reserved_nonzero",
            over="bytes 816 to 1184",
        )
    try:
        key.verify(utils.encode_dss_signature(report.r, report.s), report.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise NotAuthentic("the signature does not hold", reason="snp_bad_signature", over="bytes 0 to 672") from None


def _check_chip(report: SnpReport, chain: Chain) -> str:
    if chain.role == "VLEK":
        cloud = chain.ek.text(CSP_ID)
        if not cloud:
            raise NotAuthentic("the VLEK names no cloud provider", reason="snp_bad_extension")
        return f"VLEK of {plain(cloud, 60)}, {chain.product}"
    if report.mask_chip_key:
        raise NotAuthentic("the report says that no chip key signed it", reason="snp_chip_key_masked")
    length = _HWID_BYTES[chain.family]
    hwid = chain.ek.hwid(length)
    if hwid is None or report.chip_id != hwid.ljust(64, b"\0"):
        raise NotAuthentic(
            "the certificate is for another chip",
            reason="snp_chip_id_mismatch",
            found=report.chip_id[:8].hex(),
            expected="none" if hwid is None else hwid[:8].hex(),
        )
    return f"VCEK of chip {hwid[:8].hex()}, {chain.product}"


def _check_tcb(report: SnpReport, chain: Chain) -> dict[str, dict[str, int]]:
    turin = chain.family == "Turin"
    values = {
        "reported": report.reported_tcb,
        "current": report.current_tcb,
        "committed": report.committed_tcb,
        "launch": report.launch_tcb,
    }
    tcb = {name: tcb_parts(value, turin=turin) for name, value in values.items()}
    reported, current, committed = tcb["reported"], tcb["current"], tcb["committed"]
    certified = {part: _spl(chain.ek, part) for part in reported}
    # The key was derived for one TCB: equality, not "at least" (AMD document 57230, section 3.1).
    if certified != reported:
        raise NotAuthentic(
            "the certificate is for another TCB than the report states",
            reason="snp_tcb_cert_mismatch",
            found=_spell(reported),
            expected=_spell(certified),
        )
    for name, parts, reason in (
        ("reported", reported, "snp_reported_gt_current"),
        ("committed", committed, "snp_committed_gt_current"),
    ):
        if any(parts[part] > current[part] for part in parts):
            raise NotAuthentic(
                f"the {name} TCB is above the current one",
                reason=reason,
                found=_spell(parts),
                expected=_spell(current),
            )
    return tcb


def _spl(ek: AmdCertificate, part: str) -> int:
    try:
        level = ek.spl(part)
    except FormatError as error:
        raise NotAuthentic(f"the {part} level: {error.message}", reason="snp_bad_extension") from None
    if level is None:
        raise NotAuthentic(f"the certificate has no {part} level", reason="snp_bad_extension")
    return level


def _spell(parts: Mapping[str, int]) -> str:
    return " ".join(f"{name} {level}" for name, level in parts.items())
