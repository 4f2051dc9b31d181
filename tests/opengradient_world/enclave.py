"""One enclave: its keys, its attestation, and the answers that it makes and signs. No socket.

Answers are a function of the request: `echo: X` as the last user's text answers X; declared tools are called when the
last message is a user's (`twice` in it calls two); anything else gets a fixed sentence.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import time
import uuid
from collections.abc import Callable
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gateway.testing.tee.nitro import World, default_pcrs

from .faults import Faults
from .sealing import Opener
from .wire import DONE, canonical_chat, canonical_completion, evidence, hashed_text, keccak, spki_of, sse

SENTENCE = "The enclave answers with a short sentence so that every byte of it can be checked, grüezi 👋 included."
USAGE = {"prompt_tokens": 14, "completion_tokens": 6, "total_tokens": 20}
COST = {"cost_opg": "123456789012345", "cost_usd": "0.000066", "opg_price_usd": "0.534600"}
#: The models whose tool calls come in fragments as they are made; others' are flushed whole before the end.
FRAGMENTING = ("gemini", "grok", "seed")
Json = dict[str, Any]


@cache
def rsa_key(label: str) -> rsa.RSAPrivateKey:
    """One key a label a process: to draw one takes longer than most of what is then done with it."""
    return rsa.generate_private_key(65537, 2048)


class Keys:
    """What an enclave draws when it starts for the `key_id`th time: signing key, TLS certificate, OHTTP key."""

    def __init__(self, label: str, now: float, key_id: int = 1) -> None:
        self.signing = rsa_key(f"{label} {key_id}")
        self.spki = spki_of(self.signing)
        self.tee_id = keccak(self.spki)
        self._tls_key = ec.generate_private_key(ec.SECP256R1())
        self._certificate = _self_signed(self._tls_key, now)
        self.tls_der = self._certificate.public_bytes(Encoding.DER)
        self.opener = Opener(X25519PrivateKey.generate(), key_id)

    @property
    def tls_pem(self) -> bytes:
        """Key and certificate, as a server loads them."""
        key = self._tls_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return key + self._certificate.public_bytes(Encoding.PEM)


class Enclave:
    """The program inside. `nitro` is the host that attests it; `profile` the canonical form that its build hashes."""

    def __init__(
        self, nitro: World, faults: Faults, clock: Callable[[], float] = time.time, profile: str = "v3"
    ) -> None:
        self.nitro, self.faults, self.clock, self.profile = nitro, faults, clock, profile
        self.keys = Keys(nitro.label, clock())
        self.pcrs = default_pcrs()
        self.url = ""
        self.edit: Callable[[Json], Json] = lambda answer: (
            answer
        )  # of what is sent of a chat's answer, signed as it was
        self._said: dict[bytes, Any] = {}
        self._document: bytes | None = None

    @property
    def tee_id(self) -> str:
        return f"0x{self.keys.tee_id.hex()}"

    @property
    def pcr_hash(self) -> bytes:
        pcrs = self.measured()
        return keccak(pcrs[0] + pcrs[1] + pcrs[2])

    def measured(self) -> dict[int, bytes]:
        return {**self.pcrs, 0: b"\x11" * 48} if "pcr_unknown" in self.faults else self.pcrs

    # What it says of itself

    def user_data(self) -> bytes:
        halves = (self.keys.tls_der, self.keys.spki)
        return b"".join(b"\x12\x20" + hashlib.sha256(half).digest() for half in halves)

    def document(self, nonce: bytes | None, made_at: float) -> bytes:
        """A Nitro document as nitriding asks for it."""
        self.nitro.renew(made_at)
        return self.nitro.document(nonce=nonce, user_data=self.user_data(), pcrs=self.measured(), timestamp=made_at)

    def attestation(self, nonce: bytes) -> bytes:
        """What GET /enclave/attestation answers: base64 text."""
        late = 3600 if "expired_attestation" in self.faults else 0
        if self._document is None or "replayed_attestation" not in self.faults:
            self._document = self.document(nonce, self.clock() - late)
        return base64.b64encode(self._document) + b"\n"

    def signing_key(self) -> Json:
        """What GET /signing-key answers; it is no attestation."""
        pem = self.keys.signing.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return {
            "public_key": pem.decode(),
            "tee_id": self.tee_id,
            "wallet_address": "0x" + "9d" * 20,
            "hpke": self.ohttp_config(),
            "timestamp": datetime.datetime.fromtimestamp(self.clock(), datetime.UTC).isoformat(),
            "enclave_info": {"platform": "aws-nitro", "instance_type": "tee-enabled", "version": "1.0.0"},
            "measurements": None,
        }

    def ohttp_config(self) -> Json:
        return self.keys.opener.config(self.keys.signing, self.keys.tee_id)

    # Answers

    def _signed(self, request: bytes, output: str) -> Json:
        shift = -7200 if "stale" in self.faults else 900 if "future" in self.faults else 0
        key = rsa_key("stranger") if "wrongkey" in self.faults else self.keys.signing
        members = evidence(key, self.keys.tee_id, request, output, int(self.clock()) + shift)
        if "nosig" in self.faults:
            del members["tee_signature"]
        return members

    def _once(self, kind: bytes, request: bytes, make: Callable[[], Any]) -> Any:
        """The answer to `request`: a new one, or (fault replay) the first that was ever given."""
        made = self._said.get(kind + request) if "replay" in self.faults else None
        if made is None:
            made = make()
            self._said.setdefault(kind + request, made)
        return made

    def chat(self, body: Json) -> bytes:
        """The JSON answer to a chat request that is not streamed."""
        request = hashed_text(canonical_chat(body, self.profile))
        return self._once(b"chat", request, lambda: self._chat(body, request))

    def _chat(self, body: Json, request: bytes) -> bytes:
        text, calls = output_of(body, self.faults)
        signed = self._signed(request, json.dumps(calls, sort_keys=True) if calls else text)
        if "promoted" in self.faults:
            calls, text = json.loads(text), ""
        message: Json = {"role": "assistant", "content": "" if calls else self._tampered(text)}
        if calls:
            message["tool_calls"] = self._tampered_calls(calls)
        if "unsigned_toolcall" in self.faults:
            message["tool_calls"] = [call_of("wire_money", {"to": 42})]
        choices = [{"index": 0, "message": message, "finish_reason": "tool_calls" if calls else "stop"}]
        if "second_choice" in self.faults:
            evil = {"role": "assistant", "content": "evil"}
            choices.append({"index": 1, "message": evil, "finish_reason": "stop"})
        head = {"id": f"chatcmpl-{uuid.uuid4()}", "object": "chat.completion", "created": int(self.clock())}
        tail = {**signed, "usage": USAGE, "opengradient": COST}
        return json.dumps(self.edit({**head, "model": body["model"], "choices": choices, **tail})).encode()

    def _tampered(self, text: str) -> str:
        return text + "!" if "tamper" in self.faults else text

    def _tampered_calls(self, calls: list[Json]) -> list[Json]:
        if "tamper" not in self.faults:
            return calls
        return [{**call, "function": {**call["function"], "arguments": '{"evil": true}'}} for call in calls]

    def stream(self, body: Json) -> list[bytes]:
        """The events of a streamed chat answer, each one chunk; without its end where the fault is `cut`."""
        request = hashed_text(canonical_chat(body, self.profile))
        return list(self._once(b"stream", request, lambda: self._stream(body, request)))

    def _stream(self, body: Json, request: bytes) -> list[bytes]:
        text, calls = output_of(body, self.faults)
        final = self._signed(request, json.dumps(calls, sort_keys=True) if calls else text)
        if "promoted" in self.faults:
            calls, text = json.loads(text), ""
        model = body["model"]
        if calls:
            deltas = call_deltas(self._tampered_calls(calls), fragments=model.startswith(FRAGMENTING))
        else:
            deltas = [{"content": piece, "role": "assistant"} for piece in pieces(text)]
            if "tamper" in self.faults:
                deltas[0] = {"content": "X ", "role": "assistant"}
        if "unsigned_toolcall" in self.faults:
            deltas.insert(1, {"tool_calls": [{"index": 0, **call_of("wire_money", {"to": 42})}]})
        frames = [frame(delta, model) for delta in deltas]
        if "second_choice" in self.faults:
            frames.insert(1, frame({"content": "evil"}, model, index=1))
        if "cut" in self.faults:
            return [sse(item) for item in frames[: (len(frames) + 1) // 2]]
        order = ("tee_signature", "tee_timestamp", "tee_request_hash", "tee_output_hash", "tee_id")
        end = {
            "choices": [{"delta": {}, "index": 0, "finish_reason": "tool_calls" if calls else "stop"}],
            "model": model,
        }
        end |= {name: final[name] for name in order if name in final}
        return [*(sse(self.edit(item)) for item in (*frames, {**end, "usage": USAGE, "opengradient": COST})), DONE]

    def completion(self, body: Json) -> bytes:
        """The JSON answer to a text completion."""
        request = hashed_text(canonical_completion(body))
        return self._once(b"completion", request, lambda: self._completion(body, request))

    def _completion(self, body: Json, request: bytes) -> bytes:
        text = said(str(body["prompt"]), self.faults)
        choices = [{"text": self._tampered(text), "index": 0, "finish_reason": "stop"}]
        if "second_choice" in self.faults:
            choices.append({"text": "evil", "index": 1, "finish_reason": "stop"})
        head = {"id": f"cmpl-{uuid.uuid4()}", "object": "text_completion", "created": int(self.clock())}
        signed = self._signed(request, text)
        return json.dumps({**head, "model": body["model"], "choices": choices, "usage": USAGE, **signed}).encode()


def said(prompt: str, faults: Faults) -> str:
    """The text that answers `prompt`."""
    if "done_in_text" in faults:
        return "- [DONE] a\n- [ ] b\n[DONE]\n\ndata: [DONE]\n\n"
    return prompt.removeprefix("echo: ") if prompt.startswith("echo: ") else SENTENCE


def output_of(body: Json, faults: Faults) -> tuple[str, list[Json]]:
    """Text and tool calls that answer a chat request; one of them is empty."""
    last = body["messages"][-1]
    content = last.get("content")
    prompt = content if isinstance(content, str) else json.dumps(content)
    if "promoted" in faults:
        return json.dumps([call_of("wire_money", {"to": 42})], sort_keys=True), []
    if body.get("tools") and last["role"] == "user":
        name = body["tools"][0]["function"]["name"]
        return "", [call_of(name, {"city": city}) for city in ("Zürich", "Bern")[: 2 if "twice" in prompt else 1]]
    return said(prompt, faults), []


def call_of(name: str, arguments: Json) -> Json:
    written = json.dumps(arguments)
    mark = hashlib.sha256((name + written).encode()).hexdigest()[:12]
    return {"id": f"call_{mark}", "type": "function", "function": {"name": name, "arguments": written}}


def pieces(text: str) -> list[str]:
    """The text in deltas; `[DONE]` is one of its own where it stands."""
    parts = text.split("[DONE]")
    marked = [parts[0], *(piece for part in parts[1:] for piece in ("[DONE]", part))]
    return [part[at : at + 9] for part in marked for at in range(0, len(part), 9)] or [""]


def frame(delta: Json, model: str, index: int = 0) -> Json:
    return {"choices": [{"delta": delta, "index": index, "finish_reason": None}], "model": model}


def call_deltas(calls: list[Json], *, fragments: bool) -> list[Json]:
    """Tool calls as they are streamed: whole, or the id and name first and the arguments in two halves."""
    if not fragments:
        return [{"tool_calls": [{"index": at, **call}]} for at, call in enumerate(calls)]
    deltas = []
    for at, call in enumerate(calls):
        name, written = call["function"]["name"], call["function"]["arguments"]
        half = len(written) // 2
        first = {
            "index": at,
            "type": "function",
            "id": call["id"],
            "function": {"name": name, "arguments": written[:half]},
        }
        rest = {"index": at, "type": "function", "function": {"arguments": written[half:]}}
        deltas += [{"tool_calls": [first]}, {"tool_calls": [rest]}]
    return deltas


def _self_signed(key: ec.EllipticCurvePrivateKey, now: float) -> x509.Certificate:
    # As nitriding makes it: for localhost, its own issuer.
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    start = datetime.datetime.fromtimestamp(now - 86_400, datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(start)
    builder = builder.not_valid_after(start + datetime.timedelta(days=357))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return builder.sign(key, hashes.SHA256())
