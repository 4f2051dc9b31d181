"""Random bytes that never come twice, and what happens where they would."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable

import pytest

from gateway.entropy import Entropy, fresh
from gateway.errors import Unrandom

STUBS: dict[str, Callable[[int], bytes]] = {
    "constant": bytes,
    "short period": lambda count: (bytes(range(1, 100)) * 100)[:count],
    "period of a slice": lambda count: (bytes(range(104)) * 100)[:count],
}


def refused(draw: Callable[[int], bytes], count: int) -> tuple[str | None, int, bool]:
    with pytest.raises(Unrandom) as caught:
        draw(count)
    return caught.value.reason, caught.value.status, caught.value.retryable


@pytest.mark.parametrize("name", STUBS)
def test_a_draw_that_repeats_within_itself_is_refused(name: str) -> None:
    """A stub shows in the first draw that is long enough, whatever its period is."""
    assert refused(Entropy(STUBS[name]).fresh, 8192) == ("replayed_nonce", 503, False)


def test_a_draw_that_came_before_is_refused() -> None:
    """Not the last alone: also one of another length that begins alike, and one among others."""
    source = itertools.cycle([bytes(range(16)), bytes(range(16, 32)), bytes(range(32))])
    entropy = Entropy(lambda _: next(source))
    assert entropy.fresh(16) == bytes(range(16))
    assert entropy.fresh(16) == bytes(range(16, 32))
    assert refused(entropy.fresh, 32)[0] == "replayed_nonce"
    assert refused(entropy.fresh, 16)[0] == "replayed_nonce"


def test_what_is_remembered_is_bounded() -> None:
    """The oldest draw is forgotten first."""
    numbers = iter([1, 2, 3, 2, 1])
    entropy = Entropy(lambda count: next(numbers).to_bytes(count, "big"), most=2)
    for _ in range(3):
        entropy.fresh(8)
    assert refused(entropy.fresh, 8)[0] == "replayed_nonce"
    assert entropy.fresh(8) == (1).to_bytes(8, "big")
    assert len(entropy._drawn) == 2


def test_a_short_draw_is_refused() -> None:
    """Fewer bytes than were asked for are no bytes."""
    assert refused(Entropy(lambda count: os.urandom(count - 1)).fresh, 32)[0] == "replayed_nonce"


@pytest.mark.parametrize("error", [OSError("no device"), NotImplementedError()])
def test_without_a_source_nothing_is_handed_out(error: Exception) -> None:
    """The system has no random bytes, and says so."""

    def source(count: int) -> bytes:
        raise error

    assert refused(Entropy(source).fresh, 32) == ("no_entropy", 503, False)


def test_the_system_is_asked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process draws is the system's, until that repeats."""
    assert len({fresh(16) for _ in range(100)}) == 100
    drawn = os.urandom(32)
    monkeypatch.setattr(os, "urandom", lambda count: drawn[:count])
    assert fresh(32) == drawn
    assert refused(fresh, 32)[0] == "replayed_nonce"
