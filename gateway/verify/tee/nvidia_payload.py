"""The GPU evidence of one machine as dstack, SecretVM and NRAS carry it: several reports in one JSON text.

    {"nonce": hex, "arch": "HOPPER", "evidence_list": [{"certificate": base64 PEM, "evidence": base64 SPDM, "arch"}]}

The nonce and the architecture of this wrapper are anybody's words and are not read: the nonce that counts is inside
each signed report. Every device is verified by itself (`nvidia_gpu`) and becomes a child; the whole is authentic when
every device is, all answered one nonce, and no device is given twice (one GPU shown eight times is not eight GPUs).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gateway.crypto.canonical import strict_json
from gateway.crypto.encoding import unb64
from gateway.errors import FormatError
from gateway.model.tee import Freshness, FreshnessClass, Platform, Revocation, TeeResult

from .findings import MAX_EVIDENCE_BYTES, Findings, NotAuthentic, examine
from .nvidia_gpu import nonce_of, verify_spdm
from .roots import TrustRoots

PLAN = ("tee_format", "tee_nonce", "tee_parts")
MAX_DEVICES = 64


def verify_payload(
    payload: bytes,
    *,
    roots: TrustRoots,
    now: float,
    nonce: bytes | None = None,
    rims: Sequence[bytes] = (),
    answers: Mapping[str, bytes] = {},
    manifests: Mapping[str, bytes] = {},
) -> TeeResult:
    """Every device of a payload. `nonce` is the 32 bytes asked with, or, without a question of ours, what the CPU's
    evidence commits to. `rims` hold for all devices; `answers` are OCSP responses by the SHA-256 of the certificate,
    `manifests` by NVIDIA's name, of which each device is held to its own. Total for any bytes."""
    return examine(
        Platform.NVIDIA_GPU,
        payload,
        now,
        PLAN,
        lambda f: _verify(f, parse_payload(payload), roots, nonce, rims, answers, manifests),
    )


def parse_payload(payload: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """The (report, PEM chain) of each device. Raises `FormatError` for another form."""
    document = strict_json(payload, max_bytes=MAX_EVIDENCE_BYTES, max_depth=8)
    devices = document.get("evidence_list") if isinstance(document, dict) else None
    if not isinstance(devices, list) or not 1 <= len(devices) <= MAX_DEVICES:
        raise FormatError(f"the payload is not a list of 1 to {MAX_DEVICES} devices")
    return tuple(_device(device) for device in devices)


def _device(device: object) -> tuple[bytes, bytes]:
    report = device.get("evidence") if isinstance(device, dict) else None
    chain = device.get("certificate") if isinstance(device, dict) else None
    if not isinstance(report, str) or not isinstance(chain, str):
        raise FormatError("a device has no evidence or no certificate")
    return unb64(report, "a device's evidence"), unb64(chain, "a device's certificate chain")


def _verify(
    f: Findings,
    devices: tuple[tuple[bytes, bytes], ...],
    roots: TrustRoots,
    nonce: bytes | None,
    rims: Sequence[bytes],
    answers: Mapping[str, bytes],
    manifests: Mapping[str, bytes],
) -> None:
    with f.step("tee_format") as step:
        f.set(evidence_format="nvidia-payload")
        step.found = f"{len(devices)} devices"
    results = [
        verify_spdm(
            report, chain, roots=roots, now=f.evaluated_at, nonce=nonce, rims=rims, answers=answers, manifests=manifests
        )
        for report, chain in devices
    ]
    children = tuple(result.claims for result in results)
    f.set(children=children)
    stated = [claims.revocation for claims in children]
    if all(revocation.ocsp == "ok" for revocation in stated):
        f.set(revocation=Revocation(ocsp="ok", checked=tuple(dict.fromkeys(c for r in stated for c in r.checked))))
    nonces = {claims.nonce for claims in children}
    _check_nonce(f, nonces, nonce)
    with f.step("tee_parts") as step:
        for place, claims in enumerate(children):
            if not claims.authentic:
                raise NotAuthentic(f"device {place}: {claims.reject_detail}", reason=claims.reject_code or "malformed")
        if len(nonces) > 1:
            raise NotAuthentic("the devices answered several nonces", reason="gpu_nonces_differ")
        if len({claims.machine_id for claims in children}) < len(children):
            raise NotAuthentic("one device is given twice", reason="gpu_duplicate_device")
        step.found = f"{len(children)} devices, each with its own key"
    # One part under a test root makes the whole a test's.
    roots_found = [claims.root for claims in children]
    root = next((found for found in roots_found if found is not None and found.test), roots_found[0])
    f.set(root=root, product=children[0].product, nonce=children[0].nonce)
    if len(children) == 1:
        f.set(machine_id=children[0].machine_id, machine_id_kind=children[0].machine_id_kind)


def _check_nonce(f: Findings, nonces: set[str | None], nonce: bytes | None) -> None:
    if nonce is None:
        f.absent("tee_nonce", "nonce_not_given")
        return
    with f.step("tee_nonce") as step:
        if nonces != {nonce.hex()}:
            raise NotAuthentic(
                "not every device answered the nonce",
                reason="nonce_mismatch",
                found=", ".join(sorted(str(n) for n in nonces))[:80],
                expected=nonce[:64].hex(),
            )
        step.found = nonce.hex()
        f.set(freshness=Freshness(FreshnessClass.CHALLENGE))


def from_inputs(blobs: Mapping[str, bytes], params: Mapping[str, Any], roots: TrustRoots, now: float) -> TeeResult:
    """`payload`; every role that begins with `rim` is a manifest. `params`: nonce.

    Raises `FormatError` input_missing.
    """
    if "payload" not in blobs:
        raise FormatError("there is no payload", reason="input_missing")
    return verify_payload(
        blobs["payload"],
        roots=roots,
        now=now,
        nonce=nonce_of(params),
        rims=[blobs[role] for role in sorted(blobs) if role.startswith("rim")],
    )
