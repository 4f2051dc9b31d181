"""The kind `tinfoil`: the bundle that a Tinfoil enclave's clients fetch - report, build attestation, certificate.

    bundle      {"enclaveAttestationReport": {"format", "body"}, "digest", "sigstoreBundle", "vcek", "enclaveCert"}
    trust_root  Sigstore's trusted_root.json, which the caller pinned; without it the build is not looked at
    ask         AMD's intermediate certificate; without it that of Genoa, which the bundle leaves out
    collateral  Intel's documents, for an enclave on TDX; without them the result is never authentic
    hardware    for an enclave on TDX the Sigstore bundle that lists known platforms, which the parameter
                `hardware_repository` built

The list of checks is that of `snp` or `intel`, then

    build_attested  Sigstore's proof that `repository` (a parameter) built the release whose digest the bundle names
    build_measured  the report's registers are those that the build attestation gives; on TDX beneath the firmware
                    (MRTD and RTMR0) of a known platform, for another one extends RTMR1 to RTMR3 as it likes
    channel_key     the bundle's certificate has the key that the report data commits to

The certificate is the bundle's own: `channel_key` says that report and certificate belong together, not that the
caller's connection has that key. For that, bind the evidence to the connection (`bindings`, tinfoil-spki-hpke).
See docs/verification.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.crypto.certificates import der_of, load_pem_chain
from gateway.crypto.encoding import unb64
from gateway.crypto.x509 import spki_sha256
from gateway.errors import FormatError
from gateway.model.provenance import HardwareMeasurement, Provenance
from gateway.model.tee import Golden, Platform, TeeClaims, TeeResult
from gateway.model.verdict import Check
from gateway.text import plain
from gateway.verify.provenance.measurement import HARDWARE, match_hardware
from gateway.verify.provenance.verify import IdentityPolicy, verify_bundle

from . import snp
from .findings import MAX_EVIDENCE_BYTES, examine
from .outcomes import fails, holds, refused, unknown
from .quote_alone import verify_quote
from .roots import TrustRoots
from .tinfoil import golden_of, measurement_of, read_report_data, unpack
from .vendor_chains import AMD_GENOA_ARK, AMD_GENOA_ASK

FORMATS: Mapping[str, Platform] = {
    "https://tinfoil.sh/predicate/sev-snp-guest/v2": Platform.AMD_SEV_SNP,
    "https://tinfoil.sh/predicate/tdx-guest/v2": Platform.INTEL_TDX,
}


class _Document(msgspec.Struct, frozen=True):
    format: str
    body: str


class Bundle(msgspec.Struct, frozen=True, rename="camel"):
    """The bundle's members that are read; the domain in it is its sender's word."""

    enclave_attestation_report: _Document
    digest: str
    sigstore_bundle: dict[str, Any]
    enclave_cert: str
    vcek: str | None = None


def read_bundle(data: bytes) -> Bundle:
    """The bundle from its JSON. Raises `FormatError` with the reason bundle_malformed."""
    try:
        return msgspec.convert(strict_json(data, max_bytes=MAX_EVIDENCE_BYTES), Bundle)
    except msgspec.ValidationError as error:
        raise FormatError(f"not a bundle: {plain(str(error), 80)}", reason="bundle_malformed") from None
    except FormatError as error:
        raise FormatError(f"not a bundle: {error.message}", reason="bundle_malformed") from None


def from_inputs(blobs: Mapping[str, bytes], params: Mapping[str, Any], roots: TrustRoots, now: float) -> TeeResult:
    """Appraise a bundle. `params`: repository, for example tinfoilsh/confidential-model-router; hardware_repository.

    Raises `FormatError` with the reason `input_missing` without a bundle, or for an `ask` without its root.
    """
    if "bundle" not in blobs:
        raise FormatError("there is no bundle", reason="input_missing")
    try:
        bundle = read_bundle(blobs["bundle"])
        result = _enclave(bundle, blobs, roots, now)
    except FormatError as error:
        if error.reason == "input_missing":  # the caller's, not the bundle's
            raise
        return _unreadable(blobs["bundle"], now, error)
    build, provenance = _build(bundle, blobs.get("trust_root"), params.get("repository"), now)
    claims = result.claims
    raw = {**claims.raw, "tinfoil": {} if provenance is None else msgspec.to_builtins(provenance)}
    measured, golden = _measured(claims, provenance, _platforms(blobs, params, now))
    claims = msgspec.structs.replace(claims, raw=raw, golden=(*claims.golden, *golden))
    return TeeResult((*result.checks, build, measured, _channel(claims, bundle.enclave_cert)), claims)


def _unreadable(data: bytes, now: float, error: FormatError) -> TeeResult:
    def refuse(_: object) -> None:
        raise error

    return examine(Platform.AMD_SEV_SNP, data, now, snp.PLAN, refuse)


def _enclave(bundle: Bundle, blobs: Mapping[str, bytes], roots: TrustRoots, now: float) -> TeeResult:
    platform = FORMATS.get(bundle.enclave_attestation_report.format)
    if platform is None:
        raise FormatError("the attestation document is of another format", reason="format_unsupported")
    evidence = unpack(bundle.enclave_attestation_report.body)
    if platform is Platform.INTEL_TDX:
        return verify_quote(evidence, blobs, roots=roots, now=now)
    if bundle.vcek is None:
        raise FormatError("the bundle has no VCEK", reason="bundle_malformed")
    given = {role: blob for role, blob in blobs.items() if role in ("ask", "crl") or role.startswith("root:")}
    if "ask" not in given:
        given |= {"ask": AMD_GENOA_ASK, "root:ark_genoa": AMD_GENOA_ARK}
    return snp.from_inputs({"report": evidence, "ek": unb64(bundle.vcek, "the VCEK"), **given}, {}, roots, now)


def _build(bundle: Bundle, trust_root: bytes | None, repository: object, now: float) -> tuple[Check, Provenance | None]:
    if trust_root is None:
        return unknown("build_attested", "no_trust_root"), None
    if not isinstance(repository, str) or not repository:
        return unknown("build_attested", "no_repository"), None
    found = verify_bundle(
        msgspec.json.encode(bundle.sigstore_bundle),
        trust_root,
        identity_policy=IdentityPolicy(repository=repository),
        artifact_digest=bundle.digest,
        now=now,
    ).claims
    if not found.authentic:
        return fails("build_attested", found.reject_code or "refused", plain(found.reject_detail or "", 160)), None
    return holds("build_attested", plain(f"{found.repository} {found.ref}", 120)), found


def _platforms(blobs: Mapping[str, bytes], params: Mapping[str, Any], now: float) -> tuple[HardwareMeasurement, ...]:
    """The platforms that are known; none without a list that holds."""
    repository = params.get("hardware_repository")
    if not {"hardware", "trust_root"} <= blobs.keys() or not isinstance(repository, str) or not repository:
        return ()
    policy = IdentityPolicy(repository=repository, predicate_types=(HARDWARE,))
    found = verify_bundle(
        blobs["hardware"], blobs["trust_root"], identity_policy=policy, artifact_digest=None, now=now
    ).claims
    return found.hardware if found.authentic else ()


def _measured(
    claims: TeeClaims, build: Provenance | None, platforms: tuple[HardwareMeasurement, ...]
) -> tuple[Check, tuple[Any, ...]]:
    if not claims.authentic:
        return unknown("build_measured", "quote_not_authentic"), ()
    if build is None or build.measurement is None:
        return unknown("build_measured", "build_not_attested"), ()
    try:
        golden = golden_of(claims, build.measurement)
    except FormatError as error:
        return refused("build_measured", error), ()
    if golden.mismatched:
        return fails("build_measured", "measurement_mismatch", ", ".join(golden.mismatched)), (golden,)
    if claims.platform is not Platform.INTEL_TDX:
        return holds("build_measured", f"{golden.matched} registers"), (golden,)
    return _on_known_firmware(claims, golden, platforms), (golden,)


def _on_known_firmware(claims: TeeClaims, golden: Golden, platforms: tuple[HardwareMeasurement, ...]) -> Check:
    if not platforms:
        return unknown("build_measured", "no_hardware_list", f"{golden.matched} registers, MRTD and RTMR0 not compared")
    try:
        platform = match_hardware(measurement_of(claims), platforms)
    except FormatError as error:
        return refused("build_measured", error)
    return holds("build_measured", plain(f"{golden.matched} registers, and firmware of {platform.id}", 120))


def _channel(claims: TeeClaims, certificate: str) -> Check:
    if not claims.authentic:
        return unknown("channel_key", "quote_not_authentic")
    try:
        chain = load_pem_chain(certificate.encode("utf-8", "replace"))
        if not chain:
            raise FormatError("there is no certificate")
        digest = spki_sha256(der_of(chain[0]))
        keys = read_report_data(bytes.fromhex(claims.report_data or ""))
    except FormatError as error:
        return refused("channel_key", error)
    if keys.tls_key_sha256 != digest:
        found, expected = f"{digest.hex()[:16]}…", f"{keys.tls_key_sha256.hex()[:16]}…"
        return fails("channel_key", "tls_key_mismatch", found, expected, "report data, bytes 0 to 32")
    return holds("channel_key", f"{digest.hex()[:16]}…", "report data, bytes 0 to 32")
