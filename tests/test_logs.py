"""The gateway's log lines: one JSON object each, with the fields that are known and no more of a value than fits."""

from __future__ import annotations

import io
import json
import logging
import warnings
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
    logging.captureWarnings(False)


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


class Silent(Exception):
    """An error of somebody's whose text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError


class Nobody:
    """A value whose text cannot be had."""

    __str__ = Silent.__str__


NESTED: list[Any] = []
NESTED.append(NESTED)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (10**6000, "<int without text: ValueError>"),
        (2**70, str(2**70)),
        (Nobody(), "<Nobody without text: RuntimeError>"),
        (NESTED, ["[[...]]"]),
        (["x" * 3000, ["y" * 3000]], ["x" * 2000 + "…", f"['{'y' * 1998}…"]),
        ("\ud800\udbff\x7f\x9b\U000e0041", "\ud800\udbff\x7f\x9b\U000e0041"),
        (b"\x1b[2J", "<4 bytes>"),
        (0.5, 0.5),
        (True, True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_k09_any_value_is_part_of_one_json_object(lines: io.StringIO, value: object, shown: object) -> None:
    """What JSON has no form for, and what has no text at all, is said in text: no line is lost, nothing is raised."""
    structlog.get_logger().warning("node.refused", p=value)
    assert lines.getvalue().rstrip("\n").isascii()
    assert lines.getvalue().rstrip("\n").isprintable()
    found = json.loads(lines.getvalue(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["p"] == shown


def test_k09_no_event_name_and_no_field_name_forges_a_line(lines: io.StringIO) -> None:
    """An event's name is escaped and cut like a value; a field of another name is not written."""
    hostile = '\n{"event":"forged"}\u2028\x9b'
    structlog.get_logger().warning(hostile + "x" * 5000, **{hostile: 1, "Event": 2, "event ": 3})
    found = _one(lines)
    assert found["event"] == (hostile + "x" * 5000)[:2000] + "…"
    assert set(found) == {"event", "level", "timestamp"}


@pytest.mark.parametrize(
    ("message", "args"), [("%d bytes", ("x",)), ("%s %s", ("x",)), (Nobody(), ()), ("\x1b%", (1,))]
)
def test_k09_a_library_that_logs_wrongly_is_not_failed(
    lines: io.StringIO, message: object, args: tuple[object, ...]
) -> None:
    """A message that does not take its arguments is written without them, and whoever logs goes on."""
    root = logging.getLogger()
    root.handlers[:] = [handler for handler in root.handlers if isinstance(handler, logs._Forward)]  # pytest's raise
    logging.getLogger("some.library\n{}").error(message, *args, exc_info=Silent())
    found = _one(lines)
    assert found["event"] == "library.message"
    assert found["logger"] == "some.library\n{}"
    assert found["error"] == (message if isinstance(message, str) else "<Nobody without text: RuntimeError>")


def test_k09_warnings_of_python_are_lines_like_any(lines: io.StringIO) -> None:
    """As Python writes them they are text, and of several lines."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.configure(stream=lines)  # pytest takes warnings for itself, until then
        warnings.warn("of a certificate\n{}", RuntimeWarning, stacklevel=1)
        logging.captureWarnings(False)
    found = _one(lines)
    assert (found["logger"], found["event"]) == ("py.warnings", "library.message")
    assert "RuntimeWarning: of a certificate\n{}" in found["error"]


def _fails(key: str) -> None:
    secret, prompt = f"sk-{key}-canary", f"prompt {key}"
    raise ValueError(f"{len(secret) + len(prompt)} characters")


def test_k16_a_traceback_shows_no_locals(lines: io.StringIO) -> None:
    """It names files, lines and errors; what variables held is not in it."""
    try:
        _fails(str(4710 + 1))
    except ValueError as error:
        structlog.get_logger().error("api.failed", exc_info=error)
        logging.getLogger("library").exception("failed")
    assert "_fails" in lines.getvalue()
    assert "4711" not in lines.getvalue()
