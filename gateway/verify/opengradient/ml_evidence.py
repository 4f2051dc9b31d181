"""What there is of an ONNX inference on OpenGradient, decoded: a transaction, its event, the node's result document.

    calldata   cbf09d80 || run(string model, uint8 mode, input)            whoever asked for the inference
    event      ModelInferenceEvent(string id, (mode, model, input), output)  the chain's inference precompile
    document   {"inference_results": [base64(JSON {"InferenceResult": …})]}  a REST answer, signed by nobody

The document is asked for where the event's output is empty. Its one variant says how the model was run:
`VanillaResult`, `TeeNodeResult.Response.VanillaResponse` or `ZkmlResult`, each with a `model_output`. Members beside
it are named (`beside`), never read: nothing that the network publishes describes them.
"""

from __future__ import annotations

import base64
import binascii
import enum
from collections.abc import Mapping

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.crypto.keccak import keccak256
from gateway.errors import FormatError

from . import abi
from .abi_layout import Kind, Record, check_layout, spelled
from .registry_events import Log
from .tensors import INPUT, OUTPUT, ModelInput, ModelOutput, input_of, output_from_json, output_of

#: The contract that the network's client calls, and the precompile that logs every inference.
CONTRACT = "0x8383c9bd7462f12eb996dd02f78234c0421a6fae"
PRECOMPILE = "0x00000000000000000000000000000000000000f4"

_RUN: tuple[Kind, ...] = ("string", "uint8", INPUT)
_EVENT: tuple[Kind, ...] = ("string", Record(("uint8", "string", INPUT)), OUTPUT)


def _signature(name: str, kinds: tuple[Kind, ...]) -> bytes:
    return f"{name}({','.join(map(spelled, kinds))})".encode()


SELECTOR = keccak256(_signature("run", _RUN))[:4]
TOPIC = keccak256(_signature("ModelInferenceEvent", _EVENT))

#: The longest result document: base64 makes four characters of three bytes.
MAX_DOCUMENT = 2 * 1024 * 1024
_DEPTH = 16


class Mode(enum.Enum):
    """How the network says that it ran the model; the values are the chain's."""

    VANILLA = 0
    ZKML = 1
    TEE = 2


class Request(msgspec.Struct, frozen=True):
    """What was to be computed: `model` is the IPFS content id of the ONNX file."""

    mode: Mode
    model: str
    input: ModelInput


class Inference(msgspec.Struct, frozen=True):
    """One event of the precompile. `output` may be empty."""

    id: str
    request: Request
    output: ModelOutput


class Document(msgspec.Struct, frozen=True):
    """One result document: what it calls itself, its output, and the names of members that nobody here can read."""

    mode: Mode
    output: ModelOutput
    beside: tuple[str, ...] = ()


def decode_run(data: bytes) -> Request:
    """The request in the calldata of a transaction. Raises `FormatError` (`call_unknown` for another function)."""
    if data[:4] != SELECTOR:
        raise FormatError("the transaction calls another function", reason="call_unknown")
    check_layout(_RUN, data[4:])
    model, mode, tensors = abi.decode(list(map(spelled, _RUN)), data[4:])
    return Request(_mode(mode), abi.text(model, "the model's id"), input_of(tensors))


def decode_event(log: Log) -> Inference:
    """The inference that `log` is. Raises `FormatError` (`event_unknown` for another event)."""
    if log.topics != (TOPIC,):
        raise FormatError("not the event of an inference", reason="event_unknown")
    check_layout(_EVENT, log.data)
    name, (mode, model, tensors), output = abi.decode(list(map(spelled, _EVENT)), log.data)
    request = Request(_mode(mode), abi.text(model, "the model's id"), input_of(tensors))
    return Inference(abi.text(name, "the inference's id"), request, output_of(output))


def parse_document(data: bytes) -> Document:
    """The one result in `data`, at most `MAX_DOCUMENT` bytes. Raises `FormatError`.

    More results than one are refused (`results_many`): the network's client takes the first, and says nothing.
    """
    results = _object(strict_json(data, max_bytes=MAX_DOCUMENT, max_depth=_DEPTH), "the document")["inference_results"]
    if not isinstance(results, list) or not all(isinstance(item, str) for item in results):
        raise FormatError("inference_results is not a list of texts")
    if len(results) != 1:
        raise FormatError(f"{len(results)} results where one is expected", reason="results_many")
    inner = strict_json(_unbase64(results[0]), max_bytes=MAX_DOCUMENT, max_depth=_DEPTH)
    return _result(_object(inner, "the result")["InferenceResult"])


def _result(value: object) -> Document:
    variants = _object(value, "InferenceResult")
    if len(variants) != 1:
        raise FormatError("InferenceResult has not exactly one variant")
    ((variant, body),) = variants.items()
    steps = _VARIANTS.get(variant)
    if steps is None:
        raise FormatError("InferenceResult is of a variant that is not known", reason="variant_unknown")
    mode, inner = steps
    beside: list[str] = []
    at = _object(body, variant)
    for step in inner:
        beside += at.keys() - {step}
        at = _object(at[step], step)
    beside += at.keys() - {"model_output"}
    return Document(mode, output_from_json(at["model_output"]), tuple(sorted(beside)))


_VARIANTS: dict[str, tuple[Mode, tuple[str, ...]]] = {
    "VanillaResult": (Mode.VANILLA, ()),
    "TeeNodeResult": (Mode.TEE, ("Response", "VanillaResponse")),
    "ZkmlResult": (Mode.ZKML, ()),
}


class _Members(dict[str, object]):
    """An object whose missing members are malformed."""

    def __missing__(self, name: str) -> object:
        raise FormatError(f"the member {name} is missing")


def _object(value: object, what: str) -> _Members:
    if not isinstance(value, Mapping):
        raise FormatError(f"{what} is not an object")
    return _Members(value)


def _unbase64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        data = b""
    if not data or base64.b64encode(data).decode() != text:
        raise FormatError("a result is not base64 in its one spelling")
    return data


def _mode(value: int) -> Mode:
    try:
        return Mode(value)
    except ValueError:
        raise FormatError(f"there is no mode {value}", reason="mode_unknown") from None
