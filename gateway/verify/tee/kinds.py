"""The closed registry of evidence that can be appraised from raw inputs: kind -> the verifier that takes them.

A verifier is called as `verify(blobs, params, roots, now)`: `blobs` maps the roles of its kind (`inputs`) to bytes, and
`root:<name>` to root certificates, which are believed only when `roots` says so; `params` holds nonces and limits.
The family's module is imported when it is first asked for: somebody who checks a Nitro document needs no TDX library.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec

from gateway.errors import FormatError
from gateway.model.tee import TeeResult

from .roots import TrustRoots

Verify = Callable[[Mapping[str, bytes], Mapping[str, Any], TrustRoots, float], TeeResult]


class Kind(msgspec.Struct, frozen=True):
    """One kind: what it is, the roles of its inputs (the evidence first), and the vendors whose roots it may end in.

    `optional` roles may be left out; a role that ends in `…` stands for all that begin so. `binary` roles are bytes by
    their format, so that a file of printable text in their place can only be an encoding of them.
    """

    name: str
    title: str
    inputs: tuple[str, ...]
    vendors: tuple[str, ...]
    module: str
    optional: tuple[str, ...] = ()
    binary: frozenset[str] = frozenset()

    def verify(self, blobs: Mapping[str, bytes], params: Mapping[str, Any], roots: TrustRoots, now: float) -> TeeResult:
        """Appraise. Raises `FormatError` with the reason `input_missing` for a role that was not given."""
        module = importlib.import_module("gateway.verify.tee." + self.module)
        return cast("Verify", module.from_inputs)(blobs, params, roots, now)

    @property
    def second(self) -> str | None:
        """The role that goes with the evidence: its collateral, or else the second input."""
        named = "collateral" if "collateral" in self.inputs + self.optional else None
        return named or next(iter(self.inputs[1:]), None)


_NVIDIA = ("nvidia_device", "nvidia_rim")
_AMD = frozenset(("report", "ek", "ask", "crl"))

_KINDS = (
    Kind("tdx", "Intel TDX or SGX quote", ("quote", "collateral"), ("intel",), "intel", (), frozenset(("quote",))),
    Kind("snp", "AMD SEV-SNP report", ("report", "ek", "ask"), ("amd",), "snp", ("crl",), _AMD),
    Kind("nitro", "AWS Nitro Enclaves document", ("doc",), ("nitro",), "nitro", (), frozenset(("doc",))),
    Kind(
        "nitro_history",
        "AWS Nitro Enclaves document and its publisher's history",
        ("doc", "history", "publisher_key"),
        ("nitro",),
        "nitro_history",
        binary=frozenset(("doc", "publisher_key")),
    ),
    Kind(
        "nvidia_spdm",
        "NVIDIA SPDM report",
        ("report", "chain"),
        _NVIDIA,
        "nvidia_gpu",
        ("rim…", "ocsp…"),
        frozenset(("report",)),
    ),
    Kind("nvidia_payload", "NVIDIA GPU evidence of a machine", ("payload",), _NVIDIA, "nvidia_payload", ("rim…",)),
    Kind("nvidia_nras", "NVIDIA NRAS token bundle", ("bundle", "jwks"), ("nvidia_nras",), "nras"),
    Kind("gcs", "Google Confidential Space token", ("token",), ("gcs",), "gcs"),
    Kind("maa", "Microsoft Azure Attestation token", ("token", "jwks"), ("maa",), "maa"),
    Kind("azure_vtpm", "Azure vTPM evidence", ("evidence",), ("amd", "intel"), "azure_vtpm", ("crl",)),
    Kind(
        "tpm2",
        "TPM 2.0 quote",
        ("quote", "signature", "pcrs"),
        ("tpm_ak",),
        "tpm",
        ("ak", "ak_chain"),
        frozenset(("quote", "signature", "ak")),
    ),
    Kind("cca", "Arm CCA token", ("token", "cpak"), ("cca",), "cca", (), frozenset(("token",))),
    Kind(
        "dstack",
        "dstack node report",
        ("report",),
        ("intel", "amd", "nitro", *_NVIDIA),
        "dstack_inputs",
        (
            "collateral", "quote", "event_log", "app_compose", "nvidia_payload", "mr_config", "references", "ek",
            "ask", "crl", "rim…",
        ),
        frozenset(("quote", "ek", "ask", "crl")),
    ),
    Kind(
        "secretvm",
        "SecretVM quote and workload",
        ("quote",),
        ("intel", *_NVIDIA),
        "secretvm_inputs",
        ("collateral", "compose", "registry", "payload", "rim…"),
        frozenset(("quote",)),
    ),
    Kind(
        "tinfoil",
        "Tinfoil attestation bundle",
        ("bundle",),
        ("amd", "intel"),
        "tinfoil_bundle",
        ("collateral", "trust_root", "ask", "crl", "hardware"),
        frozenset(("ask", "crl")),
    ),
)  # fmt: skip

#: What the checks beyond `findings.MANDATORY` are about: what a node runs, and what belongs to it.
BEHIND = {
    "rtmr_log": "The event log holds together, and the guest had finished starting",
    "rtmr_replay": "Replaying the log gives the registers of the quote",
    "os_image": "The guest image is one that was reviewed",
    "compose_bound": "The document of what runs is the one that was measured",
    "compose_known": "That document is one that was reviewed",
    "image_pinned": "Every container image is named by its digest",
    "scripts_known": "Every script beside the containers was reviewed",
    "envs_known": "Every variable that the operator may set was reviewed",
    "app_identity": "The application and instance are those expected",
    "key_provider": "The guest's keys come from a provider that is trusted with them",
    "gpu_policy": "The policy for accelerators was measured, in its place",
    "gpu_evidence": "The accelerators are genuine, and answered what this machine was asked with",
    "mr_config_bound": "The configuration beside the report is the one that the chip signed for",
    "pcr_history": "The publisher once signed this enclave image",
    "build_attested": "A public build of the named repository made this release",
    "build_measured": "What runs is what that build measured",
    "channel_key": "The certificate beside the report has the key that the report commits to",
}

#: name -> kind.
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _KINDS}


def kind_of(name: str) -> Kind:
    """The kind called `name`; `FormatError` names those that there are."""
    found = KINDS.get(name)
    if found is None:
        raise FormatError(f"there is no kind of evidence {name!r:.40}; one of {', '.join(KINDS)}")
    return found
