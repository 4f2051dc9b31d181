"""Acts of administration: what another process did to the database of a gateway, as the log's entry of it says. Pure.

    key      {"act": "create", "keyId": …, "policy": …, "scopes": […], "timeMs": …, "actor": …, "row": {"sha256": …},
              "nonce": …}
             {"act": "revoke", "keyId": …, "timeMs": …, "actor": …, "nonce": …}
    export   whose members no audit looks at

The process leaves the act in the database, in one transaction with what it does, and the gateway signs and enters it:
the predicate of the entry is the document of the act. `row` commits to the stored key without its revocation, and so to
its name and its secret, which the entry does not tell: nobody guesses it, as `digest` is that of 256 random bits.
`actor` is the account that ran the command. Entries of earlier versions lack both.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from gateway.crypto.canonical import jcs
from gateway.errors import FormatError

#: Kinds of entry that another process leaves for the gateway, with the time of then.
LEFT = frozenset(("key", "config", "policy", "export", "hold"))


class Made(NamedTuple):
    """What the entry says of a new key; `scopes` joined by spaces, `row` None where an earlier version wrote it."""

    policy: str | None
    scopes: str
    row: str | None


class KeyAct(NamedTuple):
    """A key was made, or, where `made` is None, revoked; `ms` is when, in milliseconds."""

    key: str
    ms: int
    made: Made | None


class Act(NamedTuple):
    """An act: the digest of its kind and content, and what it says of a key, None where that cannot be read."""

    digest: bytes
    key: KeyAct | None


class _Digest(msgspec.Struct):
    sha256: str


class _Key(msgspec.Struct, rename="camel"):
    act: str
    key_id: str
    time_ms: int
    policy: str | None = None
    scopes: list[str] | None = None
    row: _Digest | None = None


_object = msgspec.json.Decoder(dict[str, Any])
_canonical = msgspec.json.Encoder(order="sorted")
_keys = msgspec.json.Decoder(_Key)


def read_document(kind: str, document: bytes) -> dict[str, Any]:
    """The members of an act's document. Raises `FormatError` when it is no object, or `kind` none that is left."""
    if kind not in LEFT:
        raise FormatError("no command leaves an act of this kind")
    try:
        return _object.decode(document)
    except (TypeError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"not the document of an act: {error}") from None


def read_act(kind: str, document: bytes) -> Act:
    """The act in a document, whatever its spaces and the order of its members. Raises as `read_document` does."""
    content = _canonical.encode(read_document(kind, document))
    digest = sha256(kind.encode() + b"\0" + content).digest()
    return Act(digest, _key_act(content) if kind == "key" else None)


def _key_act(content: bytes) -> KeyAct | None:
    try:
        found = _keys.decode(content)
    except msgspec.MsgspecError:
        return None
    if found.act == "revoke":
        return KeyAct(found.key_id, found.time_ms, None)
    if found.act != "create" or found.scopes is None:
        return None
    row = None if found.row is None else found.row.sha256
    return KeyAct(found.key_id, found.time_ms, Made(found.policy, " ".join(found.scopes), row))


def key_row(
    *, id: object, name: object, digest: object, policy: object, scopes: object, created_ms: object, last4: object
) -> str:
    """The hex SHA-256 of a stored key without its revocation, each value as its column holds it (JCS, `digest` in hex).

    `FormatError` for values that no key has.
    """
    if not isinstance(digest, bytes):
        raise FormatError("the digest of a key is bytes")
    row = {
        "createdMs": created_ms,
        "digest": digest.hex(),
        "id": id,
        "last4": last4,
        "name": name,
        "policy": policy,
        "scopes": scopes,
    }
    return sha256(jcs(row)).hexdigest()
