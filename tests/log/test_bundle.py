"""The offline bundle: written, read back, and refused when it says something twice or oddly."""

import base64
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import FormatError
from gateway.log.bundle import (
    MEDIA_TYPE,
    Bundle,
    BundleKey,
    EvidenceBlob,
    Logged,
    Opened,
    PolicyFile,
    format_bundle,
    open_all,
    parse_bundle,
)
from gateway.log.receipt import salt_for

ENVELOPE = b'{"payloadType":"t","payload":"cA==","signatures":[]}'
FULL = Bundle(
    receipt=ENVELOPE,
    proof="c2sp.org/tlog-proof@v1\nindex 0\n\n…",
    openings={"request.body": Opened(b"s" * 32, b"\xff\x00"), "response.content": Opened(b"t" * 32, b"")},
    evidence=(EvidenceBlob("aci-receipt", "application/json", "ab" * 32, b"{}"),),
    policy=PolicyFile("signed", "cd" * 32, b'name = "signed"\n'),
    session=b'{"id":"s1"}',
    intent=Logged(ENVELOPE, "proof"),
    keys=(BundleKey("k+00000000", "k+00000000+AA=="),),
    untrusted_policy="quorum none\n",
)
SMALL = Bundle(receipt=ENVELOPE, proof="p")


@pytest.mark.parametrize("bundle", [FULL, SMALL])
def test_a_bundle_reads_back_as_it_was_written(bundle: Bundle):
    """Formatting and parsing give the same values, signed documents byte for byte."""
    assert parse_bundle(format_bundle(bundle)) == bundle


def test_a_pretty_printed_bundle_reads_the_same():
    """White space outside the signed documents means nothing, and inside them is kept."""
    document = json.loads(format_bundle(FULL))
    read = parse_bundle(json.dumps(document, indent=1).encode())
    assert json.loads(read.receipt) == json.loads(FULL.receipt)
    assert read.openings == FULL.openings


def test_openings_come_from_one_seed():
    """`open_all` derives each salt from the seed and the subject's name."""
    opened = open_all(b"s" * 32, {"request.body": b"x"})
    assert opened == {"request.body": Opened(salt_for(b"s" * 32, "request.body"), b"x")}


def changed(**members: object) -> bytes:
    return json.dumps({**json.loads(format_bundle(FULL)), **members}, separators=(",", ":")).encode()


REJECTED = {
    "media_type_of_another_version": changed(mediaType=MEDIA_TYPE.replace("1", "2")),
    "receipt_as_text": changed(receipt="e30="),
    "receipt_null": changed(receipt=None),
    "session_as_list": changed(session=[1]),
    "openings_as_list": changed(openings=[]),
    "proof_missing": json.dumps({"mediaType": MEDIA_TYPE, "receipt": {}}).encode(),
    "salt_of_31_bytes": changed(openings={"x": {"salt": base64.b64encode(b"s" * 31).decode(), "bytes": ""}}),
    "bytes_not_base64": changed(openings={"x": {"salt": base64.b64encode(b"s" * 32).decode(), "bytes": "!"}}),
    "bytes_with_stray_bits": changed(policy={"name": "p", "sha256": "ab" * 32, "bytes": "AB=="}),
    "bytes_not_ascii": changed(policy={"name": "p", "sha256": "ab" * 32, "bytes": "é"}),
    "digest_in_upper_case": changed(policy={"name": "p", "sha256": "AB" * 32, "bytes": ""}),
    "evidence_named_twice": changed(
        evidence=[{"name": "q", "mediaType": "t", "sha256": "ab" * 32, "bytes": ""} for _ in range(2)]
    ),
    "key_named_twice": changed(keys=[{"keyid": "k", "vkey": "v"}] * 2),
    "duplicate_member": format_bundle(SMALL)[:-1] + b',"proof":"q"}',
    "duplicate_member_in_escapes": format_bundle(SMALL)[:-1] + b',"\\u0070roof":"q"}',
    "byte_order_mark": b"\xef\xbb\xbf" + format_bundle(SMALL),
    "two_documents": format_bundle(SMALL) * 2,
    "nothing": b"",
    "deep": b"[" * 100_000,
    "list": b"[]",
}


@pytest.mark.parametrize("data", REJECTED.values(), ids=REJECTED.keys())
def test_a_malformed_bundle_is_a_format_error(data: bytes):
    """Each kind of malformed file is refused with FormatError."""
    with pytest.raises(FormatError):
        parse_bundle(data)


def test_members_that_are_not_known_are_ignored():
    """A later version may add members."""
    assert parse_bundle(changed(timestamps=[{"type": "rfc3161"}])) == FULL


@given(st.binary(max_size=300))
def test_bytes_from_anywhere_raise_format_error_alone(data: bytes):
    """Parsing arbitrary bytes never raises anything but FormatError."""
    with pytest.raises(FormatError):
        parse_bundle(data)


_WIRE = format_bundle(FULL)


@given(st.integers(0, len(_WIRE) - 1), st.binary(max_size=3), st.integers(0, 3))
def test_a_mutated_bundle_parses_or_is_a_format_error(at: int, piece: bytes, cut: int):
    """A bundle with bytes replaced, added or removed either parses or raises FormatError."""
    with contextlib.suppress(FormatError):
        parse_bundle(_WIRE[:at] + piece + _WIRE[at + cut :])
