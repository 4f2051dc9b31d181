"""The running signatures of one chained stream (docs/node-profile.md)."""

from __future__ import annotations

from gateway.errors import FormatError
from gateway.exchange.reply import Question
from gateway.exchange.stream import Piece
from gateway.model.node import AttestedSession
from gateway.verify.aci import chain_message, parse_chain
from gateway.verify.response import verify_chain


class Chain:
    """The running signatures of one chained stream."""

    def __init__(self, session: AttestedSession, asked: Question, receipt_id: bytes | None) -> None:
        self.broken: str | None = None
        self._session = session
        self._asked = asked
        self._receipt_id = (receipt_id or b"").decode("ascii", "replace")
        self._next = 1

    def holds(self, piece: Piece) -> bool:
        """Whether `piece` is the next signature and holds over its digest. Once one fails, none does.

        Of one without a digest only its form and place are looked at, and the answer is no: nothing may leave by it.
        """
        if self.broken is not None:
            return False
        try:
            parsed = parse_chain(piece.out)
        except FormatError as error:
            self.broken = str(error)
            return False
        if parsed is None or parsed[0] != self._next:
            self.broken = "chain_order"
            return False
        self._next += 1
        if piece.covered is None:
            return False
        asked = self._asked
        message = chain_message(self._receipt_id, asked.nonce, asked.sha256, asked.head.model, parsed[0], piece.digest)
        if verify_chain(self._session, None, message, parsed[1]) is None:
            self.broken = "chain_signature"
            return False
        return True

    def unused(self, mode: str) -> str | None:
        """A problem when chained mode saw no signature at all."""
        return "chain_absent" if mode == "chained" and self._next == 1 else None
