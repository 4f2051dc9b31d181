"""The wallet that pays: 32 bytes of hexadecimal from a file that only its owner can read, or from the environment.

It is never in the database, never in a log line, and no error says any of it.
"""

from __future__ import annotations

import os
import stat

from .errors import ConfigError
from .payment.sign import Wallet

_MAX_BYTES = 256


def wallet_from_file(path: str) -> Wallet:
    """The wallet in `path`. Raises `ConfigError` for a file that others can read, or that holds no key."""
    try:
        # A pipe is opened at once, and not when somebody writes into it.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as stream:
            found = os.fstat(stream.fileno())  # of the file that is open: the name may change hands between two looks
            if not stat.S_ISREG(found.st_mode):
                raise ConfigError(f"the wallet key {path} is not a regular file")
            text = stream.read(_MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"cannot read the wallet key {path}: {error.strerror}") from None
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        raise ConfigError(f"the wallet key {path} can be read by others (mode {mode:04o}); run: chmod 600 {path}")
    return _wallet(text.decode("ascii", "replace"), path)


def wallet_from_environment(name: str) -> Wallet:
    """The wallet in the environment variable `name`. Raises `ConfigError` where it is not set or holds no key."""
    text = os.environ.get(name)
    if text is None:
        raise ConfigError(f"the environment variable {name} with the wallet key is not set")
    return _wallet(text, name)


def _wallet(text: str, where: str) -> Wallet:
    digits = text.strip().removeprefix("0x")
    try:
        if len(digits) != 64:
            raise ValueError
        key = bytes.fromhex(digits)
    except ValueError:
        raise ConfigError(f"{where} does not hold a wallet key of 64 hexadecimal digits") from None
    return Wallet(key)
