"""ONNX inferences made for tests: calldata, events and result documents, by `eth_abi` and plain JSON."""

from __future__ import annotations

import base64
import json
from typing import Any

from eth_abi import encode
from eth_utils import keccak

from gateway.verify.opengradient.registry_events import Log

NUMBERS = "(string,(int128,int128)[],uint32[])[]"
INPUT = f"({NUMBERS},(string,string[])[])"
OUTPUT = f"({NUMBERS},(string,string[])[],(string,string)[],bool)"
EVENT = ["string", f"(uint8,string,{INPUT})", OUTPUT]
PRECOMPILE = "0x" + "00" * 19 + "f4"
MODEL = "QmTestModelCid"

GIVEN = ([("x", [(25, 2), (-1, 0)], [1, 2])], [("words", ["a", "é"])])
MADE = ([("y", [(150, 2)], [1])], [("label", ["cat"])], [("about", '{"p": 0.5}')], False)
NOTHING: tuple[Any, ...] = ([], [], [], False)


def run(model: str = MODEL, mode: int = 0, given: Any = GIVEN) -> bytes:
    """Calldata of the inference contract."""
    return keccak(text=f"run(string,uint8,{INPUT})")[:4] + encode(["string", "uint8", INPUT], [model, mode, given])


def topic() -> bytes:
    return bytes(keccak(text=f"ModelInferenceEvent({','.join(EVENT)})"))


def event_data(
    model: str = MODEL, mode: int = 0, given: Any = GIVEN, made: Any = MADE, name: str = "inference-1"
) -> bytes:
    return bytes(encode(EVENT, [name, (mode, model, given), made]))


def log(data: bytes, topics: tuple[bytes, ...] | None = None) -> Log:
    return Log(PRECOMPILE, (topic(),) if topics is None else topics, data, 7, 0, b"t" * 32)


def model_output(made: Any = MADE) -> dict[str, Any]:
    """`made` as a result document spells it."""
    numbers, strings, jsons, _ = made
    return {
        "numbers": [
            {
                "name": name,
                "values": [{"value": v if abs(v) < 2**63 else str(v), "decimals": d} for v, d in values],
                "shape": shape,
            }
            for name, values, shape in numbers
        ],
        "strings": [{"name": name, "values": values, "shape": [len(values)]} for name, values in strings],
        "jsons": [{"name": name, "value": value} for name, value in jsons],
    }


def variant(mode: str, output: Any) -> dict[str, Any]:
    if mode == "TEE":
        return {"TeeNodeResult": {"Response": {"VanillaResponse": {"model_output": output}}}}
    return {{"VANILLA": "VanillaResult", "ZKML": "ZkmlResult"}[mode]: {"model_output": output}}


def document(result: Any) -> bytes:
    """The REST answer whose `InferenceResult` is `result`."""
    return wrapped(json.dumps({"InferenceResult": result}).encode())


def wrapped(inner: bytes) -> bytes:
    return json.dumps({"inference_results": [base64.b64encode(inner).decode()]}).encode()
