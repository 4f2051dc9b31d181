"""Intel TDX (quote version 4 and 5) and SGX (version 3): a quote and its collateral to checks and claims.

    result = verify_intel(quote, collateral, roots=VENDOR_ROOTS, now=1751624163.0)
    result.claims.authentic, result.claims.tcb_status, result.claims.measurements["mr_td"]

What has to be shown, in this order (docs/verification.md; `tcb_revoked` and its like are reasons):

1. tee_format       quote and collateral have their form, no byte too many
2. tee_chain        three chains end in one pinned root, in date: TCB signer, QE signer, PCK
3. tee_collateral   both documents are signed as they stand, in date, and not older than what was seen before
4. tee_revocation   root, signers, PCK CA and PCK stand on no list of their issuers; the lists are signed and current
5. tee_signature    PCK -> QE report -> attestation key -> header and body
6. tee_identity     the QE is Intel's; the documents are for this platform and this TEE
7. tee_tcb          a TCB level fits and is not revoked; dcap-qvl says the same

The code here decides, and dcap-qvl is asked last: where the two do not agree on status and advisories the quote is
refused (`verifiers_disagree`). It is this way round because dcap-qvl alone cannot say what is needed: it refuses
genuine debug and Azure quotes outright, accepts unsigned bytes after the quote and revocation lists from the future,
and gives every refusal the same type. The price is in docs/verification.md: about half of 1.5 ms is dcap-qvl's.

Authentic is not acceptable: debug, OutOfDate, migratable, a bound service TD all come back authentic with their flags.
A quote holds no time, so its freshness is `undated` until a nonce in its report data is found (`bindings`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.crypto.certificates import ChainError, der_of, expires
from gateway.errors import FormatError
from gateway.model.tee import Collateral as CollateralClaim
from gateway.model.tee import Platform, Revocation, Root, TcbStatus, TeeResult

from . import dcap, pcs, tcb
from .findings import Findings, NotAuthentic, examine
from .pck import Pck, read_pck
from .quote import EnclaveReport, Quote, TdReport, is_sgx, parse_quote
from .roots import TrustRoots

PLAN = (
    "tee_format",
    "tee_chain",
    "tee_collateral",
    "tee_revocation",
    "tee_signature",
    "tee_identity",
    "tee_tcb",
)


def verify_intel(
    quote: bytes,
    collateral: bytes,
    *,
    roots: TrustRoots,
    now: float,
    lowest_evaluation: int | None = None,
    second_opinion: bool = True,
) -> TeeResult:
    """Appraise a DCAP `quote` under `collateral` (dcap-qvl's QuoteCollateralV3 as JSON) at `now`, Unix seconds.

    `lowest_evaluation` is the highest TCB evaluation number that the caller has seen for this platform: collateral
    below it is validly signed and out of use, and whoever chooses it chooses the verdict. Without `second_opinion`
    our own reading stands alone, for evidence in forms that dcap-qvl does not read. Total for any bytes.
    """
    platform = Platform.INTEL_SGX if is_sgx(quote) else Platform.INTEL_TDX

    def verify(f: Findings) -> None:
        _verify(f, quote, collateral, roots, lowest_evaluation, second_opinion)

    return examine(platform, quote, now, PLAN, verify)


def from_inputs(blobs: Mapping[str, bytes], params: Mapping[str, Any], roots: TrustRoots, now: float) -> TeeResult:
    """The same from a manifest's roles `quote` and `collateral`, and its parameter `lowest_evaluation`.

    The root certificate is read from the chains and looked up in `roots`, so the `root:` roles are not needed. Raises
    `FormatError` for a missing role or a parameter of another type.
    """
    for role in ("quote", "collateral"):
        if role not in blobs:
            raise FormatError(f"the input {role} is missing", reason="input_missing")
    lowest = params.get("lowest_evaluation")
    if lowest is not None and type(lowest) is not int:
        raise FormatError("lowest_evaluation is not a whole number", reason="param_malformed")
    return verify_intel(blobs["quote"], blobs["collateral"], roots=roots, now=now, lowest_evaluation=lowest)


class _Case(msgspec.Struct, frozen=True):
    """What there is to judge, taken apart; `raw` collects vendor's names for the claims on the way."""

    quote: Quote
    collateral: pcs.Collateral
    pck_chain: pcs.Chain
    roots: TrustRoots
    evaluated_at: float
    lowest_evaluation: int | None
    raw: dict[str, Any]

    @property
    def root(self) -> x509.Certificate:
        """The root that the collateral brought along; `_check_chains` says whether it is pinned."""
        return self.collateral.tcb_info.chain[-1]


def _verify(
    f: Findings, quote: bytes, collateral: bytes, roots: TrustRoots, lowest: int | None, second_opinion: bool
) -> None:
    # 1. The form of both.
    with f.step("tee_format") as step:
        parsed = parse_quote(quote)
        raw: dict[str, Any] = {}
        f.set(raw=raw, **report_claims(parsed, raw))
        opened = pcs.read_collateral(collateral)
        with pcs.malformed("pck_malformed"):
            chain = pcs.load_chain(parsed.pck_chain)
        case = _Case(parsed, opened, chain, roots, f.evaluated_at, lowest, raw)
        step.found = f"{parsed.tee.upper()} quote version {parsed.version}, {len(parsed.data)} bytes"
    # 2. The three chains, to one pinned root.
    with f.step("tee_chain") as step:
        root = _check_chains(case)
        prints = [pcs.print_of(certificate) for certificate in chain]
        raw["chain"] = prints
        f.set(root=root, signer_chain=tuple(prints))
        step.found, step.over = root.name, "the chains of PCK, TCB signer and QE signer"
    # 3. The documents.
    with f.step("tee_collateral") as step:
        info, identity = _check_documents(case)
        raw.update(tcb_eval=info.tcb_evaluation_data_number, qe_eval=identity.tcb_evaluation_data_number)
        f.set(collateral=_collateral_claim(case, info, identity))
        step.found = f"TCB evaluation {info.tcb_evaluation_data_number}, until {info.next_update}"
        step.over = "TCB info and QE identity, as their texts stand"
    # 4. Revocation.
    with f.step("tee_revocation") as step:
        _check_revocation(case)
        f.set(revocation=Revocation("ok", checked=_REVOCABLE))
        step.found, step.over = "none revoked", ", ".join(_REVOCABLE)
    # 5. Signatures.
    with f.step("tee_signature") as step:
        check_signatures(parsed, chain)
        step.over = f"header and body, {len(parsed.signed)} bytes; the QE report, 384 bytes"
    # 6. Whose documents these are.
    with f.step("tee_identity") as step:
        pck = read_pck(chain[0])
        f.set(**machine_claims(pck, parsed, raw))
        tcb.check_qe(parsed.qe_report, identity, parsed.tee)
        tcb.check_tcb_info(info, pck, parsed.tee)
        step.found = f"FMSPC {raw['fmspc']}, {identity.id}"
    # 7. The security version, twice.
    with f.step("tee_tcb") as step:
        found = _check_standing(f, case, info, identity, pck)
        second = _check_second(case, found, root) if second_opinion else "not asked"
        step.found = f"{found.status.value}; dcap-qvl {dcap.VERSION}: {second}"


# --- 2. Chains


def _check_chains(case: _Case) -> Root:
    """Raises `ChainError`, or `NotAuthentic` with the reason `cert_wrong_role`."""
    documents = case.collateral.tcb_info, case.collateral.qe_identity
    chains = [(document.chain, pcs.TCB_CHAIN) for document in documents] + [(case.pck_chain, pcs.PCK_CHAIN)]
    if not all(chain for chain, _ in chains):
        raise ChainError("there is no certificate", reason="chain_empty")
    root = case.roots.find("intel", der_of(case.root))
    for chain, roles in chains:
        if root is None or chain[-1] != case.root:
            raise ChainError(
                f"a chain ends in {pcs.print_of(chain[-1])[:16]}, which is not the pinned root",
                reason="chain_untrusted_root",
            )
        pcs.check_roles(chain, roles)
        pcs.check_held(chain, case.evaluated_at)
    assert root is not None  # every chain was held to it
    return root


# --- 3. Documents


def _check_documents(case: _Case) -> tuple[tcb.TcbInfo, tcb.QeIdentity]:
    """Raises `NotAuthentic` with tcb_|qe_ and bad_signature|not_yet_valid|expired, or `tcb_evaluation_too_low`."""
    collateral = case.collateral
    _check_signed(collateral.tcb_info, "tcb")
    info = tcb.read_tcb_info(collateral.tcb_info.text)
    _check_dates(info, "tcb", case.evaluated_at)
    _check_signed(collateral.qe_identity, "qe")
    identity = tcb.read_qe_identity(collateral.qe_identity.text)
    _check_dates(identity, "qe", case.evaluated_at)
    _check_evaluation(info, identity, case.lowest_evaluation)
    return info, identity


def _check_signed(document: pcs.Document, what: str) -> None:
    if not pcs.document_holds(document):
        raise NotAuthentic("a document is not as its issuer signed it", reason=f"{what}_bad_signature")


def _check_dates(document: tcb.TcbInfo | tcb.QeIdentity, what: str, now: float) -> None:
    if now < tcb.unix(document.issue_date):
        raise NotAuthentic(
            "a document was issued after this moment", reason=f"{what}_not_yet_valid", found=document.issue_date
        )
    if now > tcb.unix(document.next_update):
        raise NotAuthentic("a document is past its next update", reason=f"{what}_expired", found=document.next_update)


def _check_evaluation(info: tcb.TcbInfo, identity: tcb.QeIdentity, lowest: int | None) -> None:
    # Intel signs old and new evaluations side by side, each in date: only the number tells them apart.
    found = min(info.tcb_evaluation_data_number, identity.tcb_evaluation_data_number)
    if lowest is not None and found < lowest:
        raise NotAuthentic(
            "the collateral is of an older TCB evaluation than one seen before",
            reason="tcb_evaluation_too_low",
            found=str(found),
            expected=f"at least {lowest}",
        )


def _collateral_claim(case: _Case, info: tcb.TcbInfo, identity: tcb.QeIdentity) -> CollateralClaim:
    collateral = case.collateral
    chains = (*case.pck_chain, *collateral.tcb_info.chain, *collateral.qe_identity.chain)
    crls = collateral.root_crl, collateral.pck_crl
    ends = min(
        expires(chains),
        *(tcb.unix(document.next_update) for document in (info, identity)),
        *(crl.next_update for crl in crls),
    )
    begins = min(*(tcb.unix(document.issue_date) for document in (info, identity)), *(crl.this_update for crl in crls))
    case.raw["collateral_expires"] = int(ends)
    return CollateralClaim(collateral.hashes, begins, ends)


# --- 4. Revocation

_REVOCABLE = ("root", "TCB signer", "QE signer", "PCK CA", "PCK")


def _check_revocation(case: _Case) -> None:
    """Every certificate by the list of its issuer.

    Raises `NotAuthentic` with the reason root_no_crl|pck_no_crl|crl_...|root_revoked|tcb_signer_revoked|pck_revoked.
    """
    collateral, (pck, authority, root) = case.collateral, case.pck_chain
    if collateral.root_crl.issuer != root.subject:
        raise NotAuthentic("the root's revocation list is of another issuer", reason="root_no_crl")
    pcs.check_crl(collateral.root_crl, root, case.evaluated_at)
    signers = collateral.tcb_info.chain[0], collateral.qe_identity.chain[0]
    for certificate, name, reason in (
        (root, "root", "root_revoked"),
        *((signer, "TCB signer", "tcb_signer_revoked") for signer in signers),
        (authority, "PCK CA", "pck_revoked"),
    ):
        _check_unlisted(collateral.root_crl, certificate, name, reason)
    if collateral.pck_crl.issuer != authority.subject:
        raise NotAuthentic("the PCK revocation list is of another issuer", reason="pck_no_crl")
    pcs.check_crl(collateral.pck_crl, authority, case.evaluated_at)
    _check_unlisted(collateral.pck_crl, pck, "PCK", "pck_revoked")


def _check_unlisted(crl: pcs.Crl, certificate: x509.Certificate, name: str, reason: str) -> None:
    if pcs.lists(crl, certificate):
        raise NotAuthentic(f"the {name} certificate was revoked by its issuer", reason=reason, found=name)


# --- 5. Signatures


def check_signatures(quote: Quote, pck_chain: pcs.Chain) -> None:
    """Show that the leaf of `pck_chain` signed the QE report, that the attestation key, and that header and body.

    Raises `NotAuthentic` with qe_report_bad_signature|qe_report_data_mismatch|quote_bad_signature.
    """
    if not pcs.p256_holds(pck_chain[0].public_key(), quote.qe_report_signature, quote.qe_report.raw):
        raise NotAuthentic("the PCK did not sign this QE report", reason="qe_report_bad_signature")
    committed = hashlib.sha256(quote.attestation_key + quote.qe_auth).digest() + bytes(32)
    if quote.qe_report.report_data != committed:
        raise NotAuthentic("the QE report names another attestation key", reason="qe_report_data_mismatch")
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + quote.attestation_key)
    except ValueError:
        raise NotAuthentic("the attestation key is no point of P-256", reason="quote_bad_signature") from None
    if not pcs.p256_holds(key, quote.signature, quote.signed):
        raise NotAuthentic("the attestation key did not sign this header and body", reason="quote_bad_signature")


# --- 7. Standing


def _check_standing(f: Findings, case: _Case, info: tcb.TcbInfo, identity: tcb.QeIdentity, pck: Pck) -> tcb.Standing:
    """`tcb.standing`, with the status in the claims whatever comes of it."""
    quote = case.quote
    try:
        found = tcb.standing(info, identity, pck, quote.body, quote.qe_report.isv_svn)
    except NotAuthentic as refused:
        revoked = refused.reason == "tcb_revoked"
        f.set(tcb_status=TcbStatus.REVOKED if revoked else TcbStatus.UNSUPPORTED)
        raise
    parts = {
        "platform_status": found.platform.value,
        "module_status": found.module.value if found.module else None,
        "qe_status": found.qe.value,
        "tcb_date": found.date,
    }
    case.raw.update(parts)
    svn: dict[str, int | str] = {"cpu": pck.components.hex(), "pce": pck.pce_svn, "qe": quote.qe_report.isv_svn}
    svn |= {f"cpu{place}": level for place, level in enumerate(pck.components)}
    if isinstance(quote.body, TdReport):
        svn["tee"] = quote.body.tee_tcb_svn.hex()
        svn |= {f"tee{place}": level for place, level in enumerate(quote.body.tee_tcb_svn)}
    tcb_claim = {**parts, "eval_number": info.tcb_evaluation_data_number, "svn": svn}
    f.set(tcb_status=found.status, advisory_ids=found.advisories, tcb=tcb_claim)
    return found


def _check_second(case: _Case, found: tcb.Standing, root: Root) -> str:
    """What dcap-qvl says, for the record. Raises `NotAuthentic` with the reason `verifiers_disagree`."""
    second = dcap.opinion(case.quote, case.collateral, der_of(case.root), root.fingerprint, case.evaluated_at)
    case.raw["dcap_qvl"] = second.words
    agrees = second.status is found.status and second.advisories == set(found.advisories)
    if not agrees and second.rule is None:
        raise NotAuthentic(
            f"dcap-qvl does not agree: {second.words}",
            reason="verifiers_disagree",
            found=second.words,
            expected=found.status.value,
        )
    return second.words


# --- Claims


def report_claims(quote: Quote, raw: dict[str, Any]) -> dict[str, Any]:
    """Everything that the signed report says by itself; a claim of an unverified quote until the last step held."""
    body = quote.body
    raw.update(quote_version=quote.version, identity=quote.identity)
    claims: dict[str, Any] = {
        "evidence_format": f"{quote.tee}-quote-v{quote.version}",
        "debug": body.debug,
        "report_data": body.report_data.hex(),
    }
    if isinstance(body, EnclaveReport):
        raw.update(sept_ve_disable=None, migratable=None, isv_prod_id=body.isv_prod_id, isv_svn=body.isv_svn)
        raw["attributes"] = body.attributes.hex()
        return {**claims, "measurements": {"mr_enclave": body.mr_enclave.hex(), "mr_signer": body.mr_signer.hex()}}
    raw.update(sept_ve_disable=body.sept_ve_disable, migratable=body.migratable)
    return {**claims, "flags": _td_flags(body), "measurements": _td_measurements(body)}


def _td_flags(body: TdReport) -> dict[str, bool | int]:
    return {
        "sept_ve_disable": body.sept_ve_disable,
        "migratable": body.migratable,
        "profiling": body.profiling,
        "service_td": body.service_td,
        "service_td_ext": body.service_td_ext,
        "unnamed_attributes": body.unnamed_attributes,
    }


_TD_MEASUREMENTS = (
    "mr_td", "mr_seam", "mr_signer_seam", "mr_config_id", "mr_owner", "mr_owner_config", "rtmr0", "rtmr1", "rtmr2",
    "rtmr3", "tee_tcb_svn", "td_attributes", "xfam", "mr_service_td", "tee_tcb_svn2",
)  # fmt: skip


def _td_measurements(body: TdReport) -> dict[str, str]:
    """The registers by name, those of TD 1.5 only where the report has them."""
    values = {name: getattr(body, name) for name in _TD_MEASUREMENTS}
    return {name: value.hex() for name, value in values.items() if value is not None}


def machine_claims(pck: Pck, quote: Quote, raw: dict[str, Any]) -> dict[str, Any]:
    """What the PCK certificate says of the machine, as members of `TeeClaims`; the vendor's names go into `raw`."""
    raw["fmspc"] = pck.fmspc.hex().upper()
    raw["platform_instance_id"] = pck.platform_instance_id.hex() if pck.platform_instance_id else None
    platform = {
        "dynamic_platform": pck.dynamic_platform,
        "cached_keys": pck.cached_keys,
        "smt": pck.smt_enabled,
    }
    flags: dict[str, bool | int] = {name: value for name, value in platform.items() if value is not None}
    if isinstance(quote.body, TdReport):
        flags |= _td_flags(quote.body)
    return {"product": raw["fmspc"], "machine_id": pck.machine_id, "machine_id_kind": "ppid", "flags": flags}
