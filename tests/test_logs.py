"""The gateway's log lines: one JSON object each, with the fields that are known and no more of a value than fits."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from gateway import logs


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """What is logged while the test runs."""
    stream = io.StringIO()
    was, root = structlog.get_config(), logging.getLogger()
    handlers, level = [*root.handlers], root.level
    logs.configure(stream=stream)
    yield stream
    structlog.configure(**was)
    root.handlers[:] = handlers
    root.setLevel(level)


def _one(stream: io.StringIO) -> dict[str, Any]:
    (line,) = stream.getvalue().splitlines()
    return dict(json.loads(line))


def test_a_long_traceback_keeps_its_end(lines: io.StringIO) -> None:
    """Of a traceback that is too long the error that ends it is in the line, and the bound holds."""
    error = ValueError("what was wrong")
    error.__cause__ = KeyError("x" * 3000)
    structlog.get_logger().error("api.failed", exc_info=error)
    shown = _one(lines)["exception"]
    assert shown.endswith("ValueError: what was wrong")
    assert shown.startswith("…")
    assert len(shown) == 2001


def test_a_short_traceback_is_whole(lines: io.StringIO) -> None:
    """A traceback that fits is written from its first line to its last."""
    structlog.get_logger().error("api.failed", exc_info=ValueError("what was wrong"))
    assert _one(lines)["exception"] == "ValueError: what was wrong"


def test_k09_a_value_forges_no_line_and_no_field(lines: io.StringIO) -> None:
    """Line ends and controls of a value are escaped, a long value is cut, and an unknown field is not written."""
    hostile = '\n{"event":"forged"}\u2028\x1b[2J'
    structlog.get_logger().warning("node.refused", node=hostile, error="x" * 3000, body="a prompt")
    found = _one(lines)
    assert "\x1b" not in lines.getvalue()
    assert "\u2028" not in lines.getvalue()
    assert found["node"] == hostile
    assert found["error"] == "x" * 2000 + "…"
    assert "body" not in found
