"""Proofs gathered with a real reference, about answers of real nodes, honest and not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import msgspec
import pytest
from gathering_kit import ALL, ASKED, CHAT, COMPLETIONS, calibrated, distances, margins, policy, serving
from running import MODEL, Process

from gateway.exchange.assemble import assemble
from gateway.proofs import Proofs
from gateway.references import Calibrations, References
from gateway.settings import Reference
from gateway.upstream.pool import UpstreamPool
from gateway.verify.proofs.calibration import Quantiles, Statistic
from gateway.verify.proofs.evidence import ProofRecord, Verdict

SEEDED = ASKED | {"temperature": 1, "seed": 5}
PASS, FAIL, OPEN, ABSENT = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.ABSENT


@pytest.fixture(scope="module")
def nodes() -> Iterator[dict[str, str]]:
    """Addresses of the reference and of nodes, one honest."""
    kinds: dict[str, list[str]] = {
        "reference": [],
        "honest": ["--precision", "bf16"],
        "int4": ["--precision", "int4"],
        "hot": ["--dishonest", "sample-hot"],
    }
    started = {name: Process(["node", "--port", "0", "--json", *more]) for name, more in kinds.items()}
    yield {name: process.url for name, process in started.items()}
    for process in started.values():
        process.stop()


@pytest.fixture(scope="module")
def answer(nodes: dict[str, str]) -> Callable[..., tuple[bytes, bytes]]:
    """A request, and the body that a node answers it with."""
    known: dict[tuple[str, bytes, str], bytes] = {}

    def ask(node: str, path: str = CHAT, /, **request: Any) -> tuple[bytes, bytes]:
        body = json.dumps(request or ASKED).encode()
        key = (node, body, path)
        if key not in known:
            got = httpx.post(nodes[node] + path, content=body, timeout=30, trust_env=False, headers={"content-type": "application/json"})  # fmt: skip
            assert got.status_code == 200, got.text
            known[key] = got.content
        return body, known[key]

    return ask


Make = Callable[..., Proofs]


@pytest.fixture
async def proofs(nodes: dict[str, str]) -> AsyncIterator[Make]:
    """Makes what gathers, with the real reference unless others are given."""
    pool = UpstreamPool()
    made: list[Proofs] = []

    def make(*references: Reference, calibrations: Calibrations | None = None) -> Proofs:
        chosen = references or (Reference("ref", nodes["reference"], (MODEL,)),)
        known = calibrated() if calibrations is None else calibrations
        made.append(Proofs(References(chosen, pool, calibrations=known)))
        return made[-1]

    yield make
    for one in made:
        await one.close()
    await pool.close()


async def gather(
    proofs: Proofs, exchange: tuple[bytes, bytes], kinds: frozenset[str] = ALL, **terms: Any
) -> dict[str, ProofRecord]:
    found = await proofs.gather(kinds, policy(**terms), MODEL, *exchange)
    assert found.body is None
    assert {f"proof_{record.kind.value}" for record in found.records} == kinds
    assert len(found.records) == len(kinds)
    return {record.kind.value: record for record in found.records}


def verdicts(found: dict[str, ProofRecord]) -> dict[str, tuple[Verdict, str | None]]:
    return {kind: (record.verdict, record.reason) for kind, record in found.items()}


async def test_an_honest_answer_passes_all(proofs: Make, answer: Any) -> None:
    """The honest node's answer passes, and each record says by which reference, calibration and bytes."""
    found = await gather(proofs(), answer("honest"))
    assert verdicts(found) == {
        "reexec": (PASS, "margin_in_bounds"),
        "logprob": (PASS, "logprobs_close"),
        "toploc": (PASS, "toploc_near"),
    }
    for record in found.values():
        assert record.reference_id == "ref"
        assert record.tokens == 64
        assert {"answer", "reference's scores"} <= {artefact.name for artefact in record.artefacts}
    assert {c for record in found.values() if (c := record.calibration_id)} == {
        *(c.id for c in calibrated().reexec.values() if c.statistic == "greedy_margin"),
        *calibrated().toploc,
    }


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ("int4", {"reexec": "margin_too_large", "logprob": "logprobs_far", "toploc": "toploc_far"}),
        ("hot", {"reexec": "margin_too_large"}),
    ],
)
async def test_a_cheat_fails(proofs: Make, answer: Any, node: str, expected: dict[str, str]) -> None:
    """Coarser weights fail every kind; a hotter sampler fails the one that looks at the choice."""
    found = verdicts(await gather(proofs(), answer(node, **ASKED, seed=1)))
    assert {kind: said for kind, said in found.items() if said[0] is FAIL} == {
        k: (FAIL, r) for k, r in expected.items()
    }


async def test_a_seeded_answer(proofs: Make, answer: Any) -> None:
    """With the shared seed an honest draw passes, and the same answer fails as another seed's."""
    kinds = frozenset({"proof_reexec"})
    request, response = answer("honest", **SEEDED)
    found = await gather(proofs(), (request, response), kinds, claims=("greedy", "seeded"))
    assert verdicts(found)["reexec"] == (PASS, "margin_in_bounds")
    other = json.dumps(SEEDED | {"seed": 6}).encode()
    found = await gather(proofs(), (other, response), kinds, claims=("seeded",))
    assert verdicts(found)["reexec"] == (FAIL, "margin_too_large")
    assert verdicts(await gather(proofs(), (request, response), kinds))["reexec"] == (OPEN, "not_greedy")


async def test_an_answer_to_another_prompt_fails(proofs: Make, answer: Any) -> None:
    """The reference reads the request itself, so honest tokens of another prompt are found out."""
    _, response = answer("honest")
    request = json.dumps(
        ASKED | {"messages": [{"role": "user", "content": "Describe the moon beside the mill."}]}
    ).encode()
    found = verdicts(await gather(proofs(), (request, response)))
    assert found["reexec"] == (FAIL, "margin_too_large")
    assert found["logprob"][0] is FAIL


async def test_a_stream_is_judged_as_a_whole_answer(proofs: Make, answer: Any, nodes: dict[str, str]) -> None:
    """The chunks of a stream, assembled, pass as the same answer in one piece does."""
    request = json.dumps(ASKED | {"stream": True}).encode()
    got = httpx.post(nodes["honest"] + CHAT, content=request, timeout=30, trust_env=False, headers={"content-type": "application/json"})  # fmt: skip
    data = [block[6:] for block in got.content.split(b"\n\n") if block.startswith(b"data: ")]
    found = await gather(proofs(), (request, assemble(data)))
    assert {record.verdict for record in found.values()} == {PASS}, verdicts(found)


async def test_completions(proofs: Make, answer: Any) -> None:
    """A plain completion is re-executed as well."""
    asked = {"model": MODEL, "prompt": "Once upon a time", "temperature": 0, "max_tokens": 64, "return_token_ids": True}
    kinds = frozenset({"proof_reexec"})
    found = await gather(proofs(), answer("honest", COMPLETIONS, **asked), kinds)
    assert verdicts(found)["reexec"] == (PASS, "margin_in_bounds")


def edited(response: bytes, change: Callable[[Any, Any], None]) -> bytes:
    document = json.loads(response)
    change(document, document["choices"][0])
    return json.dumps(document).encode()


def no_ids(_: Any, choice: Any) -> None:
    choice["token_ids"] = None


def no_logprobs(_: Any, choice: Any) -> None:
    choice["logprobs"] = None


def nothing_told(document: Any, choice: Any) -> None:
    no_ids(document, choice)
    no_logprobs(document, choice)
    del document["toploc"]


def other_text(_: Any, choice: Any) -> None:
    choice["message"]["content"] = "Send all of it to the other account."


def few(_: Any, choice: Any) -> None:
    choice["logprobs"]["content"][5]["top_logprobs"] = []


def floor(_: Any, choice: Any) -> None:
    for entry in choice["logprobs"]["content"]:
        for listed in entry["top_logprobs"][2:]:
            listed["logprob"] = -9999.0


def empty(_: Any, choice: Any) -> None:
    choice |= {"token_ids": [], "logprobs": {"content": []}, "message": {"role": "assistant", "content": ""}}


def first(_: Any, choice: Any) -> None:
    entry = choice["logprobs"]["content"][0]
    choice |= {
        "token_ids": choice["token_ids"][:1], "logprobs": {"content": [entry]},
        "message": {"role": "assistant", "content": entry["token"]},
    }  # fmt: skip


def strange_ids(_: Any, choice: Any) -> None:
    choice["token_ids"] = [2**31 - 1] * len(choice["token_ids"])


def two(document: Any, choice: Any) -> None:
    document["choices"] = [choice, choice]


def no_proofs(document: Any, _: Any) -> None:
    document["toploc"]["proofs"] = document["toploc"]["proofs"][:1]


def bad_proofs(document: Any, _: Any) -> None:
    document["toploc"]["proofs"] = ["AAAA"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (no_ids, dict.fromkeys(("reexec", "logprob", "toploc"), (ABSENT, "token_ids_absent"))),
        (no_logprobs, {"reexec": (PASS, "margin_in_bounds"), "logprob": (ABSENT, "logprobs_absent"), "toploc": (PASS, "toploc_near")}),
        (nothing_told, {"reexec": (ABSENT, "token_ids_absent"), "logprob": (ABSENT, "logprobs_absent"), "toploc": (ABSENT, "proof_absent")}),
        (other_text, dict.fromkeys(("reexec", "logprob", "toploc"), (FAIL, "text_not_tokens"))),
        (floor, {"reexec": (PASS, "margin_in_bounds"), "logprob": (FAIL, "logprobs_far"), "toploc": (PASS, "toploc_near")}),
        (few, {"reexec": (PASS, "margin_in_bounds"), "logprob": (ABSENT, "too_few_alternatives"), "toploc": (PASS, "toploc_near")}),
        (empty, dict.fromkeys(("reexec", "logprob", "toploc"), (OPEN, "empty_answer"))),
        (first, {"reexec": (OPEN, "too_few_tokens"), "logprob": (OPEN, "too_few_tokens"), "toploc": (FAIL, "toploc_count")}),
        (strange_ids, dict.fromkeys(("reexec", "logprob", "toploc"), (ABSENT, "tokens_refused"))),
        (two, dict.fromkeys(("reexec", "logprob", "toploc"), (ABSENT, "malformed"))),
        (no_proofs, {"reexec": (PASS, "margin_in_bounds"), "logprob": (PASS, "logprobs_close"), "toploc": (FAIL, "toploc_count")}),
        (bad_proofs, {"reexec": (PASS, "margin_in_bounds"), "logprob": (PASS, "logprobs_close"), "toploc": (FAIL, "toploc_malformed")}),
    ],
)  # fmt: skip
async def test_what_the_node_left_out_or_changed(proofs: Make, answer: Any, change: Any, expected: Any) -> None:
    """Each way to leave something out has its own end, and none of them is a pass."""
    request, response = answer("honest")
    assert verdicts(await gather(proofs(), (request, edited(response, change)))) == expected


@pytest.mark.parametrize("response", [b"", b"{", b"[]", b'{"choices":1}', b'{"a":1,"a":2}', b'{"choices":[{"logprobs":{"content":[{"token":"a","logprob":NaN}]}}]}'])  # fmt: skip
async def test_answers_that_are_none(proofs: Make, response: bytes) -> None:
    """What cannot be read was not there to be tried."""
    found = verdicts(await gather(proofs(), (json.dumps(ASKED).encode(), response)))
    assert set(found.values()) == {(ABSENT, "malformed")}


async def test_nothing_configured(proofs: Make, answer: Any, nodes: dict[str, str]) -> None:
    """Without a reference for the model, or one that the policy allows, or a calibration, nothing is decided."""
    exchange = answer("honest")
    for made, terms in (
        (proofs(Reference("ref", nodes["reference"], ("another",))), {}),
        (proofs(), {"references": frozenset({"other"})}),
    ):
        found = verdicts(await gather(made, exchange, **terms))
        assert set(found.values()) == {(OPEN, "reference_absent")}
    found = verdicts(await gather(proofs(calibrations=Calibrations()), exchange))
    assert found == {
        "reexec": (OPEN, "not_calibrated"),
        "logprob": (PASS, "logprobs_close"),
        "toploc": (OPEN, "toploc_uncalibrated"),
    }
    none = frozenset[str]()
    found = verdicts(await gather(proofs(), exchange, calibrations=none, limits=none))
    assert found["reexec"] == (OPEN, "not_calibrated")
    assert found["toploc"] == (OPEN, "toploc_uncalibrated")


async def test_calibrated_distances(proofs: Make, answer: Any) -> None:
    """A calibration of distances takes the place of the fixed similarity, and shares its false alarms with margins."""
    chosen = margins_of_rows("greedy_margin", (0.0, 0.002, 0.006, 0.007), (0.0, 0.0007, 0.003, 0.0042))
    near = distances()
    known = Calibrations({c.id: c for c in (chosen, near)})
    found = await gather(proofs(calibrations=known), answer("honest"), frozenset({"proof_reexec", "proof_logprob"}))
    assert {record.verdict for record in found.values()} == {PASS}
    assert found["logprob"].calibration_id == near.id
    assert (found["logprob"].threshold, found["reexec"].threshold) == (pytest.approx(1 - 0.004), 0.0042)
    alone = {kind: (await gather(proofs(calibrations=known), answer("honest"), frozenset({f"proof_{kind}"})))[kind] for kind in found}  # fmt: skip
    assert (alone["logprob"].threshold, alone["reexec"].threshold) == (pytest.approx(1 - 0.0035), 0.003)
    coarse = await gather(proofs(calibrations=known), answer("int4"), frozenset({"proof_logprob"}))
    assert verdicts(coarse)["logprob"] == (FAIL, "logprobs_far")
    built = Calibrations({c.id: c for c in (_built(near),)})
    changed = await gather(proofs(calibrations=built), answer("honest"), frozenset({"proof_logprob"}))
    assert verdicts(changed)["logprob"] == (OPEN, "reference_changed")


def margins_of_rows(statistic: str, *rows: tuple[float, float, float, float]) -> Any:
    quantiles = tuple(Quantiles(tokens, 500, *row) for tokens, row in zip((16, 64), rows, strict=True))
    return margins(Statistic(statistic), quantiles=quantiles)


async def test_another_build(proofs: Make, answer: Any) -> None:
    """A reference that says another build than the calibration's decides nothing by it."""
    old = calibrated()
    changed = Calibrations(
        {c.id: c for c in (_built(c) for c in old.reexec.values())},
        {c.id: c for c in (_built(c) for c in old.toploc.values())},
    )
    found = verdicts(await gather(proofs(calibrations=changed), answer("honest")))
    assert found["reexec"] == found["toploc"] == (OPEN, "reference_changed")


def _built(calibration: Any) -> Any:

    return msgspec.structs.replace(calibration, revision="fingerprint:another")


async def test_kinds_that_are_gathered_elsewhere(proofs: Make, answer: Any) -> None:
    """A quorum is no proof of one answer, and asking for it here is a mistake of ours."""
    with pytest.raises(ValueError, match="proof_quorum"):
        await proofs().gather(frozenset({"proof_quorum"}), policy(), MODEL, *answer("honest"))
    assert (await proofs().gather(frozenset(), policy(), MODEL, *answer("honest"))).records == ()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (30.0, "reference_timeout"),
        (None, "reference_cut"),
        ((500, b"{}"), "reference_refused"),
        ((301, b"{}"), "reference_refused"),
        (b"{", "reference_malformed"),
        (b"[]", "reference_malformed"),
    ],
)
async def test_a_reference_that_fails(proofs: Make, answer: Any, said: Any, reason: str) -> None:
    """Down, slow or malformed: inconclusive, within the policy's time."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    with serving(lambda path, asked: said if not isinstance(said, float) else 1.0) as url:
        found = verdicts(await gather(proofs(Reference("ref", url, (MODEL,))), answer("honest"), timeout_s=0.5))
    assert set(found.values()) == {(OPEN, reason)}
    assert loop.time() - started < 3


async def test_the_next_reference_is_asked(proofs: Make, answer: Any, nodes: dict[str, str]) -> None:
    """Where one cannot be reached another answers."""
    gone = Reference("gone", "http://127.0.0.1:9", (MODEL,))
    made = proofs(gone, Reference("ref", nodes["reference"], (MODEL,)))
    found = await gather(made, answer("honest"))
    assert {record.verdict for record in found.values()} == {PASS}
    found = await gather(proofs(gone), answer("honest"))
    assert set(verdicts(found).values()) == {(OPEN, "reference_unreachable")}
    assert {record.reference_id for record in found.values()} == {"gone"}


@pytest.fixture
def chat_only(nodes: dict[str, str]) -> Iterator[str]:
    """The real reference behind a server that has chat alone and tells no token ids."""

    def pass_on(path: str, asked: Any) -> Any:
        if path != CHAT or "return_token_ids" in asked:
            return (404 if path != CHAT else 400), b"{}"
        got = httpx.post(nodes["reference"] + path, json=asked, timeout=30, trust_env=False)
        return got.status_code, got.content

    with serving(pass_on) as url:
        yield url


@pytest.mark.parametrize(
    ("node", "expected"), [("honest", (PASS, "continuations_agree")), ("int4", (FAIL, "logprob_drift"))]
)
async def test_a_reference_that_has_chat_alone(
    proofs: Make, answer: Any, chat_only: str, node: str, expected: tuple[Verdict, str]
) -> None:
    """It is asked to go on from the cut answer; the other kinds it cannot judge."""
    for _ in range(10 if node == "int4" else 3):  # where it is cut is drawn, and 4 bits go on alike now and then
        found = await gather(proofs(Reference("chat", chat_only, (MODEL,))), answer(node))
        if found["reexec"].verdict is expected[0]:
            break
    assert found["reexec"].verdict is expected[0], verdicts(found)
    assert verdicts(found)["logprob"] == verdicts(found)["toploc"] == (OPEN, "reference_refused")
    if node == "honest":
        assert verdicts(found)["reexec"] == expected
        assert sum(artefact.name.startswith("continued at ") for artefact in found["reexec"].artefacts) == 3


async def test_what_cannot_be_continued(proofs: Make, answer: Any, chat_only: str) -> None:
    """Draws, answers without log-probs, short ones and those of numbers are left undecided by a chat alone."""
    reference = Reference("chat", chat_only, (MODEL,))
    kinds = frozenset({"proof_reexec"})
    request, response = answer("honest")
    entries = json.loads(response)["choices"][0]["logprobs"]["content"]
    for change, reason in (
        (no_logprobs, "reference_refused"),
        (first, "too_few_tokens"),
        (lambda _, choice: choice["message"].update(reasoning="so"), "not_comparable"),
        (lambda _, choice: choice["logprobs"].update(content=[e | {"token": "token_id:5", "bytes": None} for e in entries]), "not_comparable"),
    ):  # fmt: skip
        found = await gather(proofs(reference), (request, edited(response, change)), kinds)
        assert verdicts(found)["reexec"] == (OPEN, reason)
    found = await gather(proofs(reference), answer("honest", **SEEDED), kinds, claims=("seeded",))
    assert verdicts(found)["reexec"] == (OPEN, "reference_refused")
    with serving(lambda path, asked: (400, b"{}")) as url:
        found = await gather(proofs(Reference("chat", url, (MODEL,))), (request, response), kinds)
    assert verdicts(found)["reexec"] == (OPEN, "reference_refused")


async def test_a_reference_that_tells_scores_is_not_asked_for_less(proofs: Make, answer: Any, chat_only: str) -> None:
    """One that was calibrated and refuses to read the prompt, busy for once, leaves the answer undecided."""
    found = await gather(proofs(Reference("ref", chat_only, (MODEL,))), answer("honest"), frozenset({"proof_reexec"}))
    assert verdicts(found)["reexec"] == (OPEN, "reference_refused")


async def test_a_text_that_ends_at_its_stop(proofs: Make, answer: Any) -> None:
    """An honest answer that the request's own stop string cut short passes."""
    asked = ASKED | {"stop": ["clock"]}
    request, response = answer("honest", **asked)
    assert json.loads(response)["choices"][0]["finish_reason"] == "stop"
    found = verdicts(await gather(proofs(), (request, response)))
    assert {said[0] for said in found.values()} == {PASS}, found
