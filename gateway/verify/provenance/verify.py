"""Hold one Sigstore bundle against a trust root and a rule of who may have built the artefact.

What has to be shown, in this order; the first that fails ends the examination and the rest is listed as not reached:

     1. the trust root can be read                                          provenance_trust_root
     2. the bundle has the form of version 0.3                              provenance_bundle
     3. every log entry was logged: promise, checkpoint, inclusion          provenance_log
     4. the certificate was valid then, and chains to a trusted CA          provenance_certificate
     5. certificate logs saw the certificate                                provenance_sct
     6. the certificate's key signed exactly this payload                   provenance_signature
     7. the log entries are about this payload, signature, certificate      provenance_entry
     8. the certificate is for the builder that the rule names              provenance_identity
     9. the statement is about the artefact, and of an allowed type         provenance_statement
    10. the predicate gives every register                                  provenance_predicate
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.crypto.canonical import strict_json
from gateway.crypto.certificates import der_of, fingerprint, load_pem_chain
from gateway.errors import FormatError
from gateway.model.provenance import Provenance, ProvenanceResult
from gateway.model.verdict import Check, Outcome
from gateway.text import plain
from gateway.verify.tee.findings import Findings, NotAuthentic

from .bundle import MAX_BUNDLE_BYTES, Bundle, LogEntry, parse_bundle
from .certificate import Identity, check_usage, count_scts, issuing_chain, read_identity
from .log import check_entry
from .statement import Statement, parse_statement, read_predicate
from .trust_root import TrustRoot, parse_trust_root

PLAN = (
    "provenance_trust_root",
    "provenance_bundle",
    "provenance_log",
    "provenance_certificate",
    "provenance_sct",
    "provenance_signature",
    "provenance_entry",
    "provenance_identity",
    "provenance_statement",
    "provenance_predicate",
)

#: How far the log's clock may be ahead of ours, in seconds.
SKEW_S = 300.0
GITHUB = "https://token.actions.githubusercontent.com"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
_WIDTH = 80


class IdentityPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """Who may have built the artefact, and how much must stand behind it. Texts are compared exactly.

    `ref_prefix` is a prefix and nothing looser ("" is any ref); `signer_prefix`, where given, must begin the
    certificate's SAN. An allow-list of None allows any type, an empty one none. `entries` and `scts` count distinct
    logs' statements, each of which must hold.
    """

    issuer: str = GITHUB
    repository: str
    ref_prefix: str = "refs/tags/"
    signer_prefix: str | None = None
    predicate_types: tuple[str, ...] | None = None
    statement_types: tuple[str, ...] | None = None
    payload_type: str = PAYLOAD_TYPE
    entries_min: int = 1
    entries_max: int | None = None
    scts_min: int = 1


class _Examination(Findings):
    """The list of checks of one bundle; `Findings` of evidence that is of no platform."""

    def __init__(self, bundle: bytes, trust_root: bytes, now: float) -> None:
        self.checks: dict[str, Check] = {}
        self._at = PLAN[0]
        self._claims: dict[str, Any] = {
            "bundle_sha256": hashlib.sha256(bundle).hexdigest(),
            "trust_root_sha256": hashlib.sha256(trust_root).hexdigest(),
            "evaluated_at": now,
        }

    def conclude(self, refused: NotAuthentic | None) -> ProvenanceResult:
        if refused is not None:
            reason = refused.reason
            self.checks[self._at] = Check(
                self._at,
                Outcome.CONTRAINDICATED,
                reason,
                refused.found or refused.message,
                refused.expected,
                refused.over,
            )
            self.set(reject_code=reason, reject_detail=refused.message)
        checks = tuple(self.checks.get(i) or Check(i, Outcome.NONE, "not_reached") for i in PLAN)
        return ProvenanceResult(checks, Provenance(**self._claims, authentic=refused is None))


def verify_bundle(
    bundle: bytes,
    trust_root: bytes,
    *,
    identity_policy: IdentityPolicy,
    artifact_digest: str | None,
    now: float,
) -> ProvenanceResult:
    """What `bundle` shows of the artefact with the SHA-256 `artifact_digest`, under `trust_root`, at `now`.

    `trust_root` is the operator's trusted_root.json. `artifact_digest` is lower-case hex; None is for a list that is
    wanted for itself and not for an artefact. Total: for any bytes a result comes back, and nothing is raised.
    """
    examination = _Examination(bundle, trust_root, now)
    try:
        _verify(examination, bundle, trust_root, identity_policy, artifact_digest, now)
    except NotAuthentic as refused:
        return examination.conclude(refused)
    return examination.conclude(None)


class _Params(IdentityPolicy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    artifact_digest: str | None = None


def from_inputs(blobs: Mapping[str, bytes], params: Mapping[str, Any], now: float) -> ProvenanceResult:
    """`verify_bundle` over the roles `bundle` and `trust_root`; `params` has `IdentityPolicy`'s members and
    `artifact_digest`.

    Raises `FormatError` with the reason `input_missing` for a missing role, and `param_malformed` for a parameter that
    is missing, unknown or of another type.
    """
    for role in ("bundle", "trust_root"):
        if role not in blobs:
            raise FormatError(f"the input {role!r} is missing", reason="input_missing")
    try:
        rule = msgspec.convert(dict(params), _Params)
    except msgspec.ValidationError as error:
        raise FormatError(f"the rule cannot be used: {error!s:.120}", reason="param_malformed") from None
    return verify_bundle(
        blobs["bundle"],
        blobs["trust_root"],
        identity_policy=rule,
        artifact_digest=rule.artifact_digest,
        now=now,
    )


def _verify(
    f: _Examination, data: bytes, trust_root: bytes, policy: IdentityPolicy, digest: str | None, now: float
) -> None:
    # 1. the trust root can be read
    with f.step("provenance_trust_root") as step:
        root = parse_trust_root(trust_root)
        step.found = f"{len(root.authorities)} CAs, {len(root.tlogs)} logs, {len(root.ctlogs)} certificate logs"

    # 2. the bundle has the form of version 0.3
    with f.step("provenance_bundle") as step:
        bundle = parse_bundle(data)
        step.found = f"{len(bundle.entries)} log entries, payload of {len(bundle.payload)} bytes"

    # 3. every log entry was logged
    with f.step("provenance_log") as step:
        times = _check_log(bundle, root, policy)
        first = bundle.entries[0]
        step.found = f"{len(times)} entries, first at {times[0]:.0f}"
        f.set(log_entries=len(times), log_id=first.log_id.hex(), log_index=first.index, signed_at=times[0])

    # 4. the certificate was valid then, and chains to a trusted CA
    with f.step("provenance_certificate") as step:
        chain = issuing_chain(bundle.certificate, root.authorities, times)
        if not max(times) <= now + SKEW_S:  # asked for what must hold: a time that is no number holds nothing
            raise NotAuthentic("the log's time is yet to come", reason="observer_timestamp_in_future")
        key = check_usage(bundle.certificate)
        step.found = f"{len(chain)} certificates, root {fingerprint(chain[-1])[:16]}"
        f.set(signer_chain=tuple(map(fingerprint, chain)))

    # 5. certificate logs saw the certificate
    with f.step("provenance_sct") as step:
        scts = count_scts(chain[0], chain[1], root.ctlogs)
        step.found, step.expected = str(scts), f"at least {policy.scts_min}"
        f.set(scts=scts)
        if scts < policy.scts_min:
            raise NotAuthentic("too few certificate logs saw the certificate", reason="sct_insufficient")

    # 6. the certificate's key signed exactly this payload
    with f.step("provenance_signature") as step:
        _check_signature(bundle, key)
        step.over = "the DSSE payload and its type"

    # 7. the log entries are about this payload, signature and certificate
    with f.step("provenance_entry"):
        for entry in bundle.entries:
            _check_body(entry, bundle)

    # 8. the certificate is for the builder that the rule names
    with f.step("provenance_identity") as step:
        identity = read_identity(bundle.certificate)
        f.set(**msgspec.structs.asdict(identity))
        check_identity(identity, policy)
        step.found = plain(f"{identity.repository} at {identity.ref}", _WIDTH)

    # 9. the statement is about the artefact, and of an allowed type
    with f.step("provenance_statement") as step:
        statement = _check_statement(bundle, policy, digest)
        f.set(statement_type=statement.kind, predicate_type=statement.predicate_type)
        f.set(subject_name=statement.subject[0].name, artifact_sha256=statement.sha256)
        step.found, step.over = plain(statement.sha256 or "none", _WIDTH), "the first subject"

    # 10. the predicate gives every register
    with f.step("provenance_predicate") as step:
        measurement, hardware = read_predicate(statement)
        f.set(measurement=measurement, hardware=hardware)
        step.found = "a measurement" if measurement else f"{len(hardware)} platforms"


def _check_log(bundle: Bundle, root: TrustRoot, policy: IdentityPolicy) -> list[float]:
    count = len({(entry.log_id, entry.index) for entry in bundle.entries})
    most = len(bundle.entries) if policy.entries_max is None else policy.entries_max
    if count != len(bundle.entries) or not max(1, policy.entries_min) <= count <= most:
        raise NotAuthentic("too few or too many log entries", reason="tlog_count_out_of_range", found=str(count))
    return [check_entry(entry, root.tlogs) for entry in bundle.entries]


def _check_signature(bundle: Bundle, key: ec.EllipticCurvePublicKey) -> None:
    kind = bundle.payload_type.encode()  # strict_json has refused lone surrogates
    message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(bundle.payload), bundle.payload)
    algorithm = hashes.SHA384() if isinstance(key.curve, ec.SECP384R1) else hashes.SHA256()
    try:
        key.verify(bundle.signature, message, ec.ECDSA(algorithm))
    except InvalidSignature:
        raise NotAuthentic(
            "the certificate's key did not sign this payload", reason="dsse_signature_invalid", over="the DSSE payload"
        ) from None


class _Digest(msgspec.Struct, frozen=True):
    algorithm: str
    value: str


class _Logged(msgspec.Struct, frozen=True):
    signature: str
    verifier: str


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    payload_hash: _Digest
    signatures: list[_Logged]


class _Body(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str
    kind: str
    spec: _Spec


def _check_body(entry: LogEntry, bundle: Bundle) -> None:
    """The logged entry names this payload's digest, this signature and this certificate (Rekor's type dsse 0.0.1).

    The entry's envelopeHash is over the JSON that was uploaded, whose spacing the bundle does not keep; it is not read.
    """
    try:
        body = msgspec.convert(strict_json(entry.body, max_bytes=MAX_BUNDLE_BYTES, max_depth=12), _Body)
        (logged,) = body.spec.signatures
        (certificate,) = load_pem_chain(binascii.a2b_base64(logged.verifier, strict_mode=True))
        same = (
            (body.kind, body.api_version) == ("dsse", "0.0.1")
            and body.spec.payload_hash == _Digest("sha256", hashlib.sha256(bundle.payload).hexdigest())
            and binascii.a2b_base64(logged.signature, strict_mode=True) == bundle.signature
            and _same(certificate, bundle.certificate)
        )
    except (msgspec.ValidationError, FormatError, ValueError):  # ValueError: another number of signatures, not base64
        same = False
    if not same:
        raise NotAuthentic("the log entry is about something else", reason="rekor_entry_mismatch")


def _same(one: x509.Certificate, other: x509.Certificate) -> bool:
    return der_of(one) == der_of(other)


def check_identity(identity: Identity, policy: IdentityPolicy) -> None:
    """Show that the certificate is for whom `policy` names; `NotAuthentic` otherwise."""
    if identity.issuer != policy.issuer:
        raise _foreign("oidc_issuer_mismatch", "another issuer vouched for the builder", identity.issuer, policy.issuer)
    if identity.repository != policy.repository:
        raise _foreign(
            "workflow_repository_mismatch", "another repository was built", identity.repository, policy.repository
        )
    if identity.ref is None or not identity.ref.startswith(policy.ref_prefix):
        raise _foreign("workflow_ref_prefix_mismatch", "another ref was built", identity.ref, policy.ref_prefix + "*")
    prefix = policy.signer_prefix
    if prefix is not None and (identity.signer is None or not identity.signer.startswith(prefix)):
        raise _foreign("workflow_signer_mismatch", "another workflow signed", identity.signer, prefix + "*")


def _foreign(reason: str, message: str, found: str | None, expected: str) -> NotAuthentic:
    return NotAuthentic(message, reason=reason, found=plain(found or "none", _WIDTH), expected=plain(expected, _WIDTH))


def _check_statement(bundle: Bundle, policy: IdentityPolicy, digest: str | None) -> Statement:
    if bundle.payload_type != policy.payload_type:
        raise _foreign(
            "payload_type_not_allowed", "the payload is of another type", bundle.payload_type, policy.payload_type
        )
    statement = parse_statement(bundle.payload)
    if policy.statement_types is not None and statement.kind not in policy.statement_types:
        raise NotAuthentic("the statement is of no allowed type", reason="in_toto_statement_type_not_allowed")
    if statement.sha256 is None or (digest is not None and statement.sha256 != digest):
        raise NotAuthentic(
            "the statement is about another artefact",
            reason="subject_digest_mismatch",
            found=plain(statement.sha256 or "none", _WIDTH),
            expected=digest,
        )
    if policy.predicate_types is not None and statement.predicate_type not in policy.predicate_types:
        raise NotAuthentic("the predicate is of no allowed type", reason="predicate_type_not_allowed")
    return statement
