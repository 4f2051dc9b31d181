"""TPM 2.0 quotes under a test key: structure, signature, nonce, PCRs."""

from __future__ import annotations

import datetime
import hashlib
import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tee_worlds.amd import NOW, ec_key, rsa_key, spki
from tee_worlds.azure import NONCE, PCRS, ak, attest, rsassa, sized

from gateway.errors import FormatError
from gateway.model.tee import FreshnessClass, Platform, TeeResult
from gateway.verify.tee.roots import Anchor, TrustRoots
from gateway.verify.tee.tpm import (
    MAX_ATTEST_BYTES,
    MAX_SIGNATURE_BYTES,
    PLAN,
    check_pcrs,
    from_inputs,
    parse_attest,
    parse_pcrs,
    verify_tpm_quote,
)

NO_ROOTS = TrustRoots()
AK = spki(ak())
P256 = ec_key("tpm", ec.SECP256R1)


def verify(quote: bytes, signature: bytes | None = None, **changes: Any) -> TeeResult:
    what = {"roots": NO_ROOTS, "now": NOW, "ak": AK, "nonce": NONCE} | changes
    pcrs = what.pop("pcrs", PCRS)
    return verify_tpm_quote(quote, rsassa(quote) if signature is None else signature, pcrs, **what)


def tpmt(signature: bytes, algorithm: int = 0x0014, digest: int = 0x000B) -> bytes:
    return struct.pack(">HH", algorithm, digest) + sized(signature)


def ecdsa(message: bytes) -> bytes:
    return P256.sign(message, ec.ECDSA(hashes.SHA256()))


def ecdsa_tpmt(message: bytes) -> bytes:
    r, s = utils.decode_dss_signature(ecdsa(message))
    return struct.pack(">HH", 0x0018, 0x000B) + sized(r.to_bytes(32, "big")) + sized(s.to_bytes(32, "big"))


def test_a_genuine_quote() -> None:
    """A quote by the key that was given is authentic; that nobody vouches for the key is told."""
    result = verify(attest())
    assert result.claims.authentic, result.claims.reject_detail
    found = {c.id: (c.outcome.value, c.reason) for c in result.checks}
    assert list(found) == list(PLAN)
    assert found == dict.fromkeys(PLAN, ("affirming", None)) | {"tee_chain": ("none", "no_certificate")}
    claims = result.claims
    assert (claims.platform, claims.evidence_format, claims.root) == (Platform.TPM2, "tpm2-quote", None)
    assert claims.measurements["pcr0"] == PCRS[0].hex()
    assert claims.nonce == claims.raw["extra_data"] == NONCE.hex()
    assert claims.freshness.kind is FreshnessClass.CHALLENGE
    expected = {"clock": 1000, "reset_count": 2, "restart_count": 3, "clock_safe": True, "firmware": "0x20200312"}
    assert {k: claims.raw[k] for k in expected} == expected
    assert claims.raw["selection"] == [[11, list(range(24))]]


def test_without_a_nonce_nothing_is_said_of_freshness() -> None:
    """The nonce's check is none when there is nothing to compare with, and the quote stays undated."""
    result = verify(attest(), nonce=None)
    assert result.claims.authentic
    assert next(c for c in result.checks if c.id == "tee_nonce").reason == "no_nonce"
    assert result.claims.freshness.kind is FreshnessClass.UNDATED


@pytest.mark.parametrize(
    ("signature", "key"),
    [
        (rsassa(attest()), AK),
        (tpmt(rsassa(attest())), AK),
        (ecdsa(attest()), spki(P256)),
        (ecdsa_tpmt(attest()), spki(P256)),
    ],
    ids=["rsa", "rsa_tpmt", "ecdsa", "ecdsa_tpmt"],
)
def test_signatures_of_every_form(signature: bytes, key: bytes) -> None:
    """RSASSA and ECDSA hold, bare and as TPMT_SIGNATURE; another message's do not."""
    assert verify(attest(), signature, ak=key).claims.authentic
    result = verify(attest(nonce=b"other"), signature, ak=key, nonce=b"other")
    assert result.claims.reject_code == "tpm_bad_signature"


QUOTE = attest()
CASES: list[tuple[str, str, Callable[[], TeeResult]]] = [
    ("malformed", "tee_format", lambda: verify(b"", b"")),
    ("malformed", "tee_format", lambda: verify(QUOTE[:-1])),
    ("malformed", "tee_format", lambda: verify(QUOTE + bytes(MAX_ATTEST_BYTES))),
    ("malformed", "tee_format", lambda: verify(attest(nonce=bytes(67)))),
    ("malformed", "tee_format", lambda: verify(attest(safe=2))),
    ("malformed", "tee_format", lambda: verify(attest(selection=struct.pack(">I", 2**32 - 1)))),
    ("malformed", "tee_format", lambda: verify(attest(selection=struct.pack(">IHB", 1, 11, 5) + bytes(5)))),
    ("tpm_bad_magic", "tee_format", lambda: verify(attest(magic=b"\0TCG"))),
    ("tpm_not_quote", "tee_format", lambda: verify(attest(kind=b"\x80\x17"))),
    ("tpm_trailing_bytes", "tee_format", lambda: verify(attest(tail=b"\0"))),
    ("tpm_bad_key", "tee_chain", lambda: verify(QUOTE, ak=None)),
    ("tpm_bad_key", "tee_chain", lambda: verify(QUOTE, ak=b"key")),
    ("tpm_bad_key", "tee_chain", lambda: verify(QUOTE, ak=spki(rsa_key("tiny", 1024)))),
    ("tpm_bad_key", "tee_chain", lambda: verify(QUOTE, ak=spki(ec_key("p384")))),
    ("tpm_bad_key", "tee_chain", lambda: verify(QUOTE, ak=exponent_3())),
    ("tpm_bad_signature", "tee_signature", lambda: verify(QUOTE, bytes(256))),
    ("tpm_bad_signature", "tee_signature", lambda: verify(QUOTE, tpmt(b""))),
    ("tpm_bad_signature", "tee_signature", lambda: verify(QUOTE, b"\x30", ak=spki(P256))),
    ("tpm_bad_signature", "tee_signature", lambda: verify(QUOTE, ak().sign(QUOTE, padding.PKCS1v15(), hashes.SHA384()))),
    ("tpm_bad_sig_scheme", "tee_signature", lambda: verify(QUOTE, tpmt(rsassa(QUOTE), algorithm=0x16))),
    ("tpm_bad_sig_scheme", "tee_signature", lambda: verify(QUOTE, tpmt(rsassa(QUOTE), digest=0x04))),
    ("tpm_bad_sig_scheme", "tee_signature", lambda: verify(QUOTE, tpmt(rsassa(QUOTE)), ak=spki(P256))),
    ("tpm_trailing_bytes", "tee_signature", lambda: verify(QUOTE, tpmt(rsassa(QUOTE)) + b"\0")),
    ("malformed", "tee_signature", lambda: verify(QUOTE, b"\0")),
    ("malformed", "tee_signature", lambda: verify(QUOTE, bytes(MAX_SIGNATURE_BYTES + 1))),
    ("nonce_mismatch", "tee_nonce", lambda: verify(QUOTE, nonce=b"other")),
    ("nonce_mismatch", "tee_nonce", lambda: verify(QUOTE, nonce=NONCE[:-1])),
    ("nonce_mismatch", "tee_nonce", lambda: verify(QUOTE, nonce=b"")),
    ("tpm_bank", "tee_parts", lambda: verify(attest(selection=struct.pack(">IHB", 1, 0x04, 3) + b"\xff" * 3))),
    ("tpm_bank", "tee_parts", lambda: verify(attest(selection=struct.pack(">I", 0)))),
    ("tpm_bank", "tee_parts", lambda: verify(attest(selection=struct.pack(">I", 2) + (b"\0\x0b\3" + b"\xff" * 3) * 2))),
    ("tpm_pcr_missing", "tee_parts", lambda: verify(QUOTE, pcrs={0: PCRS[0]})),
    ("tpm_pcr_digest_mismatch", "tee_parts", lambda: verify(QUOTE, pcrs=PCRS | {4: bytes(32)})),
]  # fmt: skip


def exponent_3() -> bytes:
    numbers = rsa.RSAPublicNumbers(3, ak().public_key().public_numbers().n)
    return numbers.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(("reason", "check_id", "make"), CASES, ids=[f"{r}-{n}" for n, (r, _, _) in enumerate(CASES)])
def test_other_quotes_are_refused(reason: str, check_id: str, make: Callable[[], TeeResult]) -> None:
    """Each way in which a quote can fail has its reason, at its check."""
    result = make()
    assert (result.claims.authentic, result.claims.reject_code) == (False, reason)
    assert {c.id: (c.outcome.value, c.reason) for c in result.checks}[check_id] == ("contraindicated", reason)


def test_pitfall_a_pcr_that_is_not_quoted_is_no_measurement() -> None:
    """Values of PCRs outside the selection are left out of the claims, whatever they say."""
    some = {7: PCRS[7], 11: PCRS[11]}
    claims = verify(attest(pcrs=some), pcrs=PCRS).claims
    assert claims.authentic
    assert dict(claims.measurements) == {"pcr7": PCRS[7].hex(), "pcr11": PCRS[11].hex()}
    assert set(claims.raw["pcrs"]) == {"7", "11"}


def test_pitfall_any_signature_of_a_key_that_signs_anything() -> None:
    """A structure without the TPM's magic is refused although its signature holds."""
    assert verify(attest(magic=b"evil")).claims.reject_code == "tpm_bad_magic"


# ---- certificates of the key


def chain(*, leaf_key: Any = None, days: int = 30) -> tuple[bytes, bytes]:
    root_key = ec_key("tpm root")
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "TEST AK root")])
    start = datetime.datetime.fromtimestamp(NOW - 86_400, datetime.UTC)

    def make(public: Any, ca: bool) -> bytes:
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(7)
        builder = builder.public_key(public).not_valid_before(start)
        builder = builder.not_valid_after(start + datetime.timedelta(days=days))
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
        return builder.sign(root_key, hashes.SHA384()).public_bytes(Encoding.DER)

    return make(leaf_key or ak().public_key(), False), make(root_key.public_key(), True)


def pinned(root: bytes) -> TrustRoots:
    return TrustRoots((Anchor("tpm_ak", "TEST AK root", hashlib.sha256(root).hexdigest(), test=True),))


def test_a_certified_key() -> None:
    """A key whose certificate chains to a pinned root carries that root."""
    leaf, root = chain()
    result = verify(QUOTE, ak=None, ak_chain=(leaf, root), roots=pinned(root))
    assert result.claims.authentic, result.claims.reject_detail
    assert result.claims.root is not None
    assert result.claims.root.test
    assert result.claims.signer_chain == (hashlib.sha256(leaf).hexdigest(), hashlib.sha256(root).hexdigest())
    assert result.checks[1].outcome.value == "affirming"


@pytest.mark.parametrize(
    ("reason", "make"),
    [
        ("tpm_untrusted_root", lambda: (chain(), NO_ROOTS)),
        ("cert_expired_or_not_yet_valid", lambda: (chain(days=0), pinned(chain(days=0)[1]))),
        ("chain_broken", lambda: (chain()[::-1], pinned(chain()[0]))),
        ("malformed", lambda: ((b"", b""), NO_ROOTS)),
        ("tpm_bad_key", lambda: (chain(leaf_key=ec_key("p384").public_key()), None)),
    ],
)
def test_other_chains_are_refused(reason: str, make: Callable[[], Any]) -> None:
    """A chain that does not hold, or ends elsewhere, is refused."""
    certificates, roots = make()
    result = verify(QUOTE, ak=None, ak_chain=certificates, roots=roots or pinned(certificates[1]))
    assert result.claims.reject_code == reason


# ---- inputs


def blobs() -> dict[str, bytes]:
    pcrs = {str(i): v.hex() for i, v in PCRS.items()}
    return {"quote": QUOTE, "signature": rsassa(QUOTE), "pcrs": json.dumps(pcrs).encode(), "ak": AK}


def test_inputs() -> None:
    """The roles are read, the nonce from its hex, a chain from PEM."""
    assert from_inputs(blobs(), {"nonce": NONCE.hex()}, NO_ROOTS, NOW).claims.authentic
    leaf, root = chain()
    pem = b"".join(x509.load_der_x509_certificate(c).public_bytes(Encoding.PEM) for c in (leaf, root))
    result = from_inputs(blobs() | {"ak_chain": pem}, {}, pinned(root), NOW)
    assert result.claims.root is not None


@pytest.mark.parametrize("role", ["quote", "signature", "pcrs", "ak"])
def test_missing_inputs_are_told(role: str) -> None:
    """A missing role raises FormatError with the reason input_missing."""
    with pytest.raises(FormatError) as caught:
        from_inputs({k: v for k, v in blobs().items() if k != role}, {}, NO_ROOTS, NOW)
    assert caught.value.reason == "input_missing"


@pytest.mark.parametrize("nonce", ["zz", "AB", "a", 7, None, "61 62"])
def test_a_nonce_is_lower_case_hex(nonce: object) -> None:
    """Any other nonce is an error of the caller."""
    with pytest.raises(FormatError):
        from_inputs(blobs(), {"nonce": nonce}, NO_ROOTS, NOW)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "00",
        7,
        {"32": "00" * 32},
        {"00": "00" * 32},
        {"-1": "00" * 32},
        {"a": ""},
        ["00"],
        [7],
        ["0G" * 32],
        ["00" * 32] * 33,
    ],
)
def test_other_pcr_values_are_refused(value: object) -> None:
    """PCR values are 32 bytes each, by a plain index below 32."""
    with pytest.raises(FormatError):
        parse_pcrs(value)


def test_pcr_values_in_order_or_by_index() -> None:
    """A list and an object mean the same, and either is held against the quote."""
    quote = parse_attest(attest(pcrs={0: PCRS[0], 1: PCRS[1]}))
    listed, named = parse_pcrs([PCRS[0].hex(), PCRS[1].hex()]), parse_pcrs({"1": PCRS[1].hex(), "0": PCRS[0].hex()})
    assert listed == named
    assert check_pcrs(quote, named) == {0: PCRS[0], 1: PCRS[1]}
