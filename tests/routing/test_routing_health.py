from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.model.verdict import Outcome
from gateway.policy import Decision
from gateway.routing import (
    Health,
    node_at_fault,
    on_attempt,
    on_end,
    on_failure,
    on_success,
    on_wait,
    out_for,
    quarantine,
)


def failed(times: int, now: float = 0.0, health: Health | None = None) -> Health:
    health = health or Health()
    for _ in range(times):
        health = on_failure(health, now)
    return health


def test_fifth_failure_in_a_row_opens_the_circuit() -> None:
    """Four failures leave the circuit closed, the fifth opens it for ten seconds."""
    assert failed(4).circuit_until == 0.0
    opened = failed(5, now=100.0)
    assert (opened.failures, opened.opened, opened.circuit_until) == (5, 1, 110.0)


def test_open_time_doubles_to_five_minutes() -> None:
    """Each failed probe doubles the wait, up to five minutes."""
    health, now, waits = failed(5), 0.0, [10.0]
    for _ in range(8):
        now = health.circuit_until
        health = on_failure(on_attempt(health, now), now)
        waits.append(health.circuit_until - now)
    assert waits == [10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0, 300.0, 300.0]


def test_a_crowd_that_fails_at_once_opens_the_circuit_once() -> None:
    """However many were under way when the node went away, the first wait is ten seconds and the next twenty."""
    health = failed(20)
    assert (health.failures, health.opened, health.circuit_until) == (20, 1, 10.0)
    health = on_failure(on_attempt(health, 10.0), 11.0)
    assert (health.opened, health.circuit_until, health.probe_until) == (2, 31.0, 0.0)


def test_waiting_in_vain_makes_a_node_slower_and_never_quicker() -> None:
    """A time that a node takes at least raises its latency, and says nothing of its failures. Each begins its turn anew:
    one that never answers would else fade to be the first that is asked, for ever."""
    failing = failed(2)
    unmeasured = on_wait(failing, 150.0, 1.0)  # it is taken to be slower than that
    assert (unmeasured.ewma_ms, unmeasured.heard_at, unmeasured.failures) == (None, 1.0, 2)
    waited = on_wait(failing, 900.0, 1.0)
    assert (waited.ewma_ms, waited.failures) == (900.0, 2)
    again = on_wait(waited, 500.0, 2.0)
    assert (again.ewma_ms, again.heard_at, again.failures) == (900.0, 2.0, 2)


def test_only_one_probe_is_let_through() -> None:
    """While a probe of a half-open circuit runs, its lease keeps others away; when it fails the circuit opens again."""
    health = failed(5)
    probing = on_attempt(health, 20.0)
    assert probing.probe_until == 80.0
    assert on_failure(probing, 21.0).probe_until == 0.0
    assert on_failure(probing, 21.0).circuit_until == 41.0


def test_a_probe_that_shows_nothing_leaves_its_place() -> None:
    """The next request is then the probe; a probe that took over meanwhile keeps its place, and so does what was shown."""
    first = on_attempt(failed(5), 20.0)
    assert on_end(first, first.probe_until) == failed(5)
    second = on_attempt(first, 90.0)
    assert on_end(second, first.probe_until) is second
    reopened = on_failure(first, 21.0)
    assert on_end(reopened, first.probe_until) is reopened


def test_success_closes_the_circuit_and_forgets_failures() -> None:
    """One answer closes the circuit, and the next opening starts from ten seconds."""
    health = on_success(on_attempt(failed(5), 20.0), 30.0, 21.0)
    assert (health.failures, health.opened, health.circuit_until, health.probe_until) == (0, 0, 0.0, 0.0)
    assert failed(5, 50.0, health).circuit_until == 60.0


def test_attempt_on_a_closed_circuit_changes_nothing() -> None:
    """Without an open circuit there is no probe."""
    health = failed(4)
    assert on_attempt(health, 1.0) is health


@pytest.mark.parametrize(
    ("before", "measured", "after"), [(None, 80.0, 80.0), (50.0, 80.0, 80.0), (100.0, 50.0, 90.0), (50.0, 50.0, 50.0)]
)
def test_latency_jumps_up_and_creeps_down(before: float | None, measured: float, after: float) -> None:
    """A peak is taken over at once; lower times move the average by a fifth."""
    assert on_success(Health(ewma_ms=before), measured, 1.0).ewma_ms == after


def test_quarantine_doubles_and_is_forgotten() -> None:
    """Five minutes, doubling to an hour while it recurs; an hour of good behaviour starts it over."""
    health, now, waits = Health(), 1_000.0, []
    for _ in range(6):
        health = quarantine(health, now)
        waits.append(health.quarantined_until - now)
        now = health.quarantined_until + 10.0
    assert waits == [300.0, 600.0, 1_200.0, 2_400.0, 3_600.0, 3_600.0]
    later = quarantine(health, health.quarantined_until + 3_601.0)
    assert later.quarantines == 1


def test_success_does_not_lift_a_quarantine() -> None:
    """An answer from a request in flight does not bring a contraindicated node back."""
    health = quarantine(Health(), 0.0)
    assert on_success(health, 10.0, 1.0).quarantined_until == 300.0
    assert on_success(health, 10.0, 1.0).quarantines == 1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("sfqa"), st.floats(0, 1_000)), max_size=60))
def test_health_stays_in_bounds(events: list[tuple[str, float]]) -> None:
    """Whatever happens in whatever order, waits stay in their bounds and counts do not fall below zero."""
    health, now = Health(), 0.0
    for kind, step in events:
        now += step
        if kind == "s":
            health = on_success(health, step, now)
        elif kind == "f":
            health = on_failure(health, now)
        elif kind == "q":
            health = quarantine(health, now)
        else:
            health = on_attempt(health, now)
        assert health.circuit_until <= now + 300.0
        assert health.quarantined_until <= now + 3_600.0
        assert health.probe_until <= now + 60.0
        assert health.failures >= 0
        assert health.opened >= 0


@pytest.mark.parametrize(
    ("failing", "fault"),
    [
        (("signature",), True),
        (("response_bound", "tool_undeclared"), True),
        (("from_the_future",), True),
        (("tool_undeclared",), False),
        (("tool_arguments", "output_kind"), False),
        ((), False),
    ],
)
def test_what_the_model_wrote_is_not_held_against_the_node(failing: tuple[str, ...], fault: bool) -> None:
    """Only a failure that speaks against the node itself is a reason to quarantine it."""
    verdict = Outcome.CONTRAINDICATED if failing else Outcome.NONE
    assert node_at_fault(Decision(verdict, False, None, failing)) is fault
    assert node_at_fault(Decision(Outcome.WARNING, False, None, failing)) is False


def test_how_long_a_node_is_out() -> None:
    """Until both are over; not at all where neither is under way."""
    assert out_for(Health(), 50.0) == 0.0
    assert out_for(Health(quarantined_until=40.0, circuit_until=49.0), 50.0) == 0.0
    assert out_for(Health(quarantined_until=57.5, circuit_until=52.0), 50.0) == 7.5
    assert out_for(Health(circuit_until=52.0), 50.0) == 2.0
