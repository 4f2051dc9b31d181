"""Manifests: what their reader accepts."""

from __future__ import annotations

import pytest
from tee_worlds import nvidia as w

from gateway.verify.tee.findings import NotAuthentic
from gateway.verify.tee.rim import parse_rim

ROW = w.resource(1, [bytes(48)])


def test_a_manifest_is_read() -> None:
    """Version, product and the alternatives of each active index."""
    rim = parse_rim(w.manifest().encode())
    assert (rim.version, rim.product, rim.edition, rim.tag) == (w.DRIVER, "GH100", "GPU", "tag-1")
    assert sorted(rim.values) == [1, 4, 9]
    assert rim.values[4][1] == w.values()[5].hex()


@pytest.mark.parametrize(
    "text",
    [
        "<x/>",
        w.document(ROW).replace("SoftwareIdentity", "SoftwareIdentitx"),
        w.document(ROW).replace("s:Meta", "s:Mexa"),
        w.document(ROW).replace("<s:Payload", "<s:Payload/><s:Payload"),
        w.document(ROW, version=""),
        w.document(ROW, version="1" * 129),
        w.document(ROW, version="\u0661"),
        w.document(ROW).replace(' tagId="tag-1"', ""),
        w.document(""),
        w.document(w.resource(1, [bytes(48)], active=False)),
        w.document(ROW.replace("s:Resource", "s:File")),
        w.document(ROW.replace("Measurement", "Other")),
        w.document(ROW + ROW),
        w.document(ROW.replace('index="1"', 'index="255"')),
        w.document(ROW.replace('index="1"', 'index="01"')),
        w.document(ROW.replace('index="1"', 'index="-1"')),
        w.document(ROW.replace('active="True"', 'active="true"')),
        w.document(ROW.replace('alternatives="1"', 'alternatives="2"')),
        w.document(ROW.replace("h:Hash0", "h:Hash1")),
        w.document(ROW.replace("h:Hash0", "Hash0")),
        w.document(ROW.replace('h:Hash0="00', 'h:Hash0="0')),
        w.document(ROW.replace('h:Hash0="00', 'h:Hash0="zz')),
    ],
)
def test_manifests_of_another_form(text: str) -> None:
    """Anything unforeseen is refused, not skipped: what is not read is not compared."""
    with pytest.raises(NotAuthentic) as refused:
        parse_rim(text.encode())
    assert refused.value.reason == "rim_malformed"


@pytest.mark.parametrize(
    "prolog",
    [
        '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE x SYSTEM "file:///etc/passwd">',
        '<!DOCTYPE x [<!ENTITY f SYSTEM "http://localhost/">]>',
        '<?xml-stylesheet href="x"?>',
    ],
    ids=["entities that multiply", "external subset", "external entity", "processing instruction"],
)
def test_pitfall_xml_that_expands_or_fetches(prolog: str) -> None:
    """No document type is ever parsed, so there is nothing to expand and nobody to ask."""
    with pytest.raises(NotAuthentic, match="document type"):
        parse_rim((prolog + w.document(ROW).partition("?>")[2]).encode())
