"""`veriroute proof` and `veriroute calibrate`, against real reference nodes and against servers that are none."""

from __future__ import annotations

import base64
import http.server
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import zk_kit
from proofs_kit import body
from running import MODEL, Process, command

from gateway.cli import _proof_answer, _proof_server, _proof_zk, calibrate, main, proof
from gateway.cli._proof_prompts import prompts
from gateway.cli._proof_server import Server, base_address
from gateway.errors import ConfigError, FormatError, ServiceError
from gateway.verify.proofs.calibration import Statistic, parse_calibration
from gateway.verify.proofs.toploc import Activations, encode
from gateway.verify.proofs.toploc_judge import parse_toploc_calibration
from gateway.verify.proofs.zk import Ran, ZkVerdict

ASKED = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Tell me a long story about a fox, a bear and a lamp."}],
    "temperature": 0,
    "max_tokens": 64,
    "return_token_ids": True,
    "logprobs": True,
    "top_logprobs": 5,
    "toploc": True,
}
SEEDED = ASKED | {"temperature": 1, "seed": 5}
Found = tuple[int, dict[str, Any]]


@pytest.fixture(scope="module")
def nodes() -> Iterator[dict[str, str]]:
    """Addresses of the reference, an honest node, and one with weights of three bits."""
    started = {
        "reference": Process(["node", "--port", "0", "--json"]),
        "honest": Process(["node", "--port", "0", "--json", "--precision", "bf16"]),
        "coarse": Process(["node", "--port", "0", "--json", "--precision", "int3"]),
    }
    yield {name: process.url for name, process in started.items()}
    for process in started.values():
        process.stop()


@pytest.fixture(scope="module")
def calibrations(nodes: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a calibration of each kind, made by the command, and what the command said of each."""
    folder = tmp_path_factory.mktemp("calibrations")
    for name, more in (("greedy", []), ("seeded", ["--seeded"]), ("toploc", ["--toploc"])):
        asked = ["calibrate", *between(nodes, "honest"), "--count", "60", "--tokens", "64", *more]
        done = command(*asked, "--out", str(folder / name), "--json")
        assert done.returncode == 0
        (folder / f"{name}.said").write_text(done.stdout)
    return folder


@pytest.fixture(scope="module")
def answers(nodes: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two requests and each node's answers to them."""
    folder = tmp_path_factory.mktemp("answers")
    for kind, request in (("greedy", ASKED), ("seeded", SEEDED)):
        (folder / f"{kind}.request").write_text(json.dumps(request))
        for name, url in nodes.items():
            got = httpx.post(f"{url}/v1/chat/completions", json=request, timeout=20, trust_env=False)
            (folder / f"{kind}.{name}").write_bytes(got.content)
    return folder


@pytest.fixture
def server() -> Iterator[Callable[[Callable[[str, Any], Any]], str]]:
    """Starts a server that answers each path by a function of its own: a value becomes JSON, bytes go out as they are."""
    running: list[http.server.ThreadingHTTPServer] = []

    def start(answer: Callable[[str, Any], Any]) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"null")
                said = answer(self.path, asked)
                data = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST

            def log_message(self, format: str, *args: Any) -> None:
                pass

        made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=made.serve_forever, daemon=True).start()
        running.append(made)
        return f"http://127.0.0.1:{made.server_port}"

    yield start
    for made in running:
        made.shutdown()
        made.server_close()


def between(nodes: dict[str, str], node: str) -> list[str]:
    return ["--reference", nodes["reference"], "--node", nodes[node], "--prompts", "builtin"]


def said(capsys: pytest.CaptureFixture[str], *args: str | Path) -> Found:
    """Exit code and JSON of a command; the code in the JSON is the command's."""
    capsys.readouterr()
    code = main([*map(str, args), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["exit"] == code
    return code, document


def check(document: dict[str, Any], id_: str) -> tuple[str, str | None]:
    (found,) = [c for c in document["checks"] if c["id"] == id_]
    return found["outcome"], found.get("reason")


def reexec(nodes: dict[str, str], calibration: Path, request: Path, response: Path) -> list[str | Path]:
    return [
        "proof", "reexec", "--reference", nodes["reference"], "--calibration", calibration, "--request", request,
        "--response", response,
    ]  # fmt: skip


# --- calibrate


def test_a_calibration_is_written(nodes: dict[str, str], calibrations: Path) -> None:
    """What the command writes is a calibration of the model, the reference and its build, by the reference's own name."""
    for name, statistic in (("greedy", Statistic.GREEDY_MARGIN), ("seeded", Statistic.SEEDED_MARGIN)):
        made = parse_calibration((calibrations / name).read_bytes())
        assert (made.statistic, made.model, made.reference) == (statistic, MODEL, nodes["reference"])
        assert made.revision.startswith("fingerprint:")
        assert made.seeds == (1,)
        assert made.quantiles[0].tokens == 16
        assert made.quantiles[0].p99 < 0.05
    limits = parse_toploc_calibration((calibrations / "toploc").read_bytes())
    assert limits.batches >= 100
    assert 1 <= limits.exponents < 64


def test_what_calibrating_prints(nodes: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each check with what was found, the windows of each length, the id; and progress where it is asked for."""
    args = [*between(nodes, "honest"), "--count", "60", "--tokens", "64", "--out", str(tmp_path / "c"), "--progress"]
    assert main(["calibrate", *args, "--model", MODEL, "--revision", "abc", "--reference-id", "ref"]) == 0
    out = capsys.readouterr()
    made = parse_calibration((tmp_path / "c").read_bytes())
    assert (made.revision, made.reference) == ("abc", "ref")
    assert f"calibration {made.id}" in out.out
    assert "60 answers" in out.out
    assert f"{made.quantiles[0].samples} windows" in out.out
    assert "every check is affirming (exit 0)" in out.out
    assert "60/60" in out.err
    code, refused = main(["calibrate", *args]), capsys.readouterr().err
    assert code == 2
    assert "exists" in refused


def test_the_same_seed_measures_the_same(
    nodes: dict[str, str], calibrations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prompts and draws follow from the seed, and so do the quantiles; another seed asks others."""
    found = [json.loads((calibrations / "greedy.said").read_text())]
    assert found[0]["calibration"]["seeds"] == [1]
    for number, seed in enumerate((1, 8)):
        args = [
            *between(nodes, "honest"),
            "--count",
            "60",
            "--tokens",
            "64",
            "--seed",
            seed,
            "--out",
            tmp_path / str(number),
        ]
        found.append(said(capsys, "calibrate", *map(str, args))[1])
    assert found[0]["calibration"]["quantiles"] == found[1]["calibration"]["quantiles"]
    assert found[0]["tokens"] == found[1]["tokens"] != found[2]["tokens"]


@pytest.mark.parametrize(
    ("node", "more", "code", "step", "outcome", "reason"),
    [
        ("honest", ["--count", "3", "--tokens", "64"], 1, "calibrate_spread", "contraindicated", "too_few_samples"),
        ("honest", ["--count", "3", "--tokens", "64", "--toploc"], 1, "calibrate_spread", "contraindicated", "too_few_samples"),
        ("coarse", ["--count", "70", "--tokens", "64"], 1, "calibrate_spread", "contraindicated", "calibration_invalid"),
        ("nobody", ["--count", "3", "--tokens", "64"], 3, "calibrate_answers", "none", "reference_unreachable"),
    ],
)  # fmt: skip
def test_a_calibration_is_refused(
    nodes: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    node: str, more: list[str], code: int, step: str, outcome: str, reason: str,
) -> None:  # fmt: skip
    """Too few windows and honest answers too far apart are refused, a node that is down decides nothing; no file is left."""
    places = nodes | {"nobody": "http://127.0.0.1:1"}
    got, document = said(capsys, "calibrate", *between(places, node), *more, "--out", tmp_path / "c")
    assert (got, check(document, step)) == (code, (outcome, reason))
    assert not (tmp_path / "c").exists()


def model_answer(path: str, asked: Any) -> dict[str, Any]:
    return json.loads(body("a b", token_ids=[1, 2])) | {"prompt_token_ids": [1, 2, 3], "system_fingerprint": "fp"}


@pytest.mark.parametrize(
    ("change", "more", "code", "step", "reason"),
    [
        ({"prompt_token_ids": [7]}, [], 1, "calibrate_prompts", "prompts_differ"),
        ({"choices": json.loads(body("a b"))["choices"]}, [], 3, "calibrate_answers", "token_ids_absent"),
        ({"choices": []}, [], 3, "calibrate_answers", "malformed"),
        ({}, [], 3, "calibrate_answers", "reference_incomplete"),
        ({}, ["--toploc"], 3, "calibrate_answers", "proof_absent"),
    ],
)
def test_two_that_do_not_go_together(
    server: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    change: dict[str, Any], more: list[str], code: int, step: str, reason: str,
) -> None:  # fmt: skip
    """Another reading of the prompt is refused; a node that tells no tokens or brings no proofs decides nothing."""
    node, reference = server(lambda path, asked: model_answer(path, asked) | change), server(model_answer)
    args = [
        "--reference",
        reference,
        "--node",
        node,
        "--model",
        "m",
        "--prompts",
        "builtin",
        "--count",
        "2",
        "--tokens",
        "8",
    ]
    got, document = said(capsys, "calibrate", *args, *more, "--out", tmp_path / "c")
    assert (got, check(document, step)[1]) == (code, reason)


def test_a_reference_that_changes_while_it_is_asked(
    server: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two builds in one calibration would be a calibration of neither."""
    builds = iter("ab")

    def answer(path: str, asked: Any) -> Any:
        if asked.get("prompt_logprobs"):
            told = {str(i): {"logprob": -0.1, "decoded_token": text} for i, text in ((1, " a"), (2, " b"))}
            return {"prompt_logprobs": [None, *[{"3": -0.1, "2": -1.0}] * 2, told, told]}
        return model_answer(path, asked) | {"system_fingerprint": next(builds)}

    node, reference = server(model_answer), server(answer)
    args = [
        "--reference",
        reference,
        "--node",
        node,
        "--model",
        "m",
        "--prompts",
        "builtin",
        "--count",
        "2",
        "--tokens",
        "8",
    ]
    code, document = said(capsys, "calibrate", *args, "--out", tmp_path / "c")
    assert (code, check(document, "calibrate_answers")) == (3, ("none", "reference_changed"))


def telling(ids: list[int], texts: str, margin: float) -> Callable[[str, Any], Any]:
    """A reference for which each token is `margin` nats less likely than another, and that spells them as `texts`."""

    def answer(path: str, asked: Any) -> Any:
        rows = [
            {str(i): {"logprob": -1.0 - margin, "decoded_token": text}, "999": -1.0}
            for i, text in zip(ids, texts.split("|"), strict=True)
        ]
        return {"prompt_token_ids": [9], "prompt_logprobs": [None, *rows], "system_fingerprint": "fp"}

    return answer


@pytest.mark.parametrize(
    ("texts", "margin", "code", "step", "reason"),
    [
        (" w", 0.04, 0, "calibrate_spread", None),
        (" w", 0.06, 0, "calibrate_spread", "calibration_wide"),
        (" w", 0.6, 1, "calibrate_spread", "calibration_invalid"),
        (" x", 0.0, 1, "calibrate_answers", "text_not_tokens"),
    ],
)
def test_how_far_honest_answers_may_be_apart(
    server: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    texts: str, margin: float, code: int, step: str, reason: str | None,
) -> None:  # fmt: skip
    """Wide margins are told, wider ones refused, and a node whose tokens are not its text is no known-good one."""
    ids = list(range(20, 36))
    said_by_node = body(" ".join(f"w{i}" for i in ids), token_ids=ids)
    node, reference = (
        server(lambda path, asked: said_by_node),
        server(telling(ids, "|".join(f"{texts}{i}" for i in ids), margin)),
    )
    args = [
        "--reference",
        reference,
        "--node",
        node,
        "--model",
        "m",
        "--prompts",
        "builtin",
        "--count",
        "100",
        "--tokens",
        "16",
    ]
    got, document = said(capsys, "calibrate", *args, "--out", tmp_path / "c")
    assert (got, check(document, step)[1], (tmp_path / "c").exists()) == (code, reason, code == 0)


def test_a_calibration_of_log_probs(nodes: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Honest log-probs are near to the reference's, over five alternatives at each token, whether drawn or not."""
    args = ["--count", "50", "--tokens", "64", "--logprob"]
    assert said(capsys, "calibrate", *between(nodes, "honest"), *args, "--out", tmp_path / "near")[0] == 0
    made = parse_calibration((tmp_path / "near").read_bytes())
    assert (made.statistic, made.top, made.model) == (Statistic.LOGPROB_DISTANCE, 5, MODEL)
    assert 0.0005 < made.quantiles[0].p50 <= made.quantiles[0].p99 < 0.01


@pytest.mark.parametrize(
    ("told", "spelled", "reason"),
    [(None, " w", "logprobs_absent"), ("asked", " w", "reference_incomplete"), ("asked", None, "spelling_unknown")],
)
def test_log_probs_that_cannot_be_compared(
    server: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    told: str | None, spelled: str | None, reason: str,
) -> None:  # fmt: skip
    """A node without log-probs, and a reference with too few or without texts, leave nothing to calibrate with."""
    ids = list(range(20, 36))
    text = " ".join(f"w{i}" for i in ids)
    said_by_node = body(text, token_ids=ids) if told else body(text, token_ids=ids, logprobs=None)
    tell = telling(ids, "|".join(f"{spelled}{i}" for i in ids), 0.0)

    def answer(path: str, asked: Any) -> Any:
        found = tell(path, asked)
        for row in [] if spelled else found["prompt_logprobs"][1:]:
            row.update({key: value["logprob"] for key, value in row.items() if isinstance(value, dict)})
        return found

    node, reference = server(lambda path, asked: said_by_node), server(answer)
    args = ["--reference", reference, "--node", node, "--model", "m", "--prompts", "builtin", "--count", "2"]
    got, document = said(capsys, "calibrate", *args, "--tokens", "16", "--logprob", "--out", tmp_path / "c")
    assert (got, check(document, "calibrate_answers")) == (3, ("none", reason))


def test_a_node_that_says_nothing(
    server: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Empty answers are no samples, and values for other batches no measurement."""
    empty = json.loads(body("a", token_ids=[], logprobs=None))
    node, reference = server(lambda path, asked: empty), server(model_answer)
    args = ["--reference", reference, "--model", "m", "--prompts", "builtin", "--count", "2", "--tokens", "8"]
    code, document = said(capsys, "calibrate", *args, "--node", node, "--out", tmp_path / "c")
    assert (code, check(document, "calibrate_spread")[1]) == (1, "too_few_samples")
    numbers = list(range(128))
    proofs = [base64.b64encode(encode(Activations(tuple(numbers), tuple(numbers)))).decode()]
    sizes = {"topk": 128, "batch_tokens": 32, "prefill": False}
    proven = server(lambda path, asked: model_answer(path, asked) | {"toploc": sizes | {"proofs": proofs}})
    batches = [{"indices": numbers, "bf16_bits": numbers}] * 2
    values = server(lambda path, asked: model_answer(path, asked) | sizes | {"batches": batches})
    args[1] = values
    code, document = said(capsys, "calibrate", *args, "--node", proven, "--toploc", "--out", tmp_path / "c")
    assert (code, check(document, "calibrate_answers")) == (3, ("none", "toploc_activations"))


def test_files_that_are_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file is read up to the limit of answers, and no further."""
    monkeypatch.setattr(_proof_answer, "MAX_BODY", 64)
    (tmp_path / "large").write_bytes(b" " * 65)
    args = ["proof", "quorum", "--request", str(tmp_path / "large"), "--response", "a", "--operator", "A"]
    assert main(args) == 2
    assert "is over 0 MB" in capsys.readouterr().err


# --- re-execution


@pytest.mark.parametrize(
    ("kind", "node", "more", "code", "verdict", "reason"),
    [
        ("greedy", "honest", [], 0, "pass", "margin_in_bounds"),
        ("greedy", "reference", ["--max-mean-margin", "0", "--timeout", "30"], 0, "pass", "margin_in_bounds"),
        ("greedy", "coarse", [], 1, "fail", "margin_too_large"),
        ("seeded", "honest", ["--seeded"], 0, "pass", "margin_in_bounds"),
        ("seeded", "coarse", ["--seeded"], 1, "fail", "margin_too_large"),
        ("greedy", "honest", ["--min-tokens", "65"], 3, "inconclusive", "too_few_tokens"),
        ("greedy", "honest", ["--reference-id", "ref-2"], 3, "inconclusive", "calibration_of_another"),
        ("greedy", "honest", ["--seeded"], 3, "inconclusive", "not_seeded"),
        ("seeded", "honest", [], 3, "inconclusive", "not_greedy"),
    ],
)
def test_one_answer_is_executed_again(
    nodes: dict[str, str], calibrations: Path, answers: Path, capsys: pytest.CaptureFixture[str],
    kind: str, node: str, more: list[str], code: int, verdict: str, reason: str,
) -> None:  # fmt: skip
    """An honest node's answer passes, a cheap one's fails, and what cannot be decided is neither."""
    args = reexec(nodes, calibrations / kind, answers / f"{kind}.request", answers / f"{kind}.{node}")
    got, document = said(capsys, *args, *more)
    assert (got, document["record"]["verdict"], document["record"]["reason"]) == (code, verdict, reason)
    assert check(document, "proof_reexec")[1] == reason


def changed(tmp_path: Path, source: Path, change: Callable[[Any], Any]) -> Path:
    """A copy of a file of JSON with one thing changed."""
    document = json.loads(source.read_bytes())
    change(document)
    path = tmp_path / "changed"
    path.write_text(json.dumps(document))
    return path


def message(document: Any) -> Any:
    return document["choices"][0]["message"]


@pytest.mark.parametrize(
    ("change", "code", "step", "reason"),
    [
        (lambda d: message(d).update(content=message(d)["content"] + " Send money."), 1, "reexec_spelling", "text_not_tokens"),
        (lambda d: message(d).update(content=None), 3, "reexec_spelling", "spelling_unknown"),
        (lambda d: d["choices"][0].pop("token_ids"), 3, "reexec_answer", "token_ids_absent"),
        (lambda d: d["choices"][0].update(token_ids=[1], logprobs=None), 1, "reexec_spelling", "text_not_tokens"),
        (lambda d: d["choices"][0].update(token_ids=[], logprobs=None), 3, "reexec_answer", "empty_answer"),
        (lambda d: d["choices"].append({}), 3, "reexec_answer", "malformed"),
        (lambda d: d["choices"][0].update(token_ids=[100_000], logprobs=None), 3, "reexec_reference", "reference_refused"),
    ],
)  # fmt: skip
def test_an_answer_that_was_changed(
    nodes: dict[str, str], calibrations: Path, answers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    change: Callable[[Any], Any], code: int, step: str, reason: str,
) -> None:  # fmt: skip
    """Honest tokens under another text fail, and what the answer does not tell leaves it undecided."""
    response = changed(tmp_path, answers / "greedy.honest", change)
    got, document = said(capsys, *reexec(nodes, calibrations / "greedy", answers / "greedy.request", response))
    assert (got, check(document, step)[1]) == (code, reason)


def test_the_prompt_is_the_requests(
    nodes: dict[str, str], calibrations: Path, answers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An answer to another prompt fails, whatever prompt the node says that it read."""
    request = changed(tmp_path, answers / "greedy.request", lambda d: d["messages"][0].update(content="What is a log?"))
    code, document = said(capsys, *reexec(nodes, calibrations / "greedy", request, answers / "greedy.honest"))
    assert (code, document["record"]["reason"]) == (1, "margin_too_large")


def test_the_wrong_seed(
    nodes: dict[str, str], calibrations: Path, answers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tokens drawn with another seed than the request's fail."""
    request = changed(tmp_path, answers / "seeded.request", lambda d: d.update(seed=6))
    args = reexec(nodes, calibrations / "seeded", request, answers / "seeded.honest")
    code, document = said(capsys, *args, "--seeded")
    assert (code, document["record"]["reason"]) == (1, "margin_too_large")


def test_a_completion(
    nodes: dict[str, str], calibrations: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text endpoint's answers are executed again as well."""
    request = {
        "model": MODEL,
        "prompt": "The fox and the bear",
        "temperature": 0,
        "max_tokens": 32,
        "return_token_ids": True,
    }
    got = httpx.post(f"{nodes['honest']}/v1/completions", json=request, timeout=20, trust_env=False)
    (tmp_path / "r").write_text(json.dumps(request))
    (tmp_path / "a").write_bytes(got.content)
    code, document = said(capsys, *reexec(nodes, calibrations / "greedy", tmp_path / "r", tmp_path / "a"))
    assert (code, document["record"]["verdict"], document["record"]["tokens"]) == (0, "pass", 32)


def test_a_reference_that_is_down(calibrations: Path, answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without its reference an answer is undecided, never passed, and the output says what to do."""
    args = reexec(
        {"reference": "http://127.0.0.1:1"},
        calibrations / "greedy",
        answers / "greedy.request",
        answers / "greedy.honest",
    )
    code, document = said(capsys, *args)
    assert (code, check(document, "reexec_reference")) == (3, ("none", "reference_unreachable"))
    assert check(document, "proof_reexec") == ("none", "reference_unreachable")
    assert main([*map(str, args)]) == 3
    out = capsys.readouterr().out
    assert "COULD NOT BE DECIDED (exit 3)" in out
    assert "Is the reference running" in out


@pytest.mark.parametrize(
    ("told", "step", "reason"),
    [
        (b"\xff", "reexec_reference", "malformed"),
        (b"[]", "reexec_reference", "malformed"),
        ({}, "reexec_reference", "reference_incomplete"),
        ({"prompt_token_ids": [1], "prompt_logprobs": [None]}, "reexec_reference", "reference_incomplete"),
        ({"prompt_token_ids": [1], "prompt_logprobs": {}}, "reexec_reference", "reference_incomplete"),
    ],
)
def test_a_reference_that_answers_nonsense(
    server: Callable[..., str], calibrations: Path, answers: Path, capsys: pytest.CaptureFixture[str],
    told: Any, step: str, reason: str,
) -> None:  # fmt: skip
    """Whatever a reference answers in place of scores leaves the answer undecided."""
    url = server(lambda path, asked: told)
    args = reexec({"reference": url}, calibrations / "greedy", answers / "greedy.request", answers / "greedy.honest")
    code, document = said(capsys, *args)
    assert (code, check(document, step)) == (3, ("none", reason))


def scored(ids: list[int], texts: list[str | None], fingerprint: str) -> Callable[[str, Any], Any]:
    """A reference for which each of `ids`, after a prompt of one token, is the likeliest."""

    def answer(path: str, asked: Any) -> Any:
        rows = [
            {str(i): {"logprob": -0.1, **({} if text is None else {"decoded_token": text})}, str(i + 1): -2.0}
            for i, text in zip(ids, texts, strict=True)
        ]
        return {"prompt_token_ids": [9], "prompt_logprobs": [None, *rows], "system_fingerprint": fingerprint}

    return answer


@pytest.mark.parametrize(
    ("revision", "fingerprint", "texts", "code", "expected"),
    [
        ("fingerprint:fp", "fp", " w", 0, ("affirming", None)),
        ("fingerprint:fp", "other", " w", 3, ("none", "reference_changed")),
        ("commit", "fp", " w", 0, ("none", "revision_not_told")),
        ("fingerprint:fp", "fp", None, 3, ("affirming", None)),
    ],
)
def test_which_build_the_reference_runs(
    server: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    revision: str, fingerprint: str, texts: str | None, code: int, expected: tuple[str, str | None],
) -> None:  # fmt: skip
    """Another build than the calibrated one decides nothing; nor does a reference that does not spell the tokens."""
    ids = list(range(20, 36))
    url = server(scored(ids, [texts and f"{texts}{i}" for i in ids], fingerprint))
    rows = [{"tokens": 16, "samples": 100, "p50": 0, "p95": 0.001, "p99": 0.002}]
    files = {
        "c": {"version": 1, "kind": "reexec", "statistic": "greedy_margin", "reference": url, "model": "m",
              "revision": revision, "made": "2026-01-31", "seeds": [1], "quantiles": rows},
        "r": {"model": "m", "messages": [], "temperature": 0},
        "a": json.loads(body(" ".join(f"w{i}" for i in ids), token_ids=ids)),
    }  # fmt: skip
    for name, document in files.items():
        (tmp_path / name).write_text(json.dumps(document))
    got, found = said(capsys, *reexec({"reference": url + "/v1/"}, tmp_path / "c", tmp_path / "r", tmp_path / "a"))
    assert (got, check(found, "reexec_calibration")) == (code, expected)


# --- TOPLOC


def toploc(nodes: dict[str, str], calibrations: Path, answers: Path, answer: Path) -> list[str | Path]:
    return [
        "proof", "verify", answer, "--toploc", "--request", answers / "greedy.request", "--reference",
        nodes["reference"], "--calibration", calibrations / "toploc",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("node", "change", "code", "verdict", "reason"),
    [
        ("honest", lambda d: None, 0, "pass", "toploc_near"),
        ("coarse", lambda d: None, 1, "fail", "toploc_far"),
        ("honest", lambda d: message(d).update(content="Send money."), 1, "fail", "text_not_tokens"),
        ("honest", lambda d: d["toploc"]["proofs"].pop(), 1, "fail", "toploc_count"),
        ("honest", lambda d: d["toploc"].update(proofs=[]), 1, "fail", "toploc_count"),
        ("honest", lambda d: d["toploc"].update(proofs=["x"]), 1, "fail", "toploc_malformed"),
        ("honest", lambda d: d["toploc"].update(proofs=None), 3, "absent", "proof_absent"),
        ("honest", lambda d: d.pop("toploc"), 3, "absent", "proof_absent"),
        ("honest", lambda d: d["choices"][0].pop("token_ids"), 3, "inconclusive", "token_ids_absent"),
        ("honest", lambda d: d["choices"][0].update(token_ids=[100_000], logprobs=None), 3, "inconclusive", "reference_refused"),
        ("honest", lambda d: d["choices"].append({}), 3, "inconclusive", "malformed"),
    ],
)  # fmt: skip
def test_toploc_proofs(
    nodes: dict[str, str], calibrations: Path, answers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    node: str, change: Callable[[Any], Any], code: int, verdict: str, reason: str,
) -> None:  # fmt: skip
    """Proofs of honest hidden states pass, of coarse weights fail, and a list with proofs left out fails."""
    answer = changed(tmp_path, answers / f"greedy.{node}", change)
    got, document = said(capsys, *toploc(nodes, calibrations, answers, answer))
    assert (got, document["record"]["verdict"], document["record"]["reason"]) == (code, verdict, reason)


def test_toploc_without_limits(
    nodes: dict[str, str], calibrations: Path, answers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a calibration of this model nothing passes, and the distances are shown."""
    args = toploc(nodes, calibrations, answers, answers / "greedy.honest")[:-2]
    code, document = said(capsys, *args)
    assert (code, document["record"]["reason"]) == (3, "toploc_uncalibrated")
    assert len(document["distances"]) == 3
    assert main([*map(str, args)]) == 3
    out = capsys.readouterr().out
    assert "prompt: " in out
    assert "veriroute calibrate --toploc" in out


def test_toploc_values_from_a_file(
    nodes: dict[str, str], calibrations: Path, answers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Values of a file can refute; that the tokens are the text takes a reference, and so does passing."""
    path = tmp_path / "values"
    for node, offline, code in (("honest", 3, 0), ("coarse", 1, 1)):
        answer = answers / f"greedy.{node}"
        told = json.loads(answer.read_bytes())
        ids = {"prompt_token_ids": told["prompt_token_ids"], "token_ids": told["choices"][0]["token_ids"]}
        values = httpx.post(f"{nodes['reference']}/v1/toploc/activations", json=ids, timeout=20, trust_env=False)
        path.write_bytes(values.content)
        args = toploc(nodes, calibrations, answers, answer)
        with_reference = [*args, "--activations", path]
        del args[args.index("--reference") : args.index("--reference") + 2]
        got, document = said(capsys, *args, "--activations", path)
        assert (got, check(document, "toploc_spelling")) == (offline, ("none", "spelling_unknown"))
        assert said(capsys, *with_reference)[0] == code
    path.write_text("{}")
    code, document = said(capsys, *args, "--activations", path)
    assert (code, check(document, "toploc_activations")) == (3, ("none", "toploc_activations"))


def test_toploc_by_a_reference_of_another_build(
    nodes: dict[str, str], calibrations: Path, answers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Limits of another build of the reference decide nothing."""
    path = changed(tmp_path, calibrations / "toploc", lambda d: d.update(revision="fingerprint:other"))
    args = toploc(nodes, calibrations, answers, answers / "greedy.honest")
    code, document = said(capsys, *args[:-1], path)
    assert (code, document["record"]["reason"]) == (3, "reference_changed")


# --- quorum

WORDS = "one two three four five six seven eight nine ten"
OTHER = "one two three four five six seven eight nine seven"


def quorum(tmp_path: Path, request: dict[str, Any], answers: list[tuple[str, bytes]]) -> list[str | Path]:
    (tmp_path / "r").write_text(json.dumps({"model": "m", **request}))
    args: list[str | Path] = ["proof", "quorum", "--request", tmp_path / "r"]
    for number, (operator, data) in enumerate(answers):
        (tmp_path / f"a{number}").write_bytes(data)
        args += ["--response", tmp_path / f"a{number}", "--operator", operator]
    return args


@pytest.mark.parametrize(
    ("request_", "answers", "more", "code", "reason"),
    [
        ({"temperature": 0}, [("a", body(WORDS)), ("b", body(WORDS))], [], 0, "agreed"),
        ({"temperature": 0}, [("a", body(WORDS)), ("a", body(WORDS))], [], 3, "operators_not_distinct"),
        ({"temperature": 0}, [("a", body(WORDS)), ("", body(WORDS))], [], 3, "operators_not_distinct"),
        ({"temperature": 0}, [("a", body(WORDS)), ("b", body(OTHER))], [], 1, "no_quorum"),
        ({"temperature": 0}, [("a", body(WORDS)), ("b", body(OTHER)), ("c", body(WORDS))], [], 0, "agreed"),
        ({"temperature": 0}, [("a", body(WORDS)), ("b", body(WORDS))], ["--n", "3"], 3, "no_quorum"),
        ({"temperature": 0}, [("a", body(WORDS))], [], 3, "no_quorum"),
        ({"temperature": 0}, [("a", body(WORDS)), ("b", b"{")], [], 3, "no_quorum"),
        ({"temperature": 0}, [("a", body(WORDS)), ("b", body(WORDS, logprobs=None))], [], 3, "no_quorum"),
        ({"temperature": 0.7}, [("a", body(WORDS)), ("b", body(OTHER))], [], 3, "not_greedy"),
        ({}, [("a", body(WORDS)), ("b", body(WORDS))], [], 3, "not_greedy"),
        ({"temperature": 0}, [("a", body(WORDS)), ("b", body(OTHER))], ["--label", "--min-share", "0.5"], 1, "no_quorum"),
        (
            {"temperature": 0, "response_format": {"type": "json_object"}},
            [(o, body("x", message={"content": t})) for o, t in (("a", '{"x":1,"y":2}'), ("b", '{"y":2, "x":1.0}'))],
            [], 0, "agreed",
        ),
    ],
)  # fmt: skip
def test_a_quorum_of_saved_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
    request_: dict[str, Any], answers: list[tuple[str, bytes]], more: list[str], code: int, reason: str,
) -> None:  # fmt: skip
    """Distinct operators that agree are a quorum; contradiction refutes; what could not take part decides nothing."""
    got, document = said(capsys, *quorum(tmp_path, request_, answers), *more)
    assert (got, document["record"]["reason"]) == (code, reason)


def test_what_a_quorum_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each node's part and each pair's comparison are shown, and the one that contradicts is named."""
    args = quorum(
        tmp_path, {"temperature": 0}, [("a", body(WORDS)), ("b", body(OTHER)), ("c", body(WORDS)), ("", b"{}")]
    )
    assert main([*map(str, args)]) == 0
    out = capsys.readouterr().out
    assert "a0: in the quorum, and the one to release; operator a" in out
    assert "a1: contradicts the quorum; operator b" in out
    assert "a2: in the quorum; operator c" in out
    assert "a3: could not take part, malformed; operator not known" in out
    assert "disagree, no_near_tie, 9 tokens in common" in out
    code, document = said(capsys, *args)
    assert (code, [Path(m).name for m in document["members"]]) == (0, ["a0", "a2"])
    assert [Path(c).name for c in document["record"]["culprits"]] == ["a1"]


def test_one_file_twice_is_two_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two operators may have sent the same bytes, saved once."""
    args = quorum(tmp_path, {"temperature": 0}, [("a", body(WORDS))])
    code, document = said(capsys, *args, "--response", tmp_path / "a0", "--operator", "b")
    assert (code, len(document["members"])) == (0, 2)


# --- zero-knowledge


@pytest.fixture
def circuit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pinned circuit whose proof system says yes to everything."""
    return pinned(tmp_path, monkeypatch, Ran(ZkVerdict.PASS))


def pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ran: Ran, **changes: Any) -> Path:
    class Says:
        def __init__(self, limits: Any) -> None:
            pass

        async def verify(self, circuit: Any, statement: Any) -> Ran:
            return ran

        async def aclose(self) -> None:
            pass

    monkeypatch.setattr(_proof_zk, "Verifier", Says)
    folder = tmp_path / "circuit"
    folder.mkdir(exist_ok=True)
    (folder / "circuit.toml").write_text(zk_kit.ezkl_toml(**changes))
    for name, data in (("vk.key", zk_kit.VK), ("settings.json", zk_kit.SETTINGS), ("verifier.srs", zk_kit.SRS)):
        (folder / name).write_bytes(data)
    (tmp_path / "proof").write_bytes(zk_kit.proof_json())
    (tmp_path / "request").write_bytes(zk_kit.REQUEST)
    (tmp_path / "response").write_bytes(zk_kit.RESPONSE)
    return folder


def zk(folder: Path) -> list[str | Path]:
    here = folder.parent
    return [
        "proof",
        "verify",
        here / "proof",
        "--circuit",
        folder,
        "--request",
        here / "request",
        "--response",
        here / "response",
    ]


def test_a_proof_holds(circuit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every step is affirming, the proven numbers are shown, and the record names the key and the proof."""
    code, document = said(capsys, *zk(circuit))
    assert code == 0
    assert {c["outcome"] for c in document["checks"]} == {"affirming"}
    assert document["proven"] == [[0.0, -0.03125, 0.1484375]]
    assert document["released"] == zk_kit.RESPONSE.decode()
    assert document["record"]["assurance"] == "cryptographic"
    assert [a["name"] for a in document["record"]["artefacts"]] == ["verifying key", "proof and instances"]
    assert main([*map(str, zk(circuit))]) == 0
    assert "proven /output/0: 0, -0.03125, 0.1484375" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "data", "code", "step", "reason"),
    [
        ("proof", b"", 1, "zk_proof_form", "proof_malformed"),
        ("proof", zk_kit.proof_json(proof=zk_kit.PROOF + b"x"), 1, "zk_proof_form", "proof_length"),
        ("proof", zk_kit.proof_json((31, *zk_kit.INSTANCES[1:])), 1, "zk_inputs", "binding_failed"),
        ("request", zk_kit.REQUEST.replace(b"0.25", b"0.26"), 1, "zk_inputs", "binding_failed"),
        ("request", b"{}", 1, "zk_inputs", "input_unbindable"),
        ("response", zk_kit.RESPONSE.replace(b"0.15", b"0.25"), 1, "zk_outputs", "output_mismatch"),
        ("response", b"{}", 1, "zk_outputs", "output_absent"),
        ("response", b"{", 1, "zk_outputs", "response_malformed"),
    ],
)
def test_a_proof_that_does_not_hold(
    circuit: Path, capsys: pytest.CaptureFixture[str], file: str, data: bytes, code: int, step: str, reason: str
) -> None:
    """The step that fails is named, and those behind it are listed as not reached."""
    (circuit.parent / file).write_bytes(data)
    got, document = said(capsys, *zk(circuit))
    assert (got, check(document, step)) == (code, ("contraindicated", reason))
    assert check(document, "proof_zk") == ("contraindicated", reason)
    steps = ["zk_proof_form", "zk_inputs", "zk_verifies", "zk_outputs"]
    before, behind = steps[: steps.index(step)], steps[steps.index(step) + 1 :]
    assert all(check(document, s) == ("affirming", None) for s in before)
    assert all(check(document, s) == ("none", "not_reached") for s in behind)


@pytest.mark.parametrize(
    ("ran", "code", "step"),
    [
        (Ran(ZkVerdict.FAIL, "proof_rejected"), 1, "zk_verifies"),
        (Ran(ZkVerdict.FAIL, "binding_failed"), 1, "zk_inputs"),
        (Ran(ZkVerdict.INCONCLUSIVE, "verifier_missing"), 3, "zk_verifies"),
        (Ran(ZkVerdict.INCONCLUSIVE, "verifier_timeout"), 3, "zk_verifies"),
    ],
)
def test_what_the_proof_system_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ran: Ran, code: int, step: str
) -> None:
    """A rejected proof refutes; a verifier that is missing or too slow decides nothing."""
    folder = pinned(tmp_path, monkeypatch, ran)
    got, document = said(capsys, *zk(folder))
    assert (got, check(document, step)[1]) == (code, ran.reason)
    assert document["record"]["reason"] == ran.reason


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where ezkl is not installed the output says which extra to install."""
    folder = pinned(tmp_path, monkeypatch, Ran(ZkVerdict.INCONCLUSIVE, "verifier_missing"))
    assert main([*map(str, zk(folder))]) == 3
    assert "pip install 'veriroute[zk]'" in capsys.readouterr().out


@pytest.mark.parametrize(("left_out", "step", "reason"), [("--request", "zk_inputs", "request_absent"), ("--response", "zk_outputs", "response_absent")])  # fmt: skip
def test_a_body_that_was_not_given(
    circuit: Path, capsys: pytest.CaptureFixture[str], left_out: str, step: str, reason: str
) -> None:
    """Without the request nothing is bound, without the answer nothing compared: undecided, with what to give."""
    args = zk(circuit)
    del args[args.index(left_out) : args.index(left_out) + 2]
    code, document = said(capsys, *args)
    assert (code, check(document, step)) == (3, ("none", reason))


def test_numbers_that_would_be_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A saved answer with other numbers than the proven ones does not pass, though a gateway would release the latter."""
    output = {
        "pointer": "/output/0",
        "offset": 4,
        "count": 3,
        "scale": 7,
        "tolerance": 0.0078125,
        "on_release": "replace",
    }
    folder = pinned(tmp_path, monkeypatch, Ran(ZkVerdict.PASS), outputs=[output])
    assert said(capsys, *zk(folder))[0] == 0  # within the tolerance
    (tmp_path / "response").write_bytes(zk_kit.RESPONSE.replace(b"0.15", b"0.9"))
    code, document = said(capsys, *zk(folder))
    assert (code, check(document, "zk_outputs")) == (3, ("none", "output_replaced"))
    assert json.loads(document["released"])["output"] == [[0.0, -0.03125, 0.1484375]]


def test_private_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A circuit that binds no input passes for what it proves, and not for somebody who asks about a request."""
    fixed = [{"offset": i, "value": zk_kit.field.to_bytes(zk_kit.INSTANCES[i]).hex()} for i in range(4)]
    folder = pinned(tmp_path, monkeypatch, Ran(ZkVerdict.PASS), inputs=[], fixed=fixed)
    args = zk(folder)
    code, document = said(capsys, *args)
    assert (code, check(document, "zk_inputs")) == (3, ("none", "inputs_private"))
    del args[args.index("--request") : args.index("--request") + 2]
    code, document = said(capsys, *args)
    assert (code, check(document, "zk_inputs"), document["record"]) == (0, ("none", "inputs_private"), None)


@pytest.mark.skipif(zk_kit.missing("py_ecc"), reason="py_ecc is not installed (extra zk)")
def test_groth16_for_real(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A Groth16 proof is verified by a worker process: the right number passes, another is rejected."""
    limit = sys.getrecursionlimit()  # which py_ecc raises so far that deep input would overflow the stack
    setup = zk_kit.Groth16()
    sys.setrecursionlimit(limit)
    folder = tmp_path / "circuit"
    folder.mkdir()
    (folder / "vk.json").write_bytes(setup.key())
    (folder / "circuit.toml").write_text(zk_kit.groth16_toml(setup.key()))
    for value, code in (("12", 0), ("13", 1)):
        (tmp_path / "proof").write_text(json.dumps({"proof": setup.proof(12).hex(), "public": [value]}))
        (tmp_path / "response").write_text(f'{{"c":{value}}}')
        args = ["proof", "verify", tmp_path / "proof", "--circuit", folder, "--response", tmp_path / "response"]
        got, document = said(capsys, *args)
        assert (got, check(document, "zk_verifies")[0]) == (code, ("affirming", "contraindicated")[code])


# --- usage, addresses, prompts


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["proof", "verify", "x"], "give --circuit DIR"),
        (["proof", "verify", "x", "--circuit", "d", "--toploc"], "give --circuit DIR"),
        (["proof", "verify", "x", "--circuit", "nowhere"], "cannot read x"),
        (["proof", "verify", "FILE", "--circuit", "nowhere"], "nowhere/circuit.toml: cannot be read"),
        (["proof", "verify", "x", "--circuit", "d", "--reference", "http://h"], "are for --toploc"),
        (["proof", "verify", "x", "--toploc"], "--toploc needs --request"),
        (["proof", "verify", "x", "--toploc", "--request", "r"], "--toploc needs --request"),
        (["proof", "verify", "x", "--toploc", "--response", "r"], "--response is for --circuit"),
        (["proof", "verify", "x", "--toploc", "--request", "r", "--activations", "FILE", "--calibration", "FILE"], "FILE: not a TOPLOC calibration"),
        (["proof", "quorum", "--request", "r", "--response", "a", "--operator", "A", "--operator", "B"], "give one for each"),
        (["proof", "quorum", "--request", "FILE", "--response", "a", "--operator", "A"], "names no model"),
        (["proof", "quorum", "--request", "REQUEST", "--response", "FILE", "--operator", "A", "--n", "1"], "no quorum is 1"),
        (["proof", "quorum", "--request", "nowhere", "--response", "FILE", "--operator", "A"], "cannot read nowhere"),
        (["proof", "reexec", "--reference", "h", "--calibration", "FILE", "--request", "r", "--response", "a"], "FILE: not a calibration"),
        (["proof", "reexec", "--reference", "h", "--calibration", "c", "--request", "r", "--response", "a", "--min-tokens", "0"], "at least 1"),
        (["calibrate", "--reference", "ftp://h", "--node", "http://h"], "not an http:// or https:// address"),
        (["calibrate", "--reference", "http://h", "--node", "http://u:p@h"], "more than scheme, host"),
        (["calibrate", "--count", "0"], "--count is from 1"),
        (["calibrate", "--tokens", "5000"], "--tokens from 1"),
        (["calibrate", "--seed", "-1"], "--seed is from 0"),
        (["calibrate", "--seeded", "--toploc"], "run it once for each"),
        (["calibrate", "--seeded", "--temperature", "nan"], "--temperature is over 0"),
        (["calibrate", "--out", "FILE"], "FILE exists"),
        (["calibrate", "--out", "nowhere/c"], "there is no folder nowhere"),
        (["calibrate", "--reference-id", "x" * 81], "give it a --reference-id"),
        (["proof", "quorum", "--request", "BINARY", "--response", "FILE", "--operator", "A"], "BINARY is no request"),
        (["proof", "verify", "FILE", "--toploc", "--request", "REQUEST", "--activations", "FILE", "--reference-id", "a\nb"], "give it a --reference-id"),
        (["calibrate", "--prompts", "FILE"], "has 1 different prompts"),
        (["calibrate", "--prompts", "BINARY"], "no UTF-8 text"),
        (["calibrate", "--node-key-env", "VERIROUTE_NO_SUCH"], "holds no API key"),
    ],
)  # fmt: skip
def test_wrong_usage_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: list[str], words: str
) -> None:
    """A command line that cannot be carried out is told why, with exit code 2, before anything is asked."""
    monkeypatch.chdir(tmp_path)
    Path("FILE").write_text("{}\n\n{}\n" if "--prompts" in args else "{}")
    Path("BINARY").write_bytes(b"\xff")
    Path("REQUEST").write_text('{"model":"m","temperature":0}')
    if args[0] == "calibrate":
        given = {"--reference": "http://127.0.0.1:1", "--node": "http://127.0.0.1:1", "--prompts": "builtin", "--count": "2", "--tokens": "8", "--out": "c", "--model": "m"}  # fmt: skip
        args = [args[0], *(word for pair in given.items() if pair[0] not in args for word in pair), *args[1:]]
    assert main(args) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["proof"], "required: verify|reexec|quorum"),
        (["proof", "reexec", "--max-mean-margin", "4"], "nats are from 0 to 3"),
        (["proof", "reexec", "--timeout", "0"], "seconds are over 0"),
        (["proof", "verify", "--seconds", "nan"], "seconds are over 0"),
        (["proof", "quorum", "--min-share", "2"], "a share is from 0 to 1"),
        (["proof", "quorum", "--min-prefix", "-1"], "a number from 0 to 10000"),
        (["proof", "quorum", "--tau", "nan"], "nats are from 0 to 3"),
    ],
)
def test_numbers_out_of_range(args: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Limits that no judgement has are refused with the command line."""
    with pytest.raises(SystemExit) as stopped:
        main(args)
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


def test_a_model_is_taken_from_the_reference(
    server: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --model the first that the reference lists is asked for; one that lists none is told."""
    asked = []
    reference = server(lambda path, body: {"data": [{"id": "first"}, {"id": "second"}]})
    node = server(lambda path, body: asked.append(body["model"]) or {})
    args = ["--prompts", "builtin", "--count", "1", "--tokens", "8", "--out", str(tmp_path / "c"), "--node", node]
    assert main(["calibrate", "--reference", reference, *args]) == 3
    assert asked == ["first"]
    capsys.readouterr()
    assert main(["calibrate", "--reference", server(lambda path, body: {"data": []}), *args]) == 2
    assert "lists no models" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("url", "expected"),
    [("http://h", "http://h"), ("http://h/v1", "http://h"), ("https://h:8/a/v1/", "https://h:8/a"), ("http://h/", "http://h")],
)  # fmt: skip
def test_addresses(url: str, expected: str) -> None:
    """An address is the same with and without the API's version."""
    assert base_address(url) == expected


@pytest.mark.parametrize("url", ["", "h:1", "http://", "ftp://h", "http://u@h", "http://h?x=1", "http://h#x"])  # fmt: skip
def test_addresses_that_are_none(url: str) -> None:
    """Anything else than scheme, host, port and path is refused."""
    with pytest.raises(ConfigError):
        base_address(url)


def test_a_name_that_no_resolver_takes() -> None:
    """A name that cannot exist is told as a wrong address."""
    with Server("http://a..b") as server, pytest.raises(ConfigError, match="not an address"):
        server.first_model()


def answering(respond: Callable[[httpx.Request], httpx.Response], **more: Any) -> Server:
    return Server("http://127.0.0.1:1", transport=httpx.MockTransport(respond), **more)


def raising(error: Exception) -> Callable[[httpx.Request], httpx.Response]:
    def respond(request: httpx.Request) -> httpx.Response:
        raise error

    return respond


def unread() -> Iterator[bytes]:
    raise AssertionError("the body is read")
    yield b""


def dripping(request: httpx.Request) -> httpx.Response:
    def pieces() -> Iterator[bytes]:
        while True:
            time.sleep(0.02)
            yield b" "

    return httpx.Response(200, content=pieces())


@pytest.mark.parametrize(
    ("respond", "reason"),
    [
        (raising(httpx.ConnectError("no")), "reference_unreachable"),
        (raising(httpx.ReadTimeout("no")), "reference_timeout"),
        (raising(httpx.ReadError("")), "reference_cut"),
        (dripping, "reference_timeout"),
        (lambda request: httpx.Response(200, content=b"x" * 65), "reference_oversize"),
        (lambda request: httpx.Response(404, content=b"\x1b[2Jgone"), "reference_refused"),
        (
            lambda request: httpx.Response(200, headers={"content-encoding": "gzip, gzip"}, content=unread()),
            "reference_refused",
        ),
        (lambda request: httpx.Response(302, headers={"location": "http://127.0.0.1:2/"}), "reference_refused"),
    ],
)
def test_servers_that_fail(
    monkeypatch: pytest.MonkeyPatch, respond: Callable[[httpx.Request], httpx.Response], reason: str
) -> None:
    """Each way to fail has its reason; nothing is followed, waited for, or read without end."""
    monkeypatch.setattr(_proof_server, "MAX_BODY", 64)
    with answering(respond, timeout_s=0.2) as server, pytest.raises(ServiceError) as caught:
        server.post("/v1/completions", {})
    assert caught.value.reason == reason
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("data", [b"", b"[]", b'{"data":[{"id":""}]}', b'{"data":[{"id":1}]}', b"[" * 100_000])
def test_lists_of_models_that_are_none(data: bytes) -> None:
    """Whatever stands in place of a list of models asks for --model."""
    with (
        answering(lambda request: httpx.Response(200, content=data)) as server,
        pytest.raises(FormatError, match="--model"),
    ):
        server.first_model()


def test_a_key_goes_where_it_is_meant_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key of the variable is sent, and not in clear text to another machine."""
    monkeypatch.setenv("VERIROUTE_TEST_KEY", "secret")
    sent = []

    def respond(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers.get("authorization"))
        return httpx.Response(200, content=b"{}")

    for key in ("VERIROUTE_TEST_KEY", None):
        with answering(respond, key_env=key) as server:
            server.post("/", {})
    assert sent == ["Bearer secret", None]
    for url in ("http://example.org", "http://10.0.0.1"):
        with pytest.raises(ConfigError, match="clear text"):
            Server(url, key_env="VERIROUTE_TEST_KEY")
    Server("https://example.org", key_env="VERIROUTE_TEST_KEY").__exit__(None, None, None)
    Server("http://localhost:1", key_env="VERIROUTE_TEST_KEY").__exit__(None, None, None)


def test_a_key_with_a_space_around_it_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """No header holds such a key, so it is refused before the HTTP library says which one it is."""
    monkeypatch.setenv("VERIROUTE_TEST_KEY", "secret ")
    with pytest.raises(ConfigError, match="VERIROUTE_TEST_KEY holds no API key") as refused:
        Server("http://127.0.0.1:1", key_env="VERIROUTE_TEST_KEY")
    assert "secret" not in str(refused.value)


def test_prompts_follow_from_the_seed(tmp_path: Path) -> None:
    """The same seed asks the same prompts, no prompt twice, from a file's lines as from made-up ones."""
    path = tmp_path / "prompts"
    path.write_text("\n".join(f"question {i % 50}?" for i in range(100)) + "\n\n")
    for source in ("builtin", str(path)):
        first = prompts(source, 50, 1)
        assert len(set(first)) == 50
        assert first == prompts(source, 50, 1) != prompts(source, 50, 2)
    assert prompts("builtin", 60, 1)[:50] == prompts("builtin", 50, 1)


@pytest.mark.parametrize(("act", "example"), [("verify", "--toploc"), ("reexec", "--seeded"), ("quorum", "--operator")])
def test_each_act_has_examples(act: str, example: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` of an act shows its own calls, whole, and nobody else's."""
    with pytest.raises(SystemExit):
        main(["proof", act, "--help"])
    shown = capsys.readouterr().out.partition("examples:\n")[2]
    assert f"veriroute proof {act} " in shown
    assert example in shown
    assert shown.count("veriroute proof") == shown.count(f"veriroute proof {act}")
    assert not shown.rstrip().endswith("\\")


@pytest.mark.parametrize("command", [proof, calibrate])
def test_help_has_examples(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` shows how to call each act, and what exit codes mean."""
    name = command.__name__.rpartition(".")[2]
    with pytest.raises(SystemExit):
        main([name, "--help"])
    out = capsys.readouterr().out
    assert f"veriroute {name} " in out
    assert "Exit codes: 0" in out
