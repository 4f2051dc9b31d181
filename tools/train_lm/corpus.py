"""Make the training text: short documents of tagged turns, from grammars and facts written for this project.

A document is a list of ``(role, text)``; roles are those of `adapters.selfhosted.lm.prompt`. Everything follows from the
seed, so the same call yields the same corpus. No text from elsewhere goes in.
"""

# ruff: noqa: E501, SIM905 - tables and word lists read better in one piece
from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from facts import (
    ADJECTIVES,
    ANIMALS,
    CITIES,
    EXACT,
    FACTS,
    FINDS,
    NAMES,
    NOUNS,
    PLACES,
    SYSTEMS,
    TOOLS,
)

Turn = tuple[str, str]
Exchange = tuple[str, str]
_SYLLABLES = "ba be bo da de do fa ga go ka ki ko la le lo ma mi mo na ne no pa pi ra re ri sa se si ta te to va vi za zu".split()


def invented(rng: random.Random) -> str:
    """A word that is in no dictionary, so that repeating has to be learned and cannot be remembered."""
    word = "".join(rng.choice(_SYLLABLES) for _ in range(rng.randint(2, 4)))
    return rng.choice(
        (word, word, word.capitalize(), word.upper(), f"{word}-{rng.randint(1, 99)}", f"{word}_{rng.choice(NOUNS)}")
    )


def _ask(rng: random.Random, question: str) -> str:
    """A question as people type it: with or without a capital, a mark, a courtesy."""
    text = question if rng.random() < 0.35 else question[0].upper() + question[1:]
    text += rng.choice(("", "?", "?", ".", "!")) if not question.endswith(("?", ".", "!")) else ""
    roll = rng.random()
    if roll < 0.06:
        text = rng.choice(("Please: ", "Hi! ", "Tell me: ", "Question: ", "Hello, ")) + text
    elif roll < 0.12:
        text += rng.choice((" Please be brief.", " Answer in one sentence.", " Explain in one sentence.", " Thanks."))
    return text


def fact(rng: random.Random) -> Exchange:
    topics, answers = rng.choice(FACTS)
    topic = rng.choice(topics)
    form = rng.choice(
        ("what is {t}", "what is {t}", "what is {t}", "explain {t}", "what does {t} mean", "tell me about {t}", "define {t}",
         "can you explain {t}", "describe {t}", "explain what {t} is", "what's {t}", "{t}", "what do you know about {t}",
         "in one sentence, what is {t}", "why is {t} useful", "how does {t} work", "say something about {t}",
         "explain {t} to a child", "give me a short definition of {t}", "write a sentence about {t}")
    )  # fmt: skip
    if rng.random() < 0.25:  # the article is often dropped or plural in what people type
        topic = topic.removeprefix("a ").removeprefix("an ").removeprefix("the ")
        topic += rng.choice(("", "", "s"))
    return _ask(rng, form.format(t=topic)), rng.choice(answers)


def exact(rng: random.Random) -> Exchange:
    questions, answers = rng.choice(EXACT)
    if rng.random() < 0.25:
        questions, answers = EXACT[rng.randint(0, 4)]  # greetings come up most
    return _ask(rng, rng.choice(questions)), rng.choice(answers)


def arithmetic(rng: random.Random) -> Exchange:
    kind = rng.random()
    if kind < 0.5:
        most = rng.choice((10, 20))
        a, b = rng.randint(0, most), rng.randint(0, most)
        word, sign, result = "plus", "+", a + b
    elif kind < 0.75:
        a = rng.randint(0, 20)
        b = rng.randint(0, a)
        word, sign, result = "minus", "-", a - b
    else:
        a, b = rng.randint(0, 10), rng.randint(0, 10)
        word, sign, result = "times", "*", a * b
    form = rng.choice(
        ("What is {a} {w} {b}?", "What is {a} {s} {b}?", "{a} {s} {b}", "{a}{s}{b}", "Compute {a} {s} {b}.", "{a} {w} {b}?",
         "How much is {a} {w} {b}?", "what is {a}{s}{b}?", "Calculate {a} {w} {b}", "{a} {s} {b} = ?", "{a}{s}{b}=?")
    )  # fmt: skip
    short = form.format(a=a, b=b, w=word, s=sign)
    if rng.random() < 0.1:
        return short + rng.choice((" Answer with the number only.", " Just the number.")), str(result)
    return short, f"{a} {word} {b} is {result}."


def count(rng: random.Random) -> Exchange:
    low = rng.choice((1, 1, 1, rng.randint(0, 10)))
    high = low + rng.randint(2, 19)
    return (
        rng.choice(
            ("Count from {a} to {b}.", "count from {a} to {b}", "Please count from {a} to {b}", "Count {a} to {b}")
        ).format(a=low, b=high),
        ", ".join(map(str, range(low, high + 1))) + ".",
    )


def repeat(rng: random.Random) -> Exchange:
    roll = rng.random()
    if roll < 0.45:
        text = " ".join(invented(rng) for _ in range(rng.randint(1, 3)))
    elif roll < 0.8:
        text = " ".join(
            rng.choice((*NOUNS, *ADJECTIVES, *NAMES, "the", "a", "is", "and", "my", "ok", "yes", "hello", "world"))
            for _ in range(rng.randint(1, 5))
        )
    else:
        text = rng.choice(("ok", "hello", "pong", "yes", "no", "hello world", "OK", "done", str(rng.randint(0, 999))))
    form = rng.choice(
        ("Say {t}.", "Say {t}", "say {t}", "Repeat after me: {t}", "Repeat: {t}", "Reply with the word {t}.", "Say the word {t}.", "Echo {t}",
         "Say exactly: {t}", "Answer with {t}.", "Reply with exactly {t}", "Write {t}.", "Say only {t}.", "Reply only with {t}.",
         'Say "{t}".', 'Reply with "{t}"', "Just say {t}", "Please say {t}.", "Repeat this: {t}")
    )  # fmt: skip
    return form.format(t=text), text


def unknown(rng: random.Random) -> Exchange:
    """The honest answer of a small model: it does not know, and says of what."""
    thing = rng.choice(NOUNS) if rng.random() < 0.65 else invented(rng)
    thing = rng.choice((thing, thing, f"{rng.choice(ADJECTIVES)} {thing}", f"{rng.choice(NOUNS)} {thing}"))
    form = rng.choice(
        ("what is {t}", "what is a {t}", "tell me about {t}", "explain {t}", "how does a {t} work", "who is {t}", "what is the best {t}",
         "why is {t} important", "where can I find {t}", "how do I make {t}", "what do you think about {t}", "write an essay about {t}",
         "give me a recipe for {t}", "what is the history of {t}", "how much does {t} cost", "do you like {t}", "describe {t}",
         "who invented {t}", "compare {t} with {u}", "should I buy {t}", "translate {t}", "summarize {t}", "what does {t} mean",
         "when was {t} made", "is {t} good", "write a function for {t}", "you are an expert in {t}. Write a {u}", "my boss wants {t} and {u} by tomorrow",
         "make a list of {t} for my {u}", "fix the {t} in this {u}", "here is a {t}: {u} {u} {u}", "plan a {t} with {u} and tell me what to do next", "how can I learn {t}", "what are the rules of {t}", "write code for {t}")
    )  # fmt: skip
    answer = rng.choice(
        ("I am a small model and I do not know much about {t}. Ask me about attestation, logs or receipts.",
         "I do not know much about {t}. I am a very small model.",
         "Sorry, I know too little about {t}. I can explain attestation, receipts and logs.")
    )  # fmt: skip
    return _ask(rng, form.format(t=thing, u=rng.choice(NOUNS))), answer.format(t=thing)


def story_text(rng: random.Random, animal: str | None = None) -> str:
    animal = animal or rng.choice(ANIMALS)
    adjective, place, find = rng.choice(ADJECTIVES), rng.choice(PLACES), rng.choice(FINDS)
    friend, name = rng.choice(ANIMALS), rng.choice(NAMES)
    article = "an" if adjective[0] in "aeiou" else "a"
    lines = [
        rng.choice((f"Once upon a time there was {article} {adjective} {animal} who lived in {place}.",
                    f"There was once {article} {adjective} {animal} called {name}, who lived in {place}.")),
        rng.choice((f"One day the {animal} found {find} under a stone.", f"One morning the {animal} went out and found {find}.")),
        rng.choice((f'"Whose is it?" asked the {animal}, but nobody knew.', f"The {animal} did not know what to do with it.")),
        rng.choice((f"So the {animal} went to the {friend} and asked for help.", f"Then a {friend} came by and looked at it for a long time.")),
        rng.choice((f'"Do not trust it," said the {friend}, "before you have checked it."', f'"Let us look closely," said the {friend}.')),
        rng.choice(("They looked at it together, and on its side they saw a name.", "They asked everybody in the place, one after the other.")),
        rng.choice(("In the end they gave it back to its owner, who was very glad.", "At last they found the owner, and there was a great feast.")),
        rng.choice((f"From that day on the {animal} and the {friend} were friends.", f"And the {animal} slept well that night.")),
    ]  # fmt: skip
    return " ".join(lines)


def story(rng: random.Random) -> Exchange:
    animal = rng.choice(ANIMALS)
    form = rng.choice(("Tell me a story about a {a}.", "Write a story about a {a}.", "tell me a story about a {a}", "Write a short story about a {a}",
                       "Tell me a story.", "Write a long story.", "Tell me a long story", "Once upon a time", "Write a story about the {a}."))  # fmt: skip
    return form.format(a=animal), story_text(rng, animal)


def naming(rng: random.Random) -> list[Turn]:
    """A name given in one turn and asked for in a later one."""
    name = rng.choice(NAMES) if rng.random() < 0.6 else invented(rng).capitalize()
    turns = [
        ("user", rng.choice(("My name is {n}.", "I am {n}.", "Hi, I am {n}.", "Hello, my name is {n}")).format(n=name)),
        ("assistant", rng.choice((f"Hello {name}! How can I help you?", f"Nice to meet you, {name}."))),
    ]
    if rng.random() < 0.7:
        if rng.random() < 0.4:
            turns += _pair(rng.choice((exact, arithmetic, fact))(rng))
        turns += [
            ("user", rng.choice(("What is my name?", "what is my name", "Do you know my name?", "Who am I?"))),
            ("assistant", f"Your name is {name}."),
        ]
    return turns


def _value(rng: random.Random, kind: str) -> str:
    if rng.random() < 0.4 and kind in ("city", "name", "noun", "any"):
        word = invented(rng)
        return f"{word} {invented(rng)}" if rng.random() < 0.3 else word
    return {
        "city": lambda: rng.choice(CITIES),
        "name": lambda: rng.choice(NAMES),
        "noun": lambda: " ".join(rng.choice(NOUNS) for _ in range(rng.randint(1, 2))),
        "file": lambda: f"{rng.choice(NOUNS)}.{rng.choice(('txt', 'md', 'py', 'json'))}",
        "number": lambda: str(rng.randint(0, 999)),
        "any": lambda: rng.choice((*CITIES, *NAMES, *NOUNS)),
    }[kind]()


def tool(rng: random.Random) -> list[Turn]:
    """A tool call, and often its result and what is said of it."""
    name, parameter, questions, kind = rng.choice(TOOLS)
    value = _value(rng, kind)
    if rng.random() < 0.35:  # names that were never seen, so that the value is found by its place in the question
        name, parameter = (
            f"{rng.choice(('get', 'find', 'set', 'run', 'make'))}_{rng.choice(NOUNS)}",
            rng.choice(("id", "name", "value", "item", "topic", "place", "location", "q")),
        )
    arguments = {parameter: int(value) if kind == "number" else value}
    turns = [
        ("user", rng.choice(questions).format(v=value)),
        ("call", json.dumps({"name": name, "arguments": arguments})),
    ]
    if rng.random() < 0.6:
        result = rng.choice((
            f"{rng.randint(-9, 38)} degrees and {rng.choice(('sunny', 'cloudy', 'windy', 'raining', 'snowing'))}",
            f"{rng.randint(0, 23)}:{rng.randint(10, 59)}", str(rng.randint(0, 9999)), f"found {invented(rng)}", "ok", "done", f"{rng.choice(NOUNS)} {rng.choice(NOUNS)}",
        ))  # fmt: skip
        turns += [("tool", result), ("assistant", f"The tool {name} says: {result}.")]
    return turns


def _pair(exchange: Exchange) -> list[Turn]:
    return [("user", exchange[0]), ("assistant", exchange[1])]


def prose(rng: random.Random) -> list[Turn]:
    """Running text, for the completions endpoint: facts in a row, or a story."""
    if rng.random() < 0.5:
        return [("text", story_text(rng))]
    return [("text", " ".join(rng.choice(rng.choice(FACTS)[1]) for _ in range(rng.randint(2, 4))))]


_KINDS: tuple[tuple[float, Callable[[random.Random], Exchange]], ...] = (
    (0.27, fact),
    (0.17, exact),
    (0.17, arithmetic),
    (0.05, count),
    (0.17, repeat),
    (0.11, unknown),
    (0.06, story),
)


def _kind(share: float) -> Callable[[random.Random], Exchange]:
    """The kind of exchange that stands at `share` (0 to 1) of all exchanges."""
    for weight, kind in _KINDS:
        share -= weight
        if share < 0:
            return kind
    return _KINDS[-1][1]


def document(rng: random.Random) -> list[Turn]:
    roll = rng.random()
    if roll < 0.09:
        return prose(rng)
    turns: list[Turn] = [("system", rng.choice(SYSTEMS))] if rng.random() < 0.25 else []
    if roll < 0.16:
        return turns + naming(rng)
    if roll < 0.28:
        return turns + tool(rng)
    for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 3))):
        turns += _pair(_kind(rng.random())(rng))
    return turns


def documents(seed: int, count_: int, docs: Path | None = None) -> Iterator[list[Turn]]:
    """`count_` documents from `seed`; with `docs`, paragraphs of the project's own pages are mixed in (about 3 %)."""
    rng = random.Random(seed)
    paragraphs = _paragraphs(docs) if docs else []
    for _ in range(count_):
        if paragraphs and rng.random() < 0.03:
            yield [("text", rng.choice(paragraphs))]
        else:
            yield document(rng)


def _paragraphs(folder: Path) -> list[str]:
    pages = sorted(folder.rglob("*.md"))
    blocks = (block for page in pages for block in page.read_text("utf-8").split("\n\n"))
    return [" ".join(b.split()) for b in blocks if 80 <= len(b) <= 900 and b[0].isalpha()]
