"""Files that the audit commands are given: databases, trust files, keys."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from gateway.errors import FormatError, LogRefused, VerirouteError
from gateway.log.audit import Kept, Standing
from gateway.log.bundle import MAX_BUNDLE
from gateway.log.kept import kept_checkpoint
from gateway.log.note import NoteSigner, parse_skey
from gateway.log.trust import TrustPolicy, parse_trust
from gateway.storage.engine import database_path
from gateway.storage.memory import CheckpointMemory
from gateway.text import plain

#: Largest file that is read whole (trust files, checkpoints, proofs, manifests).
MAX_FILE = 8 << 20
#: What two commands say of options that they share.
ACCEPT = "accept the trust.txt and the checkpoint memory beside the database"
MEMORY = "the checkpoint memory, kept elsewhere (default: DB.checkpoint, which may contradict and affirms nothing)"


class Usage(VerirouteError):
    """A file or option that cannot be used; the command ends with 2."""

    code = "usage"


def database(name: str) -> str:
    """The path of the database that `name`, a path or a sqlite URL, stands for."""
    return database_path(name) if "://" in name or name.startswith("sqlite:") else os.path.realpath(name)


def read(name: str, limit: int | None = None) -> bytes:
    """The bytes of a file of at most `limit` bytes, or `MAX_FILE`."""
    limit = limit or MAX_FILE
    try:
        with open(name, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise Usage(f"cannot read {plain(name)}: {error.strerror}") from None
    if len(data) > limit:
        raise Usage(f"{plain(name)} is over the limit of {limit >> 20} MiB")
    return data


def trust_file(name: str) -> TrustPolicy:
    """The trust roots in a file."""
    try:
        return parse_trust(read(name))
    except FormatError as error:
        raise Usage(f"{plain(name)}: {error}") from None


def signing_key(name: str) -> NoteSigner:
    """The receipt key in a file that only its owner can read."""
    data = read(name)
    if stat.S_IMODE(os.stat(name).st_mode) & 0o077:
        raise Usage(f"the key {plain(name)} can be read by others; run: chmod 600 {plain(name)}")
    try:
        return parse_skey(data.decode("ascii").strip())
    except UnicodeDecodeError:
        raise Usage(f"the key {plain(name)} is not text") from None
    except FormatError as error:
        raise Usage(f"the key {plain(name)} is not usable: {error}") from None


def stored_roots(path: str, trust: str | None, *, accept: bool) -> tuple[TrustPolicy | None, Standing]:
    """The trust roots in the file `trust`, or those beside the database, and where they come from."""
    if trust is not None:
        return trust_file(trust), "yours"
    beside = os.path.join(path + ".keys", "trust.txt")
    try:
        roots = parse_trust(read(beside))
    except (Usage, FormatError):
        return None, "beside"
    return roots, "accepted" if accept else "beside"


def outside(path: str, kept: Sequence[str], given: str | None, *, accept: bool) -> list[Kept]:
    """What the log at `path` is held against: the files `kept`, and the memory `given`, or else the one beside it.

    Raises `LogRefused` when there has to be a memory and there is none.
    """
    memory = CheckpointMemory(path + ".checkpoint" if given is None else given)
    memory.load()
    if memory.note is None and (given is not None or memory.damaged):
        raise LogRefused(f"the checkpoint memory {memory.path} holds no checkpoint", reason="memory_damaged")
    found = [Kept(name, _checkpoint(name)) for name in kept]
    if memory.note is not None:
        beside: Standing = "accepted" if accept else "beside"
        found.append(Kept("checkpoint memory", memory.note, beside if given is None else "yours"))
    return found


def _checkpoint(name: str) -> bytes:
    # A file that is none says nothing about the log: it is the wrong file, and no contradiction.
    try:
        return kept_checkpoint(read(name, MAX_BUNDLE))
    except FormatError as error:
        raise Usage(f"--kept {plain(name)} is no checkpoint, tlog-proof or bundle: {error}") from None
