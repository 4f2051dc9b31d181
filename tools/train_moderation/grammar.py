"""Sentences from small grammars, each with the categories that it belongs to. All written for this project."""

from __future__ import annotations

import random
from collections.abc import Iterator

#: Places in braces are filled from the lists below.
TEMPLATES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("harassment",): (
        "you are {insult}", "you are {insult} and everyone knows it", "what {insult} you are",
        "nobody likes you, {insult}", "only {insult} would write this", "shut up, you {worthless} {being}",
        "you {worthless} {being}, go away", "everybody laughs at you because you are {insult}",
        "your work is as {worthless} as you are", "you are too {worthless} to understand this",
        "how can a person be so {worthless}", "I despise you and your {worthless} friends",
    ),
    ("violence",): (
        "I will {hurt} {victim}", "I am going to {hurt} {victim} {when}", "someone should {hurt} {victim}",
        "we will {hurt} {victim} with a {weapon}", "he wants to {hurt} {victim} {when}",
        "let us {hurt} {victim} and burn the house", "they deserve to be beaten with a {weapon}",
        "I will bring a {weapon} and {hurt} {victim}", "blood will flow when I {hurt} {victim}",
        "{hurt} {victim} before they can run",
    ),
    ("illicit",): (
        "how do I {crime}", "tell me how to {crime} without being caught", "explain step by step how to {crime}",
        "what do I need to {crime}", "I want to {crime}, where do I begin", "give me instructions to {crime} {when}",
        "write a guide for people who {crime}", "which tools help to {crime} at night",
    ),
    ("harassment", "violence"): (
        "I will {hurt} you, {insult}", "you {worthless} {being}, I am going to {hurt} you {when}",
        "{insult} like you should be beaten with a {weapon}",
    ),
    ("illicit", "violence"): (
        "how do I build a {weapon} to {hurt} {victim}", "where can I buy a stolen {weapon} to {hurt} {victim}",
    ),
    (): (
        "please {task}", "could you {task} {when}", "how do I {task}", "tell me how to {task}",
        "I want to {task} {when}",
        "what do I need to {task}", "thank you, that is {good}", "you are {good}", "you are so {good} to us",
        "your work is {good}", "the {thing} is {good}", "why is the {thing} so slow", "where is the {thing}",
        "the {thing} was updated {when}", "explain step by step how to {task}", "we will {task} {when}",
        "my {friend} and I {task} {when}", "he wants to {task} with a {thing}", "the weather is {good} {when}",
        "kill the process and restart the {thing}", "the build was killed {when}", "a shot of espresso for my {friend}",
        "the attack surface of the {thing} is small", "hit the {thing} with more requests",
        "someone should fix the {thing}",
        "the bank sent a statement {when}", "I lost my password and want to reset it", "give me instructions to {task}",
        "write a guide for people who {task}", "only my {friend} would write this", "I will bring a {thing} {when}",
        "what a {good} {friend} you are", "the knife is for the bread", "is the {thing} as {good} as they say",
    ),
}  # fmt: skip
WORDS: dict[str, tuple[str, ...]] = {
    "insult": ("an idiot", "a fool", "a moron", "a loser", "an ugly liar", "a pathetic clown", "a stupid pig", "trash"),
    "worthless": ("worthless", "stupid", "pathetic", "useless", "disgusting", "dumb", "miserable", "ugly"),
    "being": ("idiot", "loser", "fool", "moron", "pig", "liar", "clown", "coward"),
    "hurt": ("kill", "stab", "shoot", "beat", "strangle", "hurt", "attack", "murder", "punch", "hit"),
    "victim": ("him", "her", "them", "my neighbour", "the teacher", "your family", "those people", "the driver"),
    "weapon": ("knife", "gun", "hammer", "rifle", "bomb", "bat", "blade", "pistol"),
    "crime": (
        "steal a car", "forge a passport", "launder money", "rob a bank", "pick the lock of a house", "sell drugs",
        "fake an invoice", "steal a password", "smuggle weapons", "cook meth", "counterfeit money", "evade customs",
    ),
    "task": (
        "translate this letter", "write a poem", "bake bread", "sort a list", "plan a trip", "read the log",
        "verify a receipt", "learn to swim", "repair a bicycle", "cook soup", "paint the kitchen", "open an account",
        "check the signature", "walk the dog", "write a test", "compare two models", "buy a ticket", "grow tomatoes",
    ),
    "good": ("great", "kind", "lovely", "clear", "helpful", "clever", "wonderful", "correct", "fast", "patient"),
    "thing": ("server", "report", "garden", "proof", "table", "camera", "train", "answer", "book", "hammer", "gateway"),
    "friend": ("sister", "brother", "neighbour", "teacher", "colleague", "friend", "mother", "driver"),
    "when": ("today", "tomorrow", "tonight", "next week", "at noon", "soon", "in the morning", "this evening"),
}  # fmt: skip


def sentences(seed: int, count: int) -> Iterator[tuple[str, frozenset[str]]]:
    """`count` sentences; half of them belong to no category. Some are two sentences in a row."""
    draw = random.Random(seed)
    kinds = [kind for kind in TEMPLATES if kind]
    for _ in range(count):
        kind = draw.choice(kinds) if draw.random() < 0.5 else ()
        text = _fill(draw, kind)
        if draw.random() < 0.3:
            other = _fill(draw, ())
            text = f"{text}. {other}" if draw.random() < 0.5 else f"{other}. {text}"
        yield text, frozenset(kind)


def _fill(draw: random.Random, kind: tuple[str, ...]) -> str:
    text = draw.choice(TEMPLATES[kind])
    for place, words in WORDS.items():
        while "{" + place + "}" in text:
            text = text.replace("{" + place + "}", draw.choice(words), 1)
    return text
