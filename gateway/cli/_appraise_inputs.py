"""What `veriroute appraise` is given: files and their encodings, parameters, times, the key to hold evidence to."""

from __future__ import annotations

import argparse
import base64
import binascii
import datetime
import math
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gateway.errors import FormatError, VerirouteError
from gateway.verify.tee.bindings import GPU_OF_THIS_MACHINE, BindingInputs, BindingRule
from gateway.verify.tee.kinds import Kind
from gateway.verify.tee.tied import certificate_digests

#: The largest file that is read.
MAX_FILE = 16 << 20
_HEX = re.compile(rb"(?:0x)?[0-9a-fA-F\s]+")
_BASE64 = re.compile(rb"[A-Za-z0-9+/\s]+={0,2}\s*")
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \1-----", re.DOTALL)

#: Rules that a command line cannot ask about: they hold GPU evidence to the CPU evidence of the same machine.
NEEDS_CPU = GPU_OF_THIS_MACHINE
RULES = tuple(rule.value for rule in BindingRule if rule not in NEEDS_CPU)
#: Option of the command line -> the member of `BindingInputs` that its hex becomes.
_HEX_OPTIONS = {"key": "signing_key", "nonce": "nonce", "spki": "spki_sha256", "public_key": "public_key"}
_HEX_INPUTS = frozenset(("signing_spki_sha256", "certificate_sha256", "gpu_nonce"))
_TEXT_INPUTS = frozenset(("nonce_text", "e2e_key_text", "keyset_digest", "audience", "adapter"))


class Usage(VerirouteError):
    """The command line does not make something that can be appraised."""

    code = "usage"


def read(path: Path) -> bytes:
    """The bytes of a file. Raises `Usage`."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
    except OSError as error:
        raise Usage(f"cannot read {path}: {error.strerror}") from None
    if len(data) > MAX_FILE:
        raise Usage(f"{path} is over {MAX_FILE >> 20} MB, which no evidence is")
    return data


def read_role(kind: Kind, role: str, path: Path) -> bytes:
    """The input of a role. Where the format is binary, printable text is taken for hex, base64 or PEM of it."""
    data = read(path)
    return decoded(data, path) if role in kind.binary else data


def decoded(data: bytes, path: Path) -> bytes:
    """The bytes that a text spells; `data` itself when it is no text. Raises `Usage` for two PEM blocks or none."""
    if not data.isascii() or b"\0" in data or not data.strip():
        return data
    if b"-----BEGIN" in data:
        blocks = _PEM.findall(data)
        if len(blocks) != 1:
            raise Usage(f"{path} holds {len(blocks)} PEM blocks; give a file with the one that is meant")
        return _unbase64(blocks[0][1], path)
    if _HEX.fullmatch(data):
        text = b"".join(data.split()).removeprefix(b"0x")
        return _unhex(text.decode(), f"the hex in {path}")
    return _unbase64(data, path) if _BASE64.fullmatch(data) else data


def _unbase64(data: bytes, path: Path) -> bytes:
    try:
        return base64.b64decode(b"".join(data.split()), validate=True)
    except binascii.Error:
        raise Usage(f"the base64 in {path} is damaged") from None


def _unhex(text: str, what: str) -> bytes:
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise Usage(f"{what} is not hex") from None


def pairs(items: Iterable[str], option: str) -> Iterable[tuple[str, str]]:
    """The name and value of each NAME=VALUE. Raises `Usage`."""
    for item in items:
        name, sign, value = item.partition("=")
        if not sign or not name:
            raise Usage(f"{option} takes NAME=VALUE, not {item!r}")
        yield name, value


def parameters(items: Iterable[str]) -> dict[str, Any]:
    """--param: numbers as numbers (the limits of a family are in seconds, evaluation numbers whole), `yes` as true."""
    return {name: _number(name, value) for name, value in pairs(items, "--param")}


#: Parameters that are numbers, by name: a nonce of digits is a nonce.
_NUMBERS = ("max_age_s", "future_skew_s", "max_age", "lowest_evaluation")


def _number(name: str, value: str) -> Any:
    if name == "historical":
        return value == "yes"
    if name == "policy_hashes":
        return value.split(",")
    for kind in (int, float) if name in _NUMBERS else ():
        try:
            return kind(value)
        except ValueError:
            continue
    return value  # where a number is due, the family says so


def moment(text: str | None) -> float:
    """--now in Unix seconds; this machine's clock without it. Raises `Usage`."""
    if text is None:
        return time.time()
    try:
        seconds = float(text)
    except ValueError:
        pass
    else:
        if not math.isfinite(seconds):
            raise Usage(f"--now takes RFC 3339 or seconds since 1970, not {text!r}")
        return seconds
    try:
        at = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise Usage(f"--now takes RFC 3339 or seconds since 1970, not {text!r}") from None
    if at.tzinfo is None:
        raise Usage(f"--now needs a time zone: {text}Z for UTC")
    return at.timestamp()


# -- what the evidence is held to -------------------------------------------------------------------------------------


def configure_binding(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("whom the evidence speaks for")
    group.add_argument(
        "--bind", metavar="RULE", choices=RULES, help=f"hold it to a key by this rule: {', '.join(RULES)}"
    )
    group.add_argument("--key", metavar="HEX", help="the address (20 bytes) or Ed25519 key (32) that signs answers")
    group.add_argument("--nonce", metavar="HEX", help="the nonce that you sent")
    group.add_argument("--spki", metavar="HEX", help="SHA-256 of the SubjectPublicKeyInfo of your connection's TLS key")
    group.add_argument(
        "--certificate", metavar="FILE", type=Path, help="your connection's certificate, instead of --spki"
    )
    group.add_argument("--public-key", metavar="HEX", help="the raw key that you encrypt to, or the enclave's own")
    group.add_argument(
        "--bind-input",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help=f"what other rules need: {', '.join(sorted(_HEX_INPUTS | _TEXT_INPUTS))}; @FILE reads a text from a file",
    )


def binding_inputs(args: argparse.Namespace) -> tuple[BindingRule, BindingInputs] | None:
    """The rule and what it is asked about; None when nothing was asked. Raises `Usage`."""
    given: dict[str, Any] = {
        member: _unhex(value, f"--{option.replace('_', '-')}")
        for option, member in _HEX_OPTIONS.items()
        if (value := getattr(args, option)) is not None
    }
    if args.certificate is not None:
        given |= _of_certificate(args.certificate)
    given |= dict(_named(args.bind_input))
    if args.bind is None:
        if given:
            raise Usage("a key, a nonce or a certificate is held to evidence by a rule: give --bind RULE")
        return None
    return BindingRule(args.bind), BindingInputs(**given)


def _of_certificate(path: Path) -> dict[str, bytes]:
    try:
        certificate, spki = certificate_digests(read(path))
    except FormatError as error:
        raise Usage(f"{path} is no certificate: {error.message}") from None
    return {"certificate_sha256": certificate, "spki_sha256": spki}


def _named(items: Iterable[str]) -> Iterable[tuple[str, Any]]:
    for name, value in pairs(items, "--bind-input"):
        if name in _HEX_INPUTS:
            yield name, _unhex(value, f"--bind-input {name}")
        elif name in _TEXT_INPUTS:
            text = read(Path(value[1:])).decode("utf-8", "replace").strip() if value.startswith("@") else value
            yield name, text
        else:
            raise Usage(f"--bind-input knows {', '.join(sorted(_HEX_INPUTS | _TEXT_INPUTS))}, not {name!r}")


def described(kinds: Mapping[str, Kind]) -> str:
    """The kinds and their inputs, a line each, for the help text."""
    rows = []
    for kind in kinds.values():
        optional = f"  [{', '.join(kind.optional)}]" if kind.optional else ""
        rows.append(f"  {kind.name:<16}{', '.join(kind.inputs)}{optional}")
    return "\n".join(rows)
