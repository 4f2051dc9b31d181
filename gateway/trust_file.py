"""The trust file that the gateway writes beside its keys: hand it to whoever verifies receipts (C2SP tlog-policy).

    log <vkey>
    #!receipt <vkey>             the key that signs receipts now
    # from entry <n>             of the key in the next line; left out for 0
    #!receipt <vkey>             a key that did before
    quorum none

A receipt key may be exchanged for another, and what the earlier one signed shall be verified with the same file. Only
this file has an earlier key, so what stands in it is kept, if the log knows it: entry <n> is signed with that key. What
somebody else wrote into the file is not handed on as ours.
"""

from __future__ import annotations

import re
from pathlib import Path

from .durable import write_durably
from .errors import ConfigError, FormatError, ProofError
from .keyfiles import Keys
from .log.dsse import parse_envelope, verify_envelope
from .log.note import Vkey, parse_vkey
from .log.receipt import leaf, parse_leaf
from .storage.reads import Reader

_KEY = re.compile(r"^(?:# from entry ([0-9]{1,18})\n)?#!receipt (\S+)$", re.MULTILINE)


def write_trust(path: Path, keys: Keys, reader: Reader, size: int) -> list[str]:
    """Write the file anew if it has to change; sentences for the operator where the receipt key did.

    The log has `size` entries, and whatever comes next is signed with `keys`. Raises `ConfigError`.
    """
    try:
        before = path.read_bytes().decode("utf-8", "replace") if path.exists() else ""
        found = _receipt_keys(before)
        mine = keys.receipt.key
        kept = {key: first for key, first in found.items() if _signed(key, reader, first)}
        now = {mine: kept.pop(mine, size), **kept}
        text = f"log {keys.log.vkey}\n{''.join(_line(*item) for item in now.items())}quorum none\n"
        if text != before:
            write_durably(path, text.encode(), mode=0o644)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
    notices = [f"{path} has a receipt key that signed nothing here; left out: {k}" for k in found if k not in now]
    if found and mine != next(iter(found)):
        notices.append(f"receipts are signed with another key from now on, {mine.keyid}: hand {path} out anew")
    return notices


def _receipt_keys(text: str) -> dict[Vkey, int]:
    """The receipt keys in a file, each with an entry that it is said to have signed."""
    found = {}
    for first, vkey in _KEY.findall(text):
        try:
            found[parse_vkey(vkey)] = int(first or 0)
        except FormatError:
            continue  # the file is written anew without the line
    return found


def _signed(key: Vkey, reader: Reader, index: int) -> bool:
    """Whether the log's entry at `index` is a document that `key` signed."""
    document = reader.document(index)
    if document is None or document.envelope is None:
        return False
    try:
        envelope = parse_envelope(document.envelope, unsigned=True)
        verify_envelope(envelope, {key.keyid: key.public})
        kind = parse_leaf(document.leaf).kind
    except (FormatError, ProofError):
        return False
    return leaf(kind, envelope.payload_type, envelope.payload) == document.leaf


def _line(key: Vkey, first: int) -> str:
    return f"# from entry {first}\n#!receipt {key}\n" if first else f"#!receipt {key}\n"
