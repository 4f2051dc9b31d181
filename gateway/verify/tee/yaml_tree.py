"""YAML from outside, as a bounded tree of text: nothing is constructed, expanded or resolved.

PyYAML's parser gives a flat stream of events; the tree is built from it here, with a stack of our own. An alias is a
second reference to the same node, never a copy, so that ten lines of aliases cost ten lines ("billion laughs"). Nodes
carry text only: no tag is looked up, no type guessed, no object made.

What two YAML readers could see differently is refused: a key twice in one mapping, keys that are no text, tags,
directives, several documents, a quoted merge key, an alias into the node that it stands in, an anchor twice, line
breaks of YAML 1.1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import yaml  # type: ignore[import-untyped]

from gateway.errors import FormatError
from gateway.text import plain

MAX_BYTES = 128 * 1024
MAX_DEPTH = 32
MAX_NODES = 20_000
MAX_MERGED = 50_000
MERGE = "<<"

#: Line breaks in YAML 1.1 and letters in 1.2, and the mark that may begin a stream and means something else inside one.
_AMBIGUOUS = ("\x85", "\u2028", "\u2029", "\ufeff")

#: libyaml's parser where PyYAML was built with it; the other one is the same grammar in Python, 20 times slower.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Scalar(msgspec.Struct, frozen=True):
    """A text, as written. `plain` is true when it stood without quotes."""

    value: str
    plain: bool


class Sequence(msgspec.Struct, frozen=True, eq=False):
    items: list[Node]


class Mapping(msgspec.Struct, frozen=True, eq=False):
    pairs: dict[str, Node]


Node = Scalar | Sequence | Mapping
_NULL = Scalar("", True)


class _Open:
    """A collection that is being read: its node, its anchor, and the key that waits for a value."""

    __slots__ = ("anchor", "key", "node")

    def __init__(self, node: Sequence | Mapping, anchor: str | None) -> None:
        self.node, self.anchor = node, anchor
        self.key: str | None = None

    def add(self, child: Node) -> None:
        if isinstance(self.node, Sequence):
            self.node.items.append(child)
        elif self.key is None:
            self.key = self._new_key(child)
        else:
            self.node.pairs[self.key] = child
            self.key = None

    def _new_key(self, child: Node) -> str:
        if not isinstance(child, Scalar) or child == _NULL:
            raise FormatError("YAML has a key that is no text")
        if child.value == MERGE and not child.plain:
            raise FormatError("YAML has a quoted merge key")
        if isinstance(self.node, Mapping) and child.value in self.node.pairs:
            raise FormatError(f"YAML has the key {plain(child.value, 40)} twice in one mapping")
        return child.value


def read_yaml(text: str) -> Node:
    """The one document in `text`. Raises `FormatError` for anything beyond the limits and rules above."""
    size = len(text.encode(errors="surrogatepass"))
    if size > MAX_BYTES:
        raise FormatError(f"YAML of {size} bytes is over the limit of {MAX_BYTES}")
    if any(mark in text for mark in _AMBIGUOUS):
        raise FormatError("YAML has a line break or byte order mark that readers take differently")
    try:
        return _build(yaml.parse(text, Loader=_LOADER))
    except yaml.YAMLError as error:
        raise FormatError(f"YAML is malformed: {plain(str(error), 80)}") from None
    except UnicodeEncodeError:
        raise FormatError("YAML has a lone surrogate") from None


def _build(events: Iterator[Any]) -> Node:
    documents: list[Node] = []
    stack: list[_Open] = []
    anchors: dict[str, Node] = {}
    nodes = 0
    for event in events:
        done: Node
        anchor: str | None = None
        if isinstance(event, yaml.ScalarEvent):
            _refuse_tag(event)
            done, anchor = Scalar(event.value, event.style is None or event.style == ""), event.anchor
        elif isinstance(event, yaml.AliasEvent):
            done = _named(anchors, event.anchor)
        elif isinstance(event, yaml.CollectionStartEvent):
            _refuse_tag(event)
            node: Sequence | Mapping = Mapping({}) if isinstance(event, yaml.MappingStartEvent) else Sequence([])
            stack.append(_Open(node, event.anchor))
            if len(stack) > MAX_DEPTH:
                raise FormatError(f"YAML is nested deeper than {MAX_DEPTH} levels")
            continue
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = stack.pop()
            done, anchor = closed.node, closed.anchor
        else:
            _refuse_directives(event)
            continue
        nodes += 1
        if nodes > MAX_NODES:
            raise FormatError(f"YAML has more than {MAX_NODES} nodes")
        if anchor is not None:  # known only once it is complete, so that no node can hold itself
            if anchor in anchors:
                raise FormatError("YAML names two nodes alike")
            anchors[anchor] = done
        if stack:
            stack[-1].add(done)
        else:
            documents.append(done)
    if len(documents) != 1:
        raise FormatError("YAML holds no document, or several")
    return documents[0]


def _named(anchors: dict[str, Node], anchor: str) -> Node:
    if anchor not in anchors:
        raise FormatError("YAML has an alias to nothing, or to the node that it stands in")
    return anchors[anchor]


def _refuse_tag(event: Any) -> None:
    if event.tag is not None:
        raise FormatError("YAML has a tag")


def _refuse_directives(event: Any) -> None:
    if isinstance(event, yaml.DocumentStartEvent) and (event.version is not None or event.tags):
        raise FormatError("YAML has a directive")


class Merger:
    """Applies merge keys to the mappings of one tree, each once. The tree must outlive it.

    Copying is linear in what is merged, and an alias can name the same large mapping thousands of times, so the pairs
    that one tree may copy are counted.
    """

    __slots__ = ("_copied", "_done")

    def __init__(self) -> None:
        self._done: dict[int, dict[str, Node]] = {}
        self._copied = 0

    def pairs(self, mapping: Mapping, depth: int = 0) -> dict[str, Node]:
        """The pairs with the merge key applied: what stands in the mapping wins, then the first of a list.

        Raises `FormatError` for a merge with anything but mappings, or beyond the limits.
        """
        if id(mapping) in self._done:
            return self._done[id(mapping)]
        if depth > MAX_DEPTH:
            raise FormatError("YAML merges too deep")
        found = {key: node for key, node in mapping.pairs.items() if key != MERGE}
        for node in _sources(mapping.pairs.get(MERGE)):
            if not isinstance(node, Mapping):
                raise FormatError("YAML merges something that is no mapping")
            more = self.pairs(node, depth + 1)
            self._copied += len(more) + 1
            if self._copied > MAX_MERGED:
                raise FormatError(f"YAML merges more than {MAX_MERGED} pairs")
            for key, value in more.items():
                found.setdefault(key, value)
        self._done[id(mapping)] = found
        return found


def _sources(node: Node | None) -> list[Node]:
    if isinstance(node, Sequence):
        return node.items
    return [] if node is None else [node]
