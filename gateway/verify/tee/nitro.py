"""AWS Nitro Enclaves: an attestation document to claims.

What has to be shown, in this order:
 1. tee_format     COSE_Sign1 with ES384 around a document of the form that AWS gives (`nitro_document`)
 2. tee_chain      cabundle[0] is a pinned root by its digest, and the chain from it to the leaf holds at `now`
 3. tee_identity   the leaf may sign documents and nothing else: no CA, digitalSignature, P-384
 4. tee_signature  that key signed Sig_structure over the payload as it came
 5. tee_nonce      the nonce that was asked for is inside
 6. tee_age        the document's own time is not ahead of us, and within the age that was asked for

AWS publishes no revocation list to hold the chain to ("We do not use CRL, so it must be disabled when doing the
validation", attestation_process.md section 3.2.4); leaves live about three hours instead.

Historical: the chain is held together at the time that the document itself states. This shows that the document was
genuine when it was made, never that it is fresh, and the claims say so.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from cryptography import x509

from gateway.crypto.certificates import check_chain, expires, fingerprint, is_ca, load_certificate
from gateway.crypto.cose import verify_sign1
from gateway.crypto.ec_keys import P384, EcKey, curve_of
from gateway.errors import FormatError
from gateway.model.tee import Collateral, Freshness, FreshnessClass, HostTrust, Platform, Root, TcbStatus, TeeResult

from .findings import Findings, NotAuthentic, examine
from .nitro_document import NitroDocument, parse
from .roots import TrustRoots

PLAN = ("tee_format", "tee_chain", "tee_identity", "tee_signature", "tee_nonce", "tee_age")

#: How far the hypervisor's clock may be ahead of ours, seconds: ours may be that far behind, a leaf lives for hours.
FUTURE_SKEW_S = 300.0

_LONGEST_S = 1e11
_CRITICAL_KNOWN = (x509.BasicConstraints.oid, x509.KeyUsage.oid)


def verify_nitro(
    document: bytes,
    *,
    roots: TrustRoots,
    now: float,
    nonce: bytes | None = None,
    max_age_s: float | None = None,
    future_skew_s: float = FUTURE_SKEW_S,
    historical: bool = False,
) -> TeeResult:
    """Examine one attestation document at `now` (Unix seconds). Total: any bytes give a `TeeResult`.

    `nonce` None: none was asked for, and the check says so. `max_age_s` None: the leaf's three hours are the limit.
    `historical`: hold the chain at the document's own time and label the claims.
    """

    def verify(f: Findings) -> None:
        parsed, chain, root = _shown(f, document, roots, now, historical)
        _claim(f, parsed, chain, root, historical)
        freshness = Freshness(FreshnessClass.DATED, parsed.issued_at, now - parsed.issued_at)
        f.set(freshness=freshness)
        _nonce(f, parsed, nonce)
        _age(f, parsed, now, max_age_s, future_skew_s, historical)
        if nonce is not None and not historical:
            f.set(freshness=msgspec.structs.replace(freshness, kind=FreshnessClass.CHALLENGE))

    return examine(Platform.AWS_NITRO, document, now, PLAN, verify)


def from_inputs(blobs: Mapping[str, bytes], params: Mapping[str, Any], roots: TrustRoots, now: float) -> TeeResult:
    """The roles of the vector manifests: `doc`; params nonce (hex), max_age_s, future_skew_s, historical.

    The root travels inside the document, so `root:` roles are not looked at. Raises `FormatError`
    with the reason input_missing or input_invalid.
    """
    if "doc" not in blobs:
        raise FormatError("there is no input doc", reason="input_missing")
    skew = _seconds(params, "future_skew_s")
    return verify_nitro(
        blobs["doc"],
        roots=roots,
        now=now,
        nonce=_nonce_of(params),
        max_age_s=_seconds(params, "max_age_s"),
        future_skew_s=FUTURE_SKEW_S if skew is None else skew,
        historical=params.get("historical") is True,
    )


def _nonce_of(params: Mapping[str, Any]) -> bytes | None:
    text = params.get("nonce")
    if text is None:
        return None
    try:
        nonce = bytes.fromhex(text)
    except (ValueError, TypeError):
        nonce = b""
    if not nonce:  # an empty one would be met by a document that holds an empty one
        raise FormatError("the parameter nonce is not hex", reason="input_invalid")
    return nonce


def _seconds(params: Mapping[str, Any], name: str) -> float | None:
    value = params.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 <= value <= _LONGEST_S:
        raise FormatError(f"the parameter {name} is not a number of seconds", reason="input_invalid")
    return float(value)


def _shown(
    f: Findings, data: bytes, roots: TrustRoots, now: float, historical: bool
) -> tuple[NitroDocument, list[x509.Certificate], Root]:
    # 1. form, to the last byte
    with f.step("tee_format") as step:
        document = parse(data)
        step.found = f"COSE_Sign1, {len(data)} bytes, {len(document.pcrs)} registers"
    # 2. the root by its bytes first: until it is one of ours, nothing else of the chain is worth parsing
    with f.step("tee_chain") as step:
        root = roots.find("nitro", document.cabundle[0])
        if root is None:
            found = hashlib.sha256(document.cabundle[0]).hexdigest()
            raise NotAuthentic("cabundle[0] is not a pinned root", reason="nitro_untrusted_root", found=found)
        chain = [load_certificate(der) for der in (document.certificate, *reversed(document.cabundle))]
        check_chain(chain, document.issued_at if historical else now)
        for below, issuer in enumerate(chain[1:]):
            _check_issuer(issuer, below)
        step.found, step.expected = f"{len(chain)} certificates to {root.name}", root.fingerprint
    # 3. the leaf's role: an intermediate's key, or a leaf meant for something else, signs no document
    with f.step("tee_identity") as step:
        key = _leaf_key(chain[0])
        step.found = "P-384, digitalSignature, no CA"
    # 4.
    with f.step("tee_signature") as step:
        if not verify_sign1(document.message, key):
            raise NotAuthentic("the leaf's key did not sign this document", reason="nitro_bad_signature")
        step.found, step.over = "ES384", f"Sig_structure, payload of {len(document.message.payload)} bytes"
    return document, chain, root


def _check_issuer(certificate: x509.Certificate, below: int) -> None:
    """What RFC 5280 section 6.1.4 asks of an issuer with `below` other issuers between it and the leaf."""
    _check_critical(certificate)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value  # check_chain saw it
    if constraints.path_length is not None and constraints.path_length < below:
        raise NotAuthentic(
            f"an issuer allows {constraints.path_length} others below it", reason="nitro_path_len", found=f"{below}"
        )
    usage = _key_usage(certificate)
    if usage is None or not usage.key_cert_sign:
        raise NotAuthentic("an issuer may not sign certificates", reason="nitro_ca_key_usage")


def _leaf_key(leaf: x509.Certificate) -> EcKey:
    _check_critical(leaf)
    if is_ca(leaf):
        raise NotAuthentic("the signing certificate is a CA's", reason="nitro_leaf_is_ca")
    usage = _key_usage(leaf)
    if usage is None or not usage.digital_signature:
        raise NotAuthentic("the signing certificate may not sign documents", reason="nitro_leaf_key_usage")
    key = leaf.public_key()
    if curve_of(key) is not P384:
        raise NotAuthentic("the signing certificate's key is not on P-384", reason="nitro_leaf_bad_key")
    assert isinstance(key, EcKey)  # what has a curve is one
    return key


def _check_critical(certificate: x509.Certificate) -> None:
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _CRITICAL_KNOWN:
            raise NotAuthentic(
                "a certificate has a critical extension that is not understood",
                reason="nitro_critical_extension",
                found=extension.oid.dotted_string[:80],
            )


def _key_usage(certificate: x509.Certificate) -> x509.KeyUsage | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None


def _nonce(f: Findings, document: NitroDocument, nonce: bytes | None) -> None:
    # 5.
    if nonce is None:
        f.absent("tee_nonce", "nonce_not_demanded")
        return
    with f.step("tee_nonce") as step:
        expected = _short(nonce)
        found = "none" if document.nonce is None else _short(document.nonce)
        if document.nonce != nonce:
            raise NotAuthentic(
                "the document does not hold our nonce", reason="nonce_mismatch", found=found, expected=expected
            )
        step.found = step.expected = expected


def _age(
    f: Findings, document: NitroDocument, now: float, max_age_s: float | None, future_skew_s: float, historical: bool
) -> None:
    # 6. a document from the future is refused in any mode; it is no record of the past either. Both limits are asked
    # for what must hold, so that a time that is no number holds nothing.
    age = now - document.issued_at
    found = f"{age:.0f} s old"
    with f.step("tee_age") as step:
        if not -age <= future_skew_s:
            raise NotAuthentic(
                "the document is dated ahead of us",
                reason="nitro_from_future",
                found=f"{-age:.0f} s ahead",
                expected=f"at most {future_skew_s:.0f} s",
            )
        if max_age_s is not None and not age <= max_age_s:
            raise NotAuthentic(
                "the document is too old", reason="nitro_stale", found=found, expected=f"at most {max_age_s:.0f} s"
            )
        step.found, step.expected = found, None if max_age_s is None else f"at most {max_age_s:.0f} s"
    if max_age_s is None:
        f.absent("tee_age", "historical" if historical else "age_not_limited", found)


def _claim(f: Findings, document: NitroDocument, chain: list[x509.Certificate], root: Root, historical: bool) -> None:
    # Set only now: until the signature holds, everything in the document is the sender's word.
    fingerprints = tuple(fingerprint(certificate) for certificate in chain)
    until = expires(chain)
    f.set(
        evidence_format="nitro-attestation-document",
        tcb_status=TcbStatus.NOT_APPLICABLE,
        debug=document.debug,
        measurements={f"pcr{index}": digest.hex() for index, digest in document.pcrs.items()},
        nonce=_hex_of(document.nonce),
        machine_id=hashlib.sha256(document.instance_id.encode()).hexdigest(),
        machine_id_kind="module_id",
        host_trust=HostTrust.HYPERSCALER,
        signer_chain=fingerprints,
        root=root,
        collateral=Collateral(expires=until),
        raw={
            "module_id": document.module_id,
            "timestamp_ms": document.timestamp_ms,
            "public_key": _hex_of(document.public_key),
            "user_data": _hex_of(document.user_data),
            "chain": list(fingerprints),
            "collateral_expires": int(until),
            "other_members": list(document.others),
            "historical": historical,
        },
    )


def _hex_of(data: bytes | None) -> str | None:
    return None if data is None else data.hex()


def _short(data: bytes) -> str:
    text = data.hex()
    return text if len(text) <= 80 else text[:79] + "…"
