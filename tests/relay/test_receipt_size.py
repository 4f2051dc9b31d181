"""What a node sends may be long; what the receipt says of it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from agents import ANSWER
from behind_front import ask, behind_front
from ledger import Ledger
from scripted import ScriptedNode

LONG = "x" * 1_000_000
LONGISH = "x" * 20_000  # as the header that a receipt comes in lets it be


@pytest.mark.parametrize(
    ("more", "receipt"),
    [
        ({"model": LONG}, {}),
        ({"id": LONG}, {}),
        ({f"x_veriroute_{n}_{LONGISH}": 1 for n in range(100)}, {}),
        ({"tool_calls": [{"function": {"name": LONG}}]}, {}),
        ({}, {"key_id": LONGISH}),
        ({}, {"model": LONGISH}),
        ({}, {"api_version": LONGISH}),
        ({}, {"request_nonce": LONGISH}),
    ],
)
async def test_j16_a_receipt_is_bounded_whatever_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, Any], receipt: dict[str, Any]
) -> None:
    """Names, ids and evidence stand in it shortened or by digest, and the log that holds it verifies."""
    node = ScriptedNode()
    node.script = node.json(json.dumps(json.loads(ANSWER) | more).encode(), **receipt)
    text = f"""
    auth.mode = "none"
    storage.url = "sqlite:///{tmp_path}/audit.db"
    nodes = [{{id = "n", base_url = "{node.url}", models = ["m"], pin = "{node.pin}"}}]
    """
    async with behind_front(text, monkeypatch) as gateway:
        await ask(gateway)
    node.close()
    row = Ledger(tmp_path / "audit.db").check().of("x")
    assert row.predicate["served"]["node"] == "n"
    assert len(json.dumps(row.predicate)) < 20_000
