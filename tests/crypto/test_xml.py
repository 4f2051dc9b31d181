"""The safe XML reader and Canonical XML 1.1."""

from __future__ import annotations

import pytest

from gateway.crypto.xml import canonical, parse_xml
from gateway.errors import FormatError


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("<a/>", "<a></a>"),
        ("<?xml version='1.0'?>\n<a> <!-- c --> </a>\n", "<a>  </a>"),
        ("<a b='1' a = '2'/>", '<a a="2" b="1"></a>'),
        ('<a b="\'&quot;&lt;&gt;&amp;&#9;&#10;&#13;"/>', '<a b="\'&quot;&lt;>&amp;&#x9;&#xA;&#xD;"></a>'),
        ("<a>&lt;&gt;&amp;&quot;&#13;\r\n</a>", '<a>&lt;&gt;&amp;"&#xD;\n</a>'),
        ("<a><![CDATA[<&]]>x</a>", "<a>&lt;&amp;x</a>"),
        ("<a>&#233;é</a>", "<a>éé</a>"),
        # Namespaces: declared first and sorted, not declared again, kept though unused (inclusive), undeclared.
        ("<a z='1' xmlns:q='u' xmlns='v'/>", '<a xmlns="v" xmlns:q="u" z="1"></a>'),
        ("<a xmlns='v'><b xmlns='v'/></a>", '<a xmlns="v"><b></b></a>'),
        ("<a xmlns='v'><b xmlns=''/></a>", '<a xmlns="v"><b xmlns=""></b></a>'),
        ("<a xmlns=''/>", "<a></a>"),
        ("<a xmlns:p='u'><p:b xmlns:p='w'/></a>", '<a xmlns:p="u"><p:b xmlns:p="w"></p:b></a>'),
        # Attributes by namespace, then name; those of no namespace come first.
        ("<a xmlns:x='b' xmlns:y='a' x:c='1' y:d='2' e='3'/>", '<a xmlns:x="b" xmlns:y="a" e="3" y:d="2" x:c="1"></a>'),
    ],
)
def test_the_canonical_form(text: str, form: str) -> None:
    """The rules of Canonical XML 1.1 section 2, one row each, expected forms written by hand."""
    assert canonical(parse_xml(text.encode())) == form.encode()


def test_an_inner_element_carries_the_namespaces_in_scope() -> None:
    """A part of a document keeps what its ancestors declared, used or not: the inclusive rule."""
    root = parse_xml(b"<a xmlns='v' xmlns:p='u'><b c='1'>t</b></a>")
    assert canonical(root.elements()[0]) == b'<b xmlns="v" xmlns:p="u" c="1">t</b>'


def test_an_element_is_left_out_with_its_content_and_nothing_else() -> None:
    """The enveloped-signature transform: the text around the signature stays."""
    root = parse_xml(b"<a> <b>x</b> <c/></a>")
    assert canonical(root, without=root.elements()[0]) == b"<a>  <c></c></a>"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<a>",
        b"<a/><b/>",
        b"<a>&b;</a>",
        b"<a>\xff</a>",
        b"<a>\0</a>",
        b"<!DOCTYPE a><a/>",
        b"<!DOCTYPE a [<!ENTITY x 'y'>]><a>&x;</a>",
        b"<?xml version='1.0' encoding='utf-16'?><a/>",
        b"<?xml version='1.0' encoding='latin-1'?><a/>",
        "<!DOCTYPE a><a/>".encode("utf-16"),
        b"<?p x?><a/>",
        b"<a xml:lang='en'/>",
        b"<a xmlns:p=''/>",
        b"<a xmlns:xml='u'/>",
        b"<a xmlns:xmlns='u'/>",
        b"<p:a/>",
        b"<a p:b='1'/>",
        b"<a xmlns:p='u' xmlns:q='u' p:b='1' q:b='1'/>",
        b"<a b='1' b='2'/>",
        b"<a>" * 17 + b"</a>" * 17,
        b"<a>" + b"<b/>" * 4096 + b"</a>",
        b"<a " + b" ".join(b"a%d=''" % i for i in range(65)) + b"/>",
        b"<a " + b" ".join(b"xmlns:a%d='u'" % i for i in range(33)) + b"/>",
        b"<a>" + b" " * 262_144 + b"</a>",
    ],
)
def test_what_is_not_read(data: bytes) -> None:
    """Malformed, too large, or of a kind that could mean two things: one error for all."""
    with pytest.raises(FormatError):
        parse_xml(data)


def test_a_declared_utf8_is_read() -> None:
    """The encoding may be named when it is the one there is."""
    assert parse_xml(b"<?xml version='1.0' encoding='UTF-8'?><a b='1'/>").get("b") == "1"
