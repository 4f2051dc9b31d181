"""Attested sessions: immutable, and named by what they hold (ACI section 8).

An id is the digest of the session's ACI document. Of what we store that has only the claims' states and what they rest
on, so one member of it is a digest of all the rest: keys, checks, the claims of TEE evidence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from gateway.crypto.canonical import jcs, strict_json
from gateway.errors import FormatError
from gateway.model.node import AttestedSession

from .aci import session_id

#: Integers that JCS has (RFC 8785 section 3.2.2.3).
_EXACT = 2**53 - 1


class SessionId(NamedTuple):
    """The id that a document has by its content. `whole`: another document with this id cannot be made."""

    id: str
    whole: bool


def with_id(session: AttestedSession) -> AttestedSession:
    """`session` with the id that it has by its content."""
    return msgspec.structs.replace(session, id=_id(session, _appraisal(msgspec.to_builtins(session))))


def id_of(data: bytes) -> SessionId:
    """The id that a session document has: ACI's own document, or the form in which we store sessions (their JSON).

    Sessions that were stored before ids covered all of them keep the id that they have. Raises `FormatError`.
    """
    document = strict_json(data, max_bytes=len(data))
    if not isinstance(document, dict):
        raise FormatError("it is no JSON object")
    if "evidence_digest" not in document:
        document.pop("session_id", None)  # some services send the id along with the document that it is the digest of
        return SessionId(session_id(document), True)
    try:
        session = msgspec.json.decode(data, type=AttestedSession)
    except msgspec.ValidationError as error:
        raise FormatError(str(error)) from None
    found = _id(session, _appraisal(document))
    return SessionId(found, True) if session.id == found else SessionId(_id(session, None), False)


def _id(session: AttestedSession, appraisal: str | None) -> str:
    return session_id(_document(session) | ({"appraisal": appraisal} if appraisal else {}))


def _appraisal(stored: Mapping[str, Any]) -> str:
    """The digest of a stored session, as JSON, without its id."""
    rest = {name: value for name, value in stored.items() if name != "id"}
    return "sha256:" + hashlib.sha256(jcs(_exact(rest))).hexdigest()


def _exact(value: Any) -> Any:
    """`value` with integers that a double cannot hold as their digits: what others signed may have such."""
    if isinstance(value, dict):
        return {name: _exact(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_exact(item) for item in value]
    return str(value) if isinstance(value, int) and abs(value) > _EXACT else value


def _document(session: AttestedSession) -> dict[str, Any]:
    """The ACI document of a session, but for the digest of its appraisal."""
    return {
        "api_version": "aci/1",
        "upstream_name": session.node,
        "endpoint": session.endpoint,
        "verifier_id": "veriroute/1",
        "established_at": int(session.established),
        "expires_at": int(session.expires),
        "channel_binding": [
            *({"type": "tls_spki_sha256", "spki_sha256": s.hex()} for s in session.spki_pins),
            *([{"type": "ohttp_key_config", "key_config": session.hpke.hex()}] if session.hpke else []),
        ],
        **({"payee": session.payee} if session.payee else {}),
        "evidence": {"digest": "sha256:" + session.evidence_digest},
        # What shows no keyset is told apart by what the settings say of it.
        **({"workload_keyset_digest": session.keyset_digest} if session.keyset_digest else _configured(session)),
        "claims": {c.name: {"status": c.status} for c in session.claims},
    }


def _configured(session: AttestedSession) -> dict[str, Any]:
    aliases = {"model_aliases": [list(pair) for pair in session.aliases]} if session.aliases else {}
    return {"network": session.network, **aliases}
