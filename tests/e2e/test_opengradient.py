"""An agent in front of an OpenGradient network: direct and sealed, whole and streamed, honest and not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from og_running import MODEL, gateway_for
from opengradient_world import Network
from running import Gateway

MESSAGES: Any = [{"role": "user", "content": "Say hello."}]
TOOLS: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]


def ask(gateway: Gateway, **more: Any) -> Any:
    with gateway.sdk(max_retries=0) as client:
        return client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=0.7, **more)


def receipt_of(gateway: Gateway, answer: Any) -> dict[str, Any]:
    with gateway.http() as client:
        return dict(client.get(f"/v1/receipts/{answer.verification['receipt']}").json())


@pytest.mark.parametrize("transport", ["direct", "ohttp"])
@pytest.mark.parametrize("pin", [True, False])
def test_an_honest_answer_is_verified(tmp_path: Path, transport: str, pin: bool) -> None:
    """The stock SDK gets an answer whose evidence was appraised, and the claims say what it was not."""
    with Network() as network, gateway_for(network, tmp_path, table={"transport": transport}, pin=pin) as gateway:
        answer = ask(gateway)
        said = answer.model_extra["verification"]
    assert answer.choices[0].message.content
    assert (answer.object, answer.model) == ("chat.completion", MODEL)
    assert said["verdict"] in ("affirming", "warning")
    assert said["network"] == "opengradient"
    assert said["executed_in"] == "provider behind a tee"
    assert said["claims"]["executed_in_tee"] == "refuted"
    assert said["claims"]["response_bound"] == "asserted"
    assert said["claims"]["identity_live"] == "asserted"
    assert "usage" in said["uncovered"]
