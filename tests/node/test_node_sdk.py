"""The stock openai SDK against a real node: every API of the profile, whole and streamed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import openai
import pytest
from node_kit import MODEL, Running
from openai.types.responses import Response

HELLO = [{"role": "user", "content": "Hello"}]
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]


@pytest.fixture(scope="module")
def client(honest: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{honest.url}/v1", api_key="none", max_retries=0, timeout=20) as client:
        yield client


def test_models(client: openai.OpenAI) -> None:
    """The models are listed with the aliases, and found by name."""
    assert {m.id for m in client.models.list()} == {MODEL, "veriroute-embed-1", "veriroute-moderation-1", "house-model"}
    assert client.models.retrieve("house-model").id == "house-model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_chat(client: openai.OpenAI) -> None:
    """A chat completion has the text, the finish reason, usage, and the name it was asked under."""
    answer = client.chat.completions.create(
        model="house-model", messages=HELLO, temperature=0, logprobs=True, top_logprobs=2
    )  # type: ignore[arg-type]
    choice = answer.choices[0]
    assert answer.model == "house-model"
    assert "Hello" in (choice.message.content or "")
    assert choice.finish_reason == "stop"
    assert choice.logprobs is not None
    assert "".join(t.token for t in choice.logprobs.content or []) == choice.message.content
    assert all(len(t.top_logprobs) == 2 for t in choice.logprobs.content or [])
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_chat_stream_is_the_same(client: openai.OpenAI) -> None:
    """A seeded stream says what the whole answer says, chunk by chunk, and ends with usage when asked."""
    ask = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Tell me a story."}],
        "seed": 4,
        "temperature": 0.9,
        "n": 2,
    }
    whole = client.chat.completions.create(**ask)  # type: ignore[call-overload]
    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))  # type: ignore[call-overload]
    texts, reasons = ["", ""], ["", ""]
    for chunk in chunks[:-1]:
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        reasons[choice.index] += choice.finish_reason or ""
    assert texts == [c.message.content for c in whole.choices]
    assert reasons == ["stop", "stop"]
    assert len(chunks) > 40
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_stop_and_length(client: openai.OpenAI) -> None:
    """`stop` and `max_completion_tokens` hold, streamed and whole."""
    ask = {"model": MODEL, "messages": [{"role": "user", "content": "Count from 1 to 9."}], "temperature": 0}
    whole = client.chat.completions.create(**ask, stop=[", 3"])  # type: ignore[call-overload]
    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("1, 2", "stop")
    stream = client.chat.completions.create(**ask, stop=", 3", stream=True)  # type: ignore[call-overload]
    assert "".join(c.choices[0].delta.content or "" for c in stream) == "1, 2"
    short = client.chat.completions.create(**ask, max_completion_tokens=1)  # type: ignore[call-overload]
    assert (short.choices[0].message.content, short.choices[0].finish_reason) == ("1", "length")


def test_tool_call(client: openai.OpenAI) -> None:
    """A tool call has an id, the name, and arguments that are JSON; its result is answered in words."""
    answer = client.chat.completions.create(model=MODEL, messages=WEATHER, tools=[TOOL], temperature=0)  # type: ignore[call-overload]
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    call = message.tool_calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"city": "Paris"})
    told = [
        *WEATHER,
        message.model_dump(),
        {"role": "tool", "tool_call_id": call.id, "content": "17 degrees and sunny"},
    ]
    second = client.chat.completions.create(model=MODEL, messages=told, tools=[TOOL], temperature=0)  # type: ignore[call-overload]
    assert "sunny" in second.choices[0].message.content


def test_tool_call_stream(client: openai.OpenAI) -> None:
    """A streamed call opens with id and name, and its argument fragments join to JSON."""
    forced = {"type": "function", "function": {"name": "get_weather"}}
    stream = client.chat.completions.create(model=MODEL, messages=HELLO, tools=[TOOL], tool_choice=forced, stream=True)  # type: ignore[call-overload]
    calls = [c for chunk in stream for choice in chunk.choices for c in choice.delta.tool_calls or []]
    assert calls[0].id.startswith("call_")
    assert calls[0].function.name == "get_weather"
    assert len(calls) > 3
    assert set(json.loads("".join(c.function.arguments for c in calls))) == {"city"}


def test_structured_output(client: openai.OpenAI) -> None:
    """A response format with a schema gives a document of that schema."""
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    answer = client.chat.completions.create(model=MODEL, messages=HELLO, response_format=form)  # type: ignore[call-overload]
    assert list(json.loads(answer.choices[0].message.content)) == ["answer"]


def test_completions(client: openai.OpenAI) -> None:
    """A text is continued, whole and streamed alike, with log probabilities and echo when asked."""
    ask = {"model": MODEL, "prompt": "A Merkle tree is", "max_tokens": 12, "temperature": 0}
    whole = client.completions.create(**ask, logprobs=3, echo=True)  # type: ignore[call-overload]
    text = whole.choices[0].text
    assert text.startswith("A Merkle tree is a")
    logprobs = whole.choices[0].logprobs
    assert logprobs.tokens[:3] == ["<start>", "<text>", "A"]
    assert logprobs.token_logprobs[0] is None
    assert "".join(logprobs.tokens[2:]) == text
    assert text[logprobs.text_offset[-12] :].startswith(logprobs.tokens[-12])
    stream = client.completions.create(**ask, stream=True)  # type: ignore[call-overload]
    assert "A Merkle tree is" + "".join(c.choices[0].text for c in stream) == text


def test_embeddings(client: openai.OpenAI) -> None:
    """Embeddings come alike in base64 (the SDK's default) and as numbers, of any allowed length."""
    texts = ["signed receipts", "a green fox"]
    packed = client.embeddings.create(model="veriroute-embed-1", input=texts)
    plain = client.embeddings.create(model="veriroute-embed-1", input=texts, encoding_format="float")
    assert [len(d.embedding) for d in packed.data] == [256, 256]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    short = client.embeddings.create(model="veriroute-embed-1", input="signed receipts", dimensions=16)
    assert sum(x * x for x in short.data[0].embedding) == pytest.approx(1, abs=1e-5)
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model="veriroute-embed-1", input="x", dimensions=257)


def test_responses(client: openai.OpenAI) -> None:
    """The responses API answers in text, and in function calls whose output can be sent back."""
    answer = client.responses.create(model=MODEL, input="Hello", temperature=0)
    Response.model_validate(answer.to_dict())  # nothing that its type requires is absent
    assert "Hello" in answer.output_text
    assert answer.status == "completed"
    tool = {"type": "function", "name": "get_weather", "parameters": PARAMETERS, "strict": True}
    called = client.responses.create(model=MODEL, input="What is the weather in Rome?", tools=[tool])  # type: ignore[list-item]
    call = called.output[0]
    assert call.type == "function_call"
    assert json.loads(call.arguments) == {"city": "Rome"}
    told = [
        {"role": "user", "content": [{"type": "input_text", "text": "What is the weather in Rome?"}]},
        call.model_dump(),
        {"type": "function_call_output", "call_id": call.call_id, "output": "rain"},
    ]
    assert "rain" in client.responses.create(model=MODEL, input=told, tools=[tool], temperature=0).output_text  # type: ignore[arg-type]
    cut = client.responses.create(model=MODEL, input="Tell me a story.", max_output_tokens=4)
    assert cut.status == "incomplete"
    assert cut.incomplete_details is not None


def test_responses_stream(client: openai.OpenAI) -> None:
    """The SDK's own accumulator rebuilds the same response from the events, in order, for text and for calls."""
    with client.responses.stream(model=MODEL, input="What is a receipt?", temperature=0) as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == final.output_text
    tool = {"type": "function", "name": "get_weather", "parameters": PARAMETERS, "strict": False}
    with client.responses.stream(model=MODEL, input="What is the weather in Rome?", tools=[tool]) as stream:  # type: ignore[list-item]
        kinds = [e.type for e in stream]
        assert json.loads(stream.get_final_response().output[0].arguments) == {"city": "Rome"}  # type: ignore[union-attr]
    assert "response.function_call_arguments.delta" in kinds
    assert "response.function_call_arguments.done" in kinds


@pytest.mark.parametrize(
    ("change", "kind", "code"),
    [
        ({"model": "gpt-nothing"}, openai.NotFoundError, "model_not_found"),
        ({"messages": []}, openai.BadRequestError, "bad_request"),
        ({"messages": [{"role": "user", "content": "a b " * 5000}]}, openai.BadRequestError, "context_length_exceeded"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, openai.BadRequestError, "bad_request"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
         openai.BadRequestError, "bad_request"),
        ({"temperature": 3}, openai.BadRequestError, "bad_request"),
        ({"n": 0}, openai.BadRequestError, "bad_request"),
        ({"top_logprobs": 21, "logprobs": True}, openai.BadRequestError, "bad_request"),
        ({"stop": [""]}, openai.BadRequestError, "bad_request"),
        ({"seed": "x"}, openai.BadRequestError, "bad_request"),
        ({"logit_bias": {"x": 1}}, openai.BadRequestError, "bad_request"),
        ({"tool_choice": "required"}, openai.BadRequestError, "bad_request"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "z"}}},
         openai.BadRequestError, "bad_request"),
        ({"tools": [{"type": "web"}]}, openai.BadRequestError, "bad_request"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_errors(
    client: openai.OpenAI, change: dict[str, object], kind: type[openai.APIStatusError], code: str, stream: bool
) -> None:
    """A request that cannot be served is refused in the OpenAI shape, before any stream begins."""
    with pytest.raises(kind) as caught:
        client.chat.completions.create(**{"model": MODEL, "messages": HELLO, "stream": stream, **change})  # type: ignore[call-overload]
    assert caught.value.code == code
    assert caught.value.message
