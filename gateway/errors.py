"""The tree of errors, and what each means to a caller.

    VerirouteError
    ├── RequestError            the caller's request is at fault; nothing was forwarded
    │   ├── InvalidKey          401  invalid_key
    │   ├── ScopeDenied         403  scope_denied
    │   ├── BadRequest          400  bad_request           names the field
    │   ├── PolicyLoosens       400  bad_request           the policy asked for is looser than the key's
    │   ├── UnsupportedMedia    415  bad_request
    │   ├── BodyTooLarge        413  body_too_large
    │   ├── RequestTimeout      408  request_timeout
    │   ├── UriTooLong          414  bad_request
    │   ├── HeadersTooLarge     431  bad_request
    │   ├── VersionNotSupported 505  bad_request           HTTP/0.9, HTTP/2 without negotiation
    │   ├── Misdirected         421  bad_request           Host is not one of ours
    │   ├── NotFound            404  not_found
    │   ├── MethodNotAllowed    405  method_not_allowed
    │   ├── ModelUnknown        404  model_unknown
    │   ├── EndpointUnknown     404  endpoint_unknown      no node offers this path for this model
    │   ├── UnsupportedParameter 400 unsupported_parameter every network would drop or change a member of the request
    │   └── SessionNotAccepted  412  session_not_accepted  ACI's word
    ├── ServiceError            this gateway, or the network behind it, could not serve
    │   ├── NoEligibleNode      503  no_eligible_node
    │   ├── EvidenceRejected    502  evidence_rejected
    │   ├── EvidenceMissing     502  evidence_missing
    │   ├── UpstreamFailed      502  upstream_failed
    │   ├── UpstreamTimeout     504  upstream_timeout
    │   ├── PaymentRefused      402  payment_refused       the node asks for a payment that the rules do not allow
    │   ├── LogUnavailable      503  log_unavailable
    │   ├── Busy                503  busy
    │   └── InternalError       500  internal_error
    │       ├── PolicyFailed    503  internal_error        the policy could not be applied, so nothing may leave
    │       └── Unrandom        503  internal_error        no random bytes, or the same again: nothing is sent or signed
    ├── FormatError             bytes that are not what their format says (parsers raise this and nothing else)
    │   └── ProofError          a well-formed proof that does not prove
    ├── PolicyError             a policy file that cannot be used; carries file, line, key
    ├── ConfigError             a setting that cannot be used; start refuses
    │   └── AdapterUnusable     an installed adapter that fails by itself; start refuses where there is no other
    └── LogRefused              the stored log is rolled back, altered, foreign or in use; start refuses

`code` is stable and documented in docs/errors.md; `status`, `type` and `retryable` follow from the class.
"""

from __future__ import annotations

from typing import ClassVar


class VerirouteError(Exception):
    """Base of everything this project raises on purpose. ``str(error)`` is one sentence for a person."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    type: ClassVar[str] = "api_error"
    retryable: bool = False
    #: Seconds after which a retryable error is worth another try.
    retry_after_s: int = 1

    def __init__(self, message: str, *, param: str | None = None, reason: str | None = None) -> None:
        # A file's name may be no UTF-8, and an error that names it has to be sent, and logged, all the same.
        self.message = message.encode("utf-8", "backslashreplace").decode()
        super().__init__(self.message)
        self.param = param
        self.reason = reason


class RequestError(VerirouteError):
    """The caller's request is at fault; nothing was forwarded."""

    code = "bad_request"
    status = 400
    type = "invalid_request_error"


class InvalidKey(RequestError):
    code, status, type = "invalid_key", 401, "authentication_error"


class ScopeDenied(RequestError):
    code, status, type = "scope_denied", 403, "permission_error"


class BadRequest(RequestError):
    """Names the field at fault in ``param``."""


class PolicyLoosens(RequestError):
    """The caller asked for a policy that would loosen the one its key carries."""


class UnsupportedMedia(RequestError):
    status = 415


class BodyTooLarge(RequestError):
    code, status = "body_too_large", 413


class RequestTimeout(RequestError):
    code, status, retryable = "request_timeout", 408, True


class UriTooLong(RequestError):
    status = 414


class HeadersTooLarge(RequestError):
    status = 431


class VersionNotSupported(RequestError):
    status = 505


class Misdirected(RequestError):
    status = 421


class NotFound(RequestError):
    code, status = "not_found", 404


class MethodNotAllowed(RequestError):
    """``allow``: the methods that the path takes, for the header of that name (RFC 9110 section 15.5.6)."""

    code, status = "method_not_allowed", 405

    def __init__(self, message: str, *, allow: str = "") -> None:
        super().__init__(message)
        self.allow = allow


class ModelUnknown(RequestError):
    code, status = "model_unknown", 404


class EndpointUnknown(RequestError):
    code, status = "endpoint_unknown", 404


class UnsupportedParameter(RequestError):
    """The request asks for what no node's network would do as it is written; names the first such member."""

    code, status = "unsupported_parameter", 400


class SessionNotAccepted(RequestError):
    code, status, type = "session_not_accepted", 412, "verification_error"


class ServiceError(VerirouteError):
    """This gateway, or the network behind it, could not serve the request."""

    status = 502


class NoEligibleNode(ServiceError):
    code, status, type, retryable = "no_eligible_node", 503, "verification_error", True


class EvidenceRejected(ServiceError):
    code, status, type = "evidence_rejected", 502, "verification_error"


class EvidenceMissing(ServiceError):
    code, status, type = "evidence_missing", 502, "verification_error"


class UpstreamFailed(ServiceError):
    """The node failed after the request was sent, so another try could pay twice; ``reason`` says how it failed."""

    code, status, type = "upstream_failed", 502, "upstream_error"


class UpstreamTimeout(ServiceError):
    code, status, type = "upstream_timeout", 504, "upstream_error"


class PaymentRefused(ServiceError):
    """The node asks to be paid, and the operator's spending rules or budget say no; ``reason`` says which.

    402 says what is missing, and no SDK tries it again by itself; the answer carries no terms that a caller could pay.
    """

    code, status, type = "payment_refused", 402, "payment_error"


class LogUnavailable(ServiceError):
    code, status, retryable = "log_unavailable", 503, True


class Busy(ServiceError):
    code, status, retryable = "busy", 503, True


class InternalError(ServiceError):
    code, status = "internal_error", 500


class PolicyFailed(InternalError):
    """The policy engine itself failed: what nobody could decide about does not leave."""

    status = 503


class Unrandom(InternalError):
    """There are no random bytes, or the same came again: what needs new ones is neither sent nor signed."""

    status = 503


class FormatError(VerirouteError):
    """Bytes are not what their format says. Every parser of the pure half raises this and nothing else."""

    code = "malformed"


class ProofError(FormatError):
    """A well-formed proof that does not prove what it is offered for."""

    code = "proof_rejected"


class PolicyError(VerirouteError):
    """A policy file that cannot be used. ``where`` reads ``file:line`` when known."""

    code = "policy_invalid"

    def __init__(self, message: str, *, where: str | None = None, key: str | None = None) -> None:
        super().__init__(f"{where}: {message}" if where else message, param=key)
        self.where = where
        self.key = key


class ConfigError(VerirouteError):
    """A setting that cannot be used; the service refuses to start and says what to change."""

    code = "config_invalid"


class AdapterUnusable(ConfigError):
    """An installed adapter that fails by itself, whatever the settings say."""


class LogRefused(VerirouteError):
    """The stored log is rolled back, altered, foreign or already in use; the service refuses to start."""

    code = "log_refused"
