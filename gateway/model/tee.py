"""The claims record of one item of TEE evidence, `tee-claims/1`: what a verifier read out of it, in one vocabulary.

Policies, receipts and screens see these names only; what a vendor calls a thing stays under `raw`. A member that is
None was not shown, which is never the same as good: `debug=None` is not "no debug".

Bytes are lower-case hex, digests without a prefix, times are Unix seconds.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any

import msgspec

from .verdict import Check


class Platform(enum.StrEnum):
    """Whose root stands behind an item of evidence, and for what."""

    INTEL_TDX = "intel-tdx"
    INTEL_SGX = "intel-sgx"
    AMD_SEV_SNP = "amd-sev-snp"
    AWS_NITRO = "aws-nitro"
    NVIDIA_GPU = "nvidia-gpu-cc"
    NVIDIA_SWITCH = "nvidia-nvswitch"
    GCP_CONFIDENTIAL_SPACE = "gcp-confidential-space"
    AZURE_MAA = "azure-maa"
    AZURE_VTPM = "azure-vtpm"
    TPM2 = "tpm2"
    ARM_CCA = "arm-cca"


class TcbStatus(enum.StrEnum):
    """How the platform's security version stands to what its vendor asks for; Intel's words."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING = "SWHardeningNeeded"
    CONFIGURATION = "ConfigurationNeeded"
    CONFIGURATION_SW_HARDENING = "ConfigurationAndSWHardeningNeeded"
    RELAUNCH = "TDRelaunchAdvised"
    RELAUNCH_CONFIGURATION = "TDRelaunchAdvisedConfigurationNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION = "OutOfDateConfigurationNeeded"
    REVOKED = "Revoked"
    UNSUPPORTED = "Unsupported"  # genuine signatures, and no level of the vendor's list fits
    NOT_APPLICABLE = "NotApplicable"  # the vendor publishes no list to hold it to (SNP, Nitro)


class FreshnessClass(enum.StrEnum):
    CHALLENGE = "challenge"  # our nonce is inside what was signed
    DATED = "dated"  # a signed time is inside
    UNDATED = "undated"  # neither: it may be of any age


class HostTrust(enum.StrEnum):
    """Who is known to hold the machine, which is what physical attacks on memory turn on."""

    HYPERSCALER = "hyperscaler_attested"
    KNOWN_MACHINE = "known_machine"
    UNKNOWN_OPERATOR = "unknown_operator"


class BindingStatus(enum.StrEnum):
    BOUND = "bound"  # the evidence commits to the key or nonce that it was asked about
    UNBOUND = "unbound"  # genuine, and tied to nothing: anybody may show it
    MISMATCH = "mismatch"  # it commits to something else


class Binding(msgspec.Struct, frozen=True):
    """What the evidence was found to be tied to. `kind` is a rule of `gateway.verify.tee.bindings`."""

    status: BindingStatus = BindingStatus.UNBOUND
    kind: str | None = None
    key_spki_sha256: str | None = None
    detail: str | None = None


class Freshness(msgspec.Struct, frozen=True, rename={"kind": "class"}):
    """`age_s` is None where nothing in the evidence tells it."""

    kind: FreshnessClass = FreshnessClass.UNDATED
    issued_at: float | None = None
    age_s: float | None = None


class Root(msgspec.Struct, frozen=True):
    """The trust anchor that the chain ended in. `test` marks one that proves nothing outside a test."""

    name: str
    fingerprint: str
    test: bool = False


class Revocation(msgspec.Struct, frozen=True):
    """`crl` and `ocsp` are ok|stale|absent; `checked` names what was looked at."""

    crl: str = "absent"
    ocsp: str = "absent"
    checked: tuple[str, ...] = ()


class Golden(msgspec.Struct, frozen=True):
    """A comparison with published reference values: how many matched, and which did not."""

    kind: str
    matched: int
    mismatched: tuple[str, ...] = ()


class Collateral(msgspec.Struct, frozen=True):
    """The vendor's documents that the verdict rests on: their SHA-256, oldest issue and earliest expiry."""

    hashes: tuple[str, ...] = ()
    issued_min: float | None = None
    expires: float | None = None


class TeeClaims(msgspec.Struct, frozen=True, kw_only=True):
    """One record an item. `authentic`: no mandatory check failed; whether it is acceptable is policy's word."""

    schema: str = "tee-claims/1"
    platform: Platform
    evidence_format: str | None = None
    evidence_sha256: str
    product: str | None = None
    authentic: bool
    reject_code: str | None = None
    reject_detail: str | None = None
    tcb_status: TcbStatus | None = None
    tcb: Mapping[str, Any] = msgspec.field(default_factory=dict)
    advisory_ids: tuple[str, ...] = ()
    debug: bool | None = None
    flags: Mapping[str, bool | int] = msgspec.field(default_factory=dict)
    measurements: Mapping[str, str] = msgspec.field(default_factory=dict)
    report_data: str | None = None
    nonce: str | None = None
    binding: Binding = Binding()
    freshness: Freshness = Freshness()
    machine_id: str | None = None
    machine_id_kind: str | None = None
    host_trust: HostTrust = HostTrust.UNKNOWN_OPERATOR
    signer_chain: tuple[str, ...] = ()
    root: Root | None = None
    revocation: Revocation = Revocation()
    golden: tuple[Golden, ...] = ()
    evaluated_at: float
    collateral: Collateral = Collateral()
    verifier: Mapping[str, str] = msgspec.field(default_factory=dict)
    children: tuple[TeeClaims, ...] = ()
    raw: Mapping[str, Any] = msgspec.field(default_factory=dict)


class TeeResult(msgspec.Struct, frozen=True):
    """What one verification found: every check of the platform's list, in its order, and the claims that follow."""

    checks: tuple[Check, ...]
    claims: TeeClaims
