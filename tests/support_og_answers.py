"""Answers as OpenGradient's nodes sign them, made with a key of the test's own."""

from __future__ import annotations

import base64
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.crypto.keccak import keccak256
from gateway.exchange.head import Head, parse_head
from gateway.model.node import SigningKey

NOW = 1_800_000_000
REQUEST: dict[str, Any] = {"model": "m-1", "messages": [{"role": "user", "content": "Grüße?"}], "temperature": 0.5}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
WITH_TOOL = {**REQUEST, "tools": [TOOL]}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "Z\\u00fcrich"}'}}


def new_key(bits: int = 2048, exponent: int = 65537) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(exponent, bits)


def spki_of(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


KEY, OTHER = new_key(), new_key()
SPKI, OTHER_SPKI = spki_of(KEY), spki_of(OTHER)
TEE_ID = "0x" + keccak256(SPKI).hex()
KEYS = (SigningKey(TEE_ID, "rsa-pss-sha256", SPKI),)


def sign(key: rsa.RSAPrivateKey, message: bytes, salt: int = 32) -> bytes:
    return key.sign(message, padding.PSS(padding.MGF1(SHA256()), salt), SHA256())


def canonical(request: dict[str, Any]) -> bytes:
    """The hashed form of a chat request without parts, written out as the network's documents say."""
    found: dict[str, Any] = {"model": request["model"], "messages": request["messages"]}
    found["temperature"] = float(request.get("temperature") or 0)
    found.update({k: request[k] for k in ("max_tokens", "stop", "tools", "response_format") if request.get(k)})
    return json.dumps(found, sort_keys=True).encode()


def members(
    request: bytes, output: str, *, key: rsa.RSAPrivateKey = KEY, at: int = NOW, **other: Any
) -> dict[str, Any]:
    """The five signed members, over the canonical `request` and the text `output`; `other` replaces some."""
    hashes = keccak256(request), keccak256(output.encode())
    signature = sign(key, keccak256(b"".join(hashes) + at.to_bytes(32, "big")))
    return {
        "tee_signature": base64.b64encode(signature).decode(), "tee_request_hash": hashes[0].hex(),
        "tee_output_hash": hashes[1].hex(), "tee_timestamp": at,
        "tee_id": "0x" + keccak256(spki_of(key)).hex(), **other,
    }  # fmt: skip


def head(request: dict[str, Any] = REQUEST, endpoint: str = "/v1/chat/completions") -> Head:
    if endpoint == "/v1/web_search":
        return Head(endpoint, "", False, 1, frozenset())
    return parse_head(endpoint, json.dumps(request).encode())


def chat(message: dict[str, Any], finish: str, signed: dict[str, Any], **other: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": NOW - 1, "model": "m-1",
        "choices": [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}],
        **signed, "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}, **other,
    }  # fmt: skip


def text_answer(text: str = "Hello.", request: dict[str, Any] = REQUEST, **other: Any) -> dict[str, Any]:
    return chat({"content": text}, "stop", members(canonical(request), text), **other)


def call_answer(calls: list[dict[str, Any]] | None = None, content: str | None = "", **other: Any) -> dict[str, Any]:
    calls = [CALL] if calls is None else calls
    signed = members(canonical(WITH_TOOL), json.dumps(calls, sort_keys=True))
    return chat({"content": content, "tool_calls": calls}, "tool_calls", signed, **other)


def dumps(document: object) -> bytes:
    return json.dumps(document).encode()


def frame(delta: dict[str, Any], finish: str | None = None, **other: Any) -> dict[str, Any]:
    return {"choices": [{"delta": delta, "index": 0, "finish_reason": finish}], "model": "m-1", **other}


def text_frame(text: str) -> dict[str, Any]:
    return frame({"content": text, "role": "assistant"})


def last_frame(output: str, finish: str = "stop", request: dict[str, Any] = REQUEST, **other: Any) -> dict[str, Any]:
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return {**frame({}, finish), **members(canonical(request), output), "usage": usage, **other}


def sse(*frames: object, done: bool = True) -> bytes:
    events = [dumps(frame) if not isinstance(frame, bytes) else frame for frame in frames]
    return b"".join(b"data: " + event + b"\n\n" for event in [*events, *([b"[DONE]"] if done else [])])
