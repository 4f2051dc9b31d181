"""What an enclave hashes and signs: canonical requests in three profiles, output strings, the five `tee_` members.

request_hash = keccak256(json.dumps(canonical, sort_keys=True))
output_hash  = keccak256(output text)
tee_signature = RSA-PSS(SHA-256, salt 32) over keccak256(request_hash || output_hash || uint256(tee_timestamp))
"""

from __future__ import annotations

import base64
import json
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sha3 import keccak_256

PSS = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
PROFILES = ("v1", "v2", "v3")
DONE = b"data: [DONE]\n\n"


def keccak(data: bytes) -> bytes:
    return keccak_256(data).digest()


def u256(number: int) -> bytes:
    return number.to_bytes(32, "big")


def spki_of(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def sign(key: rsa.RSAPrivateKey, digest: bytes) -> bytes:
    return key.sign(digest, PSS, hashes.SHA256())


def hashed_text(canonical: object) -> bytes:
    return json.dumps(canonical, sort_keys=True).encode()


def sse(frame: object) -> bytes:
    return b"data: " + json.dumps(frame).encode() + b"\n\n"


def evidence(key: rsa.RSAPrivateKey, tee_id: bytes, request: bytes, output: str, timestamp: int) -> dict[str, Any]:
    """The five members that a signed answer carries."""
    asked, said = keccak(request), keccak(output.encode())
    return {
        "tee_signature": base64.b64encode(sign(key, keccak(asked + said + u256(timestamp)))).decode(),
        "tee_request_hash": asked.hex(),
        "tee_output_hash": said.hex(),
        "tee_timestamp": timestamp,
        "tee_id": f"0x{tee_id.hex()}",
    }


def canonical_chat(body: dict[str, Any], profile: str = "v3") -> dict[str, Any]:
    """The object that a build hashes for a chat request; profiles differ in lists as a user's content."""
    temperature = body.get("temperature")
    found: dict[str, Any] = {
        "model": body["model"],
        "messages": [_message(message, profile) for message in body["messages"]],
        "temperature": 0.0 if temperature is None else float(temperature),
    }
    if body.get("max_tokens") is not None:
        found["max_tokens"] = body["max_tokens"]
    found.update({name: body[name] for name in ("stop", "tools", "response_format") if body.get(name)})
    if body.get("web_search"):
        found["web_search"] = True
    return found


def canonical_completion(body: dict[str, Any]) -> dict[str, Any]:
    """The object that a build hashes for a text completion; what is absent has the model class's defaults."""
    found = {
        "model": body["model"],
        "prompt": body["prompt"],
        "temperature": float(body.get("temperature", 1) or 0),
    }
    if body.get("max_tokens", 16) is not None:
        found["max_tokens"] = body.get("max_tokens", 16)
    if body.get("stop"):
        found["stop"] = body["stop"]
    return found


def _message(message: dict[str, Any], profile: str) -> dict[str, Any]:
    role, content = message["role"], message.get("content")
    if role in ("system", "developer"):
        return {"role": "system", "content": content}
    if role == "user":
        return {"role": "user", "content": _user(content, profile)}
    if role == "assistant":
        calls = [_call(call) for call in message.get("tool_calls") or ()]
        return {"role": role, "content": content or "", **({"tool_calls": calls} if calls else {})}
    if role == "tool":
        return {"role": role, "content": content, "tool_call_id": message.get("tool_call_id")}
    return {"role": role, "content": content, "name": message.get("name")}


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    named = {"name": function.get("name"), "arguments": function.get("arguments")}
    return {"id": call.get("id"), "type": call.get("type"), "function": named}


def _user(content: Any, profile: str) -> Any:
    if isinstance(content, str) or profile == "v2":
        return content
    return str(content) if profile == "v1" else [_part(part) for part in content]


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part.get("type") == "text":
        return {"type": "text", "text": part.get("text") or ""}
    file = part.get("file")
    name = (file.get("filename") if isinstance(file, dict) else None) or part.get("filename")
    return {"type": part.get("type"), **({"filename": name} if name else {})}
