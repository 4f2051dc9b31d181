"""What a request says about how its answer's tokens were to be chosen, and whether that can be asked again.

Margins say something about two claims only: the likeliest token each time (temperature 0), or a draw whose noise
follows from a seed that both sides know. Everything that changes the choice behind the scores' back (penalties, biases,
grammars, an end of the turn that is held off) would make an honest node look like a cheat, so such requests are not
judged. Members at the value that changes nothing are let be.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from .calibration import Statistic
from .reexec import MAX_TEMPERATURE, Sampling

GREEDY, SEEDED = "greedy", "seeded"
#: Member of a request -> its values that leave the choice of tokens alone; absent and null do so as well.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "use_beam_search": (False,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "bad_words": ([],),
    "allowed_token_ids": (),
    "structured_outputs": (),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "response_format": ({"type": "text"},),
    "tool_choice": ("auto", "none"),
    "logits_processors": ([],),
    "echo": (False,),
    "suffix": ("",),
}
#: And those that do so at temperature over 0. `top_k` is 0 or -1 for none.
_NEUTRAL_DRAW: Mapping[str, tuple[object, ...]] = {"top_p": (1,), "top_k": (0, -1), "min_p": (0,)}


class Claim(msgspec.Struct, frozen=True):
    """The statistic that a claim is judged by; for a seeded one also the sampling and the seed."""

    statistic: Statistic
    sampling: Sampling | None = None
    seed: int | None = None


def claim_of(request: object, *, seeded: bool) -> Claim | str:
    """What `request`, as `strict_json` returns it, claims; or the reason why it cannot be asked again.

    `not_greedy` without `seeded`, when temperature is not 0 in so many words; `not_seeded` with it, when there is no
    integer seed or no temperature over 0; `sampling_unsupported` for whatever else would change the choice.
    """
    if not isinstance(request, Mapping):
        return "malformed"
    temperature, seed = request.get("temperature"), request.get("seed")
    if isinstance(temperature, bool) or not isinstance(temperature, int | float):
        return "not_seeded" if seeded else "not_greedy"
    if seeded and not (type(seed) is int and 0 < temperature <= MAX_TEMPERATURE):
        return "not_seeded"
    if not seeded and temperature != 0:
        return "not_greedy"
    if any(not _neutral(request.get(name), values) for name, values in _NEUTRAL.items()):
        return "sampling_unsupported"
    if not seeded:
        return Claim(Statistic.GREEDY_MARGIN)
    if any(not _neutral(request.get(name), values) for name, values in _NEUTRAL_DRAW.items()):
        return "sampling_unsupported"
    return Claim(Statistic.SEEDED_MARGIN, Sampling(float(temperature)), seed)


def claim_by(request: object, claims: Collection[str]) -> Claim | str:
    """The first of `claims` (`greedy`, `seeded`; in this order) that `request` makes; or why it makes none of them.

    A reason that speaks of more than the temperature is preferred: it is what stands in the way.
    """
    found = [claim_of(request, seeded=claim == SEEDED) for claim in sorted(claims)]
    reasons = [claim for claim in found if isinstance(claim, str)]
    if len(reasons) == len(found):
        return "sampling_unsupported" if "sampling_unsupported" in reasons else (reasons or ["not_greedy"])[0]
    return next(claim for claim in found if isinstance(claim, Claim))


def _neutral(value: object, values: tuple[object, ...]) -> bool:
    # `False == 0` to Python; as a penalty it is no number, and what a server makes of it is not known.
    return value is None or any(value == same and isinstance(value, bool) is isinstance(same, bool) for same in values)
