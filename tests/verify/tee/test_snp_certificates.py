"""AMD's certificates and revocation list, read by our own reader."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tee_worlds.amd import (
    CA,
    NOW,
    World,
    agree,
    certificate,
    ec_key,
    extension,
    integer,
    name,
    pss,
    rsa_key,
    signed,
    spki,
    tlv,
    utc_time,
)

from gateway.errors import FormatError
from gateway.verify.tee.amd_certificates import (
    CSP_ID,
    MAX_CERTIFICATE_BYTES,
    MAX_CRL_BYTES,
    PRODUCT,
    p384_key,
    parse_certificate,
    parse_crl,
    signed_by,
)

WORLD = World("Genoa")
VLEK = World("Milan", vlek=True)
TURIN = World("Turin")


@pytest.mark.parametrize(
    "der",
    [WORLD.ek, WORLD.ask, WORLD.ark, VLEK.ek, VLEK.ask, TURIN.ek],
    ids=["vcek", "ask", "ark", "vlek", "asvk", "turin"],
)
def test_the_reading_is_the_librarys(der: bytes) -> None:
    """Both readers find the same fields in every certificate of the hierarchy."""
    agree(der)


def test_pitfall_serial_number_zero() -> None:
    """A certificate with serial number 0 is read without a warning and without the library that is to refuse it."""
    assert parse_certificate(WORLD.ek).serial == 0


def test_fields_of_an_endorsement_key() -> None:
    """Product, levels, chip and cloud are read from AMD's extensions; what is absent is None."""
    vcek, vlek, ask = parse_certificate(WORLD.ek), parse_certificate(VLEK.ek), parse_certificate(WORLD.ask)
    assert (vcek.text(PRODUCT), vcek.spl("bl"), vcek.spl("fmc"), vcek.hwid(64)) == ("Genoa", 4, None, WORLD.chip)
    assert (vlek.text(CSP_ID), vlek.hwid(64)) == ("CN=cc-test-1.example", None)
    assert (vcek.is_ca, ask.is_ca, ask.text(PRODUCT)) == (False, True, None)
    assert parse_certificate(TURIN.ek).hwid(8) == TURIN.chip[:8]


@pytest.mark.parametrize(("product", "length"), [("Genoa", 64), ("Turin", 8)])
def test_pitfall_hwid_raw_or_wrapped(product: str, length: int) -> None:
    """The chip's identity is found bare and wrapped in an OCTET STRING, told apart by length and not by first byte."""
    for chip in (bytes([4, length - 2]) + b"c" * 62, b"c" * 64):
        for wrapped in (False, True):
            ek = World(product, chip=chip, wrapped_hwid=wrapped).ek
            assert parse_certificate(ek).hwid(length) == chip[:length]


@pytest.mark.parametrize("value", [b"", b"\x04", b"\x04\x02ab", tlv(4, b"c" * 64) + b"\0"])
def test_another_hwid_is_refused(value: bytes) -> None:
    """A chip identity of another length raises FormatError."""
    with pytest.raises(FormatError):
        parse_certificate(World(amd={"4": value}).ek).hwid(64)


@pytest.mark.parametrize("value", [b"", integer(256), integer(1) + b"\0", tlv(4, b"\x01")])
def test_another_level_is_refused(value: bytes) -> None:
    """A security patch level is one INTEGER of 0 to 255."""
    with pytest.raises(FormatError):
        parse_certificate(World(amd={"3.1": value}).ek).spl("bl")


@pytest.mark.parametrize(
    "value", [b"", tlv(0x0C, b"Genoa"), tlv(0x16, b"\xff"), tlv(0x16, b"\x1b[2J"), tlv(0x16, b"a" * 257)]
)
def test_hostile_text_is_refused(value: bytes) -> None:
    """An extension's text is short printable ASCII."""
    with pytest.raises(FormatError):
        parse_certificate(World(amd={"2": value}).ek).text(PRODUCT)


def test_hidden_basic_constraints_are_refused() -> None:
    """BasicConstraints that are no SEQUENCE raise FormatError when asked."""
    certificate = parse_certificate(
        WORLD.issuer(WORLD.ask_name, WORLD.ask_key, extensions=[extension("2.5.29.19", b"")])
    )
    with pytest.raises(FormatError):
        _ = certificate.is_ca


def _ek(**changes: object) -> bytes:
    return WORLD.endorsement(**changes)  # type: ignore[arg-type]


MALFORMED = {
    "empty": b"",
    "text": b"-----BEGIN CERTIFICATE-----",
    "trailing": WORLD.ek + b"\0",
    "truncated": WORLD.ek[:-1],
    "too_large": WORLD.ek + bytes(MAX_CERTIFICATE_BYTES),
    "version_1": _ek(version=0),
    "salt_of_20": _ek(algorithm=pss(salt=20)),
    "sha256": _ek(algorithm=pss(digest=tlv(0x30, bytes.fromhex("0609608648016503040201"), b"\x05\x00"))),
    "pkcs1": _ek(algorithm=tlv(0x30, bytes.fromhex("06092a864886f70d01010c"), b"\x05\x00")),
    "extension_twice": _ek(extensions=[CA, CA]),
    "33_extensions": _ek(extensions=[extension(f"2.5.30.{i}", b"") for i in range(33)]),
    "no_common_name": certificate(name(), spki(WORLD.ek_key), WORLD.ask_name, WORLD.ask_key, extensions=[CA]),
    "two_common_names": certificate(name("a", "b"), spki(WORLD.ek_key), WORLD.ask_name, WORLD.ask_key, extensions=[CA]),
}


@pytest.mark.parametrize("der", MALFORMED.values(), ids=MALFORMED)
def test_other_certificates_are_refused(der: bytes) -> None:
    """What AMD does not issue raises FormatError and nothing else."""
    with pytest.raises(FormatError):
        parse_certificate(der)


def test_the_two_algorithms_must_both_be_amds() -> None:
    """A second signature algorithm, outside what is signed, cannot differ."""
    parsed = parse_certificate(WORLD.ek)
    other = tlv(0x30, parsed.tbs, pss(salt=20), tlv(3, b"\0", parsed.signature))
    with pytest.raises(FormatError, match="RSASSA-PSS"):
        parse_certificate(other)


def test_who_signed() -> None:
    """A certificate is signed by the issuer that it names, with that issuer's key, and by no other."""
    ek, ask, ark = map(parse_certificate, (WORLD.ek, WORLD.ask, WORLD.ark))
    assert signed_by(ek, ask)
    assert signed_by(ask, ark)
    assert signed_by(ark, ark)
    assert not signed_by(ek, ark)
    assert not signed_by(parse_certificate(WORLD.endorsement(key=rsa_key("ark"))), ask)


WEAK = {
    "rsa_2048": spki(rsa_key("small", 2048)),
    "exponent_3": rsa.RSAPublicNumbers(3, rsa_key("ask").public_key().public_numbers().n)
    .public_key()
    .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    "elliptic": spki(ec_key("x")),
    "garbage": tlv(0x30, b"\x05\x00"),
    "unknown_curve": tlv(0x30, tlv(0x30, bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06052b8104001a")), tlv(3, b"\0\x04" + bytes(56))),
}  # fmt: skip


@pytest.mark.parametrize("public", WEAK.values(), ids=WEAK)
def test_weak_issuer_keys_sign_nothing(public: bytes) -> None:
    """An issuer's key that is not RSA of 3072 bits or more with 65537 makes no signature hold."""
    issuer = parse_certificate(WORLD.issuer(WORLD.ask_name, rsa_key("ask"), public=public))
    key = rsa_key("small", 2048) if public == WEAK["rsa_2048"] else rsa_key("ask")
    assert not signed_by(parse_certificate(WORLD.endorsement(key=key)), issuer)


@pytest.mark.parametrize(
    "public", [spki(ec_key("p256", ec.SECP256R1)), spki(rsa_key("ask")), tlv(0x30, b"\x05\x00"), WEAK["unknown_curve"]]
)
def test_only_p384_is_an_endorsement_key(public: bytes) -> None:
    """A key of another kind is None."""
    assert p384_key(parse_certificate(WORLD.endorsement(public=public))) is None
    assert p384_key(parse_certificate(WORLD.ek)) is not None


def test_a_revocation_list() -> None:
    """Issuer, times and serial numbers of a list are read, entry extensions skipped."""
    reason = tlv(0x30, extension("2.5.29.21", tlv(0x0A, b"\x01")))
    crl = parse_crl(WORLD.crl([65537, 0], entry=reason))
    assert crl.revoked == {65537, 0}
    assert crl.this_update < NOW < (crl.next_update or 0)
    assert signed_by(crl, parse_certificate(WORLD.ark))
    assert not signed_by(crl, parse_certificate(WORLD.ask))
    plain = parse_crl(WORLD.crl(version=b"", extensions=None, next_update=None))
    assert (plain.revoked, plain.next_update) == (frozenset(), None)


def test_a_revocation_list_in_generalized_time() -> None:
    """Times after 2049 are read."""
    tbs = tlv(0x30, pss(), WORLD.ark_name, utc_time(NOW), tlv(0x18, b"20600101000000Z"))
    assert parse_crl(signed(tbs, WORLD.ark_key, pss())).next_update == 2840140800


CRLS = {
    "empty": b"",
    "trailing": WORLD.crl() + b"\0",
    "too_large": WORLD.crl() + bytes(MAX_CRL_BYTES),
    "version_3": WORLD.crl(version=integer(2)),
    "critical_extension": WORLD.crl(extensions=[extension("2.5.29.28", b"", critical=True)]),
    "entry_junk": WORLD.crl([1], entry=integer(1)),
    "entry_trailing": WORLD.crl([1], entry=tlv(0x30) + b"\x05\0"),
    "negative_serial": WORLD.crl([-1]),
}


@pytest.mark.parametrize("der", CRLS.values(), ids=CRLS)
def test_other_revocation_lists_are_refused(der: bytes) -> None:
    """A broken, delta or indirect list raises FormatError."""
    with pytest.raises(FormatError):
        parse_crl(der)
