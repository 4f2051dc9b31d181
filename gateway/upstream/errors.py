"""What can go wrong on the way to a node, as one small tree with stable reason codes.

    ChannelError                          reason                 sent
    ├── NotReached                                               no: another node may be tried
    │   ├── ConnectFailed                 connect_failed
    │   ├── AddressRefused                address_refused        resolves to an address that the operator did not allow
    │   ├── TlsFailed                     tls_failed
    │   ├── ChannelRefused                channel_bound          the peer's TLS key is not one that the session binds
    │   ├── ConnectTimeout                timeout_connect
    │   ├── SealRefused                   ohttp_unsealable
    │   └── TooManyConnections            busy                   our own limit for this origin or for all of them
    ├── ChannelTimeout                    timeout_first_byte | timeout_idle | timeout_progress | timeout_total
    ├── ChannelClosed                     closed | truncated     the peer, or we, ended it too early
    ├── AnswerRefused                     too_large | header_too_large | bad_framing | content_encoding | redirect
    │                                     | status
    └── SealBroken                        ohttp_decrypt | ohttp_truncated | ohttp_malformed | ohttp_media_type
                                          | ohttp_plaintext | ohttp_key_rotated | too_large

Each carries `reason` (stable, goes into receipts) and `sent`: whether any byte of the request was handed to the
transport. Nothing is tried again once `sent` is true (DESIGN section 4, invariant 6). Messages are ours alone: no text
from the peer is quoted in them.
"""

from __future__ import annotations

from gateway.errors import ServiceError

#: Every reason code this package can give, and what it means to the person who reads the receipt.
REASONS: dict[str, str] = {
    "connect_failed": "no TCP connection to the node, or its name does not resolve",
    "address_refused": "the node's name resolves only to addresses that the operator did not allow",
    "tls_failed": "the TLS handshake failed: protocol version, certificate chain, host name or expiry",
    "channel_bound": "the TLS key of the connection is not one that the attested session names",
    "busy": "this gateway already holds as many connections as its limits allow",
    "timeout_connect": "TCP and TLS were not ready in time",
    "timeout_first_byte": "the answer's head was not complete in time",
    "timeout_idle": "no byte came for too long in the middle of the answer",
    "timeout_progress": "bytes came, but nothing of use among them for too long",
    "timeout_total": "the exchange took longer than its total deadline",
    "closed": "the connection ended before an answer began",
    "truncated": "the answer ended before its own framing said so",
    "too_large": "the answer is larger than the cap",
    "header_too_large": "the answer's head has too many bytes or too many fields",
    "bad_framing": "the answer is not well-formed HTTP/1.1, or its framing is ambiguous",
    "content_encoding": "the answer is compressed although identity was asked for",
    "redirect": "the answer is a redirect, and redirects are never followed",
    "status": "the answer's status is one that cannot be an answer here",
    "ohttp_unsealable": "the request cannot be sealed for this node: its endpoint, its form or the node's key",
    "ohttp_decrypt": "the sealed answer does not open: it is not the enclave's answer to this request",
    "ohttp_truncated": "the sealed answer ended before its last chunk",
    "ohttp_malformed": "the sealed answer, or the error inside it, is not in its format",
    "ohttp_media_type": "the relay answered a sealed request in a media type that is no sealed answer to it",
    "ohttp_plaintext": "the relay answered a sealed request in plain text, as if it were the enclave",
    "ohttp_key_rotated": "the enclave no longer knows the key that the request was sealed to",
}


class ChannelError(ServiceError):
    """Base of all of them; `reason` is a key of `REASONS`, `sent` says whether a request byte may have left."""

    code, status, type = "upstream_failed", 502, "upstream_error"
    default = "closed"

    def __init__(self, reason: str = "", detail: str = "", *, sent: bool = False) -> None:
        reason = reason or self.default
        text = REASONS[reason]
        super().__init__(f"{text}: {detail}" if detail else text, reason=reason)
        self.sent = sent


class NotReached(ChannelError):
    """No request byte left: another node, or the same one later, may be tried."""

    retryable = True
    default = "connect_failed"


class ConnectFailed(NotReached):
    default = "connect_failed"


class AddressRefused(NotReached):
    default = "address_refused"


class TlsFailed(NotReached):
    default = "tls_failed"


class ChannelRefused(NotReached):
    default = "channel_bound"


class ConnectTimeout(NotReached):
    code, status = "upstream_timeout", 504
    default = "timeout_connect"


class TooManyConnections(NotReached):
    default = "busy"


class ChannelTimeout(ChannelError):
    """A deadline passed after the request was sent; the connection is gone. `ours`: the peer was made to wait then."""

    ours = False
    code, status = "upstream_timeout", 504
    default = "timeout_total"


class ChannelClosed(ChannelError):
    """The connection ended before the answer was complete."""


class AnswerRefused(ChannelError):
    """The answer broke a rule of ours; the connection is gone and nothing of the answer is to be believed."""

    default = "bad_framing"


class SealRefused(NotReached):
    """The request cannot be sealed, so nothing of it left. The same node will refuse it again."""

    retryable = False
    default = "ohttp_unsealable"


class SealBroken(ChannelError):
    """The answer to a sealed request is not one; the connection is gone and nothing of the answer is to be believed."""

    default = "ohttp_decrypt"
