"""The sealed exchanges and signed key configurations of the OpenGradient vectors."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from gateway.crypto.keccak import keccak256
from gateway.crypto.ohttp import Exchange, decapsulate, encapsulate
from gateway.crypto.ohttp_keys import KeyConfig, encode_key_config
from gateway.errors import FormatError, ProofError
from gateway.verify.opengradient.ohttp_config import (
    OhttpConfig,
    config_hash,
    parse_ohttp_config,
    verify_ohttp_config,
)

FILE = Path(__file__).parents[2].parent / "shared/vectors/opengradient/ohttp.json"
pytestmark = pytest.mark.skipif(not FILE.is_file(), reason=f"the OpenGradient vectors are not at {FILE}")
VECTORS: dict[str, Any] = json.loads(FILE.read_text()) if FILE.is_file() else {"cases": [], "configs": []}
#: The vectors' words for the reasons here.
REASONS = {"aead": "ohttp_decrypt", "malformed": "ohttp_malformed", "truncated": "ohttp_truncated"}


def raw(case: dict[str, Any], name: str) -> bytes:
    return bytes.fromhex(case[name + "_hex"]) if name + "_hex" in case else base64.b64decode(case[name + "_b64"])


def exchange_of(case: dict[str, Any]) -> Exchange:
    """The request of `case`, sealed again: its bytes have to be the vector's."""
    config = KeyConfig(1, raw(case, "recipient_pub"), ((1, 3),))
    sealed = encapsulate(config, raw(case, "request_plaintext"), raw(case, "ephemeral_priv"))
    assert sealed.wire == raw(case, "request_wire")
    assert sealed.exchange.enc == raw(case, "enc")
    return sealed.exchange


def opened(case: dict[str, Any], cut: int) -> list[bytes]:
    exchange, wire = exchange_of(case), raw(case, "response_wire")
    if case["mode"] == "single":
        return [exchange.open(wire)]
    opener = exchange.opener()
    pieces = [piece for at in range(0, len(wire), cut) for piece in opener.feed(wire[at : at + cut])]
    return [*pieces, opener.finish()]


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_sealed_exchanges(case: dict[str, Any]) -> None:
    """Requests seal to the vectors' bytes and open again; answers open to their plaintext or fail for their reason."""
    there = decapsulate(raw(case, "request_wire"), 1, raw(case, "recipient_priv"))
    assert there.plaintext == raw(case, "request_plaintext")
    for cut in (1, 97, 1 << 20):
        if case["expect"] == "reject":
            with pytest.raises(FormatError) as caught:
                opened(case, cut)
            assert caught.value.reason == REASONS[case["reason"]]
            continue
        chunks = case.get("plaintext_chunks_b64") or [case["plaintext_b64"]]
        assert opened(case, cut) == [base64.b64decode(chunk) for chunk in chunks]


def test_the_vectors_are_all_there() -> None:
    """Six exchanges and two configurations were looked at, of both kinds."""
    assert [case["expect"] for case in VECTORS["cases"]].count("accept") == 2
    assert len(VECTORS["cases"]) == 6
    assert [case["expect"] for case in VECTORS["configs"]] == ["accept", "reject"]


@pytest.mark.parametrize("case", VECTORS["configs"], ids=lambda case: case["name"])
def test_signed_configurations(case: dict[str, Any]) -> None:
    """The honest configuration gives its key under the TEE's signing key; the other fails for its reason."""
    config = parse_ohttp_config(json.dumps(case["config"]).encode())
    keys = json.loads((FILE.parent / "keys.json").read_text())
    pems = [value for value in _strings(keys) if "BEGIN PUBLIC KEY" in value]
    ders = [load_pem_public_key(p.encode()).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for p in pems]
    (spki,) = {der for der in ders if keccak256(der) == config.tee_id}
    if case["expect"] == "accept":
        key = verify_ohttp_config(config, spki, config.tee_id)
        assert encode_key_config(key) == base64.b64decode(case["config"]["key_config"])
    else:
        with pytest.raises(ProofError) as caught:
            verify_ohttp_config(config, spki, config.tee_id)
        assert caught.value.reason == case["reason"]


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _strings(item)]
    return [value] if isinstance(value, str) else []


def test_the_golden_hash() -> None:
    """The hash of tee-gateway's own test comes out."""
    golden = VECTORS["upstream_golden"]
    public = raw(golden, "public_key")
    blob = encode_key_config(KeyConfig(1, public, ((1, 3),)))
    assert config_hash(OhttpConfig(raw(golden, "tee_id"), 1, 0x20, 1, 3, public, blob)).hex() == golden["config_hash"]
