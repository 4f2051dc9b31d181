"""What can go wrong when a chain is asked, as one small tree with stable reasons.

    RpcError             reason
    ├── RpcUnreachable   rpc_unreachable                   no connection, TLS or address refused, closed early
    ├── RpcTimeout       rpc_timeout
    ├── RpcRefused       rpc_too_large | rpc_redirect | rpc_status | rpc_encoding       an HTTP answer that is none
    ├── RpcMalformed     rpc_malformed                     not JSON-RPC 2.0, not our id, not what the method gives
    ├── RpcRejected      rpc_error | rpc_method_missing    the endpoint answers with an error
    ├── WrongChain       wrong_chain
    ├── Reverted         reverted                          an answer of the contract
    ├── NoContract       no_contract                       an answer of the chain: no code at this address
    ├── QuorumError      rpc_disagree | rpc_quorum | rpc_stale | rpc_rollback
    └── RegistrationProblem   registration_not_found | registration_indirect | registration_mismatch
                              | registration_unreadable

Messages hold text from the endpoint only as printable ASCII, cut to 80 characters.
"""

from __future__ import annotations

from gateway.errors import ServiceError


class RpcError(ServiceError):
    """Base of all of them; `reason` is stable and goes into dossiers."""

    code, status, type = "upstream_failed", 502, "upstream_error"
    default = "rpc_error"
    retryable = True

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message, reason=reason or self.default)


class RpcUnreachable(RpcError):
    default = "rpc_unreachable"


class RpcTimeout(RpcError):
    code, status = "upstream_timeout", 504
    default = "rpc_timeout"


class RpcRefused(RpcError):
    """The HTTP answer broke a rule of ours; nothing of it is believed."""

    default = "rpc_status"


class RpcMalformed(RpcError):
    default = "rpc_malformed"


class RpcRejected(RpcError):
    """A JSON-RPC error other than a revert. `rpc_code` is its number."""

    def __init__(self, message: str, rpc_code: int, *, reason: str | None = None) -> None:
        super().__init__(message, reason=reason)
        self.rpc_code = rpc_code


class WrongChain(RpcError):
    """The endpoint serves another chain than the one configured."""

    default = "wrong_chain"
    retryable = False


class Reverted(RpcError):
    """The contract refused the call. `text` is what it said, inert; `data` its raw error, possibly empty."""

    default = "reverted"
    retryable = False

    def __init__(self, text: str = "", data: bytes = b"") -> None:
        super().__init__(f"the contract reverted: {text}" if text else "the contract reverted")
        self.text, self.data = text, data


class NoContract(RpcError):
    """There is no code at the address, so an empty answer means nothing."""

    default = "no_contract"
    retryable = False


class QuorumError(RpcError):
    """Too few endpoints said the same. `said` names each endpoint with the digest of its answer or its error."""

    default = "rpc_quorum"

    def __init__(self, message: str, *, reason: str, said: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message, reason=reason)
        self.said = said


class RegistrationProblem(RpcError):
    """The transaction that registered a TEE cannot be had, or is not what it should be."""

    default = "registration_not_found"
    retryable = False
