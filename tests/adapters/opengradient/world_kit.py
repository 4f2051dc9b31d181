"""What a client of the test network does, with `cryptography`, `eth_abi` and pyhpke alone."""

from __future__ import annotations

import base64
import http.client
import json
import ssl
import struct
from contextlib import closing
from typing import Any

import eth_abi
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import load_der_public_key
from opengradient_world import Network
from opengradient_world.chain import REGISTRY
from opengradient_world.network import TOKEN
from pyhpke import AEADId, CipherSuite, KDFId, KEMId
from sha3 import keccak_256

from gateway.verify.tee.nitro import verify_nitro

HELLO = {"model": "gpt-4.1", "messages": [{"role": "user", "content": "Grüße 👋 \\ \u2028"}], "max_tokens": 64}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
CALLING = {"model": "gpt-4.1", "messages": [{"role": "user", "content": "twice"}], "tools": TOOLS, "temperature": 1}
SUITE = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.CHACHA20_POLY1305)
INFO = "(address,address,string,bytes,bytes,bytes32,uint8,bool,uint256,uint256"
OHTTP = "(uint8,uint16,uint16,uint16,bytes,bytes,uint256"


def keccak(data: bytes) -> bytes:
    return keccak_256(data).digest()


def ask(url: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, Any, bytes]:
    """Status, headers and body of one request; GET without a body. TLS is not judged here."""
    host = url.partition("//")[2]
    if url.startswith("https"):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection: Any = http.client.HTTPSConnection(host, timeout=10, context=context)
    else:
        connection = http.client.HTTPConnection(host, timeout=10)
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    with closing(connection):
        connection.request("GET" if data is None else "POST", path, data, headers or {})
        with connection.getresponse() as response:
            return response.status, response.headers, response.read()


def direct(network: Network, body: Any, path: str = "/v1/chat/completions", **headers: str) -> bytes:
    status, _, data = ask(network.enclave.url, path, body, headers)
    assert status == 200
    return data


def canonical(body: dict[str, Any], **defaults: Any) -> bytes:
    """The canonical form of a simple request, written by hand."""
    wanted = {**defaults, **{k: v for k, v in body.items() if k not in ("stream", "tool_choice")}}
    return json.dumps({**wanted, "temperature": float(wanted["temperature"])}, sort_keys=True).encode()


def holds(network: Network, signed: dict[str, Any], request: bytes, output: str) -> bool:
    """Whether the five members are a signature of the enclave over request, output and time."""
    asked, said = keccak(request), keccak(output.encode())
    assert signed["tee_id"] == "0x" + keccak(network.enclave.keys.spki).hex()
    if (signed["tee_request_hash"], signed["tee_output_hash"]) != (asked.hex(), said.hex()):
        return False
    message = keccak(asked + said + signed["tee_timestamp"].to_bytes(32, "big"))
    key = load_der_public_key(network.enclave.keys.spki)
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    try:
        key.verify(base64.b64decode(signed["tee_signature"], validate=True), message, pss, hashes.SHA256())  # type: ignore[union-attr, call-arg]
    except InvalidSignature:
        return False
    return True


def events(data: bytes) -> list[Any]:
    assert data.endswith(b"\n\n")
    frames = data[:-2].split(b"\n\n")
    assert all(frame.startswith(b"data: ") for frame in frames)
    return [None if frame == b"data: [DONE]" else json.loads(frame[6:]) for frame in frames]


def text_of(frames: list[Any]) -> str:
    return "".join(frame["choices"][0]["delta"].get("content", "") for frame in frames if frame)


def attested(network: Network, nonce: bytes = b"\x07" * 20) -> Any:
    status, headers, data = ask(network.enclave.url, f"/enclave/attestation?nonce={nonce.hex()}")
    assert (status, headers["content-type"]) == (200, "text/plain; charset=utf-8")
    document = base64.b64decode(data, validate=False)
    return verify_nitro(document, roots=network.nitro.roots, now=network.clock(), nonce=nonce, max_age_s=300).claims


def rpc(network: Network, method: str, *params: Any, endpoint: int = 0) -> Any:
    request = {"jsonrpc": "2.0", "id": 7, "method": method, "params": list(params)}
    status, _, data = ask(network.rpc_urls[endpoint], "/", request)
    answer = json.loads(data)
    assert (status, answer["id"]) == (200, 7)
    return answer.get("result", answer.get("error"))


def call(network: Network, data: str, types: list[str], endpoint: int = 0) -> Any:
    raw = rpc(network, "eth_call", {"to": REGISTRY, "data": "0x" + data}, "latest", endpoint=endpoint)
    return eth_abi.decode(types, bytes.fromhex(raw[2:]))


def active(network: Network, layout: str = f"{INFO},{OHTTP}))[]", endpoint: int = 0) -> Any:
    return call(network, "4b6014da" + "00" * 32, [layout], endpoint)[0]


def sealed(network: Network, body: Any, **headers: str) -> tuple[int, Any, bytes, Any]:
    """One request through the relay; what opens its answer comes back with it."""
    config = json.loads(ask(network.enclave.url, "/v1/ohttp/config")[2])
    header = struct.pack(">BHHH", config["key_id"], config["kem_id"], config["kdf_id"], config["aead_id"])
    key = SUITE.kem.deserialize_public_key(bytes.fromhex(config["public_key"]))
    enc, context = SUITE.create_sender_context(key, info=b"message/bhttp request\0" + header)
    wire = header + enc + context.seal(json.dumps(body).encode())
    given = {
        "Content-Type": "message/ohttp-req",
        "X-TEE-ID": network.enclave.tee_id,
        "Authorization": f"Bearer {TOKEN}",
        **headers,
    }
    status, found, data = ask(network.relay_url, "/api/v1/chat/ohttp", wire, given)
    return status, found, data, (enc, context)


def response_keys(opener: Any, label: bytes, nonce: bytes) -> tuple[ChaCha20Poly1305, bytes]:
    enc, context = opener
    mac = hmac.HMAC(enc + nonce, hashes.SHA256())
    mac.update(context.export(label, 32))
    prk = mac.finalize()
    key, base = (HKDFExpand(hashes.SHA256(), n, info).derive(prk) for n, info in ((32, b"key"), (12, b"nonce")))
    return ChaCha20Poly1305(key), base


def opened(opener: Any, data: bytes) -> Any:
    key, base = response_keys(opener, b"message/bhttp response", data[:32])
    return json.loads(key.decrypt(base, data[32:], b""))


def opened_chunks(opener: Any, data: bytes) -> list[bytes]:
    key, base = response_keys(opener, b"message/bhttp chunked response", data[:32])
    chunks, at, counter = [], 32, 0
    while at < len(data):
        size = 1 << (data[at] >> 6)
        length = int.from_bytes(data[at : at + size], "big") & ((1 << (8 * size - 2)) - 1)
        at += size
        end = at + length if length else len(data)
        nonce = bytes(a ^ b for a, b in zip(base, counter.to_bytes(12, "big"), strict=True))
        chunks.append(key.decrypt(nonce, data[at:end], b"" if length else b"final"))
        at, counter = end, counter + 1
    return chunks
