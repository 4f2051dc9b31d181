"""What is refused before it is accepted: counted by code, and told in the log.

Nothing of such a request was forwarded and it has no receipt, so the operator learns of it here: of a caller that asks
for a looser policy, a key without the scope, somebody who tries keys. A line has what we chose (code, status, the place
and the reason) and the id of the caller's key, and nothing that the caller wrote beside the name of a header.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from gateway.errors import VerirouteError

#: Lines in a second. Whoever floods the door must not fill the disk that the receipts need.
LINES = 20

log = structlog.get_logger("veriroute.api")


class Refusals:
    """The refusals of one gateway. `mono` in seconds."""

    def __init__(self, mono: Callable[[], float] = time.monotonic) -> None:
        self.counts: dict[str, int] = {}
        self._mono = mono
        self._begun = -1.0
        self._told = self._untold = 0

    def note(self, error: VerirouteError, key: str | None = None) -> None:
        """Count `error`, and log it unless this second has had its lines; `count` of a line are those left out before.

        `key` is the id of the caller's key, where it sent one that is in force.
        """
        self.counts[error.code] = self.counts.get(error.code, 0) + 1
        now = self._mono()
        if now - self._begun >= 1.0:
            self._begun, self._told = now, 0
        if self._told >= LINES:
            self._untold += 1
            return
        self._told += 1
        untold, self._untold = self._untold, 0
        log.info(
            "request.refused",
            code=error.code,
            status=error.status,
            param=error.param,
            reason=error.reason,
            key=key,
            count=untold,
        )
