"""One input, one world: what went wrong, if anything, and the smallest neighbour with which it still does."""

from __future__ import annotations

import hashlib
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

#: CPU seconds that one input may take.
SLOW_S = 1.0
#: CPU seconds after which an input is stopped.
STOP_S = 5.0
FINDS = Path(__file__).resolve().parents[1] / "finds"


class Wrong(NamedTuple):
    """`what` is the same for two inputs that fail in the same place."""

    what: str
    detail: str
    took_s: float


class Endless(BaseException):
    """Not an Exception, so that no code under test takes it for one of its own."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise Endless


def attempt(run: Callable[[bytes], Any], data: bytes, slow_s: float = SLOW_S) -> Wrong | None:
    """Run `data`; None when all is well. The main thread of a process alone may call this."""
    before = signal.signal(signal.SIGVTALRM, _stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, max(STOP_S, slow_s))
    begun = time.process_time()
    try:
        run(data)
    except (Exception, Endless) as error:  # noqa: BLE001 - whatever comes is what is looked for
        return Wrong(_place(error), "".join(traceback.format_exception(error)), time.process_time() - begun)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
    took = time.process_time() - begun
    return Wrong("slow", f"{took:.2f} s of CPU time for {len(data)} bytes", took) if took > slow_s else None


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/gateway/" in frame.filename] or frames[-1:]
    return f"{type(error).__name__} at {Path(ours[-1].filename).name}:{ours[-1].lineno}"


def smaller(run: Callable[[bytes], Any], data: bytes, what: str, tries: int = 400) -> bytes:
    """`data` with blocks taken out of it as long as the same thing goes wrong."""
    block = max(1, len(data) // 2)
    while block and tries > 0:
        at = 0
        while at < len(data) and tries > 0:
            tries -= 1
            shorter = data[:at] + data[at + block :]
            wrong = attempt(run, shorter)
            if wrong is not None and wrong.what == what:
                data = shorter
            else:
                at += block
        block //= 2
    return data


def keep(world: str, data: bytes, folder: Path = FINDS) -> Path:
    """Store a find, under the name of its world and digest, for `tests/test_fuzz_finds.py` to run ever after."""
    path = folder / world / (hashlib.sha256(data).hexdigest()[:16] + ".bin")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
