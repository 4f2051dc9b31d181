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
    """One kind: what it is, the roles of its inputs (the evidence first), and the vendors whose roots it may end in."""

    name: str
    title: str
    inputs: tuple[str, ...]
    vendors: tuple[str, ...]
    module: str

    def verify(self, blobs: Mapping[str, bytes], params: Mapping[str, Any], roots: TrustRoots, now: float) -> TeeResult:
        """Appraise. Raises `FormatError` with the reason `input_missing` for a role that was not given."""
        module = importlib.import_module("gateway.verify.tee." + self.module)
        return cast("Verify", module.from_inputs)(blobs, params, roots, now)


_KINDS = (
    Kind("tdx", "Intel TDX or SGX quote", ("quote", "collateral"), ("intel",), "intel"),
    Kind("snp", "AMD SEV-SNP report", ("report", "ek", "ask"), ("amd",), "snp"),
    Kind("nitro", "AWS Nitro Enclaves document", ("doc",), ("nitro",), "nitro"),
    Kind("nvidia_spdm", "NVIDIA SPDM report", ("report", "chain"), ("nvidia_device", "nvidia_rim"), "nvidia_gpu"),
    Kind("nvidia_nras", "NVIDIA NRAS token bundle", ("bundle", "jwks"), ("nvidia_nras",), "nras"),
    Kind("gcs", "Google Confidential Space token", ("token",), ("gcs",), "gcs"),
    Kind("azure_vtpm", "Azure vTPM evidence", ("evidence",), ("amd", "intel"), "azure_vtpm"),
    Kind("cca", "Arm CCA token", ("token", "cpak"), ("cca",), "cca"),
)

#: name -> kind.
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _KINDS}


def kind_of(name: str) -> Kind:
    """The kind called `name`; `FormatError` names those that there are."""
    found = KINDS.get(name)
    if found is None:
        raise FormatError(f"there is no kind of evidence {name!r:.40}; one of {', '.join(KINDS)}")
    return found
