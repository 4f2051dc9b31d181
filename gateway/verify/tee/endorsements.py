"""Whether what a vendor's service answered may be kept: signed by the vendor, in date, and what was asked for.

    checked = check_part(part, blobs, beside, roots=roots, now=now)      # raises FormatError
    checked.expires, checked.evaluation

A verifier judges all of this again with the evidence in hand, so nothing is decided here. It is asked before a document
is kept because a bad answer must not replace a good one, and because a cache has to know when its content ends.

What is held to what (docs/verification.md, Endorsements):

* Intel: root pinned; TCB signer, QE signer and PCK CA chain to it; both documents signed as they stand; both lists
  signed; everything in date; FMSPC, TEE and PCK CA are those asked for; no signer and no CA revoked.
* AMD chain: ARK pinned and of the product; ASK or ASVK by role, signed by it and not revoked; the list signed and in
  date.
* AMD key: signed by that ASK, in date, certified for the chip and the TCB asked for.
* NVIDIA: `nvidia_collateral`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec
from cryptography import x509

from gateway.crypto.certificates import ChainError, der_of, expires
from gateway.errors import FormatError

from . import pcs, tcb
from .amd_certificates import AmdCertificate, parse_certificate, parse_crl, signed_by
from .findings import NotAuthentic
from .needs import AmdChain, AmdKey, IntelNeed, OcspNeed, Part, RimNeed, pck_authority
from .nvidia_collateral import check_answer, check_key_set, check_manifest
from .roots import TrustRoots
from .snp_claims import Chain

Blobs = Mapping[str, bytes]
_ROLES = {"vcek": "SEV-{}", "vlek": "SEV-VLEK-{}"}


class Checked(msgspec.Struct, frozen=True):
    """When the first member ends (Unix seconds); Intel's evaluation number; whether the root is a test's; when each
    member was said, where a later word counts whenever it ends (Intel's documents and lists, OCSP)."""

    expires: float
    evaluation: int | None = None
    test: bool = False
    said: tuple[float, ...] = ()


def check_part(part: Part, blobs: Blobs, beside: Blobs, *, roots: TrustRoots, now: float) -> Checked:
    """Hold `blobs` (by role) to `part` at `now`. `beside` is the checked chain of an `AmdKey`, else unused.

    Raises `FormatError` and its kinds, with the verifiers' reasons; `input_missing` for a role that is not there.
    """
    if isinstance(part, IntelNeed):
        return _check_intel(part, _role(blobs, "collateral"), roots, now)
    if isinstance(part, AmdChain):
        return _check_amd_chain(part, blobs, roots, now)
    if isinstance(part, AmdKey):
        return _check_amd_key(part, _role(blobs, "ek"), _role(beside, "ask"), now)
    data = _role(blobs, part.role)
    if isinstance(part, RimNeed):
        return Checked(*check_manifest(part, data, roots, now))
    if isinstance(part, OcspNeed):
        answer = check_answer(part, data, now)
        return Checked(answer.until, said=(answer.since,))
    return Checked(check_key_set(data, roots, now))


def roles_of(part: Part) -> tuple[str, ...]:
    """The roles that `part` consists of."""
    if isinstance(part, IntelNeed):
        return ("collateral",)
    if isinstance(part, AmdChain):
        return ("ask", "root:ark", "crl")
    return ("ek",) if isinstance(part, AmdKey) else (part.role,)


def _role(blobs: Blobs, role: str) -> bytes:
    if role not in blobs:
        raise FormatError(f"{role} is missing", reason="input_missing")
    return blobs[role]


# --- Intel


def _check_intel(need: IntelNeed, data: bytes, roots: TrustRoots, now: float) -> Checked:
    collateral = pcs.read_collateral(data)
    with pcs.malformed("collateral_malformed"):
        authority = pcs.load_chain(collateral.members["pck_crl_issuer_chain"].encode())
    chains = (collateral.tcb_info.chain, collateral.qe_identity.chain, authority)
    root = _check_intel_chains(chains, roots, now)
    info, identity = _check_documents(need, collateral, now)
    _check_lists(need, collateral, chains, now)
    ends = (
        *(expires(chain) for chain in chains),
        *(tcb.unix(document.next_update) for document in (info, identity)),
        *(crl.next_update for crl in (collateral.root_crl, collateral.pck_crl)),
    )
    # The lower of the two, as `intel` counts: one old document is enough to make a stale platform look well.
    evaluation = min(info.tcb_evaluation_data_number, identity.tcb_evaluation_data_number)
    said = (
        *(tcb.unix(document.issue_date) for document in (info, identity)),
        *(crl.this_update for crl in (collateral.root_crl, collateral.pck_crl)),
    )
    return Checked(min(ends), evaluation, root, said)


def _check_intel_chains(chains: tuple[pcs.Chain, ...], roots: TrustRoots, now: float) -> bool:
    """Whether the one root of all chains is a test's."""
    if not all(len(chain) == 2 for chain in chains):
        raise ChainError("an issuer chain is not of two certificates", reason="chain_broken")
    found = {der_of(chain[-1]) for chain in chains}
    root = roots.find("intel", found.pop()) if len(found) == 1 else None
    if root is None:
        raise ChainError("a chain does not end in the pinned root", reason="chain_untrusted_root")
    for chain in chains[:2]:
        pcs.check_roles(chain, pcs.TCB_CHAIN)
    for chain in chains:
        pcs.check_held(chain, now)
    return root.test


def _check_documents(need: IntelNeed, collateral: pcs.Collateral, now: float) -> tuple[tcb.TcbInfo, tcb.QeIdentity]:
    for document, what in ((collateral.tcb_info, "tcb"), (collateral.qe_identity, "qe")):
        if not pcs.document_holds(document):
            raise NotAuthentic("a document is not as its issuer signed it", reason=f"{what}_bad_signature")
    info = tcb.read_tcb_info(collateral.tcb_info.text)
    identity = tcb.read_qe_identity(collateral.qe_identity.text)
    for dated, what in ((info, "tcb"), (identity, "qe")):
        if now < tcb.unix(dated.issue_date):
            raise NotAuthentic("a document was issued after this moment", reason=f"{what}_not_yet_valid")
        if now > tcb.unix(dated.next_update):
            raise NotAuthentic("a document is past its next update", reason=f"{what}_expired")
    wanted = (need.tee.upper(), need.fmspc, "TD_QE" if need.tee == "tdx" else "QE")
    if (info.id, info.fmspc.lower(), identity.id) != wanted:
        raise NotAuthentic(
            "the documents are of another platform than the one asked for",
            reason="collateral_of_another",
            found=f"{info.id} {info.fmspc.lower()} {identity.id}",
            expected=" ".join(wanted),
        )
    return info, identity


def _check_lists(need: IntelNeed, collateral: pcs.Collateral, chains: tuple[pcs.Chain, ...], now: float) -> None:
    issuer, root = chains[2]
    if pck_authority(issuer.subject) != need.ca:
        raise NotAuthentic("the PCK revocation list is of the other PCK CA", reason="pck_no_crl")
    for crl, by, reason in ((collateral.root_crl, root, "root_no_crl"), (collateral.pck_crl, issuer, "pck_no_crl")):
        if crl.issuer != by.subject:
            raise NotAuthentic("a revocation list is of another issuer", reason=reason)
        pcs.check_crl(crl, by, now)
    revocable: tuple[tuple[x509.Certificate, str], ...] = (
        (root, "root_revoked"),
        (chains[0][0], "tcb_signer_revoked"),
        (chains[1][0], "tcb_signer_revoked"),
        (issuer, "pck_revoked"),
    )
    for certificate, reason in revocable:
        if pcs.lists(collateral.root_crl, certificate):
            raise NotAuthentic("the root's list names an issuer of this collateral", reason=reason)


# --- AMD


def _check_amd_chain(part: AmdChain, blobs: Blobs, roots: TrustRoots, now: float) -> Checked:
    ark_der, ask_der = _role(blobs, "root:ark"), _role(blobs, "ask")
    root = roots.find("amd", ark_der)
    if root is None:
        digest = hashlib.sha256(ark_der).hexdigest()
        raise NotAuthentic("the root certificate is not one that is pinned", reason="snp_untrusted_root", found=digest)
    ark, ask = parse_certificate(ark_der), parse_certificate(ask_der)
    names = (f"ARK-{part.product}", _ROLES[part.role].format(part.product))
    if (ark.common_name, ask.common_name) != names:
        raise NotAuthentic("the chain is for another product or role", reason="snp_ask_role_mismatch")
    if not signed_by(ark, ark) or not signed_by(ask, ark) or not (ark.is_ca and ask.is_ca):
        raise NotAuthentic("the root did not issue the ASK", reason="snp_ask_not_issued_by_ark")
    for certificate in (ark, ask):
        _check_in_date(certificate, now)
    ends = _check_amd_list(_role(blobs, "crl"), ark, ask, now)
    return Checked(min(ends, ark.not_after, ask.not_after), None, root.test)


def _check_amd_list(data: bytes, ark: AmdCertificate, ask: AmdCertificate, now: float) -> float:
    """When the list ends."""
    crl = parse_crl(data)
    if not signed_by(crl, ark):
        raise NotAuthentic("the revocation list is not the root's", reason="snp_crl_bad_signature")
    if crl.next_update is None or not crl.this_update <= now <= crl.next_update:
        raise NotAuthentic("the revocation list is not in date", reason="snp_crl_stale")
    for certificate, reason in ((ask, "snp_ask_revoked"), (ark, "snp_ark_revoked")):
        if certificate.serial in crl.revoked:
            raise NotAuthentic("the list names an issuer of this chain", reason=reason)
    return crl.next_update


def _check_amd_key(part: AmdKey, ek_der: bytes, ask_der: bytes, now: float) -> Checked:
    chain = Chain(ek_der, ask_der, ask_der)
    ek = chain.ek
    if not signed_by(ek, chain.ask):
        raise NotAuthentic("the ASK did not issue the endorsement key", reason="snp_ek_not_issued_by_ask")
    if chain.role != part.role.upper() or chain.family != part.product:
        raise NotAuthentic("the endorsement key is for another role or product", reason="snp_product_root_mismatch")
    _check_in_date(ek, now)
    hwid = ek.hwid(len(part.chip) // 2) if part.chip else b""
    if hwid is None or hwid.hex() != part.chip:
        raise NotAuthentic("the certificate is for another chip", reason="snp_chip_id_mismatch")
    if any(ek.spl(component) != level for component, level in part.tcb):
        raise NotAuthentic("the certificate is for another TCB", reason="snp_tcb_cert_mismatch")
    return Checked(ek.not_after)


def _check_in_date(certificate: AmdCertificate, now: float) -> None:
    if not certificate.in_date(now):
        raise NotAuthentic("a certificate is not in date", reason="cert_expired_or_not_yet_valid")
