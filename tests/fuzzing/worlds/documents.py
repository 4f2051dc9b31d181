"""The readers below the families: JSON, XML, CBOR, DER, PEM, JOSE, COSE, policies, and manifests of test cases."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import cbor2
from tee_worlds import keys, nitro, nvidia, tokens

import policies
from gateway.crypto import cbor, cose, ec_keys, jose, xml, xmldsig
from gateway.crypto.canonical import jcs, strict_json
from gateway.crypto.certificates import der_of, load_certificate, load_pem_chain
from gateway.crypto.x509 import spki_sha256
from gateway.errors import FormatError, PolicyError
from gateway.policy.load import parse_policy
from gateway.verify.tee import cases

_JSON = b'{"a":[1,-2.5e3,true,null,"\\u00e9\\ud83d\\ude00"],"b":{"c":"00000000000000000000000"},"n":9007199254740991}'


def _json(data: bytes) -> None:
    value = strict_json(data, max_bytes=1 << 20)
    again = json.loads(data, object_pairs_hook=_unique)
    assert json.dumps(value) == json.dumps(again), "two readers, two values"
    with suppress(FormatError):
        assert json.dumps(strict_json(jcs(value), max_bytes=1 << 21), sort_keys=True)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    assert len({key for key, _ in pairs}) == len(pairs), "a key twice"
    return dict(pairs)


def _cbor(data: bytes) -> None:
    cbor.load(data)


def _xml(data: bytes) -> None:
    root = xml.parse_xml(data)
    text = xml.canonical(root)
    assert xml.canonical(xml.parse_xml(text)) == text, "the canonical form has another canonical form"


def _signed_xml(data: bytes) -> None:
    xmldsig.check_enveloped(xml.parse_xml(data))


def _certificate(data: bytes) -> None:
    load_certificate(data)


def _jws(data: bytes) -> None:
    token = jose.read_compact(data, algs=("ES384", "RS256"))
    assert jose.read_compact(data, algs=("ES384", "RS256")) == token


def _key_set(data: bytes) -> None:
    jose.key_of(jose.find_key(data, "nv-eat-kid-test-1"))


def _policy(data: bytes) -> None:
    with suppress(PolicyError):
        parse_policy("fuzzed.toml", data)


def _manifest(data: bytes) -> None:
    manifest = cases.parse_manifest(data)
    for case in manifest.cases[:3]:
        cases.run_case(manifest, case, lambda name: nitro.seeds()[0])


def _case_manifest() -> bytes:
    document = nitro.seeds()[0]
    steps: list[dict[str, object]] = [
        {"target": "doc", "op": "xor", "offset": 5, "mask": 1},
        {"target": "doc", "op": "write", "offset": 5, "hex": "00ff"},
        {"target": "doc", "op": "truncate", "length": 50},
        {"target": "doc", "op": "append", "hex": "00"},
        {"target": "doc", "op": "replace_text", "old": "SHA384", "new": "SHA512"},
        {"target": "doc", "op": "json_set", "field": "a", "value": 1},
    ]
    case = {
        "inputs": {"doc": "a.bin"},
        "evaluation_time": 1.7e9,
        "params": {"nonce": "00"},
        "expected": {"authentic": False},
    }
    return json.dumps(
        {
            "kind": "nitro",
            "roots": {"r": "a.bin"},
            "files": {"a.bin": {"sha256": hashlib.sha256(document).hexdigest()}},
            "cases": [{"id": f"c{at}", **case, "mutations": [step]} for at, step in enumerate(steps)],
        }
    ).encode()


@cache
def readers() -> dict[bytes, tuple[bytes, Callable[[bytes], object]]]:
    """The byte that chooses a reader -> a genuine item, and the reader."""
    chain = nvidia.device_chain()
    policy = Path(policies.__file__).parent / "strict.toml"
    return {
        b"j": (_JSON, _json),
        b"c": (cbor2.dumps({1: [b"x", "y", None, True, -5, 2**40], "z": {"a": {}}}), _cbor),
        b"x": (nvidia.signed(nvidia.manifest()), _xml),
        b"s": (nvidia.signed(nvidia.manifest()), _signed_xml),
        b"d": (der_of(chain[0]), _certificate),
        b"k": (der_of(chain[0]), spki_sha256),
        b"p": (nvidia.pem_of(chain), load_pem_chain),
        b"w": (tokens.gcs_token(), _jws),
        b"J": (tokens.nras_key_set(), _key_set),
        b"o": (nitro.seeds()[0], cose.read_sign1),
        b"e": (keys.ec_key("p256").uncompressed, ec_keys.public_key),
        b"t": (policy.read_bytes(), _policy),
        b"m": (_case_manifest(), _manifest),
    }


def seeds() -> list[bytes]:
    """One item for each reader, behind the byte that `run` chooses it by."""
    return [kind + item for kind, (item, _) in readers().items()]


def run(data: bytes) -> None:
    """Read `data`. Nothing but `FormatError` comes out of a reader."""
    _, reader = readers().get(data[:1], readers()[b"j"])
    with suppress(FormatError):
        reader(data[1:])
