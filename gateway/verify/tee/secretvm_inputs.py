"""The kind `secretvm`: a SecretVM's quote, the compose text that it runs, and its accelerators.

    quote        TDX quote
    collateral   Intel's documents; without them the result is never authentic (`quote_alone`)
    compose      the compose text, byte for byte as the guest was started with it
    registry     rows of known guests (CSV, `secretvm.parse_registry`)
    payload      GPU evidence (JSON), which answers the second half of the quote's report data

The list of checks is that of `intel`, then of `secretvm`, then `gpu_evidence`. docs/verification.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.errors import FormatError
from gateway.model.tee import TeeClaims, TeeResult

from .dstack_inputs import accelerators
from .nvidia_gpu import nonce_of
from .quote_alone import on_top, verify_quote
from .roots import TrustRoots
from .secretvm import appraise_secretvm, parse_registry


def from_inputs(blobs: Mapping[str, bytes], params: Mapping[str, Any], roots: TrustRoots, now: float) -> TeeResult:
    """Appraise a guest. `params`: docker_files_sha256 and app_id (hex), nonce (64 hex, for the accelerators).

    Raises `FormatError` with the reason `input_missing` without a quote, `param_malformed` for a parameter, and for a
    registry that cannot be read: those are the caller's own.
    """
    if "quote" not in blobs:
        raise FormatError("there is no quote", reason="input_missing")
    registry = parse_registry(blobs["registry"]) if "registry" in blobs else ()
    files, app_id = _hex(params, "docker_files_sha256", 32), _hex(params, "app_id", 20)
    nonce = nonce_of(params)

    def appraise(claims: TeeClaims) -> TeeResult:
        return appraise_secretvm(
            claims, blobs.get("compose"), registry=registry, docker_files_sha256=files, app_id=app_id
        )

    whole = on_top(verify_quote(blobs["quote"], blobs, roots=roots, now=now), appraise)
    rims = [blobs[role] for role in sorted(blobs) if role.startswith("rim")]
    check, children = accelerators(whole.claims, blobs.get("payload"), nonce, rims, roots)
    return TeeResult((*whole.checks, check), msgspec.structs.replace(whole.claims, children=children))


def _hex(params: Mapping[str, Any], name: str, length: int) -> bytes | None:
    value = params.get(name)
    if value is None:
        return None
    try:
        data = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        data = b""
    if len(data) != length:
        raise FormatError(f"the parameter {name} is not {length} bytes of hex", reason="param_malformed")
    return data
