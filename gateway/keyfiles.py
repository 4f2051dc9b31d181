"""The gateway's own two keys: the log key signs checkpoints, the receipt key signs receipts and events.

    <keys>/log.key        PRIVATE+KEY+<origin>+<id>+<base64>               the key name is the log's origin
    <keys>/receipt.key    PRIVATE+KEY+<origin>/receipts+<id>+<base64>
    <keys>/trust.txt      the public halves (`gateway.trust_file`): hand it to whoever verifies receipts

Made on the very first start only. When a log exists and a key does not, start refuses: a new key would be a new log.
"""

from __future__ import annotations

import itertools
import os
import stat
from pathlib import Path

import msgspec

from .durable import sync_folder
from .entropy import fresh
from .errors import ConfigError, FormatError
from .log.note import NoteSigner, parse_skey


class Keys(msgspec.Struct, frozen=True):
    log: NoteSigner
    receipt: NoteSigner
    made: bool


def receipt_key_name(origin: str) -> str:
    return f"{origin}/receipts"


def load_or_make(folder: str, origin: str, *, log_exists: bool) -> Keys:
    """Both keys. Raises `ConfigError` for one that is missing, readable by others, empty or of another log, and for a
    folder that others can write into."""
    path = Path(folder)
    names = (("log.key", origin), ("receipt.key", receipt_key_name(origin)))
    _judge_folder(path)
    present = [(path / file).exists() for file, _ in names]
    if not any(present) and not log_exists:
        _make(path, names)
        return Keys(_load(path / "log.key", origin), _load(path / "receipt.key", receipt_key_name(origin)), True)
    for (file, _), there in zip(names, present, strict=True):
        if not there:
            raise ConfigError(
                f"the key {path / file} is missing. A log can't go on under another key: restore the file, "
                "or set log.keys to where it is. (To begin a new log, move the database and both keys away.)"
            )
    return Keys(_load(path / "log.key", origin), _load(path / "receipt.key", receipt_key_name(origin)), False)


def _judge_folder(path: Path) -> None:
    """Who may write into the folder may put other keys there. With the sticky bit nobody moves files of others."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return  # whoever makes or reads the files says why
    if mode & 0o022 and not mode & stat.S_ISVTX:
        raise ConfigError(f"others can put keys into the folder {path} (mode {mode:04o}); run: chmod go-w {path}")


def _make(path: Path, names: tuple[tuple[str, str], ...]) -> None:
    new = itertools.takewhile(lambda folder: not folder.is_dir(), (path, *path.parents))
    folders = (path, *[folder.parent for folder in new])  # one that was there is named already
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file, name in names:
            text = NoteSigner(name, fresh(32)).skey + "\n"
            descriptor = os.open(path / file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as stream:
                stream.write(text)
                stream.flush()
                os.fsync(stream.fileno())
        for folder in folders:  # before there is a log, which cannot go on without them
            sync_folder(folder)
    except OSError as error:
        raise ConfigError(f"cannot make the keys in {path}: {error.strerror}") from None


def _load(path: Path, name: str) -> NoteSigner:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the key {path}: {error}") from None
    if mode & 0o077:
        raise ConfigError(f"the key {path} can be read by others (mode {mode:04o}); run: chmod 600 {path}")
    try:
        signer = parse_skey(text)
    except FormatError as error:
        raise ConfigError(f"the key {path} is not usable: {error}") from None
    if signer.name != name:
        raise ConfigError(
            f"the key {path} is named {signer.name!r}, not {name!r}: it is of another log, or log.origin changed"
        )
    return signer
