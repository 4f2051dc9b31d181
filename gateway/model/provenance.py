"""What a signed build attestation was found to say: who built which artefact, and which measurements that build gives.

A member that is None was not shown. Digests are lower-case hex, times are Unix seconds. Nothing here is about a
machine: provenance says what a measurement *should* be, TEE evidence says what it *is*, and only the comparison of both
means anything.
"""

from __future__ import annotations

import msgspec

from .verdict import Check


class Measurement(msgspec.Struct, frozen=True):
    """The registers of one kind of guest, in the order that its predicate type gives; 96 lower-case hex digits each."""

    type: str
    registers: tuple[str, ...]


class HardwareMeasurement(msgspec.Struct, frozen=True):
    """What one TDX hardware platform measures before any guest code runs. `id` is `<platform>@<release digest>`."""

    id: str
    mrtd: str
    rtmr0: str


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """One record a bundle. `authentic`: every check held; whether the builder is one to trust was the caller's rule.

    `issuer` is who vouched for the builder (an OIDC issuer), `repository` and `ref` the source that it built, `signer`
    the workflow that signed (the certificate's SAN), `commit` the source's commit. `signed_at` is the log's time.
    """

    schema: str = "provenance-claims/1"
    authentic: bool
    reject_code: str | None = None
    reject_detail: str | None = None
    bundle_sha256: str
    trust_root_sha256: str
    issuer: str | None = None
    repository: str | None = None
    ref: str | None = None
    signer: str | None = None
    commit: str | None = None
    signer_chain: tuple[str, ...] = ()
    log_id: str | None = None
    log_index: int | None = None
    log_entries: int | None = None
    scts: int | None = None
    signed_at: float | None = None
    statement_type: str | None = None
    predicate_type: str | None = None
    subject_name: str | None = None
    artifact_sha256: str | None = None
    measurement: Measurement | None = None
    hardware: tuple[HardwareMeasurement, ...] = ()
    evaluated_at: float


class ProvenanceResult(msgspec.Struct, frozen=True):
    """Every check of the list, in its order, and the claims that follow."""

    checks: tuple[Check, ...]
    claims: Provenance
