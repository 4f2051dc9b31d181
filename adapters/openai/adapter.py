"""Servers that speak OpenAI's API and bring no evidence: hosted providers, vLLM, SGLang, llama.cpp, Ollama.

    [networks.openai.nodes.groq]
    api_key_env = "GROQ_API_KEY"          # the variable that holds the key; the key never stands in a file

    [[nodes]]
    id = "groq"
    network = "openai"
    base_url = "https://api.groq.com/openai"
    models = ["llama-3.3-70b-versatile"]

Nothing is fetched of a node and nothing stands beside an answer: the rules `none` say so, check by check. What such an
answer is worth is what proofs show of it (docs/networks/openai.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from gateway.adapter import API_VERSION, Discovered, EvidenceClient, RawEvidence, Sealed
from gateway.errors import ConfigError
from gateway.exchange.stream import Wire
from gateway.model.node import AttestedSession, Node
from gateway.verify.no_evidence import NO_EVIDENCE, NoEvidenceTerms

from .settings import Table, admit, read

#: Longest API key that is taken.
MAX_KEY = 4096


class OpenAIAdapter:
    """The duties of the adapter contract. Holds the API keys, which show in no attribute that is printed."""

    api_version = API_VERSION
    network = "openai"
    node_rule = "none"
    response_rule = "none"
    wire = Wire(receipt_event=b"\n", chain_comment=b"\n")  # no field of a stream holds a line feed: nothing is evidence

    refresh_s = None
    x402 = False

    def __init__(self, table: Table | None = None, where: str = "[networks.openai]") -> None:
        self._table, self._where = table or Table(), where
        self._authorization = {
            name: key for name, node in self._table.nodes.items() if (key := _key(node.api_key_env, where))
        }
        self.node_terms: object = NoEvidenceTerms(
            {
                name: tuple((model, alias) for model, names in sorted(node.aliases.items()) for alias in names)
                for name, node in self._table.nodes.items()
            }
        )

    def configured(self, table: Mapping[str, object], where: str) -> OpenAIAdapter:
        """An adapter with the keys that the table names, from the environment."""
        return OpenAIAdapter(read(table, where), where)

    def admit(self, nodes: tuple[Node, ...]) -> None:
        admit(self._table, nodes, self._where)

    async def discover(self, configured: Iterable[Node], client: EvidenceClient) -> Discovered:
        """There is no registry: the nodes are those of the settings."""
        return Discovered(tuple(configured))

    async def evidence(self, node: Node, nonce: str, client: EvidenceClient) -> RawEvidence:
        return RawEvidence(None, NO_EVIDENCE)

    def request(self, session: AttestedSession, nonce: str, *, chained: bool) -> list[tuple[bytes, bytes]]:
        """The node's own key, and nothing of the caller's."""
        key = self._authorization.get(session.node)
        return [] if key is None else [(b"authorization", key)]

    def response(self, headers: list[tuple[bytes, bytes]]) -> Sealed:
        return Sealed(None)

    def sealing(self, session: AttestedSession) -> None:
        return None


def _key(variable: str | None, where: str) -> bytes | None:
    """The header value with the key that `variable` holds."""
    if variable is None:
        return None
    key = os.environ.get(variable, "")
    if not key:
        raise ConfigError(f"{where}: put the node's API key into the environment as {variable}")
    if len(key) > MAX_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(
            f"{where}: {variable} holds no API key: one is at most {MAX_KEY} printable ASCII characters, without "
            "spaces and ends of lines"
        )
    return f"Bearer {key}".encode()


adapter = OpenAIAdapter()
