"""The roots that evidence is held against: the vendors' own, and in a test bed those of the settings.

A test root is believed as every vendor's root, so whoever has its key can make any evidence. Everything that chains to
one says so (`root.test` in the claims), the start says so, and `settings.load` refuses such a root unless two settings
ask for it and every node is on a loopback or private address.
"""

from __future__ import annotations

from pathlib import Path

import structlog

from gateway.crypto.certificates import MAX_CERTIFICATE_BYTES, fingerprint, load_certificate
from gateway.errors import ConfigError, FormatError
from gateway.settings import Settings
from gateway.verify.tee.roots import VENDOR_ROOTS, Anchor, TrustRoots

log = structlog.get_logger("veriroute.tee")

#: Every vendor whose roots `verify.tee` asks for (`roots.Anchor`).
VENDORS = ("intel", "amd", "nitro", "nvidia_device", "nvidia_rim", "nvidia_nras", "gcs", "maa", "cca", "tpm_ak")


def trust_roots(settings: Settings) -> TrustRoots:
    """The anchors in force. Raises `ConfigError` for a file that is not one DER certificate."""
    paths = settings.tee.dangerous_test_roots
    if not paths:
        return VENDOR_ROOTS
    anchors = tuple(anchor for path in paths for anchor in _anchors(path))
    digests = sorted({anchor.sha256 for anchor in anchors})
    log.warning(
        "tee.test_roots",
        count=len(digests),
        notice="root=TEST: evidence under these roots can be forged by whoever has their keys; never in production",
        path=list(paths),
        key=digests,
    )
    return TrustRoots((*VENDOR_ROOTS.anchors, *anchors))


def _anchors(path: str) -> tuple[Anchor, ...]:
    try:
        with Path(path).open("rb") as stream:
            digest = fingerprint(load_certificate(stream.read(MAX_CERTIFICATE_BYTES + 1)))
    except OSError as error:
        raise ConfigError(f"cannot read the test root {path}: {error.strerror}") from None
    except FormatError as error:
        raise ConfigError(f"the test root {path} is no DER certificate: {error.message}") from None
    return tuple(Anchor(vendor, f"TEST {digest[:16]}", digest, test=True) for vendor in VENDORS)


__all__ = ["VENDORS", "trust_roots"]
