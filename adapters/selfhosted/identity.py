"""Who this node is: its signing keys, their file, and the keyset that a gateway pins.

The file is JSON and secret; it is made with mode 0600 and refused when others could read it:

    {"version": 1, "subject": "veriroute-node:5f0c…", "not_after": 1795000000,
     "keys": [{"key_id": "node-5f0c…", "algo": "ed25519", "seed": "<64 hex>"}]}

The first key signs; further ones stand in the keyset behind it. Another order is another keyset, with another pin.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import ssl
import stat
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.crypto.signatures import Ed25519Signer
from gateway.crypto.x509 import spki_sha256
from gateway.errors import ConfigError, FormatError
from gateway.verify.aci import keyset_digest, parse_keyset

from . import secret_file

LIFETIME_S = 365 * 86400
_SEED = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Key:
    key_id: str
    signer: Ed25519Signer


@dataclass(frozen=True)
class Identity:
    """The keys of one node. `not_after` is unix seconds; after it no gateway believes the keyset."""

    subject: str
    not_after: int
    keys: tuple[Key, ...]

    @property
    def active(self) -> Key:
        return self.keys[0]


def create(now: float) -> tuple[Identity, dict[str, Any]]:
    """A new identity with one key, and the document to keep it in."""
    seed = secrets.token_bytes(32)
    name = Ed25519Signer(seed).public_key.hex()[:12]
    document = {
        "version": 1,
        "subject": f"veriroute-node:{name}",
        "not_after": int(now) + LIFETIME_S,
        "keys": [{"key_id": f"node-{name}", "algo": "ed25519", "seed": seed.hex()}],
    }
    return parse(document), document


def ephemeral() -> Identity:
    """A new identity that is kept nowhere."""
    return create(time.time())[0]


def load_or_create(path: Path) -> Identity:
    """The identity in `path`; a file that is not there is made. Raises `ConfigError` saying what to do."""
    identity, document = create(time.time())
    try:
        secret_file.make(path, document)
    except FileExistsError:
        return _load(path)
    except OSError as error:
        raise ConfigError(f"cannot create the identity file {path}: {error.strerror}") from None
    return identity


def _load(path: Path) -> Identity:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(1 << 20)
    except OSError as error:
        raise ConfigError(f"cannot read the identity file {path}: {error.strerror}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"the identity file {path} can be read by others; run: chmod 600 {path}")
    try:
        identity = parse(json.loads(data))
    except (ValueError, FormatError, RecursionError) as error:
        raise ConfigError(f"the identity file {path} is damaged: {error}") from None
    if identity.not_after <= time.time():
        raise ConfigError(f"the identity in {path} ran out; move it away, start again, and pin the new keyset")
    return identity


def parse(document: object) -> Identity:
    """An identity from its decoded document. Raises `FormatError`."""
    if not isinstance(document, dict) or document.get("version") != 1:
        raise FormatError("not an identity of version 1")
    subject, not_after, keys = document.get("subject"), document.get("not_after"), document.get("keys")
    if not isinstance(subject, str) or not isinstance(not_after, int) or not isinstance(keys, list) or not keys:
        raise FormatError("subject, not_after and at least one key are needed")
    identity = Identity(subject, not_after, tuple(_key(key) for key in keys))
    parse_keyset(keyset(identity))  # what no gateway reads, such as two keys of one id, is refused here
    return identity


def _key(value: object) -> Key:
    if not isinstance(value, dict) or value.get("algo") != "ed25519" or not isinstance(value.get("key_id"), str):
        raise FormatError("a key needs key_id and algo ed25519")
    seed = value.get("seed")
    if not isinstance(seed, str) or _SEED.fullmatch(seed) is None:
        raise FormatError("a key's seed is 64 lower-case hex digits")
    return Key(value["key_id"], Ed25519Signer(bytes.fromhex(seed)))


def keyset(identity: Identity, spki: bytes | None = None) -> dict[str, Any]:
    """The ACI workload keyset. `spki` is the digest of the TLS key that this node serves with."""
    return {
        "subject": identity.subject,
        "not_after": identity.not_after,
        "receipt_signing_keys": [
            {"key_id": key.key_id, "algo": "ed25519", "public_key": key.signer.public_key.hex()}
            for key in identity.keys
        ],
        "e2ee_public_keys": [],
        "tls_public_keys": [] if spki is None else [{"spki_sha256": spki.hex()}],
    }


def pin(document: dict[str, Any]) -> str:
    """What a gateway pins: `sha256:<hex>` of the keyset's canonical form."""
    return keyset_digest(document)


def certificate_spki(path: Path) -> bytes:
    """The SPKI digest of the first certificate in a PEM file. Raises `ConfigError`."""
    try:
        text = path.read_text("ascii")
        begin, end = text.index("-----BEGIN CERTIFICATE-----"), text.index("-----END CERTIFICATE-----")
        return spki_sha256(ssl.PEM_cert_to_DER_cert(text[begin : end + 25]))
    except (OSError, ValueError, FormatError) as error:
        raise ConfigError(f"--tls-cert {path}: not a PEM certificate ({error})") from None
