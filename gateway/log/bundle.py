"""The offline bundle: one file with everything that a stranger needs to check one exchange.

    {"mediaType": "application/vnd.veriroute.bundle+json;version=1",
     "receipt":   {"payloadType": …, "payload": "<base64>", "signatures": [{"keyid": …, "sig": "<base64>"}]},
     "proof":     "c2sp.org/tlog-proof@v1\\n…",                       inclusion proof and checkpoint
     "openings":  {"response.body": {"salt": "<base64>", "bytes": "<base64>"}},
     "evidence":  [{"name": "aci-receipt", "mediaType": …, "sha256": "<hex>", "bytes": "<base64>"}],
     "policy":    {"name": …, "sha256": "<hex>", "bytes": "<base64 of the TOML text>"},
     "session":   {…},                                                the attested session's document
     "intent":    {"envelope": {DSSE}, "proof": "c2sp.org/tlog-proof@v1\\n…"},
     "keys":      [{"keyid": "<name>+<hex8>", "vkey": "<name>+<hex8>+<base64>"}],
     "untrustedPolicy": "log …\\nquorum none\\n"}

`openings`, `evidence` and `keys` may be empty; `policy`, `session`, `intent` and `untrustedPolicy` may be absent.
Nothing in a bundle is trusted for standing in it: keys and trust roots inside are a convenience, named accordingly.

Reading is strict: one JSON document without duplicate members, base64 in its one canonical form, names that occur once.
Unknown members are ignored. A signed document is kept as the bytes that stand in the file. Only FormatError is raised.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.crypto.encoding import b64, unb64
from gateway.errors import FormatError
from gateway.model.line import Line
from gateway.model.receipt import Hex256

from .receipt import SALT_LENGTH, salt_for

MEDIA_TYPE = "application/vnd.veriroute.bundle+json;version=1"
#: Longest bundle that is read: two bodies at the largest size that the gateway takes, as base64, and evidence.
MAX_BUNDLE = 128 << 20


class Opened(msgspec.Struct, frozen=True):
    """What a salted digest commits to: the 32-byte salt and the data behind it."""

    salt: bytes
    data: bytes


class EvidenceBlob(msgspec.Struct, frozen=True):
    """Archived evidence; `sha256` is what the file claims, to be compared with `data` and with the receipt."""

    name: str
    media_type: str
    sha256: str
    data: bytes


class PolicyFile(msgspec.Struct, frozen=True):
    """The policy file in force; `sha256` is what the bundle claims, to be compared with `data` and the receipt."""

    name: str
    sha256: str
    data: bytes


class Logged(msgspec.Struct, frozen=True):
    """A signed envelope (its JSON bytes) and the tlog-proof text of its leaf."""

    envelope: bytes
    proof: str


class BundleKey(msgspec.Struct, frozen=True):
    """A key that the file offers, and that nothing but the reader's own decision makes trusted."""

    keyid: str
    vkey: str


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle, read. `receipt` is the envelope's JSON bytes as they stood in the file; so is `session`.

    `uncovered`, of a bundle that was made from a saved answer: what that holds beside its openings. No file has it.
    """

    receipt: bytes
    proof: str
    openings: Mapping[str, Opened] = msgspec.field(default_factory=dict)
    evidence: tuple[EvidenceBlob, ...] = ()
    policy: PolicyFile | None = None
    session: bytes | None = None
    intent: Logged | None = None
    keys: tuple[BundleKey, ...] = ()
    untrusted_policy: str | None = None
    uncovered: tuple[Line, ...] = ()


def open_all(seed: bytes, data: Mapping[str, bytes]) -> dict[str, Opened]:
    """The openings of the named `data` under a receipt's `seed`."""
    return {name: Opened(salt_for(seed, name), value) for name, value in data.items()}


def format_bundle(bundle: Bundle) -> bytes:
    """The bundle's bytes: compact JSON, members in the documented order. `parse_bundle` gives back an equal value."""
    document: dict[str, Any] = {
        "mediaType": MEDIA_TYPE,
        "receipt": msgspec.Raw(bundle.receipt),
        "proof": bundle.proof,
        "openings": {n: {"salt": b64(o.salt), "bytes": b64(o.data)} for n, o in bundle.openings.items()},
        "evidence": [
            {"name": e.name, "mediaType": e.media_type, "sha256": e.sha256, "bytes": b64(e.data)}
            for e in bundle.evidence
        ],
    }
    if bundle.policy is not None:
        file = bundle.policy
        document["policy"] = {"name": file.name, "sha256": file.sha256, "bytes": b64(file.data)}
    if bundle.session is not None:
        document["session"] = msgspec.Raw(bundle.session)
    if bundle.intent is not None:
        document["intent"] = {"envelope": msgspec.Raw(bundle.intent.envelope), "proof": bundle.intent.proof}
    document["keys"] = [{"keyid": k.keyid, "vkey": k.vkey} for k in bundle.keys]
    if bundle.untrusted_policy is not None:
        document["untrustedPolicy"] = bundle.untrusted_policy
    return msgspec.json.encode(document)


def parse_bundle(data: bytes) -> Bundle:
    """Read a bundle. FormatError when it is not one, is longer than `MAX_BUNDLE`, or says something twice."""
    strict_json(data, max_bytes=MAX_BUNDLE)
    try:
        wire = _decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise FormatError(f"not a bundle: {error}") from error
    if wire.media_type != MEDIA_TYPE:
        raise FormatError(f"the file's mediaType is not {MEDIA_TYPE}")
    _once("evidence", [e.name for e in wire.evidence])
    _once("keys", [k.keyid for k in wire.keys])
    return Bundle(
        receipt=_object("receipt", wire.receipt),
        proof=wire.proof,
        openings={name: _opened(name, o) for name, o in wire.openings.items()},
        evidence=tuple(_blob(e) for e in wire.evidence),
        policy=None if wire.policy is None else _policy(wire.policy),
        session=_object("session", wire.session) if bytes(wire.session) else None,
        intent=None if wire.intent is None else Logged(_object("intent", wire.intent.envelope), wire.intent.proof),
        keys=wire.keys,
        untrusted_policy=wire.untrusted_policy,
    )


def _blob(wire: _WireEvidence) -> EvidenceBlob:
    return EvidenceBlob(wire.name, wire.media_type, wire.sha256, unb64(wire.bytes, f"evidence {wire.name!a}"))


def _policy(wire: _WirePolicy) -> PolicyFile:
    return PolicyFile(wire.name, wire.sha256, unb64(wire.bytes, "the policy"))


def _opened(name: str, wire: _WireOpening) -> Opened:
    salt = unb64(wire.salt, f"the salt of {name!a}", length=SALT_LENGTH)
    return Opened(salt, unb64(wire.bytes, f"the opening of {name!a}"))


def _once(member: str, names: list[str]) -> None:
    if len(set(names)) != len(names):
        raise FormatError(f"{member!a} names an entry twice")


def _object(member: str, raw: msgspec.Raw) -> bytes:
    data = bytes(raw)
    if not data.startswith(b"{"):
        raise FormatError(f"{member!a} is not an object")
    return data


class _WireOpening(msgspec.Struct):
    salt: str
    bytes: str


class _WireEvidence(msgspec.Struct, rename="camel"):
    name: str
    media_type: str
    sha256: Hex256
    bytes: str


class _WirePolicy(msgspec.Struct):
    name: str
    sha256: Hex256
    bytes: str


class _WireLogged(msgspec.Struct):
    envelope: msgspec.Raw
    proof: str


class _WireBundle(msgspec.Struct, rename="camel"):
    media_type: str
    receipt: msgspec.Raw
    proof: str
    openings: dict[str, _WireOpening]
    evidence: tuple[_WireEvidence, ...]
    keys: tuple[BundleKey, ...]
    policy: _WirePolicy | None = None
    session: msgspec.Raw = msgspec.Raw()  # empty: absent
    intent: _WireLogged | None = None
    untrusted_policy: str | None = None


_decoder = msgspec.json.Decoder(_WireBundle)
