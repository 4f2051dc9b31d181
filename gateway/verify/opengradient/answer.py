"""What of an answer OpenGradient's statement speaks about, as the reader of the answer found it."""

from __future__ import annotations

import msgspec

from gateway.model.observation import Observation

from .canonical import Surface


class SignedAnswer(msgspec.Struct, frozen=True):
    """One answer, as far as the appraisal needs it.

    `outputs` are the texts one of which the node must have hashed, the likeliest first; None when the answer was cut
    or could not be read. `calls_signed` says that they are tool calls (and not a text beside which calls may stand).
    `beside` names what no signature covers and could pass for the answer.
    """

    surface: Surface
    outputs: tuple[str, ...] | None
    observation: Observation
    calls_signed: bool = False
    beside: tuple[str, ...] = ()
