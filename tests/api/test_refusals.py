"""What the operator learns of requests that were refused before they were accepted."""

from __future__ import annotations

import structlog

from gateway import logs
from gateway.api.refusals import LINES, Refusals
from gateway.errors import InvalidKey, NotFound, PolicyLoosens


def test_a_refusal_is_a_count_and_a_line() -> None:
    """By code, with the place, the reason and whose key it was; every field of the line is one that is written."""
    refusals = Refusals()
    with structlog.testing.capture_logs() as lines:
        refusals.note(PolicyLoosens("no", param="policy", reason="on_failure"), "key_1")
        refusals.note(InvalidKey("no"))
        refusals.note(InvalidKey("no"))
    assert refusals.counts == {"bad_request": 1, "invalid_key": 2}
    told = {"code": "bad_request", "status": 400, "param": "policy", "reason": "on_failure", "key": "key_1", "count": 0}
    assert lines[0] == {"event": "request.refused", "log_level": "info", **told}
    assert set(told) <= logs.FIELDS


def test_a_flood_is_counted_whole_and_told_in_part() -> None:
    """In a second at most so many lines are written, and the next one says how many refusals had none."""
    now = [5.0]
    refusals = Refusals(lambda: now[0])
    with structlog.testing.capture_logs() as lines:
        for _ in range(1000):
            refusals.note(InvalidKey("no"))
        assert len(lines) == LINES
        now[0] += 1
        refusals.note(NotFound("no"))
        refusals.note(NotFound("no"))
    assert refusals.counts == {"invalid_key": 1000, "not_found": 2}
    assert [line["count"] for line in lines[LINES:]] == [1000 - LINES, 0]
