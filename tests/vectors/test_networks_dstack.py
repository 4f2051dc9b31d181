"""Captured reports of dstack guests and SecretVMs (Phala, 0G, dstack, Secret): what their logs and documents prove.

The registers are read at their fixed offsets of a version 4 quote; its signature is another test's matter.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.model.tee import Platform, TeeClaims, TeeResult
from gateway.model.verdict import Outcome
from gateway.verify.tee.dstack import KeyProvider, OsImage, References, appraise_dstack
from gateway.verify.tee.rtmr import parse_event_log, replay
from gateway.verify.tee.secretvm import Row, appraise_secretvm

FOLDER = Path(__file__).parents[2].parent / "shared/vectors/networks"
MANIFEST = FOLDER / "manifest.json"

pytestmark = pytest.mark.skipif(not MANIFEST.is_file(), reason=f"the networks' vectors are not at {FOLDER}")

#: quote header 48, then the TD report: attributes at 120, MRTD 136, MR_CONFIG_ID 184, RTMR0 328, each register 48 bytes
_BODY = 48


def claims(quote: str) -> TeeClaims:
    raw = bytes.fromhex(quote.strip().removeprefix("0x"))
    assert int.from_bytes(raw[:2], "little") == 4
    body = raw[_BODY : _BODY + 584]
    registers = {"mr_td": 136, "mr_config_id": 184, "rtmr0": 328, "rtmr1": 376, "rtmr2": 424, "rtmr3": 472}
    return TeeClaims(
        platform=Platform.INTEL_TDX,
        evidence_sha256=hashlib.sha256(raw).hexdigest(),
        authentic=True,
        debug=bool(body[120] & 1),
        evaluated_at=1_790_000_000.0,
        measurements={name: body[at : at + 48].hex() for name, at in registers.items()},
    )


def load(path: str) -> dict[str, Any]:
    return json.loads((FOLDER / path).read_bytes())


def expected(vector: str) -> dict[str, Any]:
    entries = json.loads(MANIFEST.read_bytes())["vectors"]
    return next(e["expected"] for e in entries if e["id"] == vector)


def _nested(document: Any, *path: str) -> bytes | None:
    for name in path:
        document = json.loads(document) if isinstance(document, str) else document
        document = document[name]
    return document.encode() if isinstance(document, str) else json.dumps(document).encode()


#: vector, file, member of the quote, path of the app-compose or None; every one has an event log
CAPTURES = [
    ("phala/trust-center-kms-gateway-app", "kms-main.json", "intel_attestation_report", None),
    ("phala/trust-center-kms-gateway-app", "gateway-main.json", "intel_attestation_report", None),
    ("phala/trust-center-kms-gateway-app", "app-main.json", "intel_attestation_report", None),
    ("phala/vllm-proxy-sample-info-and-quote", "quote.json", "quote", None),
    ("0g/llm-report-phala-vllm-proxy", "llm_attestation_report.json", "intel_quote", ("info", "tcb_info", "app_compose")),
    ("0g/broker-report-dstack", "broker_attestation_report.json", "quote", ("tcb_info", "app_compose")),
    ("dstack/quote-report", "quote-report.json", "quote", None),
    ("dstack/mutant-foreign-gpu-evidence", "report.json", "intel_quote", None),
]  # fmt: skip


def appraise(vector: str, file: str, quote: str, compose: tuple[str, ...] | None, **members: Any) -> TeeResult:
    report = load(f"{vector}/{file}")
    document = _nested(report, *compose) if compose else None
    return appraise_dstack(claims(report[quote]), report["event_log"].encode(), document, **members)


def reasons(result: TeeResult) -> dict[str, str | None]:
    return {c.id: c.reason for c in result.checks}


@pytest.mark.parametrize("capture", CAPTURES, ids=[f"{c[0]}/{c[1]}" for c in CAPTURES])
def test_every_capture_replays(capture: tuple[str, str, str, tuple[str, ...] | None]) -> None:
    """All four registers of a genuine report replay, and the compose hash of the log is what MR_CONFIG_ID holds."""
    result = appraise(*capture)
    assert [c.outcome for c in result.checks[:2]] == [Outcome.AFFIRMING] * 2
    verdict = str(expected(capture[0]).get("node_evidence") or expected(capture[0])["cpu"])
    assert verdict.startswith("valid")
    found = result.claims.raw["dstack"]["compose_hash"]
    assert result.claims.measurements["mr_config_id"] in (f"01{found}{'00' * 15}", "00" * 48)


def test_both_logs_of_one_guest_replay() -> None:
    """The log inside `info`, a JSON list with its members in another order, replays like the one beside the quote."""
    info = load("phala/vllm-proxy-sample-info-and-quote/info.json")
    quote = load("phala/vllm-proxy-sample-info-and-quote/quote.json")
    log = parse_event_log(json.dumps(info["tcb_info"]["event_log"]).encode())
    measured = claims(quote["quote"]).measurements
    assert [r.hex() for r in replay(log)] == [measured[f"rtmr{i}"] for i in range(4)]
    result = appraise_dstack(
        claims(quote["quote"]), quote["event_log"].encode(), info["tcb_info"]["app_compose"].encode()
    )
    assert reasons(result)["compose_bound"] is None
    assert reasons(result)["image_pinned"] == "image_by_tag"


def test_mr_config_id_may_be_zero() -> None:
    """dstack's own sample leaves MR_CONFIG_ID unset; an event after `system-ready` is counted and not named."""
    result = appraise(*CAPTURES[6])
    assert set(expected("dstack/quote-report")) >= {"compose_binding", "app_controlled_events"}
    assert result.claims.measurements["mr_config_id"] == "00" * 48
    raw = result.claims.raw["dstack"]
    assert raw["application_events"] == 1
    assert "LIUM_MINER_HOTKEY" not in raw["events"]


def test_a_relabelled_event_is_refused() -> None:
    """The mutant replays, and its forged `os-image-hash` is refused for its type."""
    report = load("dstack/mutant-relabelled-event/report.json")
    assert str(expected("dstack/mutant-relabelled-event")["node_evidence"]).startswith("invalid")
    result = appraise_dstack(claims(report["intel_quote"]), report["event_log"].encode(), None)
    assert reasons(result)["rtmr_log"] == "event_relabelled"
    assert "os_image_hash" not in result.claims.raw["dstack"]


@pytest.mark.parametrize(
    ("capture", "pinned", "loose", "envs"),
    [
        (CAPTURES[4], 4, ("vllm/vllm-openai:v0.10.2", "mondaylord/vllm-openai:v0.10.2", "alpine:latest"), "TOKEN"),
        (CAPTURES[5], 0, ("ghcr.io/0gfoundation/0g-serving-broker:dev1",), "PROMETHEUS_CONFIG"),
    ],
    ids=["llm", "broker"],
)
def test_production_documents(capture: Any, pinned: int, loose: tuple[str, ...], envs: str) -> None:
    """Genuine production documents are bound, and name images by tag and environment that nothing measures."""
    result = appraise(*capture)
    found = reasons(result)
    assert found["compose_bound"] is None
    assert found["image_pinned"] == "image_by_tag"
    assert found["envs_known"] == "envs_unmeasured"
    raw = result.claims.raw["dstack"]
    assert sum(i["pinned"] for i in raw["images"]) == pinned
    assert {i["image"] for i in raw["images"] if not i["pinned"]} >= set(loose)
    assert envs in raw["allowed_envs"]
    assert raw["compose_bound_by"] == ["rtmr3", "mr_config_id"]


def test_a_document_changed_by_one_byte() -> None:
    """The verbatim text counts: one space more in a genuine document breaks the binding."""
    report = load(f"{CAPTURES[4][0]}/{CAPTURES[4][1]}")
    text = report["info"]["tcb_info"]["app_compose"].encode()
    result = appraise_dstack(claims(report["intel_quote"]), report["event_log"].encode(), text + b" ")
    assert reasons(result)["compose_bound"] == "compose_mismatch"


def test_with_reference_values_of_the_guest_itself() -> None:
    """Given its own values as reference, a genuine guest fails only for what it really does: tags and environment."""
    capture = CAPTURES[4]
    first = appraise(*capture)
    measured, raw = first.claims.measurements, first.claims.raw["dstack"]
    registers = [measured[name] for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2")]
    reference = References(
        os_images=(OsImage("dstack-nvidia", *registers, image_hash=raw["os_image_hash"]),),
        compose_hashes=frozenset({raw["compose_hash"]}),
        app_ids=frozenset({"80733ce17e3f4e1aa054b0aed4a3e5411da3c50d"}),
        key_providers=(KeyProvider(**raw["key_provider"]),),
    )
    result = appraise(*capture, references=reference)
    assert {k: v for k, v in reasons(result).items() if v} == {
        "image_pinned": "image_by_tag",
        "envs_known": "envs_unmeasured",
        "gpu_policy": "no_gpu_policy",
    }


WORKLOAD = FOLDER / "secret/tdx-workload"
#: The row `small, prod, v0.0.25` of the registry of secretvm-verify, artifacts_registry/tdx.csv.
ROOTFS = "2a6d16965f5ce5143bcba614bb7896cdfc598a71c6e1ecc55efd3d8f74ba7c8a"


def workload(compose: bytes, rows: Callable[[TeeClaims], tuple[Row, ...]]) -> TeeResult:
    measured = claims((WORKLOAD / "cpu.txt").read_text())
    return appraise_secretvm(measured, compose, registry=rows(measured))


def rows(measured: TeeClaims) -> tuple[Row, ...]:
    registers = [measured.measurements[name] for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2")]
    dev = "e0a44b90c318d2b081f8fe0247b7952576fda01e3cf3f9c4b607f19554510ea1"
    return (Row("small", "dev", "v0.0.25", *registers, dev), Row("small", "prod", "v0.0.25", *registers, ROOTFS))


def test_secretvm_workload() -> None:
    """The captured guest runs exactly its compose text, by the registry's production row."""
    text = (WORKLOAD / "docker-compose.yaml").read_bytes()
    assert str(expected("secret/tdx-workload")["workload"]).startswith("authentic_match (small, v0.0.25)")
    result = workload(text, rows)
    assert result.claims.raw["secretvm"] == {
        "workload": "authentic_match", "template": "small", "environment": "prod", "version": "v0.0.25",
    }  # fmt: skip
    for i in range(len(text)):
        changed = text[:i] + bytes([text[i] ^ 1]) + text[i + 1 :]
        assert workload(changed, rows).claims.raw["secretvm"]["workload"] == "authentic_mismatch"


def test_secretai_is_another_guest() -> None:
    """The captured Secret AI quote is of no row of this registry, so nothing is said of its workload."""
    small = rows(claims((WORKLOAD / "cpu.txt").read_text()))
    measured = claims((FOLDER / "secret/secretai-tdx-and-gpu/cpu.txt").read_text())
    result = appraise_secretvm(measured, b"x", registry=small)
    assert result.claims.raw["secretvm"] == {"workload": "not_authentic"}
    assert reasons(result)["os_image"] == "os_image_unknown"


def test_reports_say_of_themselves_what_their_quotes_say() -> None:
    """The 0G broker's own `report_data` is base64 of the quote's; the wrapper is compared here and relied on nowhere."""
    report = load("0g/broker-report-dstack/broker_attestation_report.json")
    quote = bytes.fromhex(report["quote"])
    assert base64.b64decode(report["report_data"]) == quote[_BODY + 520 : _BODY + 584]
