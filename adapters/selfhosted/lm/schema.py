"""Values that keep to a JSON Schema, chosen by the model among what the conversation offers.

The schema fixes the shape; wherever it leaves a choice, the candidates (words and spans of the user's text, its
numbers, an enum's members) are ranked by the probability that the model gives them at that place. `conforms` then
checks the whole value again, so what leaves is valid or there is an error that says why not.

Understood: type, enum, const, default, examples, properties, required, additionalProperties (false), items,
prefixItems, minItems, maxItems, uniqueItems, minLength, maxLength, minimum, maximum and their exclusive forms,
multipleOf, pattern, format, anyOf, oneOf, allOf, local $ref. What is not understood does not constrain.
"""

# ruff: noqa: SIM905 - word lists read better as text
from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gateway.errors import BadRequest

Schema = dict[str, Any]
Rank = Callable[[str, Sequence[str]], list[float]]  #: (JSON text so far, candidate JSON texts) -> log probabilities
Write = Callable[[str], str]  #: free text for a property of this name

_DEPTH = 12
_WORD = re.compile(r"\w[\w.\-/@:+']*")
_QUOTED = re.compile(r"\"([^\"\n]{1,200})\"|'([^'\n]{2,200})'(?!\w)|`([^`\n]{1,200})`")
_NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?")
_WORDS_FOR_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_EMPTY = frozenset(
    "a an the is are was be of to in on at and or it its this that for with by from as what how do does did i you me "
    "my we please use call tool function can could would will tell show give get find about today now using there "
    "here".split()
)
_PROSE = frozenset(
    "answer text message content response reply summary explanation reason reasoning thought body".split()
)
_SAMPLES = {
    "date": ("2026-01-01", r"\d{4}-\d{2}-\d{2}"),
    "date-time": ("2026-01-01T00:00:00Z", r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d+)?(?:Z|[+-]\d{2}:\d{2})"),
    "time": ("12:00:00Z", r"\d{2}:\d{2}:\d{2}(?:Z|[+-]\d{2}:\d{2})"),
    "email": ("user@example.com", r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    "uri": ("https://example.com/", r"https?://[^\s\"<>]+"),
    "uuid": ("00000000-0000-4000-8000-000000000000", r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"),
    "ipv4": ("192.0.2.1", r"(?:\d{1,3}\.){3}\d{1,3}"),
}


class Unsatisfiable(BadRequest):
    """No value that this model can think of keeps to the schema; the message names the place."""


class Builder:
    """Builds values for one conversation. `text` is what the user said last; the words in `name` only call the tool."""

    def __init__(self, text: str, rank: Rank, write: Write | None = None, name: str = "") -> None:
        self._text = text[-4000:]
        self._name = frozenset(words(name))
        self._rank = rank
        self._write = write
        self._root: Schema = {}
        self._used: set[str] = set()

    def build(self, schema: Schema) -> Any:
        """A value for `schema`. Raises `Unsatisfiable`."""
        self._root, self._used = schema, set()
        value = self._value(schema, "", "$", 0)
        if not conforms(value, schema):
            raise Unsatisfiable("no value was found that keeps to the schema", param="$")
        return value

    def _value(self, schema: Any, so_far: str, path: str, depth: int) -> Any:
        schema = resolve(schema, self._root)
        if depth > _DEPTH:
            raise Unsatisfiable(f"{path}: the schema nests too deep", param=path)
        if "const" in schema:
            return schema["const"]
        if isinstance(schema.get("enum"), list) and schema["enum"]:
            return self._enum(schema["enum"], so_far)
        for word in ("anyOf", "oneOf"):
            if isinstance(schema.get(word), list) and schema[word]:
                return self._branch(schema, word, so_far, path, depth)
        match _type(schema):
            case "object":
                return self._object(schema, so_far, path, depth)
            case "array":
                return self._array(schema, so_far, path, depth)
            case "string":
                return self._string(schema, so_far, path)
            case "integer" | "number" as kind:
                return self._number(schema, kind == "integer", so_far, path)
            case "boolean":
                return (
                    schema["default"] if isinstance(schema.get("default"), bool) else self._best([True, False], so_far)
                )
            case _:
                return None

    def _branch(self, schema: Schema, word: str, so_far: str, path: str, depth: int) -> Any:
        rest = {k: v for k, v in schema.items() if k != word}
        options = [merge(rest, resolve(option, self._root)) for option in schema[word]]
        for option in sorted(options, key=lambda o: _type(o) == "null"):
            try:
                value = self._value(option, so_far, path, depth + 1)
            except Unsatisfiable:
                continue
            if conforms(value, option, self._root):
                return value
        raise Unsatisfiable(f"{path}: no branch of {word} could be met", param=path)

    def _object(self, schema: Schema, so_far: str, path: str, depth: int) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        required = [n for n in schema.get("required") or () if isinstance(n, str)]
        names = [n for n in properties if n in required or self._mentioned(n, properties[n])]
        names += [n for n in required if n not in names]
        if not names and properties:
            names = [next(iter(properties))]
        made: dict[str, Any] = {}
        so_far += "{"
        for name in names:
            here = so_far + (", " if made else "") + json.dumps(name, ensure_ascii=False) + ": "
            try:
                made[name] = self._value(properties.get(name, {"type": "string"}), here, f"{path}.{name}", depth + 1)
            except Unsatisfiable:
                if name in required:
                    raise
                continue
            so_far = here + dumps(made[name])
        return made

    def _mentioned(self, name: str, schema: Any) -> bool:
        """Whether the user seems to speak of an optional property."""
        said = set(words(self._text))
        options = schema.get("enum") if isinstance(schema, dict) else None
        if isinstance(options, list) and any(isinstance(o, str) and set(words(o)) <= said for o in options if o):
            return True
        parts = [w for w in words(name) if w not in _EMPTY]
        return bool(parts) and all(p in said for p in parts)

    def _array(self, schema: Schema, so_far: str, path: str, depth: int) -> list[Any]:
        front = schema.get("prefixItems") or []
        least, most = int(schema.get("minItems", 0)), int(schema.get("maxItems", 64))
        count = min(max(least, len(front), 1), most)
        made: list[Any] = []
        for i in range(min(count, 64)):
            item = front[i] if i < len(front) else schema.get("items", {"type": "string"})
            here = so_far + "[" + "".join(dumps(m) + ", " for m in made)
            made.append(self._value(item, here, f"{path}[{i}]", depth + 1))
        return made

    def _enum(self, options: list[Any], so_far: str) -> Any:
        said = set(words(self._text))
        named = [o for o in options if isinstance(o, str) and o and set(words(o)) <= said]
        return self._best(named or options, so_far)

    def _best(self, options: list[Any], so_far: str, later_costs: float = 0.0) -> Any:
        if len(options) == 1:
            return options[0]
        ranked = self._rank(so_far, [dumps(o) for o in options])
        scores = [score - later_costs * number for number, score in enumerate(ranked)]
        return options[scores.index(max(scores))]

    def _string(self, schema: Schema, so_far: str, path: str) -> str:
        name = path.rpartition(".")[2]
        if self._write is not None and name in _PROSE and conforms(written := self._write(name), schema):
            return written
        options = [c for c in self._candidates(schema) if conforms(c, schema)]
        if options:
            scores = self._rank(so_far, [dumps(o) for o in options])
            scores = [s - 6 * (o in self._used) for s, o in zip(scores, options, strict=True)]
            best = options[scores.index(max(scores))]
            self._used.add(best)
            return best
        least = int(schema.get("minLength", 0))
        sample = _SAMPLES.get(schema.get("format", ""), (None,))[0]
        examples = _list(schema.get("examples"))
        spare = [schema.get("default"), *examples, sample, name, "unknown", "a" * least, "1" * least, ""]
        for value in spare:
            if isinstance(value, str) and conforms(value, schema):
                return value
        raise Unsatisfiable(f"{path}: no text was found for this schema", param=path)

    def _candidates(self, schema: Schema) -> list[str]:
        """Spans of the user's text, best kinds first: of the format, quoted, then runs of up to four words."""
        if schema.get("format") in _SAMPLES:
            return re.findall(_SAMPLES[schema["format"]][1], self._text)[:16]
        quoted = [next(g for g in m.groups() if g) for m in _QUOTED.finditer(self._text)]
        if quoted:
            return quoted[:32]
        found = spans(self._text, 48)
        return [s for s in found if not self._name & {words(s)[0], words(s)[-1]}] or found

    def _number(self, schema: Schema, whole: bool, so_far: str, path: str) -> int | float:
        options: list[int | float] = []
        for text in _NUMBER.findall(self._text)[:16]:
            options.append(int(text) if "." not in text else float(text))
        options += [_WORDS_FOR_NUMBERS.index(w) for w in words(self._text) if w in _WORDS_FOR_NUMBERS]
        fitting = [o for o in dict.fromkeys(options) if conforms(o, schema)]
        unused = [o for o in fitting if str(o) not in self._used]
        if fitting:
            best: int | float = self._best(unused or fitting, so_far, 4.0)  # numbers mostly come in the order of use
            self._used.add(str(best))
            return best
        low, high = (
            schema.get("minimum", schema.get("exclusiveMinimum")),
            schema.get("maximum", schema.get("exclusiveMaximum")),
        )
        step = schema.get("multipleOf", 1)
        spare = [schema.get("default"), *_list(schema.get("examples")), 1, 0, low, high]
        if isinstance(low, int | float):
            spare += [math.floor(low) + 1, math.floor(low / step) * step + step, low + 0.5]
        if isinstance(high, int | float):
            spare += [math.ceil(high) - 1, math.ceil(high / step) * step - step, high - 0.5]
        for value in spare:
            if isinstance(value, int | float) and not isinstance(value, bool):
                fixed = int(value) if whole and value == int(value) else value
                if conforms(fixed, schema):
                    return fixed
        raise Unsatisfiable(f"{path}: no number was found for this schema", param=path)


def spans(text: str, limit: int) -> list[str]:
    """Runs of one to four words of the last sentences of `text` that neither begin nor end with an empty word."""
    found = [(m.start(), m.start() + len(m.group().rstrip(".:'-/")), m.group()) for m in _WORD.finditer(text[-600:])]
    base = text[-600:]
    out: list[str] = []
    for size in (1, 2, 3, 4):
        for i in range(len(found) - size + 1):
            start, end = found[i][0], found[i + size - 1][1]
            span = base[start:end]
            ends = (words(found[i][2]), words(found[i + size - 1][2]))
            if any(not w or w[0] in _EMPTY for w in ends) or re.search(r"[.!?;\n]\s", span):
                continue
            out.append(span)
    return list(dict.fromkeys(out))[-limit:]


def words(text: str) -> list[str]:
    """The words of a text or of an identifier (`get_userName` -> get, user, name), in lower case."""
    return [w.lower() for w in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\dA-Z_]+|\d+", text)]


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def resolve(schema: Any, root: Schema) -> Schema:
    """`schema` with its local `$ref` followed and `allOf` folded in. `True` and unknown references allow anything."""
    for _ in range(_DEPTH):
        if not isinstance(schema, dict):
            return {}
        reference = schema.get("$ref")
        if isinstance(reference, str) and reference.startswith("#"):
            target: Any = root
            for part in filter(None, reference[1:].split("/")):
                target = target.get(part.replace("~1", "/").replace("~0", "~"), {}) if isinstance(target, dict) else {}
            schema = merge({k: v for k, v in schema.items() if k != "$ref"}, target if isinstance(target, dict) else {})
        elif isinstance(schema.get("allOf"), list):
            folded = {k: v for k, v in schema.items() if k != "allOf"}
            for part in schema["allOf"]:
                folded = merge(folded, resolve(part, root))
            schema = folded
        else:
            return schema
    raise Unsatisfiable("the schema's references form a circle", param="$ref")


def merge(one: Schema, other: Schema) -> Schema:
    """Both schemas at once, for the words that add up; `other` wins where they do not."""
    both = {**one, **other}
    if "properties" in one and "properties" in other:
        both["properties"] = {**one["properties"], **other["properties"]}
    if "required" in one and "required" in other:
        both["required"] = [*one["required"], *(n for n in other["required"] if n not in one["required"])]
    return both


def _type(schema: Schema) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((k for k in kind if k != "null"), "null")
    if isinstance(kind, str):
        return kind
    if "properties" in schema or "required" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    return "number" if {"minimum", "maximum", "multipleOf"} & schema.keys() else "string"


_IS: dict[str, Callable[[Any], bool]] = {
    "object": lambda v: isinstance(v, dict),
    "array": lambda v: isinstance(v, list),
    "string": lambda v: isinstance(v, str),
    "boolean": lambda v: isinstance(v, bool),
    "null": lambda v: v is None,
    "integer": lambda v: (isinstance(v, int) and not isinstance(v, bool)) or (isinstance(v, float) and v.is_integer()),
    "number": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
}


def conforms(value: Any, schema: Any, root: Schema | None = None) -> bool:
    """Whether `value` keeps to the words of `schema` that this module understands."""
    root = schema if root is None and isinstance(schema, dict) else root or {}
    if schema is False:
        return False
    schema = resolve(schema, root)
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_IS.get(k, lambda v: True)(value) for k in kinds):
        return False
    if ("const" in schema and value != schema["const"]) or ("enum" in schema and value not in schema["enum"]):
        return False
    if isinstance(schema.get("anyOf"), list) and not any(conforms(value, s, root) for s in schema["anyOf"]):
        return False
    if isinstance(schema.get("oneOf"), list) and sum(conforms(value, s, root) for s in schema["oneOf"]) != 1:
        return False
    if isinstance(value, str):
        return _string_fits(value, schema)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number_fits(value, schema)
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        if any(name not in value for name in schema.get("required") or ()):
            return False
        if schema.get("additionalProperties") is False and any(name not in properties for name in value):
            return False
        return all(conforms(v, properties[k], root) for k, v in value.items() if k in properties)
    if isinstance(value, list):
        front = schema.get("prefixItems") or []
        items = [*front, *[schema.get("items", {})] * max(0, len(value) - len(front))]
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            return False
        if schema.get("uniqueItems") and len({dumps(v) for v in value}) < len(value):
            return False
        return all(conforms(v, s, root) for v, s in zip(value, items, strict=False))
    return True


def _string_fits(value: str, schema: Schema) -> bool:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        return False
    if schema.get("format") in _SAMPLES and re.fullmatch(_SAMPLES[schema["format"]][1], value) is None:
        return False
    pattern = schema.get("pattern")
    if not isinstance(pattern, str):
        return True
    if len(value) > 256 or len(pattern) > 256 or re.search(r"[+*}]\)?[+*{]|\|.*\)[+*{]|[+*].*\)[+*{]", pattern):
        # A caller's pattern could cost exponential time; one that might is not tried.
        raise Unsatisfiable("this pattern is too costly to try", param="pattern")
    try:
        return re.search(pattern, value) is not None
    except re.error:
        raise Unsatisfiable("a pattern is not a regular expression", param="pattern") from None


def _number_fits(value: int | float, schema: Schema) -> bool:
    step = schema.get("multipleOf")
    return (
        value >= schema.get("minimum", value)
        and value <= schema.get("maximum", value)
        and ("exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"])
        and ("exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"])
        and (not step or math.isclose(value / step, round(value / step), abs_tol=1e-9))
    )


def _list(value: Any) -> Iterable[Any]:
    return value if isinstance(value, list) else ()
