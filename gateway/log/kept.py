"""What a file that somebody kept says of a log: the signed checkpoint in it. Pure.

    a checkpoint    as `/log/checkpoint` gives it, the note itself
    a tlog-proof    the checkpoint that it leads to
    a bundle        the one of its `proof`

Nothing is verified here: whoever holds a log against the checkpoint opens it with the log's keys.
"""

from __future__ import annotations

from gateway.errors import FormatError

from .bundle import parse_bundle
from .checkpoint import parse_checkpoint
from .note import parse_note
from .proof import HEADER, parse_tlog_proof


def kept_checkpoint(data: bytes) -> bytes:
    """The note in the bytes of a kept file. Raises `FormatError` when they are none of the three."""
    if data.lstrip().startswith(b"{"):
        return parse_tlog_proof(parse_bundle(data).proof).checkpoint
    if data.startswith(HEADER.encode()):
        try:
            return parse_tlog_proof(data.decode()).checkpoint
        except UnicodeDecodeError:
            raise FormatError("the tlog-proof is not UTF-8") from None
    parse_checkpoint(parse_note(data)[0])
    return data
