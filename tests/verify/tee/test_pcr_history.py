"""Signed PCR histories: what the signature covers, what it doesn't, and what never matches."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from tee_worlds.nitro import ec_key, sign_rs

from gateway.crypto.ec_keys import spki_der, spki_sha256
from gateway.errors import FormatError
from gateway.verify.tee.pcr_history import find, parse_history, verify_history

KEY = ec_key("publisher")
PUBLIC = spki_der(KEY.public_key())


def register(name: str) -> str:
    return hashlib.sha384(name.encode()).hexdigest()


def entry(name: str, **change: Any) -> dict[str, Any]:
    members = {
        "PCR0": register(name),
        "PCR1": register("pcr1"),
        "PCR2": register(f"{name} pcr2"),
        "timestamp": 1_790_000_000,
        "signature": base64.b64encode(sign_rs(KEY, register(name).encode())).decode(),
        **change,
    }
    return {name: value for name, value in members.items() if value is not None}


def history(*entries: object) -> bytes:
    return json.dumps(entries).encode()


def claims(name: str, **change: str) -> dict[str, str]:
    return {"pcr0": register(name), "pcr1": register("pcr1"), "pcr2": register(f"{name} pcr2"), **change}


def test_an_entry_that_the_publisher_signed_is_found() -> None:
    """A PCR0 with a valid signature matches, and what the entry says of the rest is told apart."""
    read = verify_history(history(entry("one"), entry("two")), PUBLIC)
    assert (len(read.entries), read.refused) == (2, ())
    assert read.key_sha256 == spki_sha256(KEY.public_key())
    match = find(read, claims("two"))
    assert match is not None
    assert match.entry.pcr0 == register("two")
    assert match.entry.timestamp == 1_790_000_000
    assert (match.agrees, match.differs) == (("pcr1", "pcr2"), ())
    golden = match.golden()
    assert (golden.kind, golden.matched, golden.mismatched) == ("pcr_history", 3, ())
    assert find(read, claims("three")) is None
    assert find(read, {}) is None


def test_the_signature_covers_nothing_but_pcr0() -> None:
    """Registers and time that somebody changed in the file leave the signature valid; the difference is reported."""
    forged = entry("one", PCR1=register("other"), timestamp=1)
    read = verify_history(history(forged), PUBLIC)
    assert read.refused == ()
    match = find(read, claims("one"))
    assert match is not None
    assert (match.agrees, match.differs) == (("pcr2",), ("pcr1",))
    assert match.golden().mismatched == ("pcr1",)


def test_an_entry_that_nobody_signed_matches_nothing() -> None:
    """A PCR0 that was slipped in, or carries another entry's signature, is left out and its place named."""
    slipped = entry("evil", signature=entry("one")["signature"])
    other = base64.b64encode(sign_rs(ec_key("other publisher"), register("two").encode())).decode()
    read = verify_history(history(slipped, entry("one"), entry("two", signature=other)), PUBLIC)
    assert read.refused == (0, 2)
    assert find(read, claims("evil")) is None
    assert find(read, claims("two")) is None
    assert find(read, claims("one")) is not None


def test_debug_mode_matches_no_history() -> None:
    """All zeros are no image's digest, even where a publisher signed them."""
    zeros = "0" * 96
    signed = entry("x", PCR0=zeros, signature=base64.b64encode(sign_rs(KEY, zeros.encode())).decode())
    read = verify_history(history(signed), PUBLIC)
    assert len(read.entries) == 1
    assert find(read, {"pcr0": zeros}) is None
    assert find(read, {"pcr0": ""}) is None


def test_the_entry_that_agrees_with_most_is_taken() -> None:
    """Of several entries for one PCR0, one whose unsigned registers agree comes first."""
    bare = entry("one", PCR1=None, PCR2=None)
    wrong = entry("one", PCR2=register("other"))
    for order in ([wrong, bare, entry("one")], [entry("one"), wrong, bare], [bare, entry("one"), wrong]):
        match = find(verify_history(history(*order), PUBLIC), claims("one"))
        assert match is not None
        assert (match.agrees, match.differs) == (("pcr1", "pcr2"), ())
    match = find(verify_history(history(wrong, bare), PUBLIC), claims("one"))
    assert match is not None
    assert match.golden().matched == 1


def test_a_register_that_the_claims_lack_differs() -> None:
    """What was not shown is not equal."""
    match = find(verify_history(history(entry("one")), PUBLIC), {"pcr0": register("one")})
    assert match is not None
    assert match.differs == ("pcr1", "pcr2")


REFUSED = {
    "no JSON": b"[",
    "an object": b"{}",
    "a list of lists": b"[[]]",
    "a member twice": b'[{"PCR0": "", "PCR0": ""}]',
    "no signature": history(entry("one", signature=None)),
    "signature as a number": history(entry("one", signature=1)),
    "signature in DER": history(entry("one", signature=base64.b64encode(b"\x30" + bytes(102)).decode())),
    "signature in base64url": history(entry("one", signature="-_" * 64)),
    "signature with a space": history(entry("one", signature=" " + entry("one")["signature"])),
    "no PCR0": history(entry("one", PCR0=None)),
    "PCR0 in upper case": history(entry("one", PCR0=register("one").upper())),
    "PCR0 of 32 bytes": history(entry("one", PCR0="a" * 64)),
    "PCR0 with a newline": history(entry("one", PCR0=register("one") + "\n")),
    "PCR0 with digits of another script": history(entry("one", PCR0="٣" * 96)),
    "PCR1 as a number": history(entry("one", PCR1=1)),
    "timestamp as text": history(entry("one", timestamp="1")),
    "timestamp as a float": history(entry("one", timestamp=1.5)),
    "timestamp true": history(entry("one", timestamp=True)),
    "too many entries": b"[" + b",".join([b"{}"] * 4097) + b"]",
    "too many bytes": b" " * ((1 << 20) + 1),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_a_file_of_another_form_is_refused(data: bytes) -> None:
    """What is not a list of entries in their one form is malformed as a whole."""
    with pytest.raises(FormatError) as refused:
        verify_history(data, PUBLIC)
    assert refused.value.reason == "pcr_history_malformed"


def test_an_empty_history_matches_nothing() -> None:
    """A publisher who published nothing allows nothing."""
    assert find(verify_history(b"[]", PUBLIC), claims("one")) is None


@pytest.mark.parametrize(
    "key", [b"", PUBLIC[:-1], spki_der(ec_key("p256", ec.SECP256R1()).public_key())], ids=["none", "cut", "P-256"]
)
def test_a_publishers_key_is_on_p384(key: bytes) -> None:
    """A pin that is no such key is an error before any entry is looked at."""
    with pytest.raises(FormatError) as refused:
        verify_history(history(entry("one")), key)
    assert refused.value.reason == "bad_public_key"


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 600), st.integers(1, 255), st.binary(max_size=80))
def test_hostile_files_raise_one_error(place: int, mask: int, noise: bytes) -> None:
    """Flipped and random bytes are a history or a FormatError, and never an entry for a PCR0 that nobody signed."""
    good = history(entry("one"))
    place %= len(good)
    flipped = good[:place] + bytes((good[place] ^ mask,)) + good[place + 1 :]
    for candidate in (noise, flipped):
        try:
            read = verify_history(candidate, PUBLIC)
            parse_history(candidate)
        except FormatError:
            continue
        assert all(e.pcr0 == register("one") for e in read.entries)
