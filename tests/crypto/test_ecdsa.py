"""ECDSA at its edges: what is one spelling of a key or a signature, and what is none."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tee_worlds.keys import CURVES, MESSAGE, ec_key

from gateway.crypto.algorithms import Alg, verify
from gateway.crypto.ecdsa import der, fixed, in_range, is_low, sec1, verify_ecdsa
from gateway.crypto.secp256k1 import plain_verify, verify_secp256k1

NAMES = list(CURVES)
PRIME = {
    "p256": 2**256 - 2**224 + 2**192 + 2**96 - 1,
    "p384": 2**384 - 2**128 - 2**96 + 2**32 - 1,
    "secp256k1": 2**256 - 2**32 - 977,
}
FIXED = {"p256": Alg.ES256, "p384": Alg.ES384, "secp256k1": Alg.ES256K}
DER = {"p256": Alg.ES256_DER, "p384": Alg.ES384_DER, "secp256k1": Alg.ES256K_DER}
VERIFIERS = [("p256", None), ("p384", None), ("secp256k1", verify_secp256k1), ("secp256k1", plain_verify)]

#: RFC 6979, A.2.5 and A.2.6: message "sample" with the curve's own hash.
RFC6979 = {
    "p256": (
        "60FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB6"
        "7903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299",
        "EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716"
        "F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8",
    ),
    "p384": (
        "EC3A4E415B4E19A4568618029F427FA5DA9A8BC4AE92E02E06AAE5286B300C64DEF8F0EA9055866064A254515480BC13"
        "8015D9B72D7D57244EA8EF9AC0C621896708A59367F9DFB9F54CA84B3F1C9DB1288B231C3AE0D4FE7344FD2533264720",
        "94EDBB92A5ECB8AAD4736E56C691916B3F88140666CE9FA73D64C4EA95AD133C81A648152E44ACF96E36DD1E80FABE46"
        "99EF4AEB15F178CEA1FE40DB2603138F130E740A19624526203B6351D0A3A94FA329C145786E679E7B82C71A38628AC8",
    ),
}


def check(name: str, how: object, key: bytes, digest: bytes, numbers: tuple[int, int]) -> bool:
    return verify_ecdsa(CURVES[name], key, digest, numbers) if how is None else how(key, digest, numbers)  # type: ignore[operator]


def digest_of(name: str, message: bytes = MESSAGE) -> bytes:
    return hashlib.new(CURVES[name].hash.name, message).digest()


@pytest.mark.parametrize("name", list(RFC6979))
def test_rfc_6979(name: str) -> None:
    """The signatures of RFC 6979 hold, and over one more letter do not."""
    key, signature = (bytes.fromhex(part) for part in RFC6979[name])
    assert verify(key, FIXED[name], b"sample", signature)
    assert not verify(key, FIXED[name], b"samples", signature)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("form", ["raw", "uncompressed", "compressed", "spki"])
def test_forms_of_a_key(name: str, form: str) -> None:
    """A key is the same key bare, as a point of either form, and in a SubjectPublicKeyInfo."""
    key = ec_key(name)
    assert verify(getattr(key, form), FIXED[name], MESSAGE, key.sign(MESSAGE))
    assert verify(getattr(key, form), DER[name], MESSAGE, key.sign_der(MESSAGE))


def foreign_keys(name: str) -> dict[str, bytes]:
    key, size = ec_key(name), CURVES[name].size
    x, y = key.raw[:size], key.raw[size:]
    off = (int.from_bytes(y, "big") ^ 1).to_bytes(size, "big")
    tall = PRIME[name].to_bytes(size, "big")
    other = next(ec_key(n) for n in NAMES if n != name and CURVES[n].size == size) if size == 32 else ec_key("p256")
    no_root = next(
        b"\2" + candidate.to_bytes(size, "big")
        for candidate in range(1, 100)
        if not _loads(name, b"\2" + candidate.to_bytes(size, "big"))
    )
    return {
        "empty": b"",
        "infinity": b"\0",
        "infinity, padded": bytes(2 * size + 1),
        "all zero": bytes(2 * size),
        "not on the curve": x + off,
        "not on the curve, uncompressed": b"\4" + x + off,
        "no point has this x": no_root,
        "hybrid, even": b"\6" + key.raw,
        "hybrid, odd": b"\7" + key.raw,
        "x is p": tall + y,
        "y is p": x + tall,
        "compressed, x is p": b"\2" + tall,
        "compressed with tag 5": b"\5" + x,
        "one byte short": key.raw[:-1],
        "one byte long": key.uncompressed + b"\0",
        "SubjectPublicKeyInfo of another curve": other.spki,
        "another curve's point": other.raw,
        "SubjectPublicKeyInfo, trailing byte": key.spki + b"\0",
        "SubjectPublicKeyInfo, BER length": b"\x30\x81" + key.spki[1:],
        "other key": ec_key(name, 12345).raw,
        "the other y": b"\2" + x if key.compressed[0] == 3 else b"\3" + x,
    }


def _loads(name: str, point: bytes) -> bool:

    try:
        ec.EllipticCurvePublicKey.from_encoded_point(CURVES[name].curve, point)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize(("name", "how"), VERIFIERS)
def test_what_is_no_key(name: str, how: object) -> None:
    """Points off the curve, infinity, hybrid forms, other curves' keys and wrong lengths verify nothing."""
    numbers = ec_key(name).numbers(digest_of(name))[:2]
    assert check(name, how, ec_key(name).raw, digest_of(name), numbers)
    for what, key in foreign_keys(name).items():
        assert check(name, how, key, digest_of(name), numbers) is False, what


@pytest.mark.parametrize(("name", "how"), VERIFIERS)
def test_the_other_s(name: str, how: object) -> None:
    """(r, n - s) holds wherever (r, s) does, whichever of them is the low one."""
    key, order = ec_key(name), CURVES[name].order
    r, s, _ = key.numbers(digest_of(name))
    assert is_low(CURVES[name], s) != is_low(CURVES[name], order - s)
    assert check(name, how, key.raw, digest_of(name), (r, s))
    assert check(name, how, key.raw, digest_of(name), (r, order - s))


def test_low_s_where_it_is_asked_for() -> None:
    """The low-s name takes the low one of the two alone."""
    key, order = ec_key("secp256k1"), CURVES["secp256k1"].order
    r, s, _ = key.numbers(digest_of("secp256k1"))
    low, high = min(s, order - s), max(s, order - s)
    assert verify(key.raw, Alg.ES256K_LOW_S, MESSAGE, key.fixed(r, low))
    assert not verify(key.raw, Alg.ES256K_LOW_S, MESSAGE, key.fixed(r, high))
    assert verify(key.raw, Alg.ES256K, MESSAGE, key.fixed(r, high))
    assert not verify(key.raw, Alg.ES256K_LOW_S, MESSAGE, key.fixed(r, low)[:-1])
    assert is_low(CURVES["secp256k1"], order // 2)
    assert not is_low(CURVES["secp256k1"], order // 2 + 1)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_out_of_range(name: str) -> None:
    """r and s of zero, n, and more are no signature, in any form and at every depth."""
    key, curve = ec_key(name), CURVES[name]
    r, s, _ = key.numbers(digest_of(name))
    top = 2 ** (8 * curve.size) - 1
    for bad in ((0, s), (r, 0), (0, 0), (curve.order, s), (r, curve.order), (top, s), (r, top), (0, curve.order)):
        assert not in_range(curve, *bad)
        assert fixed(curve, key.fixed(*bad)) is None
        assert not verify(key.raw, FIXED[name], MESSAGE, key.fixed(*bad))
        assert not verify_ecdsa(curve, key.raw, digest_of(name), bad)
    wide = r + curve.order
    if wide <= top:
        assert fixed(curve, key.fixed(wide, s)) is None
    assert in_range(curve, 1, curve.order - 1)


def integer(value: bytes) -> bytes:
    return b"\x02" + bytes([len(value)]) + value


def sequence(body: bytes) -> bytes:
    return b"\x30" + bytes([len(body)]) + body


def plain(number: int) -> bytes:
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


def ber_forms(name: str) -> dict[str, bytes]:
    r, s, _ = ec_key(name).numbers(digest_of(name))
    order = CURVES[name].order
    good = sequence(integer(plain(r)) + integer(plain(s)))
    body = good[2:]
    return {
        "empty": b"",
        "trailing byte": good + b"\0",
        "trailing byte inside": sequence(body + b"\0"),
        "truncated": good[:-1],
        "long-form length": b"\x30\x81" + good[1:],
        "long-form length, two bytes": b"\x30\x82\0" + good[1:],
        "indefinite length": b"\x30\x80" + body + b"\0\0",
        "integer with long-form length": sequence(b"\x02\x81" + integer(plain(r))[1:] + integer(plain(s))),
        "r padded": sequence(integer(b"\0" + plain(r)) + integer(plain(s))),
        "s padded": sequence(integer(plain(r)) + integer(b"\0" + plain(s))),
        "s negative": sequence(integer(plain(r)) + integer((s - order * 2).to_bytes(CURVES[name].size + 2, "big", signed=True))),
        "r missing": sequence(integer(plain(s))),
        "three numbers": sequence(body + integer(b"\1")),
        "r empty": sequence(b"\x02\0" + integer(plain(s))),
        "r zero": sequence(integer(b"\0") + integer(plain(s))),
        "s zero": sequence(integer(plain(r)) + integer(b"\0")),
        "s is n": sequence(integer(plain(r)) + integer(plain(order))),
        "s plus n": sequence(integer(plain(r)) + integer(plain(s + order))),
        "a set": b"\x31" + good[1:],
        "an octet string inside": sequence(b"\x04" + body[1:]),
        "r || s": ec_key(name).sign(MESSAGE),
        "long": good + bytes(200),
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_der_alone(name: str) -> None:
    """Every BER spelling, padding and trailing byte of a signature that holds is refused; DER's own holds."""
    key = ec_key(name)
    assert verify(key.raw, DER[name], MESSAGE, key.sign_der(MESSAGE))
    for what, signature in ber_forms(name).items():
        assert der(CURVES[name], signature) is None, what
        assert verify(key.raw, DER[name], MESSAGE, signature) is False, what


@pytest.mark.parametrize("name", NAMES)
def test_lengths_of_fixed_signatures(name: str) -> None:
    """A fixed-width signature has twice the curve's width, and DER is not one."""
    key = ec_key(name)
    signature = key.sign(MESSAGE)
    for wrong in (b"", signature[:-1], signature + b"\0", signature[1:], b"\0" + signature, key.sign_der(MESSAGE)):
        assert verify(key.raw, FIXED[name], MESSAGE, wrong) is False


def test_the_form_of_a_point() -> None:
    """A key is brought to SEC 1 without being judged, and unknown forms are none."""
    curve, key = CURVES["p256"], ec_key("p256")
    assert sec1(curve, key.raw) == sec1(curve, key.spki) == sec1(curve, key.uncompressed) == key.uncompressed
    assert sec1(curve, key.compressed) == key.compressed
    for none in (b"", curve.spki, curve.spki + key.compressed, curve.spki + key.raw, b"\4" + key.raw[:-2]):
        assert sec1(curve, none) is None
