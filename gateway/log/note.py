"""Signed notes (C2SP signed-note v1.0.0): text, a blank line, and signature lines.

    <text, ends in LF>
    LF
    — <key name> <base64(key id, 4 bytes || signature)>          one or more; the dash is U+2014

    verifier key (vkey)  <name>+<key id, 8 hex digits>+<base64(type byte || public key)>
    signer key (skey)    PRIVATE+KEY+<name>+<key id, 8 hex digits>+<base64(0x01 || seed)>
    key id               SHA-256(name || LF || type byte || public key)[:4]

Lines by unknown keys are kept and not judged. A known key's line that does not hold refuses the whole note, even
beside a good line by the same key: the specification says SHOULD, and another reader might look at the other line.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

import msgspec

from gateway.crypto.encoding import b64, unb64
from gateway.crypto.signatures import Ed25519Signer, is_weak_ed25519, verify_ed25519
from gateway.errors import FormatError, ProofError

#: Signature types (first byte of the key material) that this project reads.
ED25519, COSIGNATURE_ED25519, COSIGNATURE_MLDSA44 = 0x01, 0x04, 0x06
_PUBLIC_KEY_BYTES = {ED25519: 32, COSIGNATURE_ED25519: 32, COSIGNATURE_MLDSA44: 1312}

#: Bounds on what is read. The specification asks for at least 16 lines; a line with an ML-DSA signature has 3.3 kB.
MAX_NOTE_BYTES = 1 << 20
MAX_SIGNATURES = 100

_DASH = "\N{EM DASH} "
#: ASCII control characters other than LF, and lone surrogates: never in a note. Spaces of any script: never in a name.
_NOT_TEXT = re.compile("[\x00-\x09\x0b-\x1f\ud800-\udfff]")
_NOT_A_NAME = re.compile("[\\s+\x00-\x1f\ud800-\udfff]")


class Vkey(msgspec.Struct, frozen=True):
    """A public key that may sign notes: `name`, 4-byte `id`, signature type `alg`, and the raw key."""

    name: str
    id: bytes
    alg: int
    public: bytes

    @property
    def keyid(self) -> str:
        """`<name>+<8 hex digits>`, the form in which this project names keys everywhere."""
        return f"{self.name}+{self.id.hex()}"

    def __str__(self) -> str:
        return f"{self.keyid}+{b64(bytes((self.alg,)) + self.public)}"


class SignatureLine(msgspec.Struct, frozen=True):
    """One signature line: who is said to have signed, and the bytes after the key id. Claims, not facts."""

    name: str
    key_id: bytes
    payload: bytes

    @property
    def keyid(self) -> str:
        return f"{self.name}+{self.key_id.hex()}"

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {b64(self.key_id + self.payload)}\n"


class Note(msgspec.Struct, frozen=True):
    """A note of which at least one known key's signature holds; `unverified` lines are by unknown keys."""

    text: str
    verified: tuple[Vkey, ...]
    unverified: tuple[SignatureLine, ...]


#: Whether a line's payload is `key`'s signature over a note's text.
LineCheck = Callable[[Vkey, str, bytes], bool]


def key_id(name: str, type_byte: int, public: bytes) -> bytes:
    """The 4-byte id of a key. `FormatError` when `name` can't be a key name."""
    return sha256(_key_name(name).encode() + b"\n" + bytes((type_byte,)) + public).digest()[:4]


def _key_name(name: str) -> str:
    if not name or _NOT_A_NAME.search(name):
        raise FormatError("a key name is non-empty text without spaces, '+' or control characters")
    return name


def _is_text(text: str) -> bool:
    return _NOT_TEXT.search(text) is None


class NoteSigner:
    """Signs notes, and through `keyid` and `sign` also DSSE envelopes, with one Ed25519 key.

    `vkey` is the public half as text, `skey` the private half: keep it out of logs; `repr` shows neither seed nor skey.
    """

    __slots__ = ("_name_and_id", "_seed", "_signer", "key", "keyid", "name", "public_key", "sign", "vkey")

    def __init__(self, name: str, seed32: bytes) -> None:
        self._signer = Ed25519Signer(seed32)
        self._seed = seed32
        self.name = name
        self.public_key = self._signer.public_key
        self.key = Vkey(name, key_id(name, ED25519, self.public_key), ED25519, self.public_key)
        self.keyid = self.key.keyid
        self.vkey = str(self.key)
        self.sign = self._signer.sign

    @property
    def skey(self) -> str:
        return f"PRIVATE+KEY+{self.keyid}+{b64(bytes((ED25519,)) + self._seed)}"

    def sign_line(self, text: str) -> str:
        """The signature line over `text`, with its LF."""
        return str(SignatureLine(self.name, self.key.id, self.sign(text.encode())))

    def __repr__(self) -> str:
        return f"NoteSigner({self.keyid})"


def parse_skey(text: str) -> NoteSigner:
    """The signer that `text` spells; `FormatError`, which never quotes it, otherwise."""
    parts = text.split("+", 4)
    if len(parts) != 5 or parts[:2] != ["PRIVATE", "KEY"]:
        raise FormatError("a signer key has the form PRIVATE+KEY+<name>+<key id>+<base64>")
    material = unb64(parts[4], "the signer key's material", length=33)
    if material[0] != ED25519:
        raise FormatError(f"signer key type 0x{material[0]:02x} is not supported, only Ed25519 (0x01)")
    signer = NoteSigner(parts[2], material[1:])
    if signer.key.id.hex() != parts[3]:
        raise FormatError("the signer key's id does not belong to its name and key")
    return signer


def parse_vkey(text: str) -> Vkey:
    """The verifier key that `text` spells; `FormatError` otherwise, also for a key that anyone can sign under."""
    parts = text.split("+", 2)
    if len(parts) != 3:
        raise FormatError("a verifier key has the form <name>+<key id>+<base64>")
    material = unb64(parts[2], "the verifier key's material")
    alg, public = (material[0], material[1:]) if material else (0, b"")
    if len(public) != _PUBLIC_KEY_BYTES.get(alg, -1):
        raise FormatError("the verifier key is neither Ed25519 (0x01, 0x04) nor ML-DSA-44 (0x06)")
    vkey = Vkey(parts[0], key_id(parts[0], alg, public), alg, public)
    if vkey.id.hex() != parts[1]:
        raise FormatError("the verifier key's id does not belong to its name and key")
    if alg != COSIGNATURE_MLDSA44 and is_weak_ed25519(public):
        raise FormatError("the verifier key is a weak Ed25519 point; no honest key is")
    return vkey


def sign_note(text: str, signers: Sequence[NoteSigner]) -> bytes:
    """`text` with one signature line by each signer, in order."""
    if not text.endswith("\n") or not _is_text(text):
        raise FormatError("a note's text ends in a newline and has no other control characters")
    if not signers:
        raise FormatError("a note needs a signature")
    return "".join([text, "\n", *(signer.sign_line(text) for signer in signers)]).encode()


def parse_note(data: bytes) -> tuple[str, tuple[SignatureLine, ...]]:
    """The text of a note and its signature lines, nothing of it verified; `FormatError` when it is no note."""
    if len(data) > MAX_NOTE_BYTES:
        raise FormatError(f"a note of {len(data)} bytes is over the limit of {MAX_NOTE_BYTES}")
    try:
        note = data.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"the note is not UTF-8 (byte {error.start})") from None
    if not _is_text(note):
        raise FormatError("the note has a control character")
    text, blank, lines = note.rpartition("\n\n")
    if not blank or not lines.endswith("\n"):
        raise FormatError("a note is text, a blank line, and signature lines that end in newlines")
    rows = lines[:-1].split("\n")
    if len(rows) > MAX_SIGNATURES:
        raise FormatError(f"the note has more than {MAX_SIGNATURES} signatures")
    return text + "\n", tuple(map(_parse_line, rows))


def _parse_line(line: str) -> SignatureLine:
    dash, name, encoded = line[:2], *line[2:].partition(" ")[::2]
    if dash != _DASH:
        raise FormatError("a signature line begins with an em dash and a space")
    payload = unb64(encoded, "a note signature")
    if len(payload) < 5:
        raise FormatError("a note signature is too short")
    return SignatureLine(_key_name(name), payload[:4], payload[4:])


def parse_signature_lines(text: str) -> tuple[SignatureLine, ...]:
    """One or more signature lines on their own, as a witness answers; `FormatError` otherwise."""
    if not text.endswith("\n") or not _is_text(text):
        raise FormatError("signature lines end in newlines and have no control characters")
    rows = text[:-1].split("\n")
    if len(rows) > MAX_SIGNATURES:
        raise FormatError(f"more than {MAX_SIGNATURES} signature lines")
    return tuple(map(_parse_line, rows))


def _check_ed25519(key: Vkey, text: str, payload: bytes) -> bool:
    return verify_ed25519(key.public, text.encode(), payload)


#: What a note of any text may be signed with. Cosignatures are for checkpoints: see `gateway.log.cosignature`.
NOTE_CHECKS: Mapping[int, LineCheck] = {ED25519: _check_ed25519}


def open_note(data: bytes, vkeys: Sequence[Vkey], *, checks: Mapping[int, LineCheck] = NOTE_CHECKS) -> Note:
    """The note in `data`, signed by at least one of `vkeys`.

    `FormatError` when it is no note or a key's type is not in `checks`; `ProofError` when a known key's line does not
    hold or no known key has signed. A key that signed twice is listed once.
    """
    text, lines = parse_note(data)
    known = {(key.name, key.id): key for key in vkeys}
    verified: dict[Vkey, None] = {}
    unverified = []
    for key in vkeys:
        if key.alg not in checks:
            raise FormatError(f"key {key.keyid!a} has a type that does not sign this kind of note")
    for line in lines:
        found = known.get((line.name, line.key_id))
        if found is None:
            unverified.append(line)
        elif checks[found.alg](found, text, line.payload):
            verified[found] = None
        else:
            raise ProofError(f"the note's signature by {found.keyid!a} does not hold")
    if not verified:
        raise ProofError("the note is not signed by any known key")
    return Note(text, tuple(verified), tuple(unverified))
