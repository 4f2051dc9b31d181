"""`veriroute appraise` over every stored case: our manifests, the networks' captures, and Tinfoil's conformance suite.

A capture's line says what the command is given and what must come out; the words of its manifest stand beside it and are
compared, so that a changed expectation does not pass unseen. Where the captures' collateral was not kept, the quote's own
signatures hold, the log replays, and the command still refuses: `no_collateral`.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.cli import main

SHARED = Path(__file__).parents[2].parent / "shared/vectors"
NETWORKS, TEE = SHARED / "networks", SHARED / "tee"
SUITE = NETWORKS / "tinfoil/conformance"

pytestmark = pytest.mark.skipif(
    not (NETWORKS / "manifest.json").is_file() or not TEE.is_dir(),
    reason=f"the shared vectors of networks and families are not at {SHARED}",
)


def appraise(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    code = main(["appraise", *map(str, args)])
    out = capsys.readouterr()
    return code, out.out, out.err


# -- our manifests


FOLDERS = sorted(path.parent.name for path in TEE.glob("*/manifest.json"))


def test_every_kind_of_the_folder_is_run() -> None:
    """The folders are those of the eight families."""
    assert FOLDERS == ["azure_vtpm", "cca", "gcs", "nitro", "nvidia_nras", "nvidia_spdm", "snp", "tdx"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_of_cases(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every case of the manifest gives the expected authenticity, claims and verdict."""
    cases = json.loads((TEE / folder / "manifest.json").read_bytes())["cases"]
    code, out, _ = appraise(capsys, "--manifest", TEE / folder)
    assert out.endswith(f"{len(cases)} passed, 0 failed\n"), [row for row in out.splitlines() if "FAIL" in row]
    assert code == 0


# -- Tinfoil's suite


def test_the_conformance_suite(capsys: pytest.CaptureFixture[str]) -> None:
    """Every case agrees in verdict, code, stage and pinned outputs; those that had bytes cut off are counted."""
    cases = len(list(SUITE.glob("*/*/input.json")))
    code, out, _ = appraise(capsys, "--conformance", SUITE, "--json")
    found = json.loads(out)
    assert (code, found["failed"], found["passed"] + found["earlier"]) == (0, 0, cases)
    assert cases == _vector("tinfoil/conformance")["files"]["count_shared"]
    assert [case["id"] for case in found["cases"] if case["agreement"] == "earlier"] == []
    assert {case["id"].split("/")[0] for case in found["cases"] if case["agreement"] == "cut"} == {"attestation-tdx"}
    assert found["cut"] == 21


# -- the networks' captures


def _vector(name: str) -> dict[str, Any]:
    entries = json.loads((NETWORKS / "manifest.json").read_bytes())["vectors"]
    return next(entry for entry in entries if entry["id"] == name)


class Line(NamedTuple):
    """One run of the command. `words` are the manifest's; `checks` the outcomes and reasons that have to come out."""

    vector: str
    words: dict[str, str]
    args: str
    authentic: bool
    reject: str | None
    checks: dict[str, str]
    binding: str = "unbound"


ALONE = {
    "tee_format": "affirming",
    "tee_chain": "affirming",
    "tee_signature": "affirming",
    "tee_collateral": "no_collateral",
    "tee_revocation": "no_collateral",
    "tee_identity": "no_collateral",
    "tee_tcb": "no_collateral",
}
WHOLE = dict.fromkeys(ALONE, "affirming")
REPLAYS = {"rtmr_log": "affirming", "rtmr_replay": "affirming"}
#: Collateral of October 2025 for the platform of three captures.
OCTOBER = "--collateral TEE/tdx/collateral/90C06F000000_tdx_eval17_2025-09-29.json --now 2025-10-20T00:00:00Z"
ADDRESS = "0x8a4D4984CF370210dFEeFC773FAf9bb0edE97cC0"
NONCE = "034b9c390f073a9c8f8a1b50e537342fff3952bf2f32f145174e8d87588ed2da"
SNP_ROOTS = "--root milan=TEE/snp/roots/ark_milan.der --root genoa=TEE/snp/roots/ark_genoa.der"
NITRO = {"tee_format": "affirming", "tee_chain": "affirming", "tee_identity": "affirming", "tee_signature": "affirming"}

LINES = [
    Line(
        "0g/llm-report-phala-vllm-proxy",
        {"node_evidence": "valid (crypto, binding, replay)", "gpu": "SPDM signature + chain valid"},
        f"--kind dstack --evidence HERE/llm_attestation_report.json {OCTOBER} "
        f"--bind dstack-report-data --key {ADDRESS} --nonce {NONCE}",
        True,
        None,
        {**WHOLE, **REPLAYS, "compose_bound": "affirming", "image_pinned": "image_by_tag", "gpu_evidence": "affirming"},
        "bound",
    ),
    Line(
        "0g/llm-report-phala-vllm-proxy",
        {"tcb": "needs collateral"},
        "--kind dstack --evidence HERE/llm_attestation_report.json --now 2025-10-20T00:00:00Z",
        False,
        "no_collateral",
        {**ALONE, **REPLAYS, "compose_bound": "affirming", "gpu_evidence": "affirming"},
    ),
    Line(
        "0g/broker-report-dstack",
        {"node_evidence": "valid", "freshness": "none (no nonce)", "key_binding": "report_data = ASCII"},
        f"--kind dstack --evidence HERE/broker_attestation_report.json {OCTOBER} "
        "--bind 0g-broker-ascii --key DC1A4da6BdCD90c20d7FF53a6cDc11fBf0E2303C",
        True,
        None,
        {**WHOLE, **REPLAYS, "compose_bound": "affirming", "image_pinned": "image_by_tag"},
        "bound",
    ),
    *(
        Line(
            "phala/trust-center-kms-gateway-app",
            {"node_evidence": "valid for each of kms, gateway, app"},
            f"--kind dstack --evidence HERE/{name}-main.json --now 2025-10-20T00:00:00Z",
            False,
            "no_collateral",
            {**ALONE, **REPLAYS},
        )
        for name in ("kms", "gateway", "app")
    ),
    Line(
        "phala/vllm-proxy-sample-info-and-quote",
        {"node_evidence": "valid", "key_binding": "none: report_data is 64 x 0x01"},
        "--kind dstack --evidence HERE/quote.json --now 2025-10-20T00:00:00Z "
        f"--bind dstack-report-data --key {ADDRESS} --nonce {NONCE}",
        False,
        "no_collateral",
        {**ALONE, **REPLAYS, "compose_bound": "no_app_compose"},
    ),
    Line(
        "dstack/quote-report",
        {"node_evidence": "valid", "compose_binding": "RTMR3 only"},
        f"--kind dstack --evidence HERE/quote-report.json {OCTOBER}",
        True,
        None,
        {**WHOLE, **REPLAYS},
    ),
    Line(
        "dstack/mutant-relabelled-event",
        {"node_evidence": "invalid: RTMR3 entry with a non-runtime event type"},
        f"--kind dstack --evidence HERE/report.json {OCTOBER}",
        True,
        None,
        {**WHOLE, "rtmr_log": "event_relabelled", "rtmr_replay": "log_not_read"},
    ),
    Line(
        "dstack/mutant-foreign-gpu-evidence",
        {"cpu": "valid", "gpu": "invalid: the SPDM request nonce"},
        f"--kind dstack --evidence HERE/report.json {OCTOBER}",
        True,
        None,
        {**WHOLE, **REPLAYS, "gpu_evidence": "nonce_mismatch"},
    ),
    Line(
        "dstack/sev-snp",
        {"node_evidence": "valid", "host_data": "binds MrConfigV3"},
        "--kind dstack --evidence HERE/attestation.bin --input ek=HERE/vcek.pem --input ask=HERE/ask.pem "
        f"{SNP_ROOTS} --now 2026-06-25T00:00:00Z",
        True,
        None,
        {
            "tee_format": "affirming",
            "tee_chain": "affirming",
            "tee_signature": "affirming",
            "mr_config_bound": "affirming",
        },
    ),
    Line(
        "dstack/nitro",
        {"node_evidence": "valid"},
        "--kind dstack --evidence HERE/attestation.bin --now 1766678700",
        True,
        None,
        NITRO,
    ),
    Line(
        "secret/secretai-tdx-and-gpu",
        {"cpu": "valid", "gpu": "valid", "cpu_gpu_link": "valid: GPU nonce equals report_data[32:64]"},
        "--kind secretvm --evidence HERE/cpu.txt --input payload=HERE/gpu.json --now 2026-02-20T00:00:00Z",
        False,
        "no_collateral",
        {**ALONE, "gpu_evidence": "affirming"},
    ),
    Line(
        "secret/tdx-workload",
        {"workload": "authentic_match (small, v0.0.25)"},
        "--kind secretvm --evidence HERE/cpu.txt --input compose=HERE/docker-compose.yaml --input registry=REGISTRY "
        "--now 2026-02-20T00:00:00Z",
        False,
        "no_collateral",
        {**ALONE, "os_image": "affirming", "compose_bound": "affirming"},
    ),
    Line(
        "secret/tdx-workload",
        {"workload": "any changed compose byte gives authentic_mismatch"},
        "--kind secretvm --evidence HERE/cpu.txt --input compose=CHANGED --input registry=REGISTRY "
        "--now 2026-02-20T00:00:00Z",
        False,
        "no_collateral",
        {**ALONE, "compose_bound": "compose_mismatch"},
    ),
    Line(
        "secret/snp-plain",
        {"parse": "ok", "signature": "needs VCEK"},
        "--kind snp --evidence HERE/cpu.txt --input ek=TEE/snp/certs/ek_c065f7299e27.der "
        f"--input ask=TEE/snp/certs/SEV-Genoa.der {SNP_ROOTS} --now 2025-06-20T00:00:00Z",
        False,
        "snp_bad_signature",
        {"tee_format": "affirming", "tee_signature": "snp_bad_signature"},
    ),
    Line(
        "nillion/snp-report-json-1",
        {"parse": "ok", "signature": "needs VCEK"},
        "--kind snp --evidence REBUILT --input ek=TEE/snp/certs/ek_c065f7299e27.der "
        f"--input ask=TEE/snp/certs/SEV-Genoa.der {SNP_ROOTS} --now 2025-06-20T00:00:00Z",
        False,
        "snp_bad_signature",
        {"tee_format": "affirming", "tee_signature": "snp_bad_signature"},
    ),
    Line(
        "openpcc/gce-snp",
        {"parse": "ok"},
        "--kind snp --evidence HERE/gce_sevsnp_report.txt --input ek=TEE/snp/certs/ek_c065f7299e27.der "
        f"--input ask=TEE/snp/certs/SEV-Genoa.der {SNP_ROOTS} --now 2025-06-20T00:00:00Z",
        False,
        "snp_cpuid_mismatch",
        {"tee_format": "affirming", "tee_identity": "snp_cpuid_mismatch"},
    ),
    Line(
        "openpcc/gce-tdx",
        {"node_evidence": "valid", "key_binding": "none: report_data is zero"},
        "--kind tdx --evidence HERE/gce_tdx_report.txt "
        "--collateral TEE/tdx/collateral/00806F050000_tdx_eval17_2025-09-29.json --now 2025-10-20T00:00:00Z "
        f"--bind tinfoil-spki-hpke --spki {NONCE} --public-key {NONCE}",
        True,
        None,
        WHOLE,
    ),
    Line(
        "marlin/nitro-2024-08",
        {"node_evidence": "valid at document time"},
        "--kind nitro --evidence HERE/attestation.bin --now 1723012700 --bind nitro-public-key --public-key "
        "57febcf9e7f5081d3d24182817df526a1c9c3df7e46b64613acd13f9aa53b81de888a8562ba7b4a0e42c48d24d7e444ffcba311ceddb5068"
        "eca2ea899379ab50",
        True,
        None,
        NITRO,
        "bound",
    ),
    Line(
        "marlin/nitro-2025-04-pcr16",
        {"node_evidence": "valid at document time"},
        "--kind nitro --evidence HERE/attestation.bin --now 1745922770 --bind nitro-public-key --public-key "
        "2af77183f4772f00e269c7ffadb0eca298bf76711bbe94471a4944ede5ada084",
        True,
        None,
        NITRO,
        "bound",
    ),
    Line(
        "marlin/custom-root",
        {"node_evidence": "invalid: root is not the AWS Nitro root"},
        "--kind nitro --evidence HERE/attestation.bin --now 1734080750",
        False,
        "nitro_untrusted_root",
        {"tee_chain": "nitro_untrusted_root"},
    ),
    Line(
        "opensecret-maple/nitro-attestation-2024-10",
        {"node_evidence": "valid at document time", "nonce": "ASCII UUID bytes"},
        "--kind nitro --evidence HERE/attestation.cbor --now 1730141660 --bind nitro-nonce --nonce "
        "63633662393565662d613064372d343737642d393066322d333663633038386432343439",
        True,
        None,
        NITRO,
        "bound",
    ),
    Line(
        "opensecret-maple/nitro-attestation-2024-10",
        {"pcr0": "not in the current signed history"},
        "--kind nitro_history --evidence HERE/attestation.cbor --now 1730141660 "
        "--input history=HERE/../pcrProdHistory/pcrProdHistory.json "
        "--input publisher_key=HERE/../pcrProdHistory/public_key.b64",
        True,
        None,
        {**NITRO, "pcr_history": "pcr_history_no_entry"},
    ),
    Line(
        "tinfoil/atc-bundle-router-2026-01",
        {"node_evidence": "valid", "provenance": "valid (Sigstore", "channel_binding": "SPKI of enclaveCert"},
        "--kind tinfoil --evidence HERE/attestation-bundle.json --now 2026-01-23T00:00:00Z "
        "--input trust_root=TRUST_ROOT --param repository=tinfoilsh/confidential-model-router "
        "--bind tinfoil-spki-hpke --certificate CERTIFICATE --public-key HPKE",
        True,
        None,
        {
            "tee_signature": "affirming",
            "build_attested": "affirming",
            "build_measured": "affirming",
            "channel_key": "affirming",
        },
        "bound",
    ),
    Line(
        "aci/report-stub-1",
        {"quote": "invalid: stub bytes"},
        "--kind dstack --evidence HERE/report.json",
        False,
        "quote_too_short",
        {"tee_format": "quote_too_short"},
    ),
    Line(
        "near-ai/nras-eat-2025-08",
        {"jwt_signature": "needs NRAS JWKS", "submod_digest": "valid"},
        "--kind nvidia_nras --evidence HERE/nras_response.json --collateral NO_KEYS --now 1756168986",
        False,
        "jwt_unknown_kid",
        {"tee_format": "affirming", "tee_chain": "jwt_unknown_kid"},
    ),
    Line(
        "phala/nras-sample-response",
        {"jwt_signature": "needs NRAS JWKS", "submod_digest": "valid"},
        "--kind nvidia_nras --evidence HERE/nras_response.json --collateral NO_KEYS --now 1759774092",
        False,
        "jwt_unknown_kid",
        {"tee_format": "affirming", "tee_chain": "jwt_unknown_kid"},
    ),
]

#: Vectors that hold no evidence of a machine: signed answers, reference values, logits, formats with tests of their own.
NO_EVIDENCE = {
    "near-ai/signed-chat-2026-06-qwen35-3part": "a signed answer (test_networks_signatures)",
    "near-ai/signature-only-2025": "a signature (test_networks_signatures)",
    "near-ai/signed-chat-2025-09-llama-inconsistent": "a signed answer (test_networks_signatures)",
    "tinfoil/conformance": "test_the_conformance_suite",
    "tinfoil/ehbp-derive": "key derivation",
    "tinfoil/ehbp-response-decryption": "decryption",
    "opensecret-maple/pcrProdHistory": "run with the document beside it",
    "gonka/logprobs-same-precision": "log probabilities",
    "aci/spec-vectors": "digests and a receipt (test_aci_vectors)",
    "chutes/golden-8xh200-1.3.0": "reference values",
}


def test_every_vector_is_run_or_named() -> None:
    """No vector of the networks is left out without its reason, and none is listed that is not there."""
    entries = json.loads((NETWORKS / "manifest.json").read_bytes())["vectors"]
    assert {entry["id"] for entry in entries} == {line.vector for line in LINES} | set(NO_EVIDENCE)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files that the captures keep inside other files, and two that are made here: a registry, and no keys."""
    folder = tmp_path_factory.mktemp("made")
    router = json.loads((NETWORKS / "tinfoil/atc-bundle-router-2026-01/attestation-bundle.json").read_bytes())
    happy = json.loads((SUITE / "sigstore/001-happy-path-snp-tdx-multiplatform/input.json").read_bytes())
    compose = (NETWORKS / "secret/tdx-workload/docker-compose.yaml").read_bytes()
    contents = {
        "TRUST_ROOT": base64.b64decode(happy["trust_root_b64"]),
        "CERTIFICATE": router["enclaveCert"].encode(),
        "NO_KEYS": b'{"keys":[]}',
        "CHANGED": bytes([compose[0] ^ 1]) + compose[1:],
        "REGISTRY": _registry(),
        "REBUILT": _rebuilt(),
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return {**{name: str(folder / name) for name in contents}, "HPKE": _hpke(router)}


def _registry() -> bytes:
    """The row `small, prod, v0.0.25` of secretvm-verify's registry; its registers are those of the quote."""
    quote = bytes.fromhex((NETWORKS / "secret/tdx-workload/cpu.txt").read_text())
    registers = [quote[48 + at : 96 + at].hex() for at in (136, 328, 376, 424)]
    rootfs = "2a6d16965f5ce5143bcba614bb7896cdfc598a71c6e1ecc55efd3d8f74ba7c8a"
    columns = "template_name,vm_type,artifacts_ver,mrtd,rtmr0,rtmr1,rtmr2,rootfs_data"
    return f"{columns}\nsmall,prod,v0.0.25,{','.join(registers)},{rootfs}\n".encode()


def _rebuilt() -> bytes:
    """nilCC's JSON of a report, put back into the form that the chip signed (ABI, table 23)."""
    report = json.loads((NETWORKS / "nillion/snp-report-json-1/report.json").read_bytes())
    data = bytearray(1184)

    def put(at: int, value: int | str, size: int) -> None:
        data[at : at + size] = value.to_bytes(size, "little") if isinstance(value, int) else bytes.fromhex(value)

    for at, name, size in (
        (0x00, "version", 4), (0x04, "guest_svn", 4), (0x08, "policy", 8), (0x10, "family_id", 16),
        (0x20, "image_id", 16), (0x30, "vmpl", 4), (0x34, "sig_algo", 4), (0x40, "plat_info", 8),
        (0x48, "key_info", 4), (0x50, "report_data", 64), (0x90, "measurement", 48), (0xC0, "host_data", 32),
        (0xE0, "id_key_digest", 48), (0x110, "author_key_digest", 48), (0x140, "report_id", 32),
        (0x160, "report_id_ma", 32), (0x188, "cpuid_fam_id", 1), (0x189, "cpuid_mod_id", 1), (0x18A, "cpuid_step", 1),
        (0x1A0, "chip_id", 64),
    ):  # fmt: skip
        put(at, report[name], size)
    for at, name in ((0x38, "current_tcb"), (0x180, "reported_tcb"), (0x1E0, "committed_tcb"), (0x1F0, "launch_tcb")):
        tcb = report[name]
        data[at : at + 8] = bytes((tcb["bootloader"], tcb["tee"], 0, 0, 0, 0, tcb["snp"], tcb["microcode"]))
    for at, name in ((0x1E8, "current"), (0x1EC, "committed")):
        data[at : at + 3] = bytes(report[name][part] for part in ("build", "minor", "major"))
    for at, part in ((0x2A0, "r"), (0x2E8, "s")):
        put(at, report["signature"][part], len(report["signature"][part]) // 2)
    return bytes(data)


def _hpke(router: dict[str, Any]) -> str:

    return gzip.decompress(base64.b64decode(router["enclaveAttestationReport"]["body"]))[0x70:0x90].hex()


def _filled(line: Line, made: dict[str, str]) -> list[str]:
    places = {"HERE": str(NETWORKS / line.vector), "TEE": str(TEE), **made}
    return [
        re.sub(r"\b(?:" + "|".join(sorted(places, key=len, reverse=True)) + r")\b", lambda m: places[m[0]], word)
        for word in line.args.split()
    ]


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.vector}: {', '.join(line.words)}")
def test_a_capture(line: Line, made: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """The command finds in a captured item what its manifest says, and accepts it only when nothing speaks against."""
    stated = _vector(line.vector)["expected"]
    for member, words in line.words.items():
        assert words in str(stated[member])
    code, out, err = appraise(capsys, *_filled(line, made), "--json")
    assert not err
    found = json.loads(out)
    claims = found["claims"]
    assert (claims["authentic"], claims.get("reject_code")) == (line.authentic, line.reject), claims.get(
        "reject_detail"
    )
    said = {check["id"]: check.get("reason") or check["outcome"] for check in found["checks"]}
    assert {name: said[name] for name in line.checks} == line.checks
    assert claims["binding"]["status"] == line.binding
    contraindicated = [c["id"] for c in found["checks"] if c["outcome"] == "contraindicated"]
    asked = "--bind" in line.args and line.binding != "bound"
    assert code == (1 if contraindicated or asked or not line.authentic else 0)
    assert found["accepted"] is (code == 0)


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.vector}: {', '.join(line.words)}")
def test_what_a_person_sees(line: Line, made: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """The same run in words says the verdict in its last lines, and no line is wider than a wide terminal."""
    code, out, _ = appraise(capsys, *_filled(line, made))
    rows = out.splitlines()
    assert any(row.endswith(f"(exit {code})") for row in rows[-6:])
    assert [row for row in rows if len(row) > 140] == []
    if line.reject:
        assert line.reject in out
