"""The verifier's trust file (C2SP tlog-policy): which logs, which witnesses, how many of them, and whose receipts.

    log <vkey> [<url>]                       type 0x01 or 0x06; named like the log's origin
    witness <name> <vkey> [<url>]            type 0x04 or 0x06
    group <name> all|any|<k> <member>...     members defined above, each in one group only
    quorum <name>|none                       exactly one
    #!receipt <vkey>                         a key that signs receipts (type 0x01)

The format leaves "keys for verifying signatures within a logged entry" out of scope, so ours stand in lines that every
other tool takes for comments. A line that begins with #! and has another word is refused: a misspelt root is no root.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from gateway.crypto.encoding import decimal
from gateway.errors import FormatError, ProofError
from gateway.model.line import Line
from gateway.model.verdict import Outcome

from .cosignature import CosignedCheckpoint, open_cosigned
from .note import COSIGNATURE_ED25519, COSIGNATURE_MLDSA44, ED25519, Vkey, key_id, parse_vkey

#: Bounds on what is read; the specification asks for at least 32 logs, witnesses and groups.
MAX_TRUST_BYTES = 1 << 20
MAX_LINES = 4096

_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_SPACE = re.compile("[ \t]+")
_NONE = "none"


class Log(msgspec.Struct, frozen=True):
    """A log whose checkpoints are believed. `url` is where it may be asked, if anywhere."""

    vkey: Vkey
    url: str | None = None


class Witness(msgspec.Struct, frozen=True):
    """A witness; `name` has no meaning outside the file."""

    name: str
    vkey: Vkey
    url: str | None = None


class Group(msgspec.Struct, frozen=True):
    """Met when at least `threshold` of `members` (witnesses or earlier groups) are."""

    name: str
    threshold: int
    members: tuple[str, ...]


class TrustPolicy(msgspec.Struct, frozen=True):
    """A parsed trust file. `groups` stand in the order of definition; `quorum` is None for `quorum none`."""

    logs: tuple[Log, ...]
    witnesses: tuple[Witness, ...]
    groups: tuple[Group, ...]
    quorum: str | None
    receipt_keys: tuple[Vkey, ...]

    @property
    def log_keys(self) -> tuple[Vkey, ...]:
        return tuple(log.vkey for log in self.logs)

    @property
    def witness_keys(self) -> tuple[Vkey, ...]:
        return tuple(witness.vkey for witness in self.witnesses)

    @property
    def receipt_key_map(self) -> dict[str, bytes]:
        """Key id to raw public key, as `gateway.log.dsse.verify_envelope` takes it."""
        return {key.keyid: key.public for key in self.receipt_keys}

    def quorum_met(self, cosigners: Iterable[Vkey]) -> bool:
        """Whether `cosigners`, whose cosignatures over one checkpoint hold, satisfy the quorum."""
        if self.quorum is None:
            return True
        keys = frozenset(cosigners)
        met = {witness.name for witness in self.witnesses if witness.vkey in keys}
        for group in self.groups:  # a group names only what stands above it
            if sum(member in met for member in group.members) >= group.threshold:
                met.add(group.name)
        return self.quorum in met


def open_with_trust(data: bytes, trust: TrustPolicy, origin: str | None = None) -> CosignedCheckpoint:
    """The checkpoint in `data`, signed by a trusted log, with the trusted witnesses that cosigned it, however few.

    For a reader that reports "witnessed k of n" beside the rest; `FormatError` or `ProofError` otherwise.
    """
    return open_cosigned(data, trust.log_keys, trust.witness_keys, origin)


def witnessed_line(cosigned: CosignedCheckpoint, trust: TrustPolicy) -> Line:
    """The step `witnessed`: whether the cosignatures that hold over a checkpoint are as many as `trust` asks for."""
    # A log that shows different trees to different people is caught by witnesses, and by nothing in one file.
    count = f"{len(cosigned.cosignatures)}/{len(trust.witnesses)}"
    names = ", ".join(c.key.keyid for c in cosigned.cosignatures) or None
    if trust.quorum is None:
        sentence = f"witnessed {count}; the trust file asks for no witness (quorum none)"
        return Line("witnessed", Outcome.NONE, sentence, detail=names, claimed=False)
    if trust.quorum_met(c.key for c in cosigned.cosignatures):
        return Line("witnessed", Outcome.AFFIRMING, f"witnessed {count}: meets quorum {trust.quorum!a}", detail=names)
    return Line("witnessed", Outcome.NONE, f"witnessed {count}: short of quorum {trust.quorum!a}", detail=names)


def verify_checkpoint(data: bytes, trust: TrustPolicy, origin: str | None = None) -> CosignedCheckpoint:
    """The checkpoint in `data`, signed by a trusted log and cosigned by the quorum; else `ProofError`."""
    found = open_with_trust(data, trust, origin)
    if not trust.quorum_met(cosignature.key for cosignature in found.cosignatures):
        raise ProofError(
            f"the checkpoint is cosigned by {len(found.cosignatures)} of {len(trust.witnesses)} known witnesses,"
            f" which does not meet the quorum {trust.quorum!a}"
        )
    return found


def parse_trust(text: str | bytes) -> TrustPolicy:
    """The policy that `text` spells; `FormatError` naming the line otherwise."""
    try:  # names are opaque octets, and surrogateescape keeps different octets different
        source = text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text
        size = len(source.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:
        raise FormatError("the trust policy has a lone surrogate") from None
    lines = source.split("\n")
    if size > MAX_TRUST_BYTES or len(lines) > MAX_LINES:
        raise FormatError(f"a trust policy has at most {MAX_TRUST_BYTES} bytes and {MAX_LINES} lines")
    parser = _Parser()
    for number, line in enumerate(lines, 1):
        try:
            parser.read(line)
        except FormatError as error:
            raise FormatError(f"trust policy, line {number}: {error}") from None
    return parser.finish()


class _Parser:
    """What has been defined so far, line by line."""

    def __init__(self) -> None:
        self.logs: list[Log] = []
        self.witnesses: list[Witness] = []
        self.groups: list[Group] = []
        self.receipt_keys: list[Vkey] = []
        self.quorum: str | None = None
        self.has_quorum = False
        self.names: set[str] = set()
        self.members: set[str] = set()

    def read(self, line: str) -> None:
        if _FORBIDDEN.search(line):
            raise FormatError("control characters other than tab are not allowed")
        words = _SPACE.split(line.strip(" \t"))
        kind, rest = words[0], words[1:]
        if kind in _READERS:
            _READERS[kind](self, rest)
        elif kind.startswith("#!"):
            raise FormatError(f"there is no directive {kind!a}; a comment begins with # and a space")
        elif kind and not kind.startswith("#"):
            raise FormatError(f"a line begins with log, witness, group, quorum or #, not {kind!a}")

    def log(self, words: list[str]) -> None:
        if len(words) not in (1, 2):
            raise FormatError("expected: log <vkey> [<url>]")
        vkey = _key(words[0], ED25519, COSIGNATURE_MLDSA44, known=self.logs)
        self.logs.append(Log(vkey, *words[1:]))

    def witness(self, words: list[str]) -> None:
        if len(words) not in (2, 3):
            raise FormatError("expected: witness <name> <vkey> [<url>]")
        _refuse_a_plain_key(words[1])
        vkey = _key(words[1], COSIGNATURE_ED25519, COSIGNATURE_MLDSA44, known=self.witnesses)
        self.witnesses.append(Witness(self.define(words[0]), vkey, *words[2:]))

    def group(self, words: list[str]) -> None:
        if len(words) < 3:
            raise FormatError("expected: group <name> all|any|<k> <member>...")
        name, rule, members = words[0], words[1], words[2:]
        for member in members:
            if member not in self.names:
                raise FormatError(f"{member!a} is not defined above")
            if member in self.members:
                raise FormatError(f"{member!a} is a member already; it may count once only")
            self.members.add(member)
        threshold = {"any": 1, "all": len(members)}.get(rule) or decimal(rule, "the group's threshold")
        if not 1 <= threshold <= len(members):
            raise FormatError(f"the threshold must be from 1 to {len(members)}")
        self.groups.append(Group(self.define(name), threshold, tuple(members)))

    def set_quorum(self, words: list[str]) -> None:
        if len(words) != 1:
            raise FormatError("expected: quorum <name>|none")
        if self.has_quorum:
            raise FormatError("there is a quorum already")
        if words[0] != _NONE and words[0] not in self.names:
            raise FormatError(f"{words[0]!a} is not defined above")
        self.has_quorum, self.quorum = True, None if words[0] == _NONE else words[0]

    def receipt(self, words: list[str]) -> None:
        if len(words) != 1:
            raise FormatError("expected: #!receipt <vkey>")
        vkey = _key(words[0], ED25519, known=())
        if vkey in self.receipt_keys:
            raise FormatError(f"the key {vkey.keyid!a} stands twice")
        self.receipt_keys.append(vkey)

    def define(self, name: str) -> str:
        if name == _NONE or name in self.names:
            raise FormatError(f"the name {name!a} is taken")
        self.names.add(name)
        return name

    def finish(self) -> TrustPolicy:
        if not self.has_quorum:
            raise FormatError("trust policy: there is no quorum line; `quorum none` asks for no witness")
        return TrustPolicy(
            tuple(self.logs), tuple(self.witnesses), tuple(self.groups), self.quorum, tuple(self.receipt_keys)
        )


_READERS = {
    "log": _Parser.log,
    "witness": _Parser.witness,
    "group": _Parser.group,
    "quorum": _Parser.set_quorum,
    "#!receipt": _Parser.receipt,
}


def _refuse_a_plain_key(text: str) -> None:
    """Some witness software prints its key as type 0x01 and cosigns under 0x04; say how to write it."""
    given = parse_vkey(text)
    if given.alg == ED25519:
        identity = key_id(given.name, COSIGNATURE_ED25519, given.public)
        meant = Vkey(given.name, identity, COSIGNATURE_ED25519, given.public)
        raise FormatError(f"the key {given.keyid!a} has type 0x01, a log's; as a witness's key it is written {meant}")


def _key(text: str, *types: int, known: Iterable[Log | Witness]) -> Vkey:
    vkey = parse_vkey(text)
    if vkey.alg not in types:
        raise FormatError(f"the key {vkey.keyid!a} has type 0x{vkey.alg:02x}, which does not sign this")
    if any(other.vkey.public == vkey.public for other in known):
        raise FormatError(f"the key {vkey.keyid!a} stands twice, whatever its name")
    return vkey
