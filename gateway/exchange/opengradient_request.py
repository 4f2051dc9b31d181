"""What OpenGradient's tee-gateway makes of a request: which members it drops, which it changes, what it fills in.

It reads `model`, `messages`, `temperature`, `max_tokens`, `tools`, `response_format`, `web_search` and `stream`, and
takes no notice of anything else. `stop` and `tool_choice` are parsed, `stop` is even signed, and neither reaches the
model. A chat without a temperature has 0, where OpenAI's API has 1; the defaults of completions are the API's, but
a null for it is 0 there too.

A member whose value is what the API takes for an absent one asks for nothing, so nothing is lost with it.
"""

from __future__ import annotations

from typing import Any

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError

from .reply import LeftOut

_CHAT = frozenset(
    ("model", "messages", "temperature", "max_tokens", "tools", "response_format", "web_search", "stream")
)
_COMPLETION = frozenset(("model", "prompt", "temperature", "max_tokens"))
_READ = {"/v1/chat/completions": _CHAT, "/v1/completions": _COMPLETION}

#: Member -> values that say no more than its absence. `provider` is this gateway's own. The last frame of a stream
#: holds the usage, whether it was asked for or not.
_IDLE: dict[str, tuple[object, ...]] = {
    "n": (1,),
    "top_p": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logprobs": (False,),
    "echo": (False,),
    "best_of": (1,),
    "logit_bias": ({},),
    "tool_choice": ("auto",),
    "parallel_tool_calls": (True,),
    "store": (False,),
    "service_tier": ("auto",),
    "modalities": (["text"],),
    "stream_options": ({"include_usage": True}, {"include_usage": False}),
    "stop": ([],),
    "stream": (False,),
}
_OURS = frozenset(("provider",))


def left_out(endpoint: str, body: bytes) -> LeftOut:
    """What of the request `body` the network would not do as it is written. Total: what is no request loses nothing."""
    try:
        document = strict_json(body, max_bytes=len(body), max_depth=256)
    except FormatError:
        return LeftOut()
    if not isinstance(document, dict):
        return LeftOut()
    known = _READ.get(endpoint, frozenset()) | _OURS
    dropped = [name for name, value in document.items() if name not in known and not _idle(name, value)]
    for message in _items(document.get("messages")):
        if isinstance(message, dict) and message.get("name") is not None and message.get("role") != "function":
            dropped.append("messages.name")
            break
    warm = endpoint == "/v1/completions" and "temperature" not in document
    cold = endpoint in _READ and document.get("temperature") is None and not warm
    return LeftOut(tuple(sorted(dropped)), ("temperature=0.0",) if cold else ())


def _idle(name: str, value: Any) -> bool:
    # `1 == True` in Python, so types are compared too; 1 and 1.0 are one number in JSON.
    return value is None or any(
        value == idle and isinstance(value, bool) == isinstance(idle, bool) for idle in _IDLE.get(name, ())
    )


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
