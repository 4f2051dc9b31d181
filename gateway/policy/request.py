"""The policy that a request's headers ask for: one reader, so that no other spelling gets through."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from gateway.errors import BadRequest

from .schema import CompiledPolicy

HEADER = "x-veriroute-policy"
_HEADER = HEADER.encode()
#: How the names of headers begin that say something to a gateway.
OURS = b"x-veriroute-"
_NAME = re.compile(rb"[a-z][a-z0-9_-]{0,63}")


def header_values(headers: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    """The values of every `x-veriroute-policy` header. Raises `BadRequest` for another name that begins as ours do:

    whoever misspelt it would believe that the stricter policy was in force. Names are in lower case.
    """
    for name, _ in headers:
        if name.startswith(OURS) and name != _HEADER:
            shown = name[:80].decode("ascii", "backslashreplace")
            raise BadRequest(
                f"{shown} is no header of a request; {HEADER} is the one that a gateway takes", param=shown
            )
    return [value for name, value in headers if name == _HEADER]


def requested_policy(values: Sequence[bytes], policies: Mapping[str, CompiledPolicy]) -> CompiledPolicy | None:
    """The policy named by the values of every `x-veriroute-policy` header of a request; None when there is none.

    A name is matched byte for byte. Raises `BadRequest` for a second header, an empty, malformed or unknown name; the
    message does not repeat what was sent.
    """
    if not values:
        return None
    if len(values) > 1:
        raise BadRequest(f"{HEADER} stands {len(values)} times; send it once", param=HEADER)
    if _NAME.fullmatch(values[0]) is None:
        raise BadRequest(f"{HEADER} is not a policy name (lower-case letters, digits, - and _)", param=HEADER)
    policy = policies.get(values[0].decode("ascii"))
    if policy is None:
        raise BadRequest(f"{HEADER} names no policy of this gateway; `veriroute policy list` knows them", param=HEADER)
    return policy
