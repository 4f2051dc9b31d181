"""The demo's child processes: started, awaited, watched, and never left behind.

A child is a `veriroute` command that prints one JSON line when it is ready; what it writes to stderr goes to a file.
Each one is in a session of its own: Ctrl-C reaches the demo alone, which then stops the gateway before the nodes
that it uses. When the demo itself is killed outright, the kernel tells the children (Linux; `PR_SET_PDEATHSIG`).
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Self

from gateway.errors import ConfigError, VerirouteError
from gateway.text import plain

GATEWAY = "gateway"  #: the name of the child that is stopped before the others
#: How long a child may take to stop once asked; the gateway drains for `server.drain_s` of the demo's settings.
STOP_S = 15.0
_TAIL_LINES = 8
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class NotStarted(VerirouteError):
    """A process of the demo did not start, or ended by itself."""

    code = "demo_failed"


class Stopped(BaseException):
    """The demo was told to stop. Not an `Exception`: nothing on the way may take it for a failed request."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class Signals:
    """While entered, the first SIGINT, SIGTERM or SIGHUP raises `Stopped` in the main thread; while held, afterwards.

    Only the first: a second one must not cut off the cleaning up after it. It is counted, and hurries that along.
    """

    def __init__(self) -> None:
        self.asked = 0  #: how often
        self._number = 0
        self._held = 0
        self._raised = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # as nohup leaves it
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """A stretch that must not be left half way, such as between the start of a child and knowing of it."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        self._raise()

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.asked += 1
        self._number = number
        self._raise()

    def _raise(self) -> None:
        if self._number and not self._held and not self._raised:
            self._raised = True
            raise Stopped(self._number)


class Child:
    """One process under way."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    def ready(self, within_s: float = 30.0) -> dict[str, Any]:
        """Its ready line. Raises `NotStarted` with the end of its stderr when there is none in time."""
        assert self.process.stdout is not None
        descriptor, data, end = self.process.stdout.fileno(), b"", time.monotonic() + within_s
        while not data.endswith(b"\n"):
            left = end - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                raise NotStarted(f"{self.name} did not get ready within {within_s:g} s{self.tail()}")
            piece = os.read(descriptor, 4096)
            if not piece:
                code = self.process.wait()
                raise NotStarted(f"{self.name} did not start (exit {code}){self.tail()}")
            data += piece
        return dict(json.loads(data))

    def tail(self) -> str:
        """The last lines of its stderr, as the end of a message."""
        try:
            lines = self.log.read_text("utf-8", "replace").splitlines()[-_TAIL_LINES:]
        except OSError:
            lines = []
        return ":\n" + "\n".join(f"  {plain(line, 400)}" for line in lines) if lines else f"; see {self.log}"


class Children:
    """All of them. Leaving the context stops whatever still runs, the last started first."""

    def __init__(self, signals: Signals, logs: Path) -> None:
        self._signals = signals
        self._logs = logs
        self._started: list[Child] = []
        self._known: set[Child] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, name: str, arguments: Sequence[str]) -> Child:
        """Start `veriroute ARGUMENTS`."""
        path = self._logs / f"{name}.log"
        try:
            log = path.open("wb")
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from None
        with log, self._signals.held():
            process = subprocess.Popen(  # noqa: S603 - our own command, no shell
                command(arguments),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(),
                start_new_session=True,
                preexec_fn=_end_with(os.getpid()),
            )
            self._started.append(Child(name, process, path))
        return self._started[-1]

    def ended(self) -> list[Child]:
        """Those that have ended by themselves, each told once."""
        found = [c for c in self._started if c not in self._known and c.process.poll() is not None]
        self._known.update(found)
        return found

    def stop(self) -> None:
        """Stop the gateway, then the nodes. A second signal, or one that takes too long, kills what is left."""
        with self._signals.held():
            before = self._signals.asked
            for batch in ([c for c in self._started if c.name == GATEWAY], self._started):
                _stop(batch, lambda: self._signals.asked > before)
            self._started.clear()


def command(arguments: Sequence[str]) -> list[str]:
    """`veriroute ARGUMENTS`, by this very Python. -P: a folder of that name where we stand is not our package."""
    return [sys.executable, "-P", "-m", "gateway", *arguments]


def environment() -> dict[str, str]:
    """Ours without VERIROUTE_…: the environment would win over the settings file that the demo wrote."""
    return {name: value for name, value in os.environ.items() if not name.startswith("VERIROUTE_")}


def _stop(batch: Iterable[Child], at_once: Callable[[], bool]) -> None:
    children = list(batch)
    for child in children:
        child.process.terminate()  # does nothing when it has ended
    end = time.monotonic() + STOP_S
    while any(child.process.poll() is None for child in children) and time.monotonic() < end and not at_once():
        time.sleep(0.01)
    for child in children:
        if child.process.poll() is None:
            child.process.kill()
        child.process.wait()
        if child.process.stdout is not None:
            child.process.stdout.close()


def _end_with(parent: int) -> Callable[[], None] | None:
    """Runs in the child before its program: ask the kernel for SIGTERM when the parent is gone."""
    if _LIBC is None:
        return None

    def ask() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it went before we asked
            os._exit(1)

    return ask
