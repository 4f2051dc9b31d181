"""ECDSA on secp256k1: verification, public key recovery, Ethereum addresses and EIP-191 (`personal_sign`).

    digest     Keccak-256(0x19 || "Ethereum Signed Message:\\n" || decimal length in bytes || message)
    signature  r (32) || s (32) || v (1); v is 27 or 28, or 0 or 1: which of two points has r as its x
    address    the last 20 bytes of Keccak-256(x || y)

An address is a digest of a key, so a signature is held against one by recovering the key that made it; with the key at
hand v takes no part. v of EIP-155 (35 and up) belongs to transactions and is refused.

libsecp256k1 does the work where it is installed. The plain form beside it (OpenSSL, and arithmetic of our own
for the recovery) gives the same answers, ten to a hundred times slower. What the arithmetic recovers is verified by
OpenSSL before it is believed, so a mistake there could refuse a good signature and never accept a bad one.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from .ecdsa import SECP256K1, fixed, is_low, sec1, verify_ecdsa
from .keccak import keccak256

try:
    from coincurve import PublicKey as _PublicKey
except ImportError:  # pragma: no cover  Python 3.14 has no wheel of it
    _PublicKey = None  # type: ignore[assignment, misc]

ADDRESS_BYTES = 20
_P = 2**256 - 2**32 - 977
_N = SECP256K1.order
_G = (
    0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
    0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8,
)
_Jacobian = tuple[int, int, int]  # x / z^2, y / z^3; z = 0 is the point at infinity
_INFINITY: _Jacobian = (1, 1, 0)


def verify_secp256k1(key: bytes, digest: bytes, numbers: tuple[int, int]) -> bool:
    """Whether (r, s), each in 1..n-1, over the 32-byte `digest` holds under `key`. Either s will do."""
    if _PublicKey is None:
        return plain_verify(key, digest, numbers)
    point, (r, s) = sec1(SECP256K1, key), numbers
    if point is None:
        return False
    try:
        # libsecp256k1 takes the lower s alone.
        return _PublicKey(point).verify(encode_dss_signature(r, s if is_low(SECP256K1, s) else _N - s), digest, None)
    except ValueError:  # not on the curve
        return False


def plain_verify(key: bytes, digest: bytes, numbers: tuple[int, int]) -> bool:
    """`verify_secp256k1` through OpenSSL."""
    return verify_ecdsa(SECP256K1, key, digest, numbers)


def recover(digest: bytes, numbers: tuple[int, int], parity: int) -> bytes | None:
    """The key `x || y` under which (r, s) over the 32-byte `digest` holds, its R having a y of `parity`; or None."""
    if _PublicKey is None:
        return plain_recover(digest, numbers, parity)
    r, s = numbers
    compact = r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([parity])
    try:
        return _PublicKey.from_signature_and_message(compact, digest, None).format(compressed=False)[1:]
    except ValueError:  # r is no x of a point, or the key would be the point at infinity
        return None


def plain_recover(digest: bytes, numbers: tuple[int, int], parity: int) -> bytes | None:
    """`recover` in plain arithmetic (SEC 1 section 4.1.6): Q = (s R - z G) / r. Not constant-time; all is public."""
    r, s = numbers
    y = pow(r**3 + 7, (_P + 1) // 4, _P)
    if (y * y - r**3 - 7) % _P:
        return None
    inverse = pow(r, -1, _N)
    point = (r, y if y % 2 == parity else _P - y)
    minus_z = -int.from_bytes(digest, "big")
    key = _sum(minus_z * inverse % _N, _G, s * inverse % _N, point)
    if key is None:
        return None
    found = key[0].to_bytes(32, "big") + key[1].to_bytes(32, "big")
    return found if plain_verify(found, digest, numbers) else None


def address(key: bytes) -> bytes | None:
    """The 20-byte Ethereum address of an uncompressed public key (64 or 65 bytes); None for another form."""
    point = sec1(SECP256K1, key)
    return None if point is None or point[0] != 4 else keccak256(point[1:])[12:]


def eip191_digest(message: bytes) -> bytes:
    """The 32 bytes that `personal_sign` signs for `message`: EIP-191 version 0x45."""
    return keccak256(b"\x19Ethereum Signed Message:\n%d%b" % (len(message), message))


def verify_eip191(key: bytes, message: bytes, signature: bytes, *, low_s: bool = False) -> bool:
    """Whether `signature` (65 bytes) over `message` is the one of `key`: an address (20 bytes) or a public key.

    False, never an exception, for whatever else these bytes are. `low_s` refuses s over n / 2.
    """
    numbers = fixed(SECP256K1, signature[:64])
    if len(signature) != 65 or numbers is None or (low_s and not is_low(SECP256K1, numbers[1])):
        return False
    parity = {0: 0, 1: 1, 27: 0, 28: 1}.get(signature[64])
    if parity is None:
        return False
    digest = eip191_digest(message)
    if len(key) != ADDRESS_BYTES:
        return verify_secp256k1(key, digest, numbers)
    found = recover(digest, numbers, parity)
    return found is not None and address(found) == key


def _sum(a: int, first: tuple[int, int], b: int, second: tuple[int, int]) -> tuple[int, int] | None:
    """a * first + b * second, both at once (Shamir); None is the point at infinity."""
    points = {1: first, 2: second, 3: _affine(_add((*first, 1), second))}
    total = _INFINITY
    for bit in range(max(a, b).bit_length() - 1, -1, -1):
        total = _double(total)
        point = points.get((a >> bit & 1) | (b >> bit & 1) << 1)
        if point is not None:
            total = _add(total, point)
    return _affine(total)


def _affine(point: _Jacobian) -> tuple[int, int] | None:
    x, y, z = point
    if z == 0:
        return None
    inverse = pow(z, -1, _P)
    return x * inverse**2 % _P, y * inverse**3 % _P


def _double(point: _Jacobian) -> _Jacobian:
    x, y, z = point
    square = y * y % _P
    s, m = 4 * x * square % _P, 3 * x * x % _P
    doubled = (m * m - 2 * s) % _P
    return doubled, (m * (s - doubled) - 8 * square * square) % _P, 2 * y * z % _P


def _add(point: _Jacobian, other: tuple[int, int]) -> _Jacobian:
    x, y, z = point
    if z == 0:
        return (*other, 1)
    h = (other[0] * z * z - x) % _P
    r = (other[1] * z**3 - y) % _P
    if h == 0:
        return _double(point) if r == 0 else _INFINITY
    square = h * h % _P
    cube, v = h * square % _P, x * square % _P
    added = (r * r - cube - 2 * v) % _P
    return added, (r * (v - added) - y * cube) % _P, h * z % _P
