"""Who is calling: an API key to a principal. Keys are 256 random bits; only their SHA-256 is stored.

    Authorization: Bearer vr-<43 characters>          the OpenAI SDKs
    x-api-key: vr-<43 characters>                     the Anthropic SDKs

Lookup is by digest, so its time says nothing about a key; unknown, malformed, revoked and expired keys get one answer.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable

import msgspec

from gateway.errors import InvalidKey, ScopeDenied

KEY_PREFIX = "vr-"
SCOPES = ("inference", "admin")
_REFUSED = "The API key is not valid. Send `Authorization: Bearer vr-…`; `veriroute keys create` makes a key."


class Principal(msgspec.Struct, frozen=True):
    """A caller. `policy` None means the default one."""

    key_id: str
    name: str
    policy: str | None
    scopes: frozenset[str]

    def needs(self, scope: str) -> Principal:
        """Itself when it has `scope`. Raises `ScopeDenied`."""
        if scope not in self.scopes:
            raise ScopeDenied(f"This key does not have the scope {scope!r}.")
        return self


LOCAL = Principal("local", "local", None, frozenset(SCOPES))


class StoredKey(msgspec.Struct, frozen=True):
    """What is stored of a key: never the key. `digest` is SHA-256 of the whole key text."""

    id: str
    name: str
    digest: bytes
    policy: str | None
    scopes: tuple[str, ...]
    revoked_ms: int | None = None


def new_key(secret32: bytes) -> str:
    """The text of a key made from 32 random bytes."""
    return KEY_PREFIX + base64.urlsafe_b64encode(secret32).rstrip(b"=").decode()


def key_digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class KeyRing:
    """The keys in force. `replace` swaps all of them at once, which `edition` counts; `principal` never blocks."""

    def __init__(self, *, open_to_local: bool = False) -> None:
        self._open = open_to_local
        self._keys: dict[bytes, tuple[bytes, Principal]] = {}
        self._ids: frozenset[str] = frozenset()
        self.edition = 0

    def replace(self, keys: Iterable[StoredKey]) -> None:
        self._keys = {
            k.digest: (k.digest, Principal(k.id, k.name, k.policy, frozenset(k.scopes)))
            for k in keys
            if k.revoked_ms is None
        }
        self._ids = frozenset(principal.key_id for _, principal in self._keys.values())
        self.edition += 1

    def __len__(self) -> int:
        return len(self._keys)

    def in_force(self, key_id: str) -> bool:
        """Whether the key that `principal` once found is still one of them."""
        return self._open or key_id in self._ids

    def principal(self, authorization: bytes | None, api_key: bytes | None) -> Principal:
        """The caller behind the two headers that may carry a key. Raises `InvalidKey`."""
        if self._open:
            return LOCAL
        key = api_key
        if authorization is not None:
            # One spelling, though the word is one in any case to RFC 9110 section 11.1: what filters or hides keys in
            # front of us, or in a log, looks for this one, as every SDK sends it.
            key = authorization[7:] if authorization.startswith(b"Bearer ") else b""
        # Hash whatever came, so that a malformed key costs what a good one does.
        digest = key_digest((key or b"")[:512])
        found = self._keys.get(digest)
        if found is None or not hmac.compare_digest(found[0], digest):
            raise InvalidKey(_REFUSED)
        return found[1]

    def key_id(self, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
        """Whose key came with a request, by its headers; None without one that is in force."""
        found = dict(headers)
        try:
            return self.principal(found.get(b"authorization"), found.get(b"x-api-key")).key_id
        except InvalidKey:
            return None
