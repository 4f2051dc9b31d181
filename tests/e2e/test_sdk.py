"""The stock OpenAI SDK against a real gateway and a real node: what an agent sees."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from running import EMBED, MODEL, Gateway, node_table

from gateway.model.ulid import is_ulid

ASK: list[Any] = [{"role": "user", "content": "What is a receipt?"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def salted(opening: str, data: bytes) -> str:
    return hashlib.sha256(base64.b64decode(opening) + data).hexdigest()


def test_chat(shared: Gateway) -> None:
    """A chat answer carries its verdict, receipt and proof, and the receipt commits to exactly what was exchanged."""
    with shared.sdk() as client:
        raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=ASK, max_tokens=30, seed=1)
        answer = raw.parse()
    assert answer.choices[0].message.content
    headers = raw.headers
    assert headers["x-veriroute-verdict"] == "affirming"
    assert headers["x-veriroute-level"] == "logged"
    assert headers["x-veriroute-policy"] == "signed"
    assert is_ulid(headers["x-veriroute-receipt"])
    verification: dict[str, Any] = answer.model_extra["verification"]  # type: ignore[index]
    assert verification["verdict"] == "affirming"
    assert verification["receipt"] == headers["x-veriroute-receipt"] == headers["x-receipt-id"]
    assert verification["proof"].startswith("c2sp.org/tlog-proof@v1\n")
    assert verification["claims"]["response_bound"] == "asserted"
    receipt = shared.receipt(verification["receipt"])
    assert (receipt["verdict"], receipt["release"], receipt["delivery"]["form"]) == (
        "affirming",
        "released",
        "verbatim",
    )
    assert receipt["served"]["node"] == "honest"
    # The body without our last member is, byte for byte, what the node sent.
    text = raw.text if isinstance(raw.text, str) else raw.text()
    original = text[: text.rindex(',"verification":')] + "}"
    subjects = subjects_of(shared, verification["receipt"])
    assert subjects["response.body"] == salted(verification["openings"]["response.body"], original.encode())
    content = answer.choices[0].message.content.encode()
    assert subjects["response.content"] == salted(verification["openings"]["response.content"], content)


def subjects_of(gateway: Gateway, receipt_id: str) -> dict[str, str]:
    with gateway.http() as client:
        envelope = client.get(f"/v1/receipts/{receipt_id}").json()
    statement = json.loads(base64.b64decode(envelope["payload"]))
    return {s["name"]: s["digest"]["sha256"] for s in statement["subject"]}


def test_request_bytes_are_committed_and_forwarded_verbatim(shared: Gateway) -> None:
    """The receipt commits to the very bytes that came in, unknown members and all, and says that they went on as such."""
    body = (
        b'{ "model":"'
        + MODEL.encode()
        + b'", "x_unknown": {"a":[1,2.50]}, "messages":[{"role":"user","content":"hi"}],"max_tokens":3 }'
    )
    with shared.http() as client:
        answer = client.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 200
    verification = answer.json()["verification"]
    subjects = subjects_of(shared, verification["receipt"])
    assert subjects["request.body"] == salted(verification["openings"]["request.body"], body)
    receipt = shared.receipt(verification["receipt"])
    assert receipt["request"]["forwarded"] == {"digest": receipt["request"]["digest"], "verbatim": True}


def test_stream(shared: Gateway) -> None:
    """A stream reads as any other; its last chunk has no choices and carries the verification."""
    with shared.sdk() as client:
        chunks = list(
            client.chat.completions.create(
                model=MODEL, messages=ASK, max_tokens=30, seed=1, stream=True, stream_options={"include_usage": True}
            )
        )
        whole = client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=30, seed=1)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    last = chunks[-1]
    assert last.choices == []
    verification: dict[str, Any] = last.model_extra["verification"]  # type: ignore[index]
    assert verification["verdict"] == "affirming"
    receipt = shared.receipt(verification["receipt"])
    assert receipt["delivery"]["mode"] == "chained"
    assert subjects_of(shared, verification["receipt"])["response.content"] == salted(
        verification["openings"]["response.content"], text.encode()
    )
    assert chunks[-2].usage is not None


def test_stream_bytes_go_on_verbatim(shared: Gateway) -> None:
    """What the receipt's response.body covers can be recomputed from the stream that the agent got."""
    body = {"model": MODEL, "messages": ASK, "max_tokens": 5, "seed": 1, "stream": True}
    with shared.http() as client:
        text = client.post("/v1/chat/completions", json=body).content
    events = [e for e in text.split(b"\n\n") if e]
    assert all(e.startswith(b"data: ") for e in events)
    assert events[-1] == b"data: [DONE]"
    verification = json.loads(events[-2][6:])["verification"]
    data = b"".join(e[6:] + b"\n" for e in events[:-2])
    assert subjects_of(shared, verification["receipt"])["response.body"] == salted(
        verification["openings"]["response.body"], data
    )


def test_tools(shared: Gateway) -> None:
    """A declared tool call comes through, streamed or not, and its receipt commits to name and arguments."""
    with shared.sdk() as client:
        call: Any = {"type": "function", "function": {"name": "get_weather"}}
        answer = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Weather in Paris?"}], tools=[TOOL], tool_choice=call
        )
        streamed = list(
            client.chat.completions.create(
                model=MODEL,
                messages=[{"role": "user", "content": "Weather in Paris?"}],
                tools=[TOOL],
                tool_choice=call,
                stream=True,
            )
        )
    calls: Any = answer.choices[0].message.tool_calls
    assert calls[0].function.name == "get_weather"
    assert "city" in json.loads(calls[0].function.arguments)
    verification: dict[str, Any] = answer.model_extra["verification"]  # type: ignore[index]
    data = b"get_weather\0" + calls[0].function.arguments.encode() + b"\n"
    found = subjects_of(shared, verification["receipt"])["response.toolcalls"]
    assert found == salted(verification["openings"]["response.toolcalls"], data)
    deltas = [c.choices[0].delta.tool_calls for c in streamed if c.choices and c.choices[0].delta.tool_calls]
    assert deltas[0][0].function.name == "get_weather"  # type: ignore[index,union-attr]


def test_other_apis(shared: Gateway) -> None:
    """Completions, embeddings and responses work through the SDK, streamed where they stream."""
    with shared.sdk() as client:
        completion = client.completions.create(model=MODEL, prompt="A receipt is", max_tokens=5)
        assert completion.choices[0].text
        assert completion.model_extra["verification"]["verdict"] == "affirming"  # type: ignore[index]
        texts = [
            c.choices[0].text
            for c in client.completions.create(model=MODEL, prompt="A", max_tokens=5, stream=True)
            if c.choices
        ]
        assert texts
        embedding = client.embeddings.create(model=EMBED, input="a text")
        assert len(embedding.data[0].embedding) > 10
        assert embedding.model_extra["verification"]["verdict"] == "affirming"  # type: ignore[index]
        response = client.responses.create(model=MODEL, input="What is a receipt?", max_output_tokens=20)
        assert response.output_text
        events = list(client.responses.create(model=MODEL, input="What is a log?", max_output_tokens=200, stream=True))
        kinds = [e.type for e in events]
        assert kinds[0] == "response.created"
        assert kinds[-1] == "response.completed"
        assert all(kind.startswith("response.") for kind in kinds)  # strict clients refuse types of ours
        assert events[-1].model_extra["verification"]["verdict"] == "affirming"  # type: ignore[index]
        with client.responses.stream(model=MODEL, input="What is a log?", max_output_tokens=200) as helper:
            assert helper.get_final_response().output_text


def test_messages(shared: Gateway) -> None:
    """The messages API answers JSON and streams its own events, the last one with the verification."""
    body = {"model": MODEL, "max_tokens": 20, "messages": ASK}
    with shared.http() as client:
        answer = client.post("/v1/messages", json=body, headers={"x-api-key": shared.key, "authorization": ""})
        assert answer.status_code == 400  # two credentials
        del client.headers["authorization"]
        for refused in ({"x-api-key": "vr-x"}, {"x-api-key": shared.key, "x-veriroute-policy": "strict"}):
            told = client.post("/v1/messages", json=body, headers=refused)
            assert (told.json()["type"], told.is_error) == ("error", True)
        answer = client.post("/v1/messages", json=body, headers={"x-api-key": shared.key})
        assert answer.status_code == 200, answer.text
        assert answer.json()["verification"]["verdict"] == "affirming"
        assert answer.headers["request-id"] == answer.json()["verification"]["receipt"]  # where the Anthropic SDKs look
        text = client.post("/v1/messages", json={**body, "stream": True}, headers={"x-api-key": shared.key}).text
    names = [line[7:] for line in text.splitlines() if line.startswith("event: ")]
    assert names[0] == "message_start"
    assert names[-2:] == ["message_delta", "message_stop"]
    last = json.loads(text.rstrip().rpartition("data: ")[2])
    assert (last["type"], last["verification"]["verdict"]) == ("message_stop", "affirming")


async def test_async_client(shared: Gateway) -> None:
    """The asynchronous client works the same."""
    async with openai.AsyncOpenAI(base_url=f"{shared.url}/v1", api_key=shared.key) as client:
        answer = await client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=5)
        assert answer.model_extra["verification"]["verdict"] == "affirming"  # type: ignore[index]
        stream = await client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=5, stream=True)
        assert [c async for c in stream][-1].choices == []


def test_models(shared: Gateway) -> None:
    """Models are listed once each, with what evidence their nodes can give."""
    with shared.sdk() as client:
        models = {m.id: m for m in client.models.list()}
    assert set(models) == {MODEL, EMBED}
    told: dict[str, Any] = models[MODEL].model_extra["veriroute"]  # type: ignore[index]
    assert (told["nodes"], told["permitted"]) == (1, 1)
    assert told["claims"]["tee_attested"] == ["refuted"]


def test_one_model_is_asked_for(make_gateway: Any, node: Any) -> None:
    """By its name, which may have slashes and be escaped; one that no node has is unknown, and asking takes a key."""
    name = "org/some-model:7b"
    gateway = make_gateway([node_table(node, "n", models=[MODEL, name])]).start()
    with gateway.sdk() as client:
        listed = {m.id: m for m in client.models.list()}
        assert client.models.retrieve(MODEL) == listed[MODEL]
        assert client.models.retrieve(name) == listed[name]
        with pytest.raises(openai.NotFoundError) as caught:
            client.models.retrieve("org/none")
        assert (caught.value.code, caught.value.param) == ("model_unknown", "model")
    with gateway.http() as http:
        assert http.get("/v1/models/org%2Fsome-model%3a7b").json()["id"] == name
        assert http.head(f"/v1/models/{MODEL}").status_code == 200
        assert http.post(f"/v1/models/{MODEL}", json={}).status_code == 405
    with gateway.sdk("x") as client, pytest.raises(openai.AuthenticationError):
        client.models.retrieve(MODEL)


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"model": "no-such-model"}, 404, "model_unknown", "model"),
        ({"model": MODEL.upper()}, 404, "model_unknown", "model"),
        ({"n": 0}, 400, "bad_request", "n"),
        ({"temperature": "hot"}, 400, "bad_request", "temperature"),
        ({"provider": {"aci_verified": "no"}}, 400, "bad_request", "provider.aci_verified"),
    ],
)
def test_refused_requests(shared: Gateway, change: dict[str, Any], status: int, code: str, param: str) -> None:
    """A request that cannot be accepted is a 4xx that names the field, and the SDK raises its own class for it."""
    before = len(shared.receipts(limit=1000))
    with shared.sdk() as client, pytest.raises(openai.APIStatusError) as caught:
        client.post("/chat/completions", body={"model": MODEL, "messages": ASK, **change}, cast_to=object)
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert caught.value.param == param
    assert len(shared.receipts(limit=1000)) == before


def test_a_model_at_the_wrong_path(make_gateway: Any, node: Any) -> None:
    """A path that no node offers for the model is a clear 404."""
    gateway = make_gateway([node_table(node, "chat-only", endpoints=["/v1/chat/completions"])]).start()
    with gateway.sdk() as client, pytest.raises(openai.NotFoundError) as caught:
        client.embeddings.create(model=EMBED, input="x")
    assert caught.value.code == "endpoint_unknown"


def test_bad_keys(shared: Gateway) -> None:
    """Unknown and malformed keys get the same 401."""
    bodies = set()
    for key in ("vr-" + "A" * 43, "x", "vr-' OR '1'='1", "sk-123"):
        with shared.sdk(key) as client, pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        bodies.add(json.dumps(caught.value.body))
        assert caught.value.code == "invalid_key"
    assert len(bodies) == 1


def test_client_request_id_is_kept(shared: Gateway) -> None:
    """The caller's own request id finds its receipt; an unclean one is dropped."""
    with shared.sdk() as client:
        client.chat.completions.create(
            model=MODEL, messages=ASK, max_tokens=2, extra_headers={"x-client-request-id": "job-42.a_b"}
        )
        client.chat.completions.create(
            model=MODEL, messages=ASK, max_tokens=2, extra_headers={"x-request-id": "no good"}
        )
    rows = shared.receipts(client_request_id="job-42.a_b")
    assert [r["client_request_id"] for r in rows] == ["job-42.a_b"]
    assert shared.receipts(limit=1)[0]["client_request_id"] is None


def test_receipt_lists_page(shared: Gateway) -> None:
    """A key's receipts are listed newest first, in pages without gaps or repeats."""
    with shared.sdk() as client:
        for _ in range(5):
            client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=1)
    all_rows = [r["receipt"] for r in shared.receipts(limit=1000)]
    paged: list[str] = []
    after: dict[str, str] = {}
    with shared.http() as client:
        while True:
            page = client.get("/v1/receipts", params={"limit": 2, **after}).json()
            paged += [r["receipt"] for r in page["data"]]
            if not page["has_more"]:
                break
            after = {"after": page["next"]}
    assert paged == all_rows
    assert paged == sorted(paged, reverse=True)


def test_other_keys_see_nothing(shared: Gateway) -> None:
    """Another key's receipt is as absent as an unknown one, in every form, and its listing is its own."""
    with shared.sdk() as client:
        client.chat.completions.create(model=MODEL, messages=ASK, max_tokens=1)
    receipt = shared.receipts(limit=1)[0]["receipt"]
    other = shared.create_key("other")
    import time

    time.sleep(0.6)
    with shared.http(other) as client:
        assert client.get("/v1/receipts").json()["data"] == []
        for suffix in ("", "/proof", "/bundle"):
            theirs = client.get(f"/v1/receipts/{receipt}{suffix}")
            absent = client.get(f"/v1/receipts/01ARZ3NDEKTSV4RRFFQ69G5FAV{suffix}")
            assert theirs.status_code == absent.status_code == 404
            assert theirs.content == absent.content
        assert client.get("/v1/receipts", params={"after": receipt}).status_code == 400
        assert client.get(f"/v1/receipts/{receipt.lower()}").status_code == 404
        assert client.get("/admin/v1/info").json()["error"]["code"] == "scope_denied"


def test_keys_are_revoked_at_once(make_gateway: Any, node: Any) -> None:
    """A key made or revoked while the gateway runs is in force or not within half a second, and each act is a leaf."""
    import time

    gateway = make_gateway([node_table(node, "n")]).start()
    made = json.loads(gateway.cli("keys", "create", "--name", "late", "--json", "--config", str(gateway.config)))
    time.sleep(0.6)
    with gateway.sdk(made["key"]) as client:
        client.models.list()
        gateway.cli("keys", "revoke", made["id"], "--config", str(gateway.config))
        time.sleep(0.6)
        with pytest.raises(openai.AuthenticationError):
            client.models.list()
    gateway.stop()
    import sqlite3

    with sqlite3.connect(gateway.database) as connection:
        kinds = [k for (k,) in connection.execute("SELECT kind FROM record ORDER BY idx")]
        stored = connection.execute("SELECT group_concat(hex(digest)) FROM api_key").fetchone()[0]
    connection.close()
    assert kinds.count("key") == 4
    assert (kinds[0], kinds[-1]) == ("start", "stop")
    assert made["key"].encode().hex().upper() not in stored


def test_a_revoked_key_keeps_nothing_open(make_gateway: Any, node: Any) -> None:
    """The live feed that it listens to ends with a word on why, and a request whose body is under way gets 401."""
    gateway = make_gateway([node_table(node, "n")])
    make = ("keys", "create", "--name", "late", "--scope", "admin", "--scope", "inference", "--json", "--config")
    made = json.loads(gateway.cli(*make, str(gateway.config)))
    gateway.start()
    sent = threading.Event()

    def body() -> Iterator[bytes]:
        yield b'{"model": "veriroute-lm-1", '
        sent.set()
        assert ended.wait(10)
        yield b'"messages": [{"role": "user", "content": "hello"}]}'

    ended = threading.Event()
    with gateway.http(made["key"]) as client, ThreadPoolExecutor(1) as pool:
        headers = {"content-type": "application/json"}
        asked = pool.submit(client.post, "/v1/chat/completions", content=body(), headers=headers)
        with client.stream("GET", "/admin/v1/live") as live:
            lines = live.iter_lines()
            assert next(lines) == ": veriroute live feed"
            assert sent.wait(10)
            gateway.cli("keys", "revoke", made["id"], "--config", str(gateway.config))
            assert [line for line in lines if line] == [": this key is no longer in force"]
        ended.set()
        assert (asked.result(10).status_code, asked.result().json()["error"]["code"]) == (401, "invalid_key")


def test_aci_constraints(shared: Gateway) -> None:
    """ACI's constraints hold: a session in force serves, an unknown one is 412, and `aci_verified` only tightens."""
    with shared.http(shared.admin_key) as client:
        session = client.get("/admin/v1/nodes").json()["nodes"][0]["session"]["id"]
    body = {"model": MODEL, "messages": ASK, "max_tokens": 2}
    with shared.http() as client:
        good = client.post("/v1/chat/completions", json={**body, "provider": {"aci_session_ids": [session]}})
        none = client.post("/v1/chat/completions", json={**body, "provider": {"aci_session_ids": ["0" * 64]}})
        verified = client.post("/v1/chat/completions", json={**body, "provider": {"aci_verified": True}})
    assert (good.status_code, verified.status_code) == (200, 200)
    error = none.json()["error"]
    assert (none.status_code, error["code"], error["reason"]) == (412, "session_not_accepted", "session_not_listed")
    assert shared.receipt(error["receipt"])["release"] == "refused"


def test_what_time_does_not_cure_is_not_retried(shared: Gateway) -> None:
    """A policy that no node meets is refused once: the SDK is told that trying again is no use."""
    before = len(shared.receipts(limit=1000))
    with shared.sdk(max_retries=2) as client, pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(
            model=MODEL, messages=ASK, max_tokens=2, extra_headers={"x-veriroute-policy": "strict"}
        )
    assert caught.value.code == "no_eligible_node"
    assert caught.value.response.headers["x-should-retry"] == "false"
    assert len(shared.receipts(limit=1000)) == before + 1
