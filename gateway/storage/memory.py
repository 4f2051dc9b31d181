"""The newest checkpoint, kept a second time outside the database: what a restored backup cannot bring back.

A database that was restored from a backup, cut, or replaced is consistent in itself. A log that goes on from it signs a
second history: a fork. So the newest signed checkpoint also lies in a small file, and start-up
compares. Put the file on another volume than the database, and leave it out of the database's backups.

    two slots of 4096 bytes, written in turn, each in one write:
    veriroute checkpoint memory v1\\n<sequence number>\\n<hex SHA-256 of sequence number LF note>\\n<length>\\n<note>

A write that is cut spoils one slot, its digest says so, and the other still holds the checkpoint before. The file is
not synced for each commit: it may fall behind the database in a power cut, and behind is harmless.

It is locked as long as a writer has it open: the lock beside the database (`gateway.storage.lock`) does not keep a
gateway on a copy of the database from signing a second history beside the first.
"""

from __future__ import annotations

import fcntl
import os
from hashlib import sha256

import msgspec

from gateway.errors import ConfigError, LogRefused

SLOT = 4096
_MAGIC = b"veriroute checkpoint memory v1"


class Slot(msgspec.Struct, frozen=True):
    """What one slot holds: `number` rises with every write; `note` is the signed checkpoint."""

    number: int
    note: bytes


def encode_slot(slot: Slot) -> bytes:
    """The bytes of a slot, at most `SLOT`; `ConfigError` when the note does not fit."""
    digest = sha256(b"%d\n%b" % (slot.number, slot.note)).hexdigest().encode()
    data = b"%b\n%d\n%b\n%d\n%b" % (_MAGIC, slot.number, digest, len(slot.note), slot.note)
    if len(data) > SLOT:
        raise ConfigError("log.origin is too long: a checkpoint has to fit into 4 kB")
    return data


def decode_slot(data: bytes) -> Slot | None:
    """The slot in `data`, or None when it is empty, torn or not one of ours."""
    parts = data.split(b"\n", 4)
    if len(parts) != 5 or parts[0] != _MAGIC or not (parts[1].isdigit() and parts[3].isdigit() and len(parts[1]) < 20):
        return None
    number, note = int(parts[1]), parts[4][: int(parts[3][:5])]
    if len(note) != int(parts[3][:5]) or sha256(b"%d\n%b" % (number, note)).hexdigest().encode() != parts[2]:
        return None
    return Slot(number, note)


class CheckpointMemory:
    """The memory file, open for one writer. `note` is the newest checkpoint read or written, None where there is none.

    `damaged`: the file has content, and no slot of it can be read. `dirty`: written since the last `sync`.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path)
        self._fd: int | None = None
        self._number = 0
        self.note: bytes | None = None
        self.damaged = False
        self.dirty = False
        self.absent = True

    def load(self) -> None:
        """Read the file, which may be absent. Raises `LogRefused` when it is there and cannot be read."""
        try:
            with open(self.path, "rb") as file:
                data = file.read(2 * SLOT + 1)
        except FileNotFoundError:
            return
        except OSError as error:
            raise LogRefused(
                f"the checkpoint memory {self.path} cannot be read: {error.strerror}", reason="memory_unreadable"
            ) from error
        self.absent = False
        slots = [slot for slot in map(decode_slot, (data[:SLOT], data[SLOT : 2 * SLOT])) if slot is not None]
        if slots:
            newest = max(slots, key=lambda slot: slot.number)
            self._number, self.note = newest.number, newest.note
        else:
            self.damaged = bool(data.strip(b"\0"))

    def open(self) -> None:
        """Lock the file and make it ready for writing, with both slots' blocks in place.

        Raises `ConfigError` when it cannot be, `LogRefused` when another writer has it.
        """
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            missing = 2 * SLOT - os.fstat(self._fd).st_size
            if missing > 0:
                os.pwrite(self._fd, bytes(missing), 2 * SLOT - missing)
            os.fchmod(self._fd, 0o600)
        except BlockingIOError:
            self.forget()
            raise LogRefused(
                f"another process has the checkpoint memory {self.path} open: it writes this log, or a copy of it; "
                f"stop it, or give each log an origin, a key and a log.memory of its own",
                reason="in_use",
            ) from None
        except OSError as error:
            self.forget()
            raise ConfigError(
                f"cannot write the checkpoint memory {self.path}: {error.strerror}; set log.memory to a writable path"
            ) from error

    def write(self, note: bytes) -> None:
        """Remember `note`, in the slot that does not hold the last one. Raises `OSError`; the other slot stays good."""
        assert self._fd is not None
        number = self._number + 1
        os.pwrite(self._fd, encode_slot(Slot(number, note)), SLOT * (number & 1))
        self._number, self.note, self.dirty = number, note, True

    def sync(self) -> None:
        """Make the last write survive a power cut. Raises `OSError`."""
        if self._fd is not None and self.dirty:
            os.fsync(self._fd)
            self.dirty = False

    def close(self) -> None:
        """Sync what can be synced and close."""
        if self._fd is not None:
            try:
                self.sync()
            finally:
                self.forget()

    def forget(self) -> None:
        """Close without a sync; in a forked child, that leaves the parent's lock as it is."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
