"""What a request says about how its answer's tokens were to be chosen, and whether that can be asked again.

Margins say something about two claims only: the likeliest token each time (temperature 0), or a draw whose noise
follows from a seed that both sides know. Everything that changes the choice behind the scores' back (penalties, biases,
grammars, an end of the turn that is held off) would make an honest node look like a cheat, so such requests are not
judged. Members at the value that changes nothing are let be.

So are members that are known to change nothing at all. One that is not known here may bend the choice, cut the prompt,
or keep a token out of the text, and whoever sends it would have an honest node found out as a cheat.
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
    "function_call": ("auto", "none"),
    "logits_processors": ([],),
    "echo": (False,),
    "suffix": ("",),
}
#: And those that do so at temperature over 0. `top_k` is 0 or -1 for none.
_NEUTRAL_DRAW: Mapping[str, tuple[object, ...]] = {"top_p": (1,), "top_k": (0, -1), "min_p": (0,)}
#: Members by which a server shows other tokens than it wrote, whatever they were chosen by.
_SHOWN: Mapping[str, tuple[object, ...]] = {
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "include_reasoning": (True,),
    "modalities": (["text"],),
    "stop_token_ids": ([],),
}
#: Members that a reference is asked with as well, that end an answer, or that are about its form and its sender.
_INERT = frozenset(
    (
        "model", "messages", "prompt", "tools", "functions", "documents", "reasoning_effort", "chat_template",
        "chat_template_kwargs", "add_generation_prompt", "continue_final_message", "add_special_tokens",
        "temperature", "seed", "stop", "include_stop_str_in_output", "max_tokens", "max_completion_tokens",
        "parallel_tool_calls", "stream", "stream_options", "logprobs", "top_logprobs", "prompt_logprobs",
        "return_token_ids", "return_tokens_as_token_ids", "toploc", "user", "metadata", "store", "service_tier",
        "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "cache_salt", "priority", "request_id",
        "provider", "aci_verified", "aci_session_ids",
    )
)  # fmt: skip


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
    if strange(request) or not _all_neutral(request, _NEUTRAL):
        return "sampling_unsupported"
    if not seeded:
        return Claim(Statistic.GREEDY_MARGIN)
    if not _all_neutral(request, _NEUTRAL_DRAW):
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


def strange(request: Mapping[str, object]) -> bool:
    """Whether `request` has members that are not known here, or by which an answer's text is not what was written."""
    known = _INERT | _NEUTRAL.keys() | _NEUTRAL_DRAW.keys() | _SHOWN.keys()
    unknown = any(value is not None and name not in known for name, value in request.items())
    return unknown or not _all_neutral(request, _SHOWN)


def _all_neutral(request: Mapping[str, object], neutral: Mapping[str, tuple[object, ...]]) -> bool:
    return all(_neutral(request.get(name), values) for name, values in neutral.items())


def _neutral(value: object, values: tuple[object, ...]) -> bool:
    # `False == 0` to Python; as a penalty it is no number, and what a server makes of it is not known.
    return value is None or any(value == same and isinstance(value, bool) is isinstance(same, bool) for same in values)
