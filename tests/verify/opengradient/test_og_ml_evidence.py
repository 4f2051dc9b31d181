"""Calldata, events and result documents of ONNX inferences."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from typing import Any

import og_ml_kit as kit
import pytest
from eth_abi import encode
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import FormatError
from gateway.verify.opengradient import ml_evidence
from gateway.verify.opengradient.ml_evidence import Mode, decode_event, decode_run, parse_document

RUN = kit.run()
EVENT = kit.event_data()
DOCUMENT = kit.document(kit.variant("VANILLA", kit.model_output()))


def word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def test_selector_and_topic() -> None:
    """Both follow from the signatures; the selector is the network's published one."""
    assert ml_evidence.SELECTOR.hex() == "cbf09d80"
    assert kit.topic() == ml_evidence.TOPIC


@pytest.mark.parametrize(("value", "mode"), [(0, Mode.VANILLA), (1, Mode.ZKML), (2, Mode.TEE)])
def test_calldata_and_event_say_the_same(value: int, mode: Mode) -> None:
    """Mode, model and input come out of both alike; the event has an id and the output besides."""
    request = decode_run(kit.run(mode=value))
    event = decode_event(kit.log(kit.event_data(mode=value)))
    assert event.request == request
    assert (request.mode, request.model, event.id) == (mode, kit.MODEL, "inference-1")
    assert [str(number) for number in request.input.numbers[0].values] == ["0.25", "-1"]
    assert request.input.strings[0].values == ("a", "é")
    assert str(event.output.numbers[0].values[0]) == "1.50"
    assert (event.output.jsons[0].value, event.output.simulated) == ('{"p": 0.5}', False)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "call_unknown"),
        (b"\0\0\0\0" + RUN[4:], "call_unknown"),
        (RUN[:4], "abi_malformed"),
        (RUN + word(0), "abi_malformed"),
        (RUN[:-32], "abi_malformed"),
        (kit.run(mode=3), "mode_unknown"),
        (kit.run(model="m" * 2049), "field_too_long"),
        (kit.run(given=([("x", [(1, 0)], [3])], [])), "shape_mismatch"),
        (RUN[:4] + RUN[4:].replace(kit.MODEL.encode(), b"\xff" * len(kit.MODEL)), "abi_malformed"),
        (RUN[:4] + RUN[4:].replace(kit.MODEL.encode() + b"\0", kit.MODEL.encode() + b"\1"), "abi_malformed"),
        (RUN[:4] + bytes(2 * 1024 * 1024), "too_large"),
    ],
)
def test_calldata_that_is_refused(data: bytes, reason: str) -> None:
    """Another function, another length, dirty padding and values out of range each have their reason."""
    with pytest.raises(FormatError) as caught:
        decode_run(data)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (kit.log(EVENT, ()), "event_unknown"),
        (kit.log(EVENT, (b"o" * 32,)), "event_unknown"),
        (kit.log(EVENT, (kit.topic(), kit.topic())), "event_unknown"),
        (kit.log(EVENT[:-32]), "abi_malformed"),
        (kit.log(EVENT + word(0)), "abi_malformed"),
        (kit.log(kit.event_data(mode=9)), "mode_unknown"),
        (kit.log(kit.event_data(name="i" * 2049)), "field_too_long"),
        (kit.log(EVENT.replace(b"cat", b"\xff\xfe\xfd")), "abi_malformed"),
    ],
)
def test_events_that_are_refused(log: Any, reason: str) -> None:
    """Other events, cut or padded data, and unknown modes."""
    with pytest.raises(FormatError) as caught:
        decode_event(log)
    assert caught.value.reason == reason


def test_offsets_to_one_tail_are_not_followed() -> None:
    """A megabyte of offsets that all lead to one list is refused in the time of a walk, not of their product."""
    many = 8000
    one = encode([f"({kit.NUMBERS},(string,string[])[])"], [([("x", [(1, 0)] * 4000, [4000])], [])])[160:]
    body = word(64) + word(32 * (many + 3)) + word(many) + word(32 * many) * many + one
    begun = time.process_time()
    with pytest.raises(FormatError, match="canonical one"):
        decode_run(ml_evidence.SELECTOR + word(96) + word(0) + word(128) + word(0) + body)
    assert time.process_time() - begun < 0.5


@pytest.mark.parametrize(("name", "mode"), [("VANILLA", Mode.VANILLA), ("TEE", Mode.TEE), ("ZKML", Mode.ZKML)])
def test_a_document_s_variant_is_its_mode(name: str, mode: Mode) -> None:
    """Each of the three variants is read where its output stands."""
    found = parse_document(kit.document(kit.variant(name, kit.model_output())))
    assert (found.mode, found.beside) == (mode, ())
    assert str(found.output.numbers[0].values[0]) == "1.50"


def test_members_beside_the_output_are_named() -> None:
    """What nothing describes, at any level, is listed and not read."""
    result = kit.variant("TEE", kit.model_output())
    result["TeeNodeResult"]["signature"] = "0x00"
    result["TeeNodeResult"]["Response"]["VanillaResponse"]["attestation"] = None
    assert parse_document(kit.document(result)).beside == ("attestation", "signature")
    zk = kit.variant("ZKML", kit.model_output())
    zk["ZkmlResult"]["proof"] = "0x00"
    assert parse_document(kit.document(zk)).beside == ("proof",)


VANILLA = kit.variant("VANILLA", {})


@pytest.mark.parametrize(
    ("data", "because"),
    [
        (b"", "malformed"),
        (b"[]", "not an object"),
        (b"{}", "inference_results is missing"),
        (b'{"inference_results":{}}', "not a list"),
        (b'{"inference_results":[1]}', "not a list"),
        (b'{"inference_results":[]}', "0 results"),
        (b'{"inference_results":["e30=","e30="]}', "2 results"),
        (b'{"inference_results":[""]}', "base64"),
        (b'{"inference_results":["e30"]}', "base64"),
        (b'{"inference_results":["e31="]}', "base64"),
        (b'{"inference_results":["e30=\\n"]}', "base64"),
        (b'{"inference_results":["\xc3\xa9"]}', "base64"),
        (b'{"inference_results":[],"inference_results":[]}', "twice"),
        (kit.wrapped(b"{}"), "InferenceResult is missing"),
        (kit.wrapped(b"[]"), "not an object"),
        (kit.wrapped(b"\xff"), "UTF-8"),
        (kit.wrapped(b"[" * 40), "deeper|malformed"),
        (kit.document(None), "not an object"),
        (kit.document({}), "exactly one variant"),
        (kit.document({**VANILLA, **kit.variant("ZKML", {})}), "exactly one variant"),
        (kit.document({"OtherResult": {}}), "not known"),
        (kit.document({"VanillaResult": []}), "not an object"),
        (kit.document({"VanillaResult": {}}), "model_output is missing"),
        (kit.document({"TeeNodeResult": {"Response": {}}}), "VanillaResponse is missing"),
        (kit.document({"VanillaResult": {"model_output": None}}), "not an object"),
        (b" " * (2 * 1024 * 1024 + 1), "over the limit"),
    ],
)
def test_documents_that_are_refused(data: bytes, because: str) -> None:
    """One result, in one spelling, of one variant; everything else is malformed and says why."""
    with pytest.raises(FormatError, match=because):
        parse_document(data)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_bytes_raise_our_error_or_pass(data: st.DataObject) -> None:
    """No change of bytes makes a parser raise anything but `FormatError`."""

    def changed(good: bytes) -> bytes:
        found = bytearray(good)
        for _ in range(data.draw(st.integers(1, 4))):
            found[data.draw(st.integers(0, len(found) - 1))] = data.draw(st.integers(0, 255))
        return bytes(found)

    inner = base64.b64decode(json.loads(DOCUMENT)["inference_results"][0])
    for parse, evidence in (
        (decode_run, changed(RUN)),
        (decode_run, RUN[:4] + changed(RUN[4:])),
        (lambda found: decode_event(kit.log(found)), changed(EVENT)),
        (parse_document, changed(DOCUMENT)),
        (parse_document, kit.wrapped(changed(inner))),
    ):
        with contextlib.suppress(FormatError):
            parse(evidence)
