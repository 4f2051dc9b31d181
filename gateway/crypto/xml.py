"""XML as signed reference manifests use it: one safe reader, and Canonical XML 1.1 of what it read.

The reader takes elements, attributes, text and namespaces, and refuses the rest by name: a document type (so there are
no entities to expand or fetch), processing instructions, encodings other than UTF-8, `xml:` attributes (which
canonicalisation would inherit), and anything beyond its limits of size, depth and count. Comments are dropped, as
Canonical XML without comments does.

Canonical XML 1.1 (W3C, 2008-05-02) of an element of such a document: namespace declarations in scope that the output's
parent does not already have, sorted by prefix; attributes sorted by namespace and local name; both in full escapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from xml.parsers import expat

from gateway.errors import FormatError

MAX_XML_BYTES = 262_144
MAX_DEPTH = 16
MAX_ELEMENTS = 4096
MAX_ATTRIBUTES = 64
MAX_PREFIXES = 32  # in scope at once: each is looked at again at every element

_ESCAPED_TEXT = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#xD;"}
_ESCAPED_VALUE = {"&": "&amp;", "<": "&lt;", '"': "&quot;", "\t": "&#x9;", "\n": "&#xA;", "\r": "&#xD;"}
_TEXT = re.compile("[&<>\r]")
_VALUE = re.compile('[&<"\t\n\r]')


class Element:
    """One element: `uri` and `local` name it, `attributes` map (uri, local) to a value, `children` hold text too."""

    __slots__ = ("attributes", "children", "local", "prefixes", "qname", "qnames", "uri")

    def __init__(self, qname: str, pairs: list[tuple[str, str]], outer: Mapping[str, str]) -> None:
        self.qname = qname
        self.prefixes = {**outer, **dict(_declarations(pairs))}
        if len(self.prefixes) > MAX_PREFIXES:
            raise FormatError("XML declares too many prefixes")
        prefix, _, local = qname.rpartition(":")
        self.uri, self.local = self._uri(prefix), local
        self.children: list[Element | str] = []
        self.attributes: dict[tuple[str, str], str] = {}
        self.qnames: dict[tuple[str, str], str] = {}
        for name, value in pairs:
            if name != "xmlns" and not name.startswith("xmlns:"):
                self._add(name, value)

    def _add(self, name: str, value: str) -> None:
        prefix, _, local = name.rpartition(":")
        key = (self._uri(prefix) if prefix else "", local)
        if key in self.attributes:
            raise FormatError("XML has an attribute twice on one element")
        self.attributes[key], self.qnames[key] = value, name

    def _uri(self, prefix: str) -> str:
        if prefix not in self.prefixes and prefix:
            raise FormatError("XML has a name whose prefix is not declared")
        return self.prefixes.get(prefix, "")

    def get(self, local: str, uri: str = "") -> str | None:
        """The attribute's value, or None."""
        return self.attributes.get((uri, local))

    def elements(self) -> list[Element]:
        """The child elements, in order."""
        return [child for child in self.children if isinstance(child, Element)]

    def text(self) -> str:
        """The text directly inside."""
        return "".join(child for child in self.children if isinstance(child, str))


def _declarations(pairs: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    for name, value in pairs:
        if name == "xmlns":
            yield "", value
        elif name.startswith("xmlns:"):
            if not value or name in ("xmlns:xml", "xmlns:xmlns"):
                raise FormatError("XML declares a prefix that cannot be declared so")
            yield name[6:], value
        elif name.startswith("xml:"):
            raise FormatError("XML has an attribute of the xml: namespace")


class _Builder:
    """Expat's callbacks."""

    def __init__(self) -> None:
        self.root: Element | None = None
        self.open: list[Element] = []
        self.count = 0

    def start(self, name: str, flat: list[str]) -> None:
        self.count += 1
        if len(self.open) >= MAX_DEPTH or self.count > MAX_ELEMENTS or len(flat) > 2 * MAX_ATTRIBUTES:
            raise FormatError("XML is too deep or has too many elements or attributes")
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        element = Element(name, pairs, self.open[-1].prefixes if self.open else {})
        if self.open:
            self.open[-1].children.append(element)
        else:
            self.root = element
        self.open.append(element)

    def end(self, _name: str) -> None:
        self.open.pop()

    def text(self, data: str) -> None:
        self.open[-1].children.append(data)

    def declaration(self, _version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and encoding.lower() not in ("utf-8", "us-ascii"):
            raise FormatError("XML is not in UTF-8")

    def refuse(self, *_: object) -> None:
        raise FormatError("XML has a document type or a processing instruction")


def parse_xml(data: bytes) -> Element:
    """The root element of `data`. Raises `FormatError` for what is not XML or not of the kind above."""
    if len(data) > MAX_XML_BYTES:
        raise FormatError(f"XML of {len(data)} bytes is over the limit of {MAX_XML_BYTES}")
    # Refused before the parser sees it, so that no entity is ever declared, whatever the parser's version does.
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise FormatError("XML has a document type")
    builder = _Builder()
    parser = expat.ParserCreate("utf-8")
    parser.ordered_attributes = True
    parser.buffer_text = True
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.text
    parser.XmlDeclHandler = builder.declaration
    parser.StartDoctypeDeclHandler = builder.refuse
    parser.ProcessingInstructionHandler = builder.refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise FormatError(f"not XML: {expat.ErrorString(error.code)} in line {error.lineno}") from None
    if builder.root is None:  # pragma: no cover  expat refuses a document without an element itself
        raise FormatError("XML has no element")
    return builder.root


def canonical(element: Element, *, without: Element | None = None) -> bytes:
    """`element` in Canonical XML 1.1 without comments, as the apex of the output; `without` is left out with its
    content (the enveloped-signature transform). What is around it in the document counts only for namespaces."""
    pieces: list[str] = []
    _write(element, {}, without, pieces)
    return "".join(pieces).encode()


def _write(element: Element, outer: Mapping[str, str], without: Element | None, pieces: list[str]) -> None:
    pieces.append(f"<{element.qname}")
    for prefix, uri in sorted(element.prefixes.items()):
        if outer.get(prefix, "") != uri:
            pieces.append(f' xmlns{":" if prefix else ""}{prefix}="{_escape(_VALUE, _ESCAPED_VALUE, uri)}"')
    for key in sorted(element.attributes):
        pieces.append(f' {element.qnames[key]}="{_escape(_VALUE, _ESCAPED_VALUE, element.attributes[key])}"')
    pieces.append(">")
    for child in element.children:
        if isinstance(child, str):
            pieces.append(_escape(_TEXT, _ESCAPED_TEXT, child))
        elif child is not without:
            _write(child, element.prefixes, without, pieces)
    pieces.append(f"</{element.qname}>")


def _escape(pattern: re.Pattern[str], table: Mapping[str, str], text: str) -> str:
    return pattern.sub(lambda found: table[found[0]], text)
