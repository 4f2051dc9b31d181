"""What can be asked of receipts and of the log. Reads only; a caller sees its own key's receipts and nothing else's."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from gateway.errors import BadRequest, FormatError, NotFound
from gateway.log.bundle import MEDIA_TYPE, format_bundle
from gateway.log.checkpoint import Checkpoint, parse_checkpoint
from gateway.log.note import parse_note
from gateway.log.proof import format_tlog_proof
from gateway.log.tiles import parse_tile_path
from gateway.model.admin import Row
from gateway.model.receipt import instant
from gateway.model.ulid import is_ulid
from gateway.storage.bundles import assemble

from .auth import Principal
from .services import Services

NO_RECEIPT = "There is no such receipt."
LARGEST_PAGE = 1000
DSSE = "application/vnd.dsse.envelope.v1+json"
BUNDLE = MEDIA_TYPE


class ReceiptRow(msgspec.Struct, frozen=True):
    """One row of `GET /v1/receipts`. `time` is RFC 3339; `leaf_hash` hex; `doubted` as in `gateway.model.admin.Row`."""

    receipt: str
    client_request_id: str | None
    time: str
    verdict: str
    release: str
    reason: str | None
    policy: str
    network: str | None
    node: str | None
    model: str | None
    endpoint: str
    stream: bool
    status: int
    latency_ms: float
    index: int
    leaf_hash: str
    doubted: bool


class ReceiptList(msgspec.Struct, frozen=True):
    """Newest first; ask for the next older ones with `after` = `next`."""

    object: str
    data: list[ReceiptRow]
    has_more: bool
    next: str | None


def principal_of(request: ASGIConnection[Any, Any, Any, Any], services: Services, scope: str) -> Principal:
    """The caller, when it has `scope`. Raises `InvalidKey` or `ScopeDenied`."""
    headers = dict(request.scope["headers"])
    return services.keys.principal(headers.get(b"authorization"), headers.get(b"x-api-key")).needs(scope)


@get("/v1/receipts")
async def list_receipts(request: Request[Any, Any, Any], services: Services) -> ReceiptList:
    """A key's own receipts."""
    caller = principal_of(request, services, "inference")
    query = only(request, "limit", "after", "client_request_id")
    limit = number(query, "limit", 20, 1, LARGEST_PAGE)
    after = query.get("after")
    if after is not None and not is_ulid(after):
        raise BadRequest("after must be the id of a receipt, as a previous page gave it", param="after")
    rows = await asyncio.to_thread(_rows, services, caller.key_id, limit, after, query.get("client_request_id"))
    more = len(rows) > limit
    rows = rows[:limit]
    return ReceiptList("list", rows, more, rows[-1].receipt if more else None)


@get("/v1/receipts/{receipt_id:str}")
async def receipt(request: Request[Any, Any, Any], services: Services, receipt_id: str) -> Response[bytes]:
    """The signed receipt, the bytes that were signed."""
    caller = principal_of(request, services, "inference")
    envelope = await asyncio.to_thread(services.reader.receipt, own_id(receipt_id), key_id=caller.key_id)
    if envelope is None:
        raise NotFound(NO_RECEIPT)
    return Response(envelope, media_type=DSSE)


@get("/v1/receipts/{receipt_id:str}/proof")
async def proof(request: Request[Any, Any, Any], services: Services, receipt_id: str) -> Response[bytes]:
    """Its inclusion in the log: a C2SP tlog-proof, or JSON where `Accept` asks for that."""
    caller = principal_of(request, services, "inference")
    found = await asyncio.to_thread(_proof, services, own_id(receipt_id), caller.key_id)
    if "application/json" in request.headers.get("accept", ""):
        document = {
            "index": found.index,
            "tree_size": found.checkpoint.size,
            "leaf_hash": found.leaf_hash.hex(),
            "root": found.checkpoint.root.hex(),
            "hashes": [h.hex() for h in found.hashes],
            "checkpoint": found.note.decode(),
        }
        return Response(msgspec.json.encode(document), media_type="application/json")
    text = format_tlog_proof(found.index, found.hashes, found.note)
    return Response(text.encode(), media_type="text/plain")


@get("/v1/receipts/{receipt_id:str}/bundle")
async def bundle(request: Request[Any, Any, Any], services: Services, receipt_id: str) -> Response[bytes]:
    """Everything a stranger needs to check it offline: `veriroute verify FILE`."""
    caller = principal_of(request, services, "inference")
    return Response(await bundle_bytes(services, receipt_id, caller.key_id), media_type=BUNDLE)


async def bundle_bytes(services: Services, receipt_id: str, key_id: str | None) -> bytes:
    """The bundle of a receipt, when it is that key's (None: whosever it is). Raises `NotFound`."""
    return await asyncio.to_thread(_bundle, services, own_id(receipt_id), key_id)


@get("/log/checkpoint")
async def checkpoint(services: Services) -> Response[bytes]:
    """The newest signed checkpoint (C2SP tlog-tiles). Public: it says how many entries there are, nothing of them."""
    return Response(services.sequencer.checkpoint, media_type="text/plain", headers={"cache-control": "no-cache"})


@get("/log/tile/{tile:path}")
async def tile(services: Services, tile: str) -> Response[bytes]:
    """A tile or an entry bundle. Leaves are blind: a kind and a digest."""
    try:
        wanted = parse_tile_path("tile" + tile)
    except FormatError:
        raise NotFound("There is no such tile.") from None
    data = await asyncio.to_thread(services.reader.tile, wanted.level, wanted.index, wanted.width)
    if data is None:
        raise NotFound("There is no such tile.")
    cache = {"cache-control": "public, max-age=31536000, immutable"}
    return Response(data, media_type="application/octet-stream", headers=cache)


def own_id(text: str) -> str:
    """A receipt id in its one canonical form. Anything else is as absent as an unknown one."""
    if not is_ulid(text):
        raise NotFound(NO_RECEIPT)
    return text


def only(request: Request[Any, Any, Any], *names: str) -> dict[str, str]:
    """The query, when it holds each of `names` at most once and nothing else. Raises `BadRequest`."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in names:
            raise BadRequest(f"there is no query parameter {name[:40]!a}; known: {', '.join(names)}", param="query")
        if name in found:
            raise BadRequest(f"{name} stands twice in the query", param=name)
        found[name] = value
    return found


def number(query: dict[str, str], name: str, default: int, low: int, high: int) -> int:
    """A whole number of the query. Raises `BadRequest`."""
    text = query.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 15 or not low <= int(text) <= high:
        raise BadRequest(f"{name} must be a whole number from {low} to {high}", param=name)
    return int(text)


def _rows(
    services: Services, key_id: str, limit: int, after: str | None, client_request_id: str | None
) -> list[ReceiptRow]:
    reader = services.reader
    found = reader.rows_of_key(key_id, limit=limit + 1, after=after, client_request_id=client_request_id)
    return [_public(row, reader.node_hash(0, row.index)) for row in found]


def _public(row: Row, leaf_hash: bytes) -> ReceiptRow:
    return ReceiptRow(
        row.id, row.client_request_id, instant(row.created_ms), row.verdict, row.release, row.reason, row.policy,
        row.network, row.node, row.model, row.endpoint, row.stream, row.status, row.latency_ms, row.index,
        leaf_hash.hex(), row.doubted,
    )  # fmt: skip


def _bundle(services: Services, receipt_id: str, key_id: str | None) -> bytes:
    if services.reader.row(receipt_id, key_id=key_id) is None:
        raise NotFound(NO_RECEIPT)
    vkeys = (services.signers.receipt.vkey,)
    return format_bundle(assemble(services.reader, receipt_id, receipt_vkeys=vkeys))


class Proof(msgspec.Struct, frozen=True):
    """A receipt's place in the log as of the newest checkpoint."""

    index: int
    leaf_hash: bytes
    hashes: tuple[bytes, ...]
    note: bytes
    checkpoint: Checkpoint


def _proof(services: Services, receipt_id: str, key_id: str) -> Proof:
    reader = services.reader
    row = reader.row(receipt_id, key_id=key_id)
    if row is None:
        raise NotFound(NO_RECEIPT)
    note = reader.checkpoint()
    assert note is not None  # there is a row, so there was a commit, and that has one
    checkpoint = parse_checkpoint(parse_note(note)[0])
    hashes = reader.inclusion(row.index, checkpoint.size)
    return Proof(row.index, reader.node_hash(0, row.index), hashes, note, checkpoint)


HANDLERS: list[BaseRouteHandler] = [list_receipts, receipt, proof, bundle, checkpoint, tile]
