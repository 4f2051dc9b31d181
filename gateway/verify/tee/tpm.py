"""A TPM 2.0 quote: TPMS_ATTEST, its signature, and the PCR values that it digests (docs/verification.md).

Wire format, big-endian (TPM 2.0 Library, part 2, sections 10.12 and 11.3):

    TPMS_ATTEST     magic ff544347 | type 8018 | qualifiedSigner TPM2B | extraData TPM2B | clock u64 | resetCount u32
                    | restartCount u32 | safe u8 | firmwareVersion u64 | count u32, {bank u16, size u8, bitmap}
                    | pcrDigest TPM2B
    TPMT_SIGNATURE  0014 (RSASSA) | 000b (SHA-256) | TPM2B        or    0018 (ECDSA) | 000b | TPM2B r | TPM2B s

The magic matters: a restricted key signs only structures that the TPM itself made, and those alone begin with it. What
is shown is that the key signed this digest over these PCRs and this nonce. That the key lives in a TPM is shown by its
certificate, or on Azure by the machine's hardware report, and by nothing in the quote.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import load_der_public_key

from gateway.crypto.canonical import strict_json
from gateway.crypto.certificates import check_chain, der_of, expires, fingerprint, load_certificate, load_pem_chain
from gateway.errors import FormatError
from gateway.model.tee import Collateral, Freshness, FreshnessClass, Platform, TeeResult

from .findings import Findings, NotAuthentic, examine
from .roots import TrustRoots

PLAN = ("tee_format", "tee_chain", "tee_signature", "tee_nonce", "tee_parts")

SHA256_BANK = 0x000B
MAX_ATTEST_BYTES = 2048
MAX_SIGNATURE_BYTES = 1100
MAX_BANKS, MAX_BITMAP = 16, 4
MAX_PCRS = 32
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
_MAX_NAME, _MAX_EXTRA, _MAX_DIGEST = 68, 66, 64
_RSASSA, _ECDSA, _SHA256 = 0x0014, 0x0018, 0x000B

AttestationKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


class TpmQuote(msgspec.Struct, frozen=True):
    """A parsed TPMS_ATTEST. `selection` has each bank's algorithm and the PCR indices, in ascending order."""

    qualified_signer: bytes
    extra_data: bytes
    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware: int
    selection: tuple[tuple[int, tuple[int, ...]], ...]
    pcr_digest: bytes


class _Bytes:
    """Reads big-endian fields off the front."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        value = self.data[self.at : self.at + count]
        if len(value) != count:
            raise FormatError(f"a TPM structure is cut short at byte {self.at}")
        self.at += count
        return value

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def sized(self, limit: int) -> bytes:
        """A TPM2B."""
        size = self.number(2)
        if size > limit:
            raise FormatError(f"a TPM structure holds {size} bytes where {limit} are the most")
        return self.take(size)

    def end(self) -> None:
        if self.at != len(self.data):
            raise NotAuthentic("bytes follow the TPM structure", reason="tpm_trailing_bytes")


def parse_attest(data: bytes) -> TpmQuote:
    """The quote in `data`. Raises `NotAuthentic` for another structure, `FormatError` for a broken one."""
    if len(data) > MAX_ATTEST_BYTES:
        raise FormatError(f"a quote has {len(data)} bytes; at most {MAX_ATTEST_BYTES} are read")
    reader = _Bytes(data)
    if reader.take(4) != b"\xffTCG":
        raise NotAuthentic("no TPM made this structure", reason="tpm_bad_magic", expected="ff544347")
    if reader.take(2) != b"\x80\x18":
        raise NotAuthentic("the TPM structure is not a quote", reason="tpm_not_quote", expected="8018")
    quote = TpmQuote(
        qualified_signer=reader.sized(_MAX_NAME),
        extra_data=reader.sized(_MAX_EXTRA),
        clock=reader.number(8),
        reset_count=reader.number(4),
        restart_count=reader.number(4),
        safe=_yes_or_no(reader.number(1)),
        firmware=reader.number(8),
        selection=_selection(reader),
        pcr_digest=reader.sized(_MAX_DIGEST),
    )
    reader.end()
    return quote


def _yes_or_no(value: int) -> bool:
    if value > 1:
        raise FormatError("a TPMI_YES_NO is neither")
    return value == 1


def _selection(reader: _Bytes) -> tuple[tuple[int, tuple[int, ...]], ...]:
    count = reader.number(4)
    if count > MAX_BANKS:
        raise FormatError(f"a quote selects from {count} banks; at most {MAX_BANKS} are read")
    banks = []
    for _ in range(count):
        bank, size = reader.number(2), reader.number(1)
        if size > MAX_BITMAP:
            raise FormatError(f"a PCR bitmap has {size} bytes; at most {MAX_BITMAP} are read")
        bitmap = int.from_bytes(reader.take(size), "little")
        banks.append((bank, tuple(index for index in range(size * 8) if bitmap >> index & 1)))
    return tuple(banks)


def check_quote_signature(attest: bytes, signature: bytes, key: AttestationKey) -> None:
    """Hold `signature` (bare, or a TPMT_SIGNATURE) over `attest`: RSASSA or ECDSA P-256, with SHA-256.

    A bare ECDSA signature is DER. Raises `NotAuthentic`, or `FormatError` for a broken structure.
    """
    if len(signature) > MAX_SIGNATURE_BYTES:
        raise FormatError(f"a signature has {len(signature)} bytes; at most {MAX_SIGNATURE_BYTES} are read")
    try:
        if isinstance(key, rsa.RSAPublicKey):
            bare = _rsa_signature(signature, key.key_size // 8)
            key.verify(bare, attest, padding.PKCS1v15(), hashes.SHA256())
        else:
            key.verify(_ecdsa_signature(signature), attest, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise NotAuthentic(
            "the attestation key did not sign this quote", reason="tpm_bad_signature", over="the whole quote"
        ) from None


def _rsa_signature(signature: bytes, length: int) -> bytes:
    return signature if len(signature) == length else _scheme(signature, _RSASSA, 1)[0]


def _ecdsa_signature(signature: bytes) -> bytes:
    if signature[:1] == b"\x30":
        return signature
    r, s = _scheme(signature, _ECDSA, 2)
    return utils.encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))


def _scheme(signature: bytes, algorithm: int, parts: int) -> list[bytes]:
    reader = _Bytes(signature)
    if (reader.number(2), reader.number(2)) != (algorithm, _SHA256):
        raise NotAuthentic("the signature is of another scheme than the key", reason="tpm_bad_sig_scheme")
    values = [reader.sized(MAX_SIGNATURE_BYTES) for _ in range(parts)]
    reader.end()
    return values


def check_pcrs(quote: TpmQuote, pcrs: Mapping[int, bytes]) -> dict[int, bytes]:
    """The values of the PCRs that the quote covers, having held them against its digest.

    `pcrs` are SHA-256 values by index. What the quote does not select is left out: nothing vouches for it. Raises
    `NotAuthentic`.
    """
    if len(quote.selection) != 1 or quote.selection[0][0] != SHA256_BANK:
        raise NotAuthentic("the quote is not over the SHA-256 bank alone", reason="tpm_bank")
    indices = quote.selection[0][1]
    missing = [index for index in indices if index not in pcrs]
    if missing:
        raise NotAuthentic("the value of a quoted PCR is missing", reason="tpm_pcr_missing", found=f"PCR {missing[0]}")
    selected = {index: pcrs[index] for index in indices}
    digest = hashlib.sha256(b"".join(selected.values())).digest()
    if digest != quote.pcr_digest:
        raise NotAuthentic(
            "the PCR values are not those that were quoted",
            reason="tpm_pcr_digest_mismatch",
            found=digest.hex(),
            expected=quote.pcr_digest.hex(),
        )
    return selected


def check_nonce(f: Findings, quote: TpmQuote, nonce: bytes | None) -> None:
    """The step `tee_nonce`: extraData is the nonce, all of it. Without one the step is `none`."""
    if nonce is None:
        f.absent("tee_nonce", "no_nonce")
        return
    with f.step("tee_nonce") as step:
        if quote.extra_data != nonce:
            raise NotAuthentic(
                "the quote was made for another nonce",
                reason="nonce_mismatch",
                found=quote.extra_data.hex()[:80],
                expected=nonce.hex()[:80],
            )
        f.set(freshness=Freshness(FreshnessClass.CHALLENGE))
        step.found = quote.extra_data.hex()[:80]


def usable_key(key: object) -> AttestationKey:
    """`key` when it is RSA of 2048 to 8192 bits with the exponent 65537, or on P-256. Raises `NotAuthentic`."""
    if isinstance(key, rsa.RSAPublicKey):
        if MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS and key.public_numbers().e == 65537:
            return key
    elif isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise NotAuthentic("the attestation key is of a kind that is not accepted", reason="tpm_bad_key")


def parse_pcrs(value: object) -> dict[int, bytes]:
    """PCR values by index from decoded JSON: a list of hex in order, or an object by index. Raises `FormatError`."""
    items = dict(enumerate(value)) if isinstance(value, Sequence) and not isinstance(value, str) else value
    if not isinstance(items, Mapping) or len(items) > MAX_PCRS:
        raise FormatError(f"PCR values are neither a list nor an object of at most {MAX_PCRS}")
    return {_index(index): unhex(text, "a PCR value", length=32) for index, text in items.items()}


def _index(value: object) -> int:
    text = str(value)
    if text not in _INDICES:
        raise FormatError("a PCR index is not a plain number below 32")
    return int(text)


_INDICES = frozenset(map(str, range(MAX_PCRS)))


def unhex(text: object, what: str, *, length: int | None = None) -> bytes:
    """The bytes behind lower-case hex, `length` of them if given. Raises `FormatError` naming `what`."""
    try:
        data = bytes.fromhex(text) if isinstance(text, str) else None
    except ValueError:
        data = None
    if data is None or data.hex() != text:
        raise FormatError(f"{what} is not lower-case hex")
    if length is not None and len(data) != length:
        raise FormatError(f"{what} has {len(data)} bytes, not {length}")
    return data


def quote_claims(quote: TpmQuote) -> dict[str, Any]:
    """What a quote says, for `raw`."""
    return {
        "extra_data": quote.extra_data.hex(),
        "selection": [[bank, list(indices)] for bank, indices in quote.selection],
        "pcr_digest": quote.pcr_digest.hex(),
        "clock": quote.clock,
        "reset_count": quote.reset_count,
        "restart_count": quote.restart_count,
        "clock_safe": quote.safe,
        "firmware": f"{quote.firmware:#x}",
    }


def verify_tpm_quote(
    attest: bytes,
    signature: bytes,
    pcrs: Mapping[int, bytes],
    *,
    roots: TrustRoots,
    now: float,
    ak: bytes | None = None,
    ak_chain: Sequence[bytes] = (),
    nonce: bytes | None = None,
) -> TeeResult:
    """Appraise a quote of a plain TPM 2.0.

    `ak_chain` is the attestation key's certificates in DER, leaf first, ending in a root that `roots` has under
    `tpm_ak`. Without one `ak` (DER SubjectPublicKeyInfo) is used, and `tee_chain` is `none`: then nobody says that the
    key lives in a TPM, and `root` is None. Raises nothing for any bytes.
    """
    return examine(
        Platform.TPM2, attest, now, PLAN, lambda f: _verify(f, attest, signature, pcrs, roots, ak, ak_chain, nonce)
    )


def _verify(
    f: Findings,
    attest: bytes,
    signature: bytes,
    pcrs: Mapping[int, bytes],
    roots: TrustRoots,
    ak: bytes | None,
    ak_chain: Sequence[bytes],
    nonce: bytes | None,
) -> None:
    with f.step("tee_format") as step:
        quote = parse_attest(attest)
        raw = quote_claims(quote)
        f.set(evidence_format="tpm2-quote", nonce=quote.extra_data.hex(), raw=raw)
        step.found = f"quote over {sum(len(indices) for _, indices in quote.selection)} PCRs"
    key = _attestation_key(f, roots, ak, ak_chain)
    with f.step("tee_signature") as step:
        check_quote_signature(attest, signature, key)
        step.over = "the whole quote"
    check_nonce(f, quote, nonce)
    with f.step("tee_parts") as step:
        values = {str(index): value.hex() for index, value in check_pcrs(quote, pcrs).items()}
        step.found = f"{len(values)} PCR values"
    f.set(measurements={f"pcr{index}": value for index, value in values.items()}, raw=raw | {"pcrs": values})


def _attestation_key(f: Findings, roots: TrustRoots, ak: bytes | None, ak_chain: Sequence[bytes]) -> AttestationKey:
    with f.step("tee_chain") as step:
        if not ak_chain:
            key = _load_key(ak or b"")
        else:
            chain = tuple(load_certificate(der) for der in ak_chain)
            f.set(signer_chain=tuple(map(fingerprint, chain)))
            check_chain(chain, f.evaluated_at)
            root = roots.find("tpm_ak", der_of(chain[-1]))
            if root is None:
                raise NotAuthentic("the key's root is not one that is pinned", reason="tpm_untrusted_root")
            f.set(root=root, collateral=Collateral(tuple(map(fingerprint, chain)), None, expires(chain)))
            key = usable_key(chain[0].public_key())
            step.found = f"{len(chain)} certificates"
    if not ak_chain:
        f.absent("tee_chain", "no_certificate")
    return key


def _load_key(spki: bytes) -> AttestationKey:
    try:
        return usable_key(load_der_public_key(spki))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise NotAuthentic("the attestation key is not a public key", reason="tpm_bad_key") from None


def from_inputs(blobs: Mapping[str, bytes], params: Mapping[str, Any], roots: TrustRoots, now: float) -> TeeResult:
    """`verify_tpm_quote` over the roles `quote`, `signature`, `pcrs` (JSON) and `ak_chain` (PEM) or `ak` (DER key).

    `params["nonce"]` is hex. Raises `FormatError`, with the reason `input_missing` for a missing role.
    """
    missing = [role for role in ("quote", "signature", "pcrs") if role not in blobs]
    if missing or not {"ak", "ak_chain"} & blobs.keys():
        raise FormatError(f"the input {(missing or ['ak'])[0]!r} is missing", reason="input_missing")
    chain = load_pem_chain(blobs["ak_chain"]) if "ak_chain" in blobs else ()
    return verify_tpm_quote(
        blobs["quote"],
        blobs["signature"],
        parse_pcrs(strict_json(blobs["pcrs"], max_bytes=16_384, max_depth=2)),
        roots=roots,
        now=now,
        ak=blobs.get("ak"),
        ak_chain=tuple(map(der_of, chain)),
        nonce=nonce_of(params),
    )


def nonce_of(params: Mapping[str, Any]) -> bytes | None:
    """The nonce that the evidence was asked for, from its hex; None without one.

    Raises `FormatError`, with the reason `param_malformed` for an empty one, which evidence without a nonce would meet.
    """
    if "nonce" not in params:
        return None
    if not params["nonce"]:
        raise FormatError("the nonce is empty", reason="param_malformed")
    return unhex(params["nonce"], "the nonce")
