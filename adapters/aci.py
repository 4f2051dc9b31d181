"""ACI `aci/1` services that answer for themselves (*direct* serving): our reference node, and any that speaks the same.

The wire is the ACI specification's, with the three extensions of docs/node-profile.md: the receipt inline, a request
nonce in it, and running signatures on streams. A service without them is refused by `signed`, for want of a receipt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.adapter import API_VERSION, Discovered, EvidenceClient, RawEvidence, Sealed
from gateway.errors import ConfigError, FormatError
from gateway.exchange.stream import Wire
from gateway.model.node import AttestedSession, Node
from gateway.verify.aci import decode_inline


class AciAdapter:
    """The duties for ACI direct services."""

    api_version = API_VERSION
    network = "aci"
    node_rule = "aci-report"
    response_rule = "aci-receipt"
    wire = Wire(receipt_event=b"aci.receipt", chain_comment=b"aci.chain")

    refresh_s = None
    node_terms = None
    x402 = False

    def configured(self, table: Mapping[str, object], where: str) -> AciAdapter:
        """There is nothing to set."""
        if table:
            raise ConfigError(f"{where}: this network has no settings of its own, not {sorted(table)[0]!r}")
        return self

    def admit(self, nodes: tuple[Node, ...]) -> None:
        """Each says where it is."""
        for node in nodes:
            if not node.base_url:
                raise ConfigError(
                    f"node {node.id!r}: base_url is missing; this network has no registry that would say where it is"
                )

    async def discover(self, configured: Iterable[Node], client: EvidenceClient) -> Discovered:
        """ACI has no registry: the nodes are those of the settings."""
        return Discovered(tuple(configured))

    async def evidence(self, node: Node, nonce: str, client: EvidenceClient) -> RawEvidence:
        return await client.get(node, f"/v1/aci/attestation?nonce={nonce}")

    def request(self, session: AttestedSession, nonce: str, *, chained: bool) -> list[tuple[bytes, bytes]]:
        headers = [(b"x-aci-nonce", nonce.encode()), (b"x-aci-inline", b"1")]
        if chained:
            headers.append((b"x-aci-chained", b"1"))
        return headers

    def response(self, headers: list[tuple[bytes, bytes]]) -> Sealed:
        found = [value for name, value in headers if name == b"x-aci-receipt"]
        if len(found) != 1:
            return Sealed(None, "no_receipt" if not found else "malformed: two receipts")
        try:
            return Sealed(decode_inline(found[0]))
        except FormatError:
            return Sealed(None, "malformed: the inline receipt is not base64")

    def sealing(self, session: AttestedSession) -> None:
        return None  # over TLS, by the keys that the keyset names


adapter = AciAdapter()
