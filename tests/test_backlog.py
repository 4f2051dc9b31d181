"""What the log is owed is kept in order and within bounds, and written once it takes entries again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from gateway import backlog as module
from gateway.backlog import OVERHEAD, Backlog
from gateway.errors import Busy, InternalError, LogUnavailable, VerirouteError


class Log:
    """A log that takes what it is given, or says `error`; `refuse` names documents that fail alone."""

    def __init__(self) -> None:
        self.error: VerirouteError | None = None
        self.refuse: dict[str, VerirouteError] = {}
        self.taken: list[str] = []
        self.alarms: list[Mapping[str, object]] = []
        self.clock = 1_000

    def write(self, name: str) -> asyncio.Future[object]:
        """Raises at once when it fails, as a full queue does; a document's own failure comes through the future."""
        if self.error is not None:
            raise self.error
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        if name in self.refuse:
            future.set_exception(self.refuse.pop(name))
        else:
            self.taken.append(name)
            future.set_result(name)
        return future

    async def alarm(self, predicate: Mapping[str, object]) -> object:
        await self.write("alarm")
        self.alarms.append(predicate)
        return None

    def backlog(self, **limits: int) -> Backlog:
        return Backlog(self.alarm, now_ms=lambda: self.clock, **limits)


def keep(log: Log, backlog: Backlog, name: str, *, size: int = 10, due: bool = True) -> bool:
    return backlog.keep(lambda: log.write(name), size, due=due, intent=name.startswith("intent"))


async def test_an_outage_ends_with_an_alarm_then_intents_then_the_rest() -> None:
    """The alarm says since when, why and how many; nothing is written twice; afterwards nothing is owed."""
    log = Log()
    backlog = log.backlog()
    log.error = LogUnavailable("no disk")
    backlog.failed(log.error)
    for name in ("receipt 1", "intent 2", "receipt 2", "intent 3"):
        assert keep(log, backlog, name)
    log.clock = 61_000
    assert not await backlog.settle()
    assert (log.taken, len(backlog)) == ([], 4)
    log.error = None
    assert await backlog.settle()
    assert log.taken == ["alarm", "intent 2", "intent 3", "receipt 1", "receipt 2"]
    assert log.alarms == [
        {
            "alarm": "log_unavailable",
            "since": "1970-01-01T00:00:01.000Z",
            "until": "1970-01-01T00:01:01.000Z",
            "reason": "no disk",
            "backfilled": 4,
            "unrecorded": 0,
        }
    ]
    assert await backlog.settle()
    assert len(log.taken) == 5
    assert len(backlog) == 0


async def test_an_outage_without_documents_is_told_too() -> None:
    """Also one that met nobody's receipt: readiness depends on a write that succeeds."""
    log = Log()
    backlog = log.backlog()
    backlog.failed(LogUnavailable("for a moment"))
    backlog.failed(LogUnavailable("and again"))
    assert await backlog.settle()
    assert [alarm["reason"] for alarm in log.alarms] == ["for a moment"]


async def test_what_was_kept_without_an_outage_needs_no_alarm() -> None:
    """A receipt that only waits for its intent is written without one."""
    log = Log()
    backlog = log.backlog()
    keep(log, backlog, "receipt")
    assert await backlog.settle()
    assert log.taken == ["receipt"]


async def test_a_log_that_fails_again_keeps_the_rest_in_order() -> None:
    """What it took is not offered again, what it did not take stays, and the next alarm is of a new outage."""
    log = Log()
    backlog = log.backlog()
    backlog.failed(LogUnavailable("first"))
    names = [f"receipt {n}" for n in range(5)]
    for name in names:
        keep(log, backlog, name)
    log.refuse = {"receipt 1": LogUnavailable("second"), "receipt 3": Busy("second")}
    log.clock = 2_000
    assert not await backlog.settle()
    assert log.taken == ["alarm", "receipt 0", "receipt 2", "receipt 4"]
    assert len(backlog) == 2
    assert await backlog.settle()
    assert log.taken[4:] == ["alarm", "receipt 1", "receipt 3"]
    assert [(alarm["since"], alarm["backfilled"]) for alarm in log.alarms] == [
        ("1970-01-01T00:00:01.000Z", 5),
        ("1970-01-01T00:00:02.000Z", 2),
    ]


async def test_a_receipt_does_not_overtake_an_intent_that_fails() -> None:
    """When an intent is not taken, no receipt is offered in that round."""
    log = Log()
    backlog = log.backlog()
    keep(log, backlog, "intent 1")
    keep(log, backlog, "receipt 1")
    log.refuse = {"intent 1": LogUnavailable("no")}
    assert not await backlog.settle()
    assert log.taken == []
    assert await backlog.settle()
    assert log.taken == ["alarm", "intent 1", "receipt 1"]


async def test_a_document_that_can_never_be_stored_is_let_go() -> None:
    """It is the operator's log that says so; the others are written."""
    log = Log()
    backlog = log.backlog()
    keep(log, backlog, "receipt 1")
    keep(log, backlog, "receipt 2")
    log.refuse = {"receipt 1": InternalError("its id is taken")}
    assert await backlog.settle()
    assert log.taken == ["receipt 2"]
    assert len(backlog) == 0


@pytest.mark.parametrize("limits", [{"entries": 10}, {"size": 10 * (OVERHEAD + 10)}])
async def test_bounds_hold_and_half_is_for_what_is_due(limits: dict[str, int]) -> None:
    """Refusals fill one half at most; where there is no room the document is counted, and the alarm says how many."""
    log = Log()
    backlog = log.backlog(**limits)
    backlog.failed(LogUnavailable("no disk"))
    refusals = [keep(log, backlog, f"refusal {n}", due=False) for n in range(8)]
    released = [keep(log, backlog, f"receipt {n}") for n in range(8)]
    assert refusals == [True] * 5 + [False] * 3
    assert released == [True] * 5 + [False] * 3
    assert (len(backlog), backlog.unrecorded) == (10, 6)
    assert await backlog.settle()
    assert log.alarms[0]["unrecorded"] == 6
    assert keep(log, backlog, "receipt 9")  # there is room again
    backlog.failed(LogUnavailable("no disk"))
    assert await backlog.settle()
    assert log.alarms[1]["unrecorded"] == 0  # each is told once


async def test_it_goes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` writes what is owed when the log takes it, and hands nothing over twice when it is cancelled in between."""
    monkeypatch.setattr(module, "RETRY_S", 0.001)
    log = Log()
    backlog = log.backlog()
    running = asyncio.create_task(backlog.run())
    log.error = Busy("full")
    backlog.failed(log.error)
    keep(log, backlog, "receipt 1")
    await asyncio.sleep(0.02)
    assert log.taken == []
    log.error = None
    async with asyncio.timeout(5):
        while len(backlog):
            await asyncio.sleep(0.001)
    gate = asyncio.Event()

    def slow() -> asyncio.Future[object]:
        log.taken.append("receipt 2")
        return asyncio.ensure_future(gate.wait())  # type: ignore[return-value]

    backlog.keep(slow, 1, due=True)
    async with asyncio.timeout(5):
        while "receipt 2" not in log.taken:
            await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    settled = asyncio.create_task(backlog.settle())
    gate.set()
    assert await settled
    assert log.taken == ["alarm", "receipt 1", "receipt 2"]
