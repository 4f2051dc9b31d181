"""OpenGradient's LLM network: nodes from the registry on its chain, evidence as a dossier, prompts direct or sealed.

    [networks.opengradient]
    rpc = ["https://rpc-a.example", "https://rpc-b.example"]

    [[nodes]]
    id = "og"
    network = "opengradient"
    models = ["gpt-4.1"]
    pin = "0x…"                  # the TEE id; without it every active TEE is a node, og-<its first 8 digits>
    base_url = "https://…"       # with a pin only: where the TEE answers, if not where the registry says

Nothing is judged here: the rule `opengradient-dossier` does, from the dossier alone (docs/networks/opengradient.md).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gateway.adapter import API_VERSION, Alarm, Discovered, EvidenceClient, RawEvidence, Sealed, Sealing
from gateway.errors import ConfigError, FormatError
from gateway.exchange.stream import Wire
from gateway.model.node import AttestedSession, Node
from gateway.policy_files import reference_values
from gateway.verify.opengradient import abi
from gateway.verify.opengradient.appraise import NodeTerms
from gateway.verify.opengradient.pcrs import parse_pcrs
from gateway.verify.opengradient.registry import Refused, TeeRecord

from .discover import Discovery, discover, tee_reads
from .dossier import MAX_PART, Live, build_dossier
from .quorum import Quorum, Read
from .registration import RegistrationRead, registration
from .rpc import RpcClient
from .rpc_errors import QuorumError, RpcError, RpcTimeout
from .settings import Table, endpoint_name, read
from .watch import Alarm as Event
from .watch import events_since, unreadable

#: Bytes of our nonce that an enclave takes.
NONCE_HEX = 40
#: Bytes of a TEE id in the name of a node without a pin; and in that of one whose first bytes are another's too.
SHORT, LONG = 4, 16
LLM_PROXY = 0
#: Seconds for the events of a round: a discovery has 30 for all of it.
EVENTS_S = 10.0
#: Seconds in which a registration is looked for: some sixty questions, one after the other, for evidence that has 30 s.
REGISTRATION_S = 15.0
_CHAT, _COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_TEXT = ("text/plain", "application/octet-stream", "application/json")
_RELAY_TARGET = b"/api/v1/chat/ohttp"


class _Unconfigured:
    """What the entry point names: `configured` makes the adapter."""

    api_version = API_VERSION
    network = "opengradient"
    node_rule = "opengradient-dossier"
    response_rule = "opengradient-statement"

    def configured(self, table: Mapping[str, object], where: str) -> OpenGradientAdapter:
        abi.require()
        return OpenGradientAdapter(read(table, where), where)


@dataclass(frozen=True)
class _Place:
    """Where one node is registered: the record, the discovery that it stands in, and where its enclave answers."""

    record: TeeRecord
    found: Discovery
    endpoint: str


class OpenGradientAdapter(_Unconfigured):
    """The duties of the adapter contract for OpenGradient."""

    wire = Wire(receipt_event=b"", chain_comment=b"")

    def __init__(self, table: Table, where: str) -> None:
        self.table = table
        self.refresh_s: float | None = table.refresh_s
        self.node_terms: object = NodeTerms(
            chain_id=table.chain_id,
            registry=bytes.fromhex(table.registry[2:]),
            agree=table.agree,
            known_pcrs=parse_pcrs(_pcr_table(table.pcr_table, where)),
            max_heartbeat_age_s=table.max_heartbeat_age_s,
            attestation_ttl_s=table.attestation_ttl_s,
            sealed=table.transport == "ohttp",
        )
        self.x402 = table.transport == "direct"  # through the relay it is the account that pays
        self.authorization = _authorization(table, where)
        self._quorum: Quorum | None = None
        self._places: dict[str, _Place] = {}
        self._named: dict[str, bytes] = {}  # names that were given, and to which TEE; those of the settings to none
        self._registrations: dict[tuple[bytes, int], RegistrationRead] = {}
        self._watched: int | None = None
        self._unread: str | None = None  # why the events since then could not be read, once that was told
        self._refused: frozenset[Refused] = frozenset()

    def admit(self, nodes: tuple[Node, ...]) -> None:
        """What the registry says of a node is seen by `discover`. Raises `ConfigError` for a place of no one TEE."""
        for node in nodes:
            if node.base_url and node.pin is None:
                raise ConfigError(f"node {node.id!r}: base_url says where one TEE answers, so pin has to say which")

    # -- nodes --------------------------------------------------------------------------------------------------------

    async def discover(self, configured: Iterable[Node], client: EvidenceClient) -> Discovered:
        """The nodes of the registry that the configured ones stand for. Raises `RpcError` when it cannot be read."""
        try:
            found = await discover(self.quorum(client), self.table.registry, LLM_PROXY)
        except QuorumError as error:
            raise _named(error) from None
        # The older registration comes first to its name, so that it keeps it over a restart.
        records = {record.tee_id: record for record in sorted(found.records, key=lambda record: record.registered_at)}
        configured = tuple(configured)
        self._named.update({wanted.id: b"" for wanted in configured})
        nodes: list[Node] = []
        unresolved: dict[str, str] = {}
        places: dict[str, _Place] = {}
        for wanted in configured:
            chosen = records.values() if wanted.pin is None else [records.get(_id_of(wanted.pin))]
            named = [self._node(wanted, record) for record in chosen if record is not None]
            if not named:
                unresolved[wanted.id] = "registry_empty" if not records else "tee_not_registered"
            for node, record in named:
                nodes.append(node)
                places[node.id] = _Place(record, found, wanted.base_url or record.endpoint)
        self._places = places
        return Discovered(tuple(nodes), unresolved, await self._alarms(found))

    def quorum(self, client: EvidenceClient) -> Quorum:
        """The endpoints of the settings, the same ones each time."""
        if self._quorum is None:
            clients = [
                RpcClient(
                    client.web,
                    endpoint_name(url),
                    url,
                    chain_id=self.table.chain_id,
                    timeout_s=self.table.rpc_timeout_s,
                )
                for url in self.table.rpc
            ]
            self._quorum = Quorum(clients, self.table.agree, confirmations=self.table.confirmations)
        return self._quorum

    def _node(self, wanted: Node, record: TeeRecord) -> tuple[Node, TeeRecord]:
        sealed = self.table.transport == "ohttp"
        name = wanted.id if wanted.pin is not None else self._name(wanted.id, record.tee_id)
        offered = (_CHAT,) if sealed else (_CHAT, _COMPLETIONS)
        node = msgspec.structs.replace(
            wanted,
            id=name,
            base_url=self.table.relay_url if sealed else wanted.base_url or record.endpoint,
            owner=record.owner,
            endpoints=tuple(path for path in offered if path in wanted.endpoints),
        )
        return node, record

    def _name(self, stem: str, tee_id: bytes) -> str:
        """What the node of `tee_id` is called: `<stem>-<8 digits>`; with 32 where that is the name of another.

        A name stands for a pin, a quarantine, a denial and a spending session, and anybody can make keys until the
        first digits of one are those of a node that is there already.
        """
        name = f"{stem}-{tee_id[:SHORT].hex()}"
        if self._named.setdefault(name, tee_id) == tee_id:
            return name
        return f"{stem}-{tee_id[:LONG].hex()}"

    async def _alarms(self, found: Discovery) -> tuple[Alarm, ...]:
        alarms = [Alarm("rpc_dissent", {"endpoints": ", ".join(found.dissent)})] if found.dissent else []
        alarms += unreadable([record for record in found.refused if record not in self._refused])
        self._refused = frozenset(found.refused)
        return (*alarms, *await self._events(found))

    async def _events(self, found: Discovery) -> list[Alarm]:
        """What changed since the last look. What cannot be read now the next look tells: it is news for a person, and
        whoever can withhold it must not be able to hold up what the registry lists."""
        since, events = self._watched, list[Event]()
        try:
            if since is not None:
                async with asyncio.timeout(EVENTS_S):
                    events = await events_since(found.round, found.registry, since)
        except QuorumError as error:
            return self._told_once(_named(error).reason)
        except (RpcError, TimeoutError) as error:
            return self._told_once(error.reason if isinstance(error, RpcError) else RpcTimeout.default)
        self._watched, self._unread = found.block.number, None
        return [event.told() for event in events]

    def _told_once(self, reason: str | None) -> list[Alarm]:
        known, self._unread = self._unread, reason or RpcError.default
        return (
            [] if known == self._unread else [Alarm("events_unread", {"severity": "warning", "reason": self._unread})]
        )

    # -- evidence -----------------------------------------------------------------------------------------------------

    async def evidence(self, node: Node, nonce: str, client: EvidenceClient) -> RawEvidence:
        """The dossier of `node`: what the chain says now, what was registered, and a document for our nonce."""
        place = self._places.get(node.id)
        if place is None:
            return RawEvidence(None, "tee_not_registered")
        record, problems = place.record, dict[str, str]()
        at_enclave = msgspec.structs.replace(node, base_url=place.endpoint)
        short = nonce[:NONCE_HEX]
        live, config, chain, registered = await asyncio.gather(
            client.get(at_enclave, f"/enclave/attestation?nonce={short}", _TEXT),
            self._config(at_enclave, client),
            self._chain(record, client),
            self._registration(place, problems),
        )
        found, reads = chain
        document = _kept("live", _unbase64(live.document), live.problem or "live_malformed", problems)
        signed = None
        if config is not None:
            signed = _kept("ohttp_config", config.document, config.problem or "evidence_fetch", problems)
        dossier = build_dossier(
            found or place.found,
            record,
            reads=reads,
            registration=registered,
            live=None if document is None else Live(bytes.fromhex(short), document),
            ohttp_config=signed,
            problems=problems,
        )
        return RawEvidence(dossier, None, "application/json", live.spki, live.tls)

    async def _config(self, enclave: Node, client: EvidenceClient) -> RawEvidence | None:
        return await client.get(enclave, "/v1/ohttp/config") if self.table.transport == "ohttp" else None

    async def _chain(self, record: TeeRecord, client: EvidenceClient) -> tuple[Discovery | None, tuple[Read, ...]]:
        """What the registry says of this TEE now; nothing new where it cannot be asked, and the old reads stand."""
        try:
            found = await discover(self.quorum(client), self.table.registry, LLM_PROXY)
            return found, await tee_reads(found.round, found.registry, record)
        except (RpcError, FormatError):
            return None, ()

    async def _registration(self, place: _Place, problems: dict[str, str]) -> RegistrationRead | None:
        """The registering transaction, looked up once for each registration."""
        record = place.record
        key = (record.tee_id, record.registered_at)
        if key not in self._registrations:
            try:
                async with asyncio.timeout(REGISTRATION_S):
                    self._registrations[key] = await registration(
                        place.found.round,
                        place.found.registry,
                        record.tee_id,
                        registered_at=record.registered_at,
                        first_block=self.table.first_block,
                    )
            except (RpcError, FormatError) as error:
                problems["registration"] = error.reason or "registration_missing"
                return None
            except TimeoutError:
                problems["registration"] = RpcTimeout.default
                return None
        return self._registrations[key]

    # -- requests -----------------------------------------------------------------------------------------------------

    def request(self, session: AttestedSession, nonce: str, *, chained: bool) -> list[tuple[bytes, bytes]]:
        return []

    def response(self, headers: list[tuple[bytes, bytes]]) -> Sealed:
        return Sealed(None)  # the statement stands in the body

    def sealing(self, session: AttestedSession) -> Sealing | None:
        """How prompts reach the enclave through the relay; None where they go straight to it."""
        if self.table.transport != "ohttp":
            return None
        # A weak key is no key of the session's. It signs no key to seal to either, so nothing leaves by this route.
        name = session.keys[0].key_id if session.keys else ""
        return Sealing(_RELAY_TARGET, name, self.authorization)


def _named(error: QuorumError) -> QuorumError:
    """Where all endpoints failed in one way, that is the reason to read."""
    reasons = {said for _, said in error.said}
    if error.reason == "rpc_quorum" and len(reasons) == 1:
        error.reason = reasons.pop()
    return error


def _id_of(pin: str) -> bytes:
    return bytes.fromhex(pin.removeprefix("0x").removeprefix("sha256:"))


def _unbase64(text: bytes | None) -> bytes | None:
    if text is None:
        return None
    try:
        return base64.b64decode(text.strip(), validate=True) or None
    except (ValueError, binascii.Error):
        return None


def _kept(part: str, data: bytes | None, missing: str, problems: dict[str, str]) -> bytes | None:
    """`data`, where there is some and a dossier carries as much; else `problems` says why not. An enclave that sends
    more is no failure of ours."""
    if data is not None and len(data) <= MAX_PART:
        return data
    problems[part] = missing if data is None else "too_large"
    return None


def _pcr_table(path: str | None, where: str) -> bytes:
    if path is None:
        return reference_values("opengradient")
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{where}: pcr_table {path} cannot be read: {error.strerror}") from None


def _authorization(table: Table, where: str) -> bytes | None:
    if table.transport != "ohttp":
        return None
    token = os.environ.get(table.relay_token_env, "")
    if not token or not token.isascii() or not token.isprintable():
        raise ConfigError(f"{where}: the relay wants a token; put it into the environment as {table.relay_token_env}")
    return f"Bearer {token}".encode()


adapter = _Unconfigured()
