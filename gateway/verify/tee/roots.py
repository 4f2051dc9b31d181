"""The trust anchors: which root certificates evidence may chain to, by the SHA-256 of their DER.

A root certificate travels with the collateral and is believed only because its digest stands here or in the settings.
An anchor made for tests carries `test=True`; whatever chains to one is marked `root.test` in its claims, and nothing
but a setting whose name says that it is dangerous lets such claims be relied on.
"""

from __future__ import annotations

import hashlib

import msgspec

from gateway.model.tee import Root


class Anchor(msgspec.Struct, frozen=True):
    """One root. `vendor` is intel|amd|nitro|nvidia_device|nvidia_rim|nvidia_nras|gcs|maa|cca|tpm_ak."""

    vendor: str
    name: str
    sha256: str
    test: bool = False


class TrustRoots(msgspec.Struct, frozen=True):
    """A set of anchors. `find` is the only question that is asked of it."""

    anchors: tuple[Anchor, ...] = ()

    def find(self, vendor: str, der: bytes) -> Root | None:
        """The anchor of `vendor` that this certificate is, or None."""
        digest = hashlib.sha256(der).hexdigest()
        for anchor in self.anchors:
            if anchor.vendor == vendor and anchor.sha256 == digest:
                return Root(anchor.name, digest, anchor.test)
        return None

    @property
    def test_fingerprints(self) -> frozenset[str]:
        """The SHA-256 of every anchor that was made for tests."""
        return frozenset(anchor.sha256 for anchor in self.anchors if anchor.test)


#: The vendors' own roots, as this project read them on 2026-11-20; each also stands in docs/verification.md.
VENDOR_ROOTS = TrustRoots(
    (
        Anchor("intel", "Intel SGX Root CA", "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"),
        Anchor("amd", "ARK-Milan", "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"),
        Anchor("amd", "ARK-Genoa", "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1"),
        Anchor("amd", "ARK-Turin", "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"),
        Anchor("nitro", "aws.nitro-enclaves", "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b"),
        Anchor(
            "nvidia_device",
            "NVIDIA Device Identity CA",
            "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48",
        ),
        Anchor("nvidia_rim", "NVIDIA RIM root", "12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1"),
        Anchor(
            "gcs",
            "Confidential Space Root CA",
            "148b293821bb0c6a317f413c8ba475814091cb22d49b9e3c94198db8e8f86c39",
        ),
    )
)
