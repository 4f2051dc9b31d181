"""From what a reference told of an answer's tokens to what is judged: margins, spelling, build.

The same steps for a saved answer and for one that an agent waits for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .answer import Told
from .ask import Prompt
from .claim import Claim
from .noise import noise
from .reexec import greedy_margins, seeded_margins
from .reference import Reexecuted
from .spelling import Spelling, spelling, stops_of

#: What a calibration's `revision` begins with when it is what the reference said of itself.
FINGERPRINT = "fingerprint:"


def margins_of(claim: Claim, told: Reexecuted, ids: Sequence[int]) -> tuple[float, ...]:
    """The margin of each token by the claim's statistic, in nats. Raises `FormatError`."""
    if claim.sampling is None or claim.seed is None:
        return greedy_margins(told.scores, ids)
    drawn = [noise(claim.seed, 0, position, row) for position, row in enumerate(told.scores)]
    return seeded_margins(told.scores, ids, drawn, claim.sampling)


def spelled(told: Reexecuted, tokens: Told, request: Mapping[str, object]) -> Spelling:
    """Whether the tokens, as the reference spells them, are the text as far as `request` lets it go; unknown where it
    does not say."""
    return Spelling.UNKNOWN if told.texts is None else spelling(told.texts, tokens.choice, stops_of(request))


def changed(revision: str, prompt: Prompt) -> bool:
    """Whether the reference says that it is another build than the one that was calibrated with."""
    return revision.startswith(FINGERPRINT) and prompt.fingerprint != revision.removeprefix(FINGERPRINT)
