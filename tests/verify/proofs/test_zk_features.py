"""A text's features are anybody's to compute again, and what an answer concludes is held to the proven numbers."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
import zk_kit
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import FormatError, PolicyError
from gateway.verify.proofs.features import FEATURES, MAX_COUNT, MAX_TEXT, TEXT_V1, text_v1
from gateway.verify.proofs.zk import Ran, Statement, ZkResult, ZkVerdict, conclude, prepare
from gateway.verify.proofs.zk_circuit import hold_files
from gateway.verify.proofs.zk_manifest import parse_manifest

COUNT = FEATURES[TEXT_V1].count
INPUT = {"pointer": "/input", "features": TEXT_V1, "offset": 0, "count": COUNT, "scale": 7, "visibility": "public"}
OUTPUTS = [
    {"pointer": f"/r/{name}", "offset": COUNT + at, "count": 1, "scale": 7, "tolerance": 0.0, "on_release": "compare"}
    for at, name in enumerate("ab")
]
FLAG = {"pointer": "/flagged", "offset": COUNT, "count": 2, "above": 0.5, "on_release": "compare"}
CHANGES: dict[str, Any] = {
    "inputs": [INPUT], "outputs": OUTPUTS, "flags": [FLAG], "n_instances": COUNT + 2,
}  # fmt: skip
FILES = {"vk.key": zk_kit.VK, "settings.json": zk_kit.SETTINGS, "verifier.srs": zk_kit.SRS}
#: Proven: a = 0.75, b = 0.25.
PROVEN = (96, 32)


def toml(**changes: Any) -> bytes:
    flags = changes.pop("flags", [FLAG])
    text = zk_kit.ezkl_toml(**{**{k: v for k, v in CHANGES.items() if k != "flags"}, **changes})
    for flag in flags:
        text += "\n[[flags]]\n" + "\n".join(f"{key} = {zk_kit.toml(value)}" for key, value in flag.items())
    return text.encode()


def bucket(word: str) -> int:
    return hashlib.sha256(word.encode()).digest()[0] % 128


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("", {}),
        ("One, two; ONE!", {"one": 2, "two": 1}),
        (["a b"], {"a": 1, "b": 1}),
        ("don't naïve", {"don": 1, "t": 1, "na": 1, "ve": 1}),
        ("7 \u0000\U0001f600 \u212a", {}),  # the sign for Kelvin is no letter here, though lower() would make it one
        ("x " * 9, {"x": MAX_COUNT}),
    ],
)
def test_features_are_counts_of_hashed_words(value: object, words: dict[str, int]) -> None:
    """Words are runs of ASCII letters in lower case, counted by the first byte of their SHA-256, up to four."""
    expected = [0.0] * COUNT
    for word, times in words.items():
        expected[bucket(word)] += times
    assert text_v1(value) == expected


@pytest.mark.parametrize("value", [None, 7, True, {}, [], ["a", "b"], [7], [["a"]], "x" * (MAX_TEXT + 1)], ids=str)
def test_what_is_no_text_has_no_features(value: object) -> None:
    """A number, several texts, and a text over the limit are refused."""
    with pytest.raises(FormatError, match="features are of"):
        text_v1(value)


def test_words_that_hash_alike_are_added_up() -> None:
    """Two words of one bucket are one word to the features."""
    words = [word for word in (f"{a}{b}" for a in "abcdefghij" for b in "klmnopqrst") if bucket(word) == bucket("ak")]
    assert len(words) > 1
    assert text_v1(" ".join(words))[bucket("ak")] == min(len(words), MAX_COUNT)


@given(st.text(max_size=200) | st.lists(st.text(max_size=9), max_size=2) | st.integers() | st.none())
@settings(max_examples=200)
def test_any_value_has_features_or_none(value: object) -> None:
    """Features are whole numbers from 0 to 4, or a `FormatError`."""
    try:
        found = text_v1(value)
    except FormatError:
        return
    assert len(found) == COUNT
    assert all(number in (0, 1, 2, 3, MAX_COUNT) for number in found)


def judged(request: object, response: object, proven: tuple[int, int] = PROVEN, **changes: Any) -> ZkResult:
    """The verdict where the proof is of the text "one two" and verifies."""
    circuit = hold_files(parse_manifest("m", toml(**changes)), FILES)
    inputs = tuple(int(n) << 7 for n in text_v1("one two"))
    found = prepare(circuit, json.dumps(request).encode(), zk_kit.proof_json((*inputs, *proven)))
    if isinstance(found, ZkResult):
        return found
    assert isinstance(found, Statement)
    return conclude(circuit.manifest, found, Ran(ZkVerdict.PASS), json.dumps(response).encode())


ANSWER = {"r": {"a": 0.75, "b": 0.25}, "flagged": True}


@pytest.mark.parametrize(
    ("request_body", "response", "reason"),
    [
        ({"input": "one two"}, ANSWER, None),
        ({"input": ["Two one."], "model": "m"}, ANSWER, None),
        ({"input": "one three"}, ANSWER, "binding_failed"),
        ({"input": ["one", "two"]}, ANSWER, "input_unbindable"),
        ({"input": "one " * MAX_TEXT}, ANSWER, "input_unbindable"),
        ({"text": "one two"}, ANSWER, "input_unbindable"),
        ({"input": "one two"}, {**ANSWER, "flagged": False}, "output_mismatch"),
        ({"input": "one two"}, {**ANSWER, "flagged": 1}, "output_absent"),
        ({"input": "one two"}, {"r": ANSWER["r"]}, "output_absent"),
        ({"input": "one two"}, {**ANSWER, "r": {"a": 0.75, "b": 0.5}}, "output_mismatch"),
    ],
)
def test_text_scores_and_flags_are_bound(request_body: object, response: object, reason: str | None) -> None:
    """The proof is of this text, the scores are the proven ones, and the flag follows from them."""
    found = judged(request_body, response)
    assert found.reason == reason
    assert found.verdict is (ZkVerdict.PASS if reason is None else ZkVerdict.FAIL)


@pytest.mark.parametrize(
    ("proven", "held"), [((64, 0), False), ((65, 0), True), ((0, 65), True), ((0, 0), False)], ids=str
)
def test_a_flag_is_raised_above_its_threshold(proven: tuple[int, int], held: bool) -> None:
    """A score of exactly the threshold raises no flag, and any score above does."""
    answer = {"r": {"a": proven[0] / 128, "b": proven[1] / 128}}
    assert judged({"input": "one two"}, {**answer, "flagged": held}, proven).verdict is ZkVerdict.PASS
    assert judged({"input": "one two"}, {**answer, "flagged": not held}, proven).reason == "output_mismatch"


def test_a_flag_is_replaced_where_the_manifest_says_so() -> None:
    """Scores and flag become the proven ones; an answer that has them already keeps its bytes."""
    replace = {
        "outputs": [{**output, "on_release": "replace"} for output in OUTPUTS],
        "flags": [{**FLAG, "on_release": "replace"}],
    }
    found = judged({"input": "one two"}, {"r": {"a": 0, "b": 0}, "flagged": False, "id": "x"}, **replace)
    assert json.loads(found.response or b"") == {**ANSWER, "id": "x"}
    same = judged({"input": "one two"}, ANSWER, **replace)
    assert same.response == json.dumps(ANSWER).encode()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": [{**INPUT, "features": "veriroute-text-v0"}]}, "there are the features veriroute-text-v1"),
        ({"inputs": [{**INPUT, "count": 4}]}, "has 128 numbers"),
        ({"flags": [{**FLAG, "offset": COUNT - 1}]}, "proven numbers"),
        ({"flags": [{**FLAG, "count": 3}]}, "proven numbers"),
        ({"flags": [{**FLAG, "above": float("nan")}]}, "finite"),
        ({"flags": [FLAG, FLAG]}, "share a place"),
        ({"flags": [{**FLAG, "pointer": "/r/a/x"}]}, "share a place"),
        ({"flags": [{**FLAG, "pointer": "x"}]}, "pointer"),
        ({"flags": [{**FLAG, "count": 0}]}, "count"),
    ],
    ids=str,
)
def test_a_manifest_says_which_features_and_flags(changes: dict[str, Any], message: str) -> None:
    """Features of another name or number, and flags about anything but outputs, are refused."""
    with pytest.raises(PolicyError, match=message):
        parse_manifest("m", toml(**changes))
