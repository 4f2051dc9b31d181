"""What of NVIDIA's a machine's accelerators have to be held against, read from a payload of theirs that is genuine.

Unlike `needs`, this asks of evidence that holds: a payload may speak of 64 devices and anybody may write one, and each
device costs NVIDIA's services and ours several questions. So only devices with a report of their own, signed under the
pinned root, are asked about, and only `MAX_QUESTIONS` in all; what is left open is `none` in the device's claims.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from gateway.crypto.certificates import load_pem_chain
from gateway.errors import FormatError

from .needs import FIRST_ISSUED, OcspNeed, RimNeed, ocsp_needs
from .nvidia_payload import parse_payload, verify_payload
from .rim import check_rim, parse_rim
from .roots import TrustRoots

_T = TypeVar("_T")

#: Eight GPUs and four switches have about 30 certificates.
MAX_QUESTIONS = 64


def device_needs(payload: bytes, roots: TrustRoots, now: float) -> tuple[RimNeed | OcspNeed, ...]:
    """The manifests that the devices name, then an answer for each certificate of their chains that NVIDIA issued.
    Empty for a payload that does not hold; total for any bytes."""
    claims = verify_payload(payload, roots=roots, now=now).claims
    if not claims.authentic:
        return ()
    rims = (RimNeed(name) for child in claims.children for name in child.raw["rim_ids"] if _is_name(name))
    answers = (need for _, pem in parse_payload(payload) for need in ocsp_needs(load_pem_chain(pem)[FIRST_ISSUED:]))
    return _some([*rims, *answers])


def signer_needs(manifests: Iterable[bytes], roots: TrustRoots, now: float) -> tuple[OcspNeed, ...]:
    """An answer for each certificate of the manifests' signers. Nobody answers for a signer that is out of date, and
    a manifest that does not hold needs none."""
    found: list[OcspNeed] = []
    for data in manifests:
        try:
            signed = check_rim(parse_rim(data), roots, now)
        except FormatError:
            continue
        found += () if signed.expired else ocsp_needs(signed.chain)
    return _some(found)


def _some(needs: Iterable[_T]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys(needs))[:MAX_QUESTIONS]


def _is_name(name: str) -> bool:
    try:
        RimNeed(name)
    except FormatError:
        return False
    return True
