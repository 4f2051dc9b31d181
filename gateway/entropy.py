"""The one door for random bytes that must never come twice: nonces, salts, seeds, keys and ids.

With a nonce that was used before, old evidence passes for new, and what was blinded by a salt can be guessed. A system
whose source of randomness is broken need not say so: what was drawn is remembered for a while, as a digest. Where it
comes again, or there is none, nothing is handed out, and whoever asked sends and signs nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable

from gateway.errors import Unrandom

#: Bytes of a draw by which it is known again.
_MARK = 16


def _system(count: int) -> bytes:
    return os.urandom(count)


class Entropy:
    """Random bytes of `source`, each draw unlike the last `most`. What is remembered of one is a digest, for seeds are
    secret. Any thread may ask."""

    def __init__(self, source: Callable[[int], bytes] = _system, *, most: int = 16_384) -> None:
        self._source, self._most = source, most
        self._drawn: OrderedDict[bytes, object] = OrderedDict()

    def fresh(self, count: int) -> bytes:
        """`count` bytes, 8 or more. Raises `Unrandom` where they were drawn before, repeat within themselves, or cannot
        be had."""
        try:
            drawn = self._source(count)
        except (OSError, NotImplementedError) as error:
            raise Unrandom("This machine gives no random bytes.", reason="no_entropy") from error
        mark, this = drawn[:_MARK], object()
        first = self._drawn.setdefault(hashlib.blake2b(mark, digest_size=_MARK).digest(), this)
        if len(self._drawn) > self._most:
            self._drawn.popitem(last=False)
        if first is not this or len(drawn) != count or drawn.find(mark, 1) >= 0:
            text = "This machine's random bytes repeat: what must never be sent twice is not sent."
            raise Unrandom(text, reason="replayed_nonce")
        return drawn


#: What this process draws. A forked child remembers what its parent drew, and draws other bytes.
fresh = Entropy().fresh
