"""The clock of leases."""

from __future__ import annotations

import time

import pytest

from gateway.clock import lease_clock


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="Linux alone has this clock under its name")
def test_leases_go_on_while_the_machine_sleeps() -> None:
    """It is the clock that counts from the start of the machine, with the time that it was suspended."""
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    now = lease_clock()
    assert before <= now <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_the_clock_goes_forward_in_seconds() -> None:
    """Nobody can set it, and its unit is that of `time.monotonic`."""
    ours, theirs = lease_clock(), time.monotonic()
    time.sleep(0.02)
    assert lease_clock() - ours == pytest.approx(time.monotonic() - theirs, abs=0.015)
