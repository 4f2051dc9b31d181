"""Tokens spell the text, or the evidence is about another answer."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.verify.proofs.spelling import Spelling, position_texts, spelling, stops_of
from gateway.verify.proofs.tokens import Position

SAME, DIFFERS, UNKNOWN = Spelling.SAME, Spelling.DIFFERS, Spelling.UNKNOWN
THINK = ["<think>", "\n", "so", " be it", "\n</think>\n\n", "Yes", "."]


def chat(content: object, **more: Any) -> dict[str, Any]:
    return {"message": {"content": content} | more}


@pytest.mark.parametrize(
    ("texts", "choice", "expected"),
    [
        (["I", " am"], chat("I am"), SAME),
        (["I", " am", "<|im_end|>"], chat("I am"), SAME),
        (["I", " am", "</s>"], chat("I am"), SAME),
        (["<b>"], chat("<b>"), SAME),
        (["I", " am"], {"text": "I am"}, SAME),
        ([], chat(""), SAME),
        (["10", "0"], chat("10"), DIFFERS),
        (["do", " not"], chat("do"), DIFFERS),
        (["I", " am"], chat("I am not"), DIFFERS),
        (["I", " am"], chat(" I am"), DIFFERS),
        (["I", "</s>", "</s>"], chat("I"), DIFFERS),
        ([], chat("x"), DIFFERS),
        (["I", "\ufffd"], chat("I 🙂"), UNKNOWN),
        (["I"], chat(None), UNKNOWN),
        (["I"], chat(5), UNKNOWN),
        (["I"], {}, UNKNOWN),
        (["I"], {"text": None}, UNKNOWN),
        (["I"], chat("I", reasoning=5), UNKNOWN),
        (THINK, chat("Yes.", reasoning_content="so be it"), SAME),
        (THINK, chat("\n\nYes.", reasoning="so be it\n"), SAME),
        ([*THINK, "<|im_end|>"], chat("Yes.", reasoning_content="so be it"), SAME),
        (THINK, chat("Yes."), DIFFERS),
        (THINK, chat("Yes.", reasoning_content="so be"), DIFFERS),
        (THINK, chat(".", reasoning_content="so be it"), DIFFERS),
        (THINK, chat("Yes", reasoning_content="so be it"), DIFFERS),
        (THINK, chat("No.", reasoning_content="so be it"), DIFFERS),
        (THINK, chat("Yes.", reasoning_content="be it"), DIFFERS),
        (THINK, chat("so", reasoning_content="be it"), DIFFERS),
        (THINK, chat("Yes.", reasoning_content="never"), DIFFERS),
        (THINK, chat("Yes.", reasoning_content="so be it", reasoning="so be it"), SAME),
        (THINK, chat("Yes.", reasoning_content="so be it", reasoning="never"), DIFFERS),
        (["I", " am"], chat("I am", role="assistant", refusal=None, annotations=[], audio=None, tool_calls=[]), SAME),
        (["I", " am"], chat("I am", refusal="I will not say."), UNKNOWN),
        (["I", " am"], chat("I am", audio={"transcript": "I am not"}), UNKNOWN),
        (["I", " am"], chat("I am", reasoning_details=[{"text": "I am not"}]), UNKNOWN),
        (["I", " am"], chat("I am") | {"text": "I am not"}, DIFFERS),
        (["I", " am"], chat("I am") | {"text": None}, SAME),
    ],
)
def test_spelling(texts: list[str], choice: dict[str, Any], expected: Spelling) -> None:
    """The tokens are the text, less one stop token, with reasoning before it; nothing else may be left out or added."""
    assert spelling(texts, choice) is expected


def test_bytes_make_characters_whole() -> None:
    """Where every token tells its bytes, a character in pieces is put together; where one does not, it is unknown."""
    pieces = [Position("\ufffd", -0.1, {}, b"\xf0\x9f"), Position("\ufffd", -0.1, {}, b"\x99\x82")]
    assert position_texts(pieces) == ["\U0001f642"]
    assert spelling(position_texts(pieces), chat("\U0001f642")) is SAME
    blind = [pieces[0], Position("\ufffd", -0.1, {})]
    assert spelling(position_texts(blind), chat("\U0001f642")) is UNKNOWN
    assert position_texts([Position("a", 0, {}, b"a"), Position("</s>", 0, {}, b"</s>")]) == ["a", "</s>"]
    assert position_texts([]) == []


@pytest.mark.parametrize(
    ("texts", "content", "stops", "expected"),
    [
        (["a", " b", " the"], "a b", (" the",), SAME),
        (["a", " b", " the"], "a b ", ("the",), SAME),
        (["all", "ey", ".", " One"], "alley", ("x", ". "), SAME),  # the last token completes the stop and goes on
        (["a", " b;", "c"], "a b;", (";",), DIFFERS),  # the stop came before the last token
        (["a", " b;c"], "a b;", (";",), SAME),  # a server that was asked to leave it in
        (["a", " the", " b"], "a", (" the",), DIFFERS),
        (["a", " b", " the"], "a", (" the",), DIFFERS),
        (["a", " b"], "a", (), DIFFERS),
        ([], "a", ("a",), DIFFERS),
        (["10", "0"], "10", ("0",), DIFFERS),  # a server that stops at 0 would have stopped at the first
        (["1", "0"], "1", ("0",), SAME),
    ],
)
def test_a_text_ends_at_its_stop(texts: list[str], content: str, stops: tuple[str, ...], expected: Spelling) -> None:
    """A text may lack one of the request's stop strings, if the last token completes it."""
    assert spelling(texts, chat(content), stops) is expected
    assert spelling(texts, {"text": content}, stops) is expected


@pytest.mark.parametrize(
    ("content", "reasoning"), [("pay the bill.", "Do not"), ("", "Do not pay the bill."), ("bill.", "Do not pay the")]
)
def test_an_answer_cannot_be_cut_into_reasoning_and_another(content: str, reasoning: str) -> None:
    """Without the tag that ends reasoning, a node could move any beginning of its answer out of an agent's sight."""
    tokens = ["Do", " not", " pay", " the", " bill", "."]
    assert spelling(tokens, chat(content, reasoning_content=reasoning)) is UNKNOWN
    assert spelling([*tokens, "<|im_end|>"], chat(content, reasoning_content=reasoning)) is UNKNOWN


def test_a_stop_string_lets_no_reasoning_through() -> None:
    """A text that ends at its stop string is the whole of what the tokens spell: reasoning beside it is another text."""
    assert spelling(["one", " END"], chat("one ", reasoning="No. Do not."), ("END",)) is DIFFERS


@pytest.mark.parametrize(
    ("stop", "expected"),
    [(None, ()), ("a", ("a",)), ("", ()), (["a", "", 5, "b"], ("a", "b")), ({}, ()), (["a"] * 99, ("a",) * 64)],
)
def test_stops(stop: object, expected: tuple[str, ...]) -> None:
    """One text, or a list of some; anything else is none."""
    assert stops_of({"stop": stop}) == expected
