"""Check an ONNX inference of OpenGradient (VANILLA, TEE, ZKML): what the chain says of it, and what nobody shows.

FILE is the node's result document, the JSON answer to GET …/artela-network/artela-rollkit/inference/tx/<id>. With --tx
the transaction and its inference event are read from the RPC endpoints of [networks.opengradient], as many of which
have to agree as the settings say. Give both where the event's output is empty, or to compare them.

A TEE node's answer is not signed, and a ZKML result reaches clients without proof, key or settings. So neither claim
is ever affirming here; --require tee and --require zk fail, and say why.

Exit code: 0 all that is asked for is affirming; 1 something is contraindicated, or required and not affirming; 2 usage
or settings; 3 something could not be decided, as always when FILE stands alone.

examples:
  veriroute ml verify --tx 0x5f… --config veriroute.toml
  veriroute ml verify result.json --tx 0x5f… --config veriroute.toml --json
  veriroute ml verify result.json --require zk
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import sys
from types import SimpleNamespace

import httpx
import msgspec

from gateway.cli.serve import add_config, settings_of
from gateway.cli.terminal import show
from gateway.errors import ConfigError, FormatError, VerirouteError
from gateway.model.line import exit_code
from gateway.verify.opengradient import abi
from gateway.verify.opengradient.ml import REQUIREMENTS, Appraisal, Evidence, appraise, digests, lines
from gateway.verify.opengradient.ml_evidence import CONTRACT, MAX_DOCUMENT, PRECOMPILE, Document, parse_document
from gateway.verify.opengradient.response import printable
from gateway.verify.opengradient.tensors import ModelOutput, Number

from . import hexed
from .ml_chain import inference
from .quorum import Quorum
from .rpc import RpcClient
from .settings import Table, read

HELP = "check an ONNX inference of OpenGradient against the chain"
#: Values of a tensor that the text form shows; --json has all of them.
SHOWN = 6
#: Characters of a number that are written out.
LONGEST = 60
_TX = re.compile(r"0x[0-9a-fA-F]{64}")


class Usage(VerirouteError):
    """The arguments do not name something that can be checked."""

    code = "usage"


def configure(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("action", choices=["verify"])
    add("file", nargs="?", metavar="FILE", help="the result document; - reads standard input")
    add("--tx", metavar="HASH", help="the inference's transaction, 0x and 64 hex digits")
    add("--require", action="append", default=[], choices=REQUIREMENTS, help="also fail (1) unless this is affirming")
    add("--contract", default=CONTRACT, metavar="ADDRESS", help="the inference contract (default: %(default)s)")
    add(
        "--precompile", default=PRECOMPILE, metavar="ADDRESS", help="where inferences are logged (default: %(default)s)"
    )
    add("--json", action="store_true", help="one JSON document, with every value, instead of lines")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    if args.file is None and args.tx is None:
        raise Usage("give the result document, or --tx, or both")
    abi.require()
    appraisal = appraise(asyncio.run(_evidence(args)), args.require)
    found = lines(appraisal)
    code = exit_code(found)
    if args.json:
        sys.stdout.write(json.dumps({"exit": code, **as_document(appraisal)}, indent=1) + "\n")
    else:
        show(_title(args), found, code)
        sys.stdout.write("".join(f"  {row}\n" for row in _rows(appraisal)))
    return code


async def _evidence(args: argparse.Namespace) -> Evidence:
    document: Document | None = None
    malformed: str | None = None
    if args.file is not None:
        try:
            document = parse_document(_read(args.file))
        except FormatError as error:
            malformed = printable(error.message)
    if args.tx is None:
        return Evidence(document, None, malformed)
    for name, value, form in (("tx", args.tx, _TX.fullmatch), ("contract", args.contract, hexed.is_address)):
        if not form(value):
            raise Usage(f"--{name} {printable(value)} is not 0x and its hex digits")
    if not hexed.is_address(args.precompile):
        raise Usage(f"--precompile {printable(args.precompile)} is not 0x and its hex digits")
    return await _with_chain(args, _table(args), document, malformed)


async def _with_chain(
    args: argparse.Namespace, table: Table, document: Document | None, malformed: str | None
) -> Evidence:
    tx = bytes.fromhex(args.tx[2:])
    contract, precompile = args.contract.lower(), args.precompile.lower()
    async with httpx.AsyncClient(trust_env=False) as client:
        endpoints = [
            RpcClient(client, f"rpc{i}", url, chain_id=table.chain_id, timeout_s=table.rpc_timeout_s)
            for i, url in enumerate(table.rpc)
        ]
        quorum = Quorum(endpoints, table.agree, confirmations=table.confirmations)
        try:
            chain = await inference(quorum, tx, contract=contract, precompile=precompile)
        except FormatError as error:
            return Evidence(document, None, malformed or printable(error.message))
    return Evidence(document, chain, malformed)


def _table(args: argparse.Namespace) -> Table:
    networks = settings_of(args).networks
    if "opengradient" not in networks:
        raise ConfigError("--tx asks the RPC endpoints of [networks.opengradient], and the settings have no such table")
    return read(networks["opengradient"], "[networks.opengradient]")


def _read(name: str) -> bytes:
    try:
        if name == "-":
            return sys.stdin.buffer.read(MAX_DOCUMENT + 1)  # one byte too many is refused by the parser
        with open(name, "rb") as file:
            return file.read(MAX_DOCUMENT + 1)
    except OSError as error:
        raise Usage(f"cannot read {printable(name)}: {error.strerror}") from None


def as_document(appraisal: Appraisal) -> dict[str, object]:
    """The appraisal for --json. Numbers of tensors are decimal texts with every digit."""
    request, output = appraisal.request, appraisal.output
    return {
        "mode": appraisal.mode.name if appraisal.mode else None,
        "model": request.model if request else None,
        "digests": digests(appraisal),
        "checks": msgspec.to_builtins(appraisal.findings),
        "claims": msgspec.to_builtins(appraisal.claims),
        "output": _tensors(output) if output else None,
    }


def _tensors(output: ModelOutput) -> dict[str, object]:
    return {
        "numbers": [
            {"name": tensor.name, "shape": tensor.shape, "values": [str(number) for number in tensor.values]}
            for tensor in output.numbers
        ],
        "strings": msgspec.to_builtins(output.strings),
        "jsons": msgspec.to_builtins(output.jsons),
    }


def _title(args: argparse.Namespace) -> str:
    return f"OpenGradient inference, {' and '.join(part for part in (args.file, args.tx) if part)}"


def _rows(appraisal: Appraisal) -> list[str]:
    """What the evidence says, as printable ASCII."""
    rows = [f"mode      {appraisal.mode.name if appraisal.mode else 'unknown'}"]
    if appraisal.request is not None:
        rows.append(f"model     {printable(appraisal.request.model)}")
    rows += [f"{name:<9} {digest}" for name, digest in digests(appraisal).items()]
    if appraisal.output is not None:
        for numbers in appraisal.output.numbers:
            rows.append(_row(numbers.name, [_number(number) for number in numbers.values[:SHOWN]], len(numbers.values)))
        for texts in appraisal.output.strings:
            rows.append(_row(texts.name, list(texts.values[:SHOWN]), len(texts.values)))
        rows += [_row(tensor.name, [tensor.value], 1) for tensor in appraisal.output.jsons]
    rows += [f"claim     {c.name} {c.status}" + (f" ({c.reason})" if c.reason else "") for c in appraisal.claims]
    return rows


def _row(name: str, values: list[str], count: int) -> str:
    more = f" and {count - len(values)} more" if count > len(values) else ""
    return f"output    {printable(name)}: {', '.join(map(_cut, values))}{more}"


def _number(number: Number) -> str:
    """Exact in either form: a number with hundreds of places is no line to read."""
    text = str(number)
    return text if len(text) <= LONGEST else f"{number.value}e-{number.decimals}"


def _cut(text: str) -> str:
    shown = printable(text)
    return shown if shown == ascii(text)[1:-1] else shown + "..."


command = SimpleNamespace(HELP=HELP, configure=configure, run=run, __doc__=__doc__)
