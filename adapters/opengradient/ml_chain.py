"""An ONNX inference on the chain, as k of n RPC endpoints give it: its transaction, and the precompile's event."""

from __future__ import annotations

from gateway.errors import FormatError
from gateway.verify.opengradient.ml import Found
from gateway.verify.opengradient.ml_evidence import TOPIC, Request, decode_event, decode_run

from .quorum import Quorum, Round
from .rpc import Transaction
from .rpc_errors import RpcError


async def inference(quorum: Quorum, tx: bytes, *, contract: str, precompile: str) -> Found:
    """What the endpoints say of the transaction `tx`; failures are `problem`s.

    `contract` is the one whose calldata is read, `precompile` the one whose event counts, both lower-case `0x` text.
    Raises `FormatError` for an agreed event or calldata that is malformed.
    """
    try:
        round_ = await quorum.round()
    except RpcError as error:
        return Found(problem=error.reason)
    try:
        transaction = await round_.transaction(tx)
    except RpcError as error:  # an endpoint without the transaction gives null, which is no answer to agree on
        return Found(problem="tx_not_found" if error.reason == "rpc_quorum" else error.reason)
    try:
        return await _event(round_, quorum, transaction, contract, precompile)
    except RpcError as error:
        return Found(problem=error.reason)


async def _event(round_: Round, quorum: Quorum, tx: Transaction, contract: str, precompile: str) -> Found:
    if tx.block > round_.block.number:
        return Found(problem="tx_unconfirmed", said=f"block {tx.block}, settled {round_.block.number}")
    logs = await round_.logs(precompile, [[TOPIC]], tx.block, tx.block)
    own = [log for log in logs if log.tx == tx.hash]
    said = f"{quorum.k} of {len(quorum.clients)} endpoints, chain {quorum.chain_id}, block {tx.block}"
    if len(own) != 1:
        return Found(problem="event_ambiguous" if own else "event_absent", refuted=not own, said=said)
    return Found(decode_event(own[0]), _request(tx, contract), said=said)


def _request(tx: Transaction, contract: str) -> Request | None:
    """What the calldata asks for; None where another contract, or another function, was called."""
    if tx.to != contract:
        return None
    try:
        return decode_run(tx.input)
    except FormatError as error:
        if error.reason == "call_unknown":
            return None
        raise
