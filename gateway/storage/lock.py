"""One writer for a log: an advisory lock on a file beside the database, held as long as the process lives.

The lock belongs to the open file, so a crash frees it and a process that was forked off does not get a second one.
SQLite's own locks last one transaction; two writers that take turns there would each sign their own history.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from gateway.errors import ConfigError, LogRefused


class WriterLock:
    """The lock for the database at `path`, taken by `acquire` and held until `release`."""

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path) + ".lock"
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock. Raises `LogRefused`, naming the process that holds it, or `ConfigError`; never waits."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(f"cannot open the lock file {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(fd, 20).decode("ascii", "replace").strip()
            os.close(fd)
            who = f"process {holder}" if holder.isdigit() else "another process"
            raise LogRefused(
                f"{who} is already writing this log ({self.path}); stop it, or give this one its own storage.url",
                reason="in_use",
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Free the lock; the file stays, since removing it would let two writers lock two files of one name."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = None

    def forget(self) -> None:
        """In a forked child: let go of the inherited file and leave the parent's lock as it is."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
