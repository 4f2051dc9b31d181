"""Google Confidential Space: an attestation token of the PKI kind, RS256 with its certificate chain in the header.

    tee_format     a compact token, RS256
    tee_chain      x5c: leaf, intermediate, root; each in date and issued by the next; the root pinned.
                   `kid` and `jku` choose nothing
    tee_signature  the leaf's key signed the token
    tee_identity   `iss` is Google's verifier, the software is Confidential Space
    tee_nonce      `aud` is ours, and `eat_nonce` when one was sent
    tee_age        issued, not run out (an hour)

Tokens for Google's own security token service are bearer credentials: whoever has one may trade it in. They are
refused whatever audience the caller asks for, and no claim of such a token is written down.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.crypto.certificates import ChainError, check_chain, der_of, expires, fingerprint
from gateway.crypto.jose import Json, Jws, certificates_of, check_signature, read_compact
from gateway.errors import FormatError
from gateway.model.tee import Collateral, Freshness, FreshnessClass, HostTrust, Platform, TcbStatus, TeeResult
from gateway.text import plain

from .findings import Findings, NotAuthentic, examine
from .roots import TrustRoots
from .tokens import check_audience, check_issuer, check_times, seconds_param, shown, text_param

PLAN = ("tee_format", "tee_chain", "tee_signature", "tee_identity", "tee_nonce", "tee_age")
ISSUER = "https://confidentialcomputing.googleapis.com"
SOFTWARE = "CONFIDENTIAL_SPACE"
ALGORITHMS = ("RS256",)
CHAIN_LENGTH = 3
#: Where a token is money: the audiences of Google's security token service.
_BEARER_AUDIENCES = ("https://sts.googleapis.com", "//iam.googleapis.com/", "https://iam.googleapis.com/")


def verify_gcs(
    token: bytes,
    *,
    roots: TrustRoots,
    now: float,
    audience: str,
    nonce: str | None = None,
    issuer: str = ISSUER,
    max_age: float | None = None,
) -> TeeResult:
    """A compact token. `audience` is the one that the workload was told to ask for; `nonce` one of its `eat_nonce`.

    Total for any bytes.
    """
    return examine(
        Platform.GCP_CONFIDENTIAL_SPACE,
        token,
        now,
        PLAN,
        lambda f: _verify(f, token, roots, audience, nonce, issuer, max_age),
    )


def _verify(
    f: Findings, text: bytes, roots: TrustRoots, audience: str, nonce: str | None, issuer: str, max_age: float | None
) -> None:
    with f.step("tee_format") as step:
        token = read_compact(text, algs=ALGORITHMS)
        _refuse_bearer(token.claims)
        f.set(evidence_format="gcs-pki-token")
        step.found = f"{token.alg}, {len(text)} bytes"
    with f.step("tee_chain") as step:
        raw = _check_chain_and_signature_key(f, token, roots)
        step.found = f"{CHAIN_LENGTH} certificates"
    with f.step("tee_signature") as step:
        check_signature(token, raw.pop("key"))
        step.over = "header and claims"
    _set_claims(f, token.claims, raw)
    with f.step("tee_identity") as step:
        check_issuer(token.claims, issuer)
        if token.claims.get("swname") != SOFTWARE:
            raise NotAuthentic(
                "the software is not Confidential Space",
                reason="gcs_wrong_software",
                found=shown(token.claims.get("swname")),
                expected=SOFTWARE,
            )
        f.set(host_trust=HostTrust.HYPERSCALER)
        step.found = issuer
    with f.step("tee_nonce") as step:
        check_audience(token.claims, audience)
        _check_nonce(token.claims, nonce)
        step.found = f"audience {shown(audience)}" + (", nonce" if nonce is not None else ", no nonce asked for")
    with f.step("tee_age") as step:
        times = check_times(token.claims, f.evaluated_at, max_age=max_age)
        kind = FreshnessClass.DATED if nonce is None else FreshnessClass.CHALLENGE
        f.set(freshness=Freshness(kind, times.issued_at, f.evaluated_at - times.issued_at))
        step.found = f"exp {times.expires:.0f}"


def _refuse_bearer(claims: Json) -> None:
    """Before anything of the token is kept."""
    stated = claims.get("aud")
    for audience in stated if isinstance(stated, list) else [stated]:
        if isinstance(audience, str) and audience.startswith(_BEARER_AUDIENCES):
            raise NotAuthentic("the token is a bearer credential of Google's", reason="gcs_bearer_token")


def _check_chain_and_signature_key(f: Findings, token: Jws, roots: TrustRoots) -> dict[str, Any]:
    chain = certificates_of(token.header.get("x5c"))
    if len(chain) != CHAIN_LENGTH:
        raise ChainError(f"x5c has {len(chain)} certificates, not {CHAIN_LENGTH}", reason="chain_broken")
    check_chain(chain, f.evaluated_at)
    root = roots.find("gcs", der_of(chain[-1]))
    if root is None:
        raise ChainError("the chain ends in a root that is not pinned", reason="chain_untrusted_root")
    prints = tuple(fingerprint(certificate) for certificate in chain)
    f.set(root=root, signer_chain=prints, collateral=Collateral(expires=expires(chain)))
    return {"key": chain[0].public_key(), "chain": list(prints), "x5c": token.header["x5c"]}


def _check_nonce(claims: Json, nonce: str | None) -> None:
    stated = claims.get("eat_nonce")
    if nonce is not None and stated != nonce and not (isinstance(stated, list) and nonce in stated):
        raise NotAuthentic(
            "the token was made for another nonce", reason="nonce_mismatch", found=shown(stated), expected=shown(nonce)
        )


def _set_claims(f: Findings, claims: Json, raw: dict[str, Any]) -> None:
    space, container = _submodule(claims, "confidential_space"), _submodule(claims, "container")
    tdx = claims.get("tdx")
    tcb = tdx.get("gcp_attester_tcb_status") if isinstance(tdx, dict) else None
    digest, nonce, model = container.get("image_digest"), claims.get("eat_nonce"), claims.get("hwmodel")
    f.set(
        product=plain(model, 64) if isinstance(model, str) else None,
        # Only the one word means that debugging is off; anything else, or nothing, is on.
        debug=claims.get("dbgstat") != "disabled-since-boot",
        flags={"secure_boot": claims.get("secboot") is True},
        tcb_status=TcbStatus(tcb) if isinstance(tcb, str) and tcb in list(TcbStatus) else None,
        nonce=plain(nonce, 256) if isinstance(nonce, str) else None,
        measurements={"image_digest": plain(digest, 80).removeprefix("sha256:")} if isinstance(digest, str) else {},
        raw=raw,
    )
    names = ("hwmodel", "secboot", "swname", "swversion", "dbgstat", "eat_nonce", "aud", "iss", "sub")
    raw.update({name: claims[name] for name in names if name in claims})
    raw.update(support=space.get("support_attributes"), image_digest=digest, expires=claims.get("exp"))
    raw["container"] = {name: container.get(name) for name in ("image_reference", "env", "args", "env_override")}
    raw["gce"] = _submodule(claims, "gce")


def _submodule(claims: Json, name: str) -> Json:
    parts = claims.get("submods")
    part = parts.get(name) if isinstance(parts, dict) else None
    return part if isinstance(part, dict) else {}


def from_inputs(blobs: Mapping[str, bytes], params: Mapping[str, Any], roots: TrustRoots, now: float) -> TeeResult:
    """`token`; `params`: aud (which must be given), nonce, iss, max_age.

    Raises `FormatError` input_missing, param_malformed.
    """
    if "token" not in blobs:
        raise FormatError("there is no token", reason="input_missing")
    audience = text_param(params, "aud")
    if audience is None:
        raise FormatError("there is no audience that the token must be for", reason="input_missing")
    return verify_gcs(
        blobs["token"],
        roots=roots,
        now=now,
        audience=audience,
        nonce=text_param(params, "nonce"),
        issuer=text_param(params, "iss") or ISSUER,
        max_age=seconds_param(params, "max_age"),
    )
