"""The node profile on the wire: attestation, receipts, running signatures, and the Messages API's grammar."""

from __future__ import annotations

import base64
import hashlib
import json
import signal
import socket
import ssl
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from node_kit import HELLO, MODEL, NONCE, Running, ask, node, problems, report, start
from support_tls import Authority

from gateway.cli import main
from gateway.verify import aci

STORY = {**HELLO, "messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 200}
REQUESTS = {
    "/v1/chat/completions": STORY,
    "/v1/completions": {"model": MODEL, "prompt": "A log is", "max_tokens": 30},
    "/v1/responses": {"model": MODEL, "input": "What is a receipt?"},
    "/v1/messages": {"model": MODEL, "max_tokens": 64, "messages": [{"role": "user", "content": "What is a receipt?"}]},
    "/v1/embeddings": {"model": "veriroute-embed-1", "input": "receipt"},
    "/v1/moderations": {"model": "veriroute-moderation-1", "input": "receipt"},
}
STREAMED = [path for path in REQUESTS if path not in ("/v1/embeddings", "/v1/moderations")]


def test_attestation(honest: Running) -> None:
    """The report is for our nonce and the keyset that the node printed as its pin, and names what it can do."""
    known = report(honest.url, "ab" * 32)
    assert known.keyset.digest == known.stated_digest == honest.pin
    statement = aci.statement(honest.pin, "ab" * 32)
    assert known.report_data == aci.report_data(statement)
    assert known.evidence["platform"] == "software"
    assert known.evidence["statement"] == statement.decode()
    assert known.tee_type == "none"
    assert known.extensions == {"inline-receipt", "request-nonce", "chained"}
    assert set(known.endpoints) == set(REQUESTS)
    assert set(known.models) == {MODEL, "veriroute-embed-1", "veriroute-moderation-1", "house-model"}


def test_attestation_nonces(honest: Running) -> None:
    """Without a nonce the statement says null; what is no nonce is refused."""
    with httpx.Client(base_url=honest.url, trust_env=False) as client:
        plain = aci.parse_report(client.get("/v1/aci/attestation").content)
        assert plain.report_data == aci.report_data(aci.statement(honest.pin, None))
        for query in ("nonce=zz", "nonce=" + "AB" * 32, "nonce=", f"nonce={NONCE}&nonce={NONCE}"):
            assert client.get(f"/v1/aci/attestation?{query}").status_code == 400


@pytest.mark.parametrize("path", REQUESTS)
def test_json_receipt(honest: Running, path: str) -> None:
    """Every API's JSON answer carries a receipt that covers request and answer byte for byte."""
    known = report(honest.url)
    model = REQUESTS[path]["model"]
    answer = ask(honest.url, REQUESTS[path], path)
    assert answer.status == 200
    assert problems(answer, known, model=model) == set()
    assert answer.headers["x-receipt-id"] == answer.receipt.receipt.receipt_id
    assert answer.headers["x-aci-version"] == "aci/1"
    assert answer.headers["x-aci-keyset-digest"] == honest.pin
    assert answer.document["model"] == model
    assert answer.receipt.receipt.chat_id == answer.document.get("id")
    assert abs(answer.receipt.receipt.served_at - time.time()) < 10


@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("path", STREAMED)
def test_stream_receipt(honest: Running, path: str, chained: bool) -> None:
    """Every API's stream carries a receipt after its terminator, and when asked, running signatures over all of it."""
    known = report(honest.url)
    answer = ask(honest.url, {**REQUESTS[path], "stream": True}, path, chained=chained)
    assert problems(answer, known) == set()
    assert answer.body.rstrip().rsplit(b"\n\n", 1)[1].startswith(b"event: aci.receipt\n")
    ends = {"/v1/responses": "event: response.completed\n", "/v1/messages": "event: message_stop\n"}
    assert answer.covered.decode().split("\n\n")[-2].startswith(ends.get(path, "data: [DONE]"))
    if chained:
        assert answer.links  # how many: on a busy machine several events leave in one write, under one signature
        assert answer.links[-1].digest == hashlib.sha256(answer.covered).hexdigest()
    else:
        assert answer.links == ()


def test_only_what_is_asked_for(honest: Running) -> None:
    """Without the headers there is no inline receipt, no nonce and no chain, but the receipt can be fetched."""
    known = report(honest.url)
    plain = ask(honest.url, HELLO, nonce=None, inline=False)
    assert "x-aci-receipt" not in plain.headers
    stream = ask(honest.url, {**HELLO, "stream": True}, nonce=None, inline=False)
    assert stream.receipt is None
    assert stream.body.endswith(b"data: [DONE]\n\n")
    with httpx.Client(base_url=honest.url, trust_env=False) as client:
        for answer in (plain, stream):
            fetched = client.get(f"/v1/aci/receipts/{answer.headers['x-receipt-id']}")
            sealed = aci.parse_receipt(fetched.content)
            full = answer.__class__(**{**answer.__dict__, "receipt": sealed})
            assert problems(full, known, nonce=None) == set()
        assert client.get("/v1/aci/receipts/rcpt_nothing").json()["error"]["code"] == "not_found"


def test_fetched_is_inline(honest: Running) -> None:
    """The fetched receipt is, byte for byte, the one that came with the answer."""
    answer = ask(honest.url, HELLO)
    fetched = httpx.get(f"{honest.url}/v1/aci/receipts/{answer.headers['x-receipt-id']}", trust_env=False)
    assert base64.b64encode(fetched.content).decode() == answer.headers["x-aci-receipt"]


@pytest.mark.parametrize(
    ("body", "status", "model"),
    [
        ({"model": "nope", "messages": []}, 404, "nope"),
        ({"model": "n" * 512, "messages": []}, 404, "n" * 512),
        ({"model": "n" * 200_000, "messages": []}, 400, ""),  # it would stand in a header, and in what is kept
        ({"model": MODEL}, 400, MODEL),
        (b"{not json", 400, ""),
        (b'{"model":"a","model":"b"}', 400, ""),
        (b"[]", 400, ""),
    ],
)
def test_refusals_are_signed(honest: Running, body: dict[str, object] | bytes, status: int, model: str) -> None:
    """An error is an answer: it carries a receipt too."""
    answer = ask(honest.url, body)
    assert answer.status == status
    assert answer.document["error"]["message"]
    assert problems(answer, report(honest.url), model=model) == set()


def test_odd_members_are_answered_and_signed(honest: Running) -> None:
    """Numbers too long to read and arguments nested too deep are a refusal or text, not an answer without receipt."""
    known = report(honest.url)
    refused = ask(honest.url, {**HELLO, "logit_bias": {"1" * 5000: 1}})
    assert (refused.status, refused.document["error"]["param"]) == (400, "logit_bias")
    assert problems(refused, known) == set()
    for depth in (990, 100_000):
        call = {"type": "function", "id": "c", "function": {"name": "f", "arguments": "[" * depth + "]" * depth}}
        said = [{"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "user", "content": "Hello"}]
        answer = ask(honest.url, {**HELLO, "messages": said})
        assert answer.status in (200, 400)  # the longer one does not fit
        assert problems(answer, known) == set()


def test_signing_headers_must_make_sense(honest: Running) -> None:
    """A bad nonce, one given twice, and a chain without a nonce are refused."""
    assert ask(honest.url, HELLO, nonce="AB" * 32).status == 400
    assert ask(honest.url, HELLO, nonce="ab").status == 400
    assert ask(honest.url, {**HELLO, "stream": True}, nonce=None, chained=True).status == 400
    twice = [("x-aci-nonce", NONCE), ("x-aci-nonce", NONCE)]
    response = httpx.post(f"{honest.url}/v1/chat/completions", json=HELLO, headers=twice, trust_env=False)
    assert response.status_code == 400


def test_small_pages(honest: Running) -> None:
    """Health, unknown paths and wrong methods answer as they should."""
    with httpx.Client(base_url=honest.url, trust_env=False) as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/nothing").status_code == 404
        assert client.post("/nothing").status_code == 404
        assert client.get("/v1/chat/completions").status_code == 405
        assert client.post("/healthz").status_code == 405


def test_messages_grammar(honest: Running) -> None:
    """The Messages API opens and closes each block once and tells usage and the reason at the end."""
    body = {**REQUESTS["/v1/messages"], "stream": True}
    events = ask(honest.url, body, "/v1/messages").events()
    kinds = [e["type"] for e in events]
    deltas = kinds.count("content_block_delta")
    assert kinds == [
        "message_start", "content_block_start", *["content_block_delta"] * deltas,
        "content_block_stop", "message_delta", "message_stop",
    ]  # fmt: skip
    assert events[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    whole = ask(honest.url, {**body, "stream": False, "temperature": 0}, "/v1/messages").document
    assert whole["usage"]["input_tokens"] == events[0]["message"]["usage"]["input_tokens"]
    assert whole["content"][0]["type"] == "text"


def test_messages_tools_and_stops(honest: Running) -> None:
    """A tool_use block streams its input as partial JSON; stop sequences are named; errors have the API's own shape."""
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    body = {
        **REQUESTS["/v1/messages"],
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "What is the weather in Oslo?"}]}],
        "tools": [{"name": "get_weather", "input_schema": schema}],
    }
    whole = ask(honest.url, body, "/v1/messages").document
    assert whole["stop_reason"] == "tool_use"
    assert whole["content"][0]["input"] == {"city": "Oslo"}
    events = ask(honest.url, {**body, "stream": True}, "/v1/messages").events()
    parts = [e["delta"]["partial_json"] for e in events if e["type"] == "content_block_delta"]
    assert json.loads("".join(parts)) == {"city": "Oslo"}
    told = [
        *body["messages"],
        {"role": "assistant", "content": whole["content"]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": "raining"}]},
    ]
    assert (
        "rain"
        in ask(honest.url, {**body, "messages": told, "temperature": 0}, "/v1/messages").document["content"][0]["text"]
    )
    stopped = {
        **REQUESTS["/v1/messages"],
        "messages": [{"role": "user", "content": "Count from 1 to 9."}],
        "stop_sequences": ["3"],
        "temperature": 0,
    }
    answer = ask(honest.url, stopped, "/v1/messages").document
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("stop_sequence", "3")
    refused = ask(honest.url, {"model": MODEL, "messages": []}, "/v1/messages")
    assert (refused.status, refused.document["type"]) == (400, "error")


def test_a_client_that_leaves_stops_the_work(honest: Running) -> None:
    """When many clients leave their streams at once, the node is free again at once."""
    body = json.dumps({**STORY, "max_tokens": 3000, "stream": True, "n": 16, "temperature": 1.5}).encode()
    place = urlsplit(honest.url)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    for _ in range(4):
        with socket.create_connection((place.hostname, place.port)) as connection:
            connection.sendall(head + body)
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
    began = time.monotonic()
    assert ask(honest.url, HELLO).status == 200
    assert time.monotonic() - began < 3


def test_a_slow_request_does_not_block_others(honest: Running) -> None:
    """While a long answer is being made, the node still answers small questions quickly."""
    with httpx.Client(trust_env=False, timeout=20) as client:
        ask_long = {**STORY, "n": 16, "max_tokens": 400, "stream": True}
        with client.stream("POST", f"{honest.url}/v1/chat/completions", json=ask_long) as response:
            chunks = response.iter_raw()
            next(chunks)
            began = time.monotonic()
            assert httpx.get(f"{honest.url}/healthz", trust_env=False).status_code == 200
            assert time.monotonic() - began < 1


def test_tls_key_is_in_the_keyset(tmp_path: Path) -> None:
    """Served over TLS, the keyset names the key of the certificate that the handshake shows."""
    authority = Authority()
    issued = authority.issue("localhost", addresses=["127.0.0.1"])
    pem = tmp_path / "node.pem"
    pem.write_bytes(issued.pem())
    with node("--tls-cert", str(pem), "--tls-key", str(pem), "--model-name", "m") as running:
        assert running.url.startswith("https://")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with httpx.Client(verify=context, trust_env=False) as client:
            known = report(running.url, client=client)
            assert known.keyset.spki == (issued.spki,)
            assert known.keyset.digest == running.pin
            assert problems(ask(running.url, HELLO, client=client), known) == set()


def test_a_backend_that_is_empty_is_not_our_own_model_instead(capsys: pytest.CaptureFixture[str]) -> None:
    """As from a variable of the shell that is not set."""
    with pytest.raises(SystemExit) as ended:
        main(["node", "--backend", ""])
    assert ended.value.code == 2
    assert "--backend: the value is empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--tls-cert", "x"], "go together"),
        (["--dishonest-after", "3"], "give both"),
        (["--backend-key-env", "KEY"], "give both"),
        (["--backend", "ftp://x"], "not an http"),
        (["--backend", "http://127.0.0.1:99999"], "not an http"),
        (["--backend", "http://[::1"], "Invalid port"),
        (["--backend", "http://127.0.0.1:9/v1?key=x"], "ends with its path"),
        (["--backend", "http://127.0.0.1:9", "--backend-key-env", "KEY_WITH_LINE_END"], "holds a line end"),
        (["--backend", "http://127.0.0.1:9", "--backend-key-env", "NOT_SET_ANYWHERE"], "not set"),
        (["--host", "192.0.2.1"], "(Cannot assign requested address); --host and --port say where"),
        (["--port", "70000"], "--port must be 0 to 65535"),
        (["--port", "-1"], "--port must be 0 to 65535"),
        (["--identity", "/nonexistent/identity.json"], "cannot create"),
    ],
)
def test_refusals_before_the_start(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str], reason: str
) -> None:
    """Settings that cannot work end the command with one sentence."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    monkeypatch.setenv("MKL_NUM_THREADS", "1")
    monkeypatch.setenv("KEY_WITH_LINE_END", "sk-1\n")
    assert main(["node", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert reason in printed.err


def test_an_absent_backend_at_the_start() -> None:
    """A backend whose models cannot be asked for ends the command with what to do, not with a traceback."""
    process = start("--backend", "http://127.0.0.1:9")
    out, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert out == ""
    assert "--model-name" in errors
    assert "Traceback" not in errors


def test_stops_while_answering() -> None:
    """SIGTERM ends a node that is in the middle of an answer, and is no failure."""
    with node() as running, httpx.Client(trust_env=False, timeout=20) as client:
        body = {**STORY, "n": 16, "max_tokens": 3000, "stream": True, "temperature": 2}
        with client.stream("POST", f"{running.url}/v1/chat/completions", json=body) as response:
            next(response.iter_raw())
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(timeout=10) == 0
