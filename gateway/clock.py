"""The clock of leases: seconds that nobody can set, and that pass while the machine sleeps.

`time.monotonic` stands still on Linux and macOS while a machine is suspended. By it a laptop that was opened in the
morning would still hold the sessions of the evening, and an end of collateral or of a key set would come late.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

#: Linux has a clock for it; macOS's `CLOCK_MONOTONIC` is one, other than what Python's `monotonic` reads there.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC", None))

#: Seconds since some time in the past.
lease_clock: Callable[[], float] = time.monotonic if _CLOCK is None else functools.partial(time.clock_gettime, _CLOCK)
