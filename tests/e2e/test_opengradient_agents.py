"""An agent in front of an OpenGradient network: direct and sealed, whole and streamed, paid for, honest and not."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from ledger import Ledger
from og_running import MODEL, gateway_for
from opengradient_world import Network
from opengradient_world.payments import FACILITATOR, NETWORK, OPG, PAY_TO
from running import Gateway

MESSAGES: Any = [{"role": "user", "content": "Say hello."}]
TOOLS: Any = [
    {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
]
TRANSPORTS = ("direct", "ohttp")
STREAMED = 'name = "streamed"\nversion = 1\n'


def ask(gateway: Gateway, **more: Any) -> Any:
    with gateway.sdk(max_retries=0) as client:
        answer = client.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, "temperature": 0.7, **more})
        return list(answer) if more.get("stream") else answer


def refused(gateway: Gateway, **more: Any) -> tuple[openai.APIStatusError, dict[str, Any]]:
    """The error that the agent sees, and the receipt of the exchange."""
    with pytest.raises(openai.APIStatusError) as caught:
        ask(gateway, **more)
    error = caught.value
    return error, gateway.receipt(error.response.headers["x-veriroute-receipt"])


def verification(answer: Any) -> dict[str, Any]:
    found: dict[str, Any] = answer.model_extra["verification"]
    return found


def prompts(network: Network) -> list[str]:
    """The targets of every request that carried a prompt, sealed or not."""
    targets = ("/v1/chat/completions", "/v1/completions", "/api/v1/chat/ohttp")
    return [request.path for _, request in network.heard if request.path.split("?")[0] in targets]


# -- honest ----------------------------------------------------------------------------------------------------------

Honest = tuple[Network, Gateway]


@pytest.fixture(scope="module", params=TRANSPORTS)
def honest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Honest]:
    """One network and one gateway for all tests of a transport in which nothing is wrong."""
    folder = tmp_path_factory.mktemp(request.param)
    with (
        Network() as network,
        policies(folder, "optimistic", named={"og-window": "window", "og-buffer": "buffer"}) as sections,
        gateway_for(network, folder, table={"transport": request.param}, **sections) as gateway,
    ):
        yield network, gateway


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("pin", [True, False])
def test_an_honest_answer_is_verified(tmp_path: Path, transport: str, pin: bool) -> None:
    """The stock SDK gets an answer whose evidence was appraised; claims and receipt say what it was not."""
    with Network() as network, gateway_for(network, tmp_path, table={"transport": transport}, pin=pin) as gateway:
        answer = ask(gateway)
        said = verification(answer)
        receipt = gateway.receipt(said["receipt"])
    assert answer.choices[0].message.content
    assert (answer.object, answer.model) == ("chat.completion", MODEL)
    assert (said["verdict"], said["network"], said["executed_in"]) == (
        "warning",  # no nonce of ours is signed: the journal alone stands against a replay
        "opengradient",
        "provider behind a tee",
    )
    claims = said["claims"]
    assert claims["executed_in_tee"] == "refuted"
    assert {claims[name] for name in ("request_bound", "response_bound", "identity_live", "pcr_known")} == {"asserted"}
    assert "usage" in said["uncovered"]
    assert receipt["usage"]["covered"] is False
    assert receipt["delivery"]["form"] == "rebuilt"
    assert receipt["evidence"][0]["name"] == "opengradient-statement"


@pytest.mark.parametrize("profile", ["v1", "v2", "v3"])
def test_each_build_of_the_gateway_is_understood(honest: Honest, profile: str) -> None:
    """Whichever of the three canonical forms a build hashes, list content is bound; which one it was is in the checks."""
    content = [{"type": "text", "text": "What is this?"}]
    network, gateway = honest
    network.enclave.profile = profile
    try:
        answer = ask(gateway, messages=[{"role": "user", "content": content}])
    finally:
        network.enclave.profile = "v3"
    checks = {c["id"]: c for c in gateway.receipt(verification(answer)["receipt"])["checks"]}
    assert checks["request_bound"]["outcome"] == "affirming"
    assert checks["request_bound"]["found"] in ("v3", profile)


@pytest.mark.parametrize("policy", ["og", "og-window", "og-buffer"])
def test_a_stream_is_released_as_policy_says(honest: Honest, policy: str) -> None:
    """The deltas join to the text that was signed; id, object and time are filled in; the verification ends it."""
    _, gateway = honest
    chunks = ask(gateway, stream=True, extra_headers={"x-veriroute-policy": policy})
    whole = ask(gateway)
    said = next(c.model_extra["verification"] for c in chunks if c.model_extra and "verification" in c.model_extra)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert said["verdict"] == "warning"
    assert len({c.id for c in chunks}) == 1
    assert all(c.created for c in chunks[:-1])
    assert chunks[-2].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_a_signed_tool_call_reaches_the_agent(honest: Honest, stream: bool) -> None:
    """Calls are put together from their fragments and go on whole, once they were shown to be signed."""
    answer = ask(honest[1], tools=TOOLS, stream=stream)
    if stream:
        calls = [call for c in answer if c.choices for call in c.choices[0].delta.tool_calls or ()]
    else:
        calls = answer.choices[0].message.tool_calls
    assert [call.function.name for call in calls] == ["get_weather"]
    assert isinstance(json.loads(calls[0].function.arguments), dict)


def test_a_text_that_holds_the_terminator_is_delivered_as_it_was_signed(tmp_path: Path) -> None:
    """`[DONE]` inside a delta is text."""
    with Network(["done_in_text"]) as network, gateway_for(network, tmp_path) as gateway:
        chunks = ask(gateway, stream=True)
        whole = ask(gateway)
    assert "[DONE]" in whole.choices[0].message.content
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content


def test_completions_are_signed_too(tmp_path: Path) -> None:
    """The older endpoint has its own canonical form."""
    with Network() as network, gateway_for(network, tmp_path) as gateway:
        with gateway.sdk(max_retries=0) as client:
            answer = client.completions.create(model=MODEL, prompt="Say hello.")
    assert answer.choices[0].text
    assert verification(answer)["claims"]["response_bound"] == "asserted"


@contextlib.contextmanager
def policies(
    folder: Path, *modes: str, more: str = "", named: dict[str, str] | None = None
) -> Iterator[dict[str, Any]]:
    """A folder with the policy `og`: as signed, and streams released in `modes`; and others of one mode, by name."""
    from gateway.policy_files import builtin_files

    signed = builtin_files()["policies/signed.toml"].decode()
    directory = folder / "policies"
    directory.mkdir()
    for name, given in {"og": [*modes], **{name: [mode] for name, mode in (named or {}).items()}}.items():
        text = signed.replace('name = "signed"', f'name = "{name}"')
        text = text.replace('stream = ["chained", "buffer"]', f"stream = {json.dumps(given)}") + more
        (directory / f"{name}.toml").write_text(text, "utf-8")
    yield {"policy": {"dir": str(directory), "default": "og"}}


# -- not honest ------------------------------------------------------------------------------------------------------

LIES = {
    "tamper": ("evidence_rejected", "response_bound"),
    "stale": ("evidence_rejected", "fresh"),
    "future": ("evidence_rejected", "fresh"),
    "wrongkey": ("evidence_rejected", "signature"),
    "nosig": ("evidence_missing", "signature"),
    "unsigned_toolcall": ("evidence_rejected", "coverage"),
    "second_choice": ("evidence_rejected", "shape"),
    "promoted": ("evidence_rejected", "tool_undeclared"),
}


@pytest.mark.parametrize(
    ("fault", "transport"), [*((fault, "direct") for fault in LIES), ("tamper", "ohttp"), ("nosig", "ohttp")]
)
def test_a_lie_is_withheld(tmp_path: Path, transport: str, fault: str) -> None:
    """Whatever is wrong with the statement, the agent gets a refusal that names it, and no part of the answer."""
    code, check = LIES[fault]
    with (
        Network([fault]) as network,
        gateway_for(network, tmp_path, table={"transport": transport}) as gateway,
    ):
        error, receipt = refused(gateway)
        sent = len(prompts(network))
    assert (error.status_code, error.code) == (502, code)
    bad = {c["id"] for c in receipt["checks"] if c["outcome"] in ("contraindicated", "none")}
    assert check in bad
    assert receipt["release"] == "withheld"
    assert sent == 1
    assert error.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("fault", ["tamper", "nosig", "unsigned_toolcall", "cut"])
def test_a_lying_stream_is_cut_before_its_end(tmp_path: Path, fault: str) -> None:
    """Text may have been shown in mode optimistic; no end is, no call, and an error says why."""
    with (
        Network([fault]) as network,
        policies(tmp_path, "optimistic") as sections,
        gateway_for(network, tmp_path, **sections) as gateway,
    ):
        text = cut_stream(gateway)
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert "error" in events[-1]
    assert "[DONE]" not in text.splitlines()[-2:]
    choices = [choice for event in events for choice in event.get("choices", ())]
    assert all(choice["finish_reason"] is None and not choice["delta"].get("tool_calls") for choice in choices)


def cut_stream(gateway: Gateway) -> str:
    """What came of a stream whose body is cut, so that no client takes it for whole."""
    parts: list[str] = []
    body = {"model": MODEL, "messages": MESSAGES, "stream": True}
    with gateway.http() as client, client.stream("POST", "/v1/chat/completions", json=body) as answer:
        coming = answer.iter_text()
        with pytest.raises(httpx.RemoteProtocolError):
            parts.extend(coming)
    return "".join(parts)


def test_an_answer_given_twice_is_a_replay(tmp_path: Path) -> None:
    """The same signed message is taken once."""
    with Network(["replay"]) as network, gateway_for(network, tmp_path) as gateway:
        ask(gateway)
        time.sleep(1.1)  # within one second equal answers to equal requests have equal statements, and no lie in them
        error, receipt = refused(gateway)
        again, _ = refused(gateway)
    assert error.code == "evidence_rejected"
    assert {c["id"]: c.get("reason") for c in receipt["checks"]}["replay"] == "replay"
    assert again.code == "no_eligible_node"


def test_a_clock_that_is_behind_takes_a_node_from_nobody(tmp_path: Path) -> None:
    """Equal requests within one second have equal statements; of a node whose clock is behind they look old. Whoever
    sends them gets no answer, and the others go on to get theirs."""
    with Network([]) as network, gateway_for(network, tmp_path) as gateway:
        network.enclave.clock = lambda: time.time() - 2.5
        time.sleep(1.52 - time.time() % 1)  # in the first part of a second of the enclave's
        ask(gateway)
        error, receipt = refused(gateway)
        assert ask(gateway, messages=[{"role": "user", "content": "of somebody else"}])
    assert error.code == "evidence_rejected"
    assert {c["id"]: c.get("reason") for c in receipt["checks"]}["replay"] == "seen_lately"


@pytest.mark.parametrize(
    ("fault", "transport", "status", "code"),
    [
        ("err500", "direct", 502, "upstream_failed"),
        ("err500", "ohttp", 502, "upstream_failed"),
        ("relay401", "ohttp", 502, "upstream_failed"),
        ("cut", "direct", 502, None),
        ("cut", "ohttp", 502, None),
    ],
)
def test_a_node_that_fails_is_said_to_have_failed(
    tmp_path: Path, fault: str, transport: str, status: int, code: str | None
) -> None:
    """Failures of node and relay are upstream failures, recorded, and not tried again."""
    with (
        Network([fault]) as network,
        gateway_for(network, tmp_path, table={"transport": transport}) as gateway,
    ):
        error, receipt = refused(gateway)
        assert len(prompts(network)) == 1
    assert error.status_code == status
    assert code in (None, error.code)
    assert receipt["release"] == "withheld"


def test_a_restarted_enclave_is_asked_for_evidence_anew(tmp_path: Path) -> None:
    """What was sealed to the old key cannot be opened; soon no prompt leaves, as the registry lists the old keys."""
    with (
        Network() as network,
        gateway_for(network, tmp_path, table={"transport": "ohttp"}) as gateway,
    ):
        ask(gateway)
        assert network._loop is not None
        asyncio.run_coroutine_threadsafe(network.rotate(), network._loop).result(10)
        first, receipt = refused(gateway)
        later, deadline = first, time.monotonic() + 20
        while later.status_code == 502 and time.monotonic() < deadline:
            time.sleep(0.5)
            later, _ = refused(gateway)
    assert (first.status_code, receipt["reason"]) == (502, "ohttp_key_rotated")
    assert (later.status_code, later.code) == (503, "no_eligible_node")


@pytest.mark.parametrize(
    ("fault", "rpcs", "reason"),
    [
        ("lying_registry", 1, "evidence"),  # one endpoint is one liar: what it lists has no attestation of AWS
        ("expired_attestation", 3, "evidence"),
        ("changing_registry", 3, "rpc_disagree"),
        ("wrong_chain", 1, "wrong_chain"),
        ("rpc_hang", 1, None),
        ("rpc_huge", 1, None),
        ("rpc_redirect", 1, None),
    ],
)
def test_no_prompt_leaves_for_a_node_that_was_not_shown(
    tmp_path: Path, fault: str, rpcs: int, reason: str | None
) -> None:
    """A registry that lies, hangs or floods, and evidence that does not hold, cost no prompt and no money."""
    with (
        Network([fault], rpcs=rpcs) as network,
        gateway_for(network, tmp_path, pin=False) as gateway,
    ):
        error, receipt = refused(gateway)
        assert prompts(network) == []
    assert error.status_code == 503
    assert error.code == "no_eligible_node"
    assert receipt["release"] == "refused"
    assert reason is None or reason in str(receipt["route"]["rejected"])


def test_a_build_that_the_registry_does_not_approve_gets_no_prompt(tmp_path: Path) -> None:
    """Withdrawn in the registry, the TEE is no active one any more; the refusal says so and has a receipt."""
    with Network() as network:
        network.chain.approved.clear()
        with gateway_for(network, tmp_path) as gateway:
            error, receipt = refused(gateway)
        assert prompts(network) == []
    assert (error.status_code, error.code) == (503, "no_eligible_node")
    assert receipt["route"]["rejected"] == [{"node": "og", "reason": "registry_empty"}]


def test_an_attestation_that_is_given_again_gets_no_prompt(tmp_path: Path) -> None:
    """The enclave answers our nonce with the document that it made for another."""
    with Network(["replayed_attestation"]) as network:
        with gateway_for(network, tmp_path) as gateway:
            ask(gateway)  # whoever asks first gets a document of its own
        again = tmp_path / "again"
        again.mkdir()
        sent = len(prompts(network))
        with gateway_for(network, again) as gateway:
            error, receipt = refused(gateway)
        assert len(prompts(network)) == sent
    assert (error.status_code, error.code, receipt["release"]) == (503, "no_eligible_node", "refused")
    assert receipt["route"]["rejected"][0]["reason"] in ("evidence", "fresh")


@pytest.mark.parametrize("fault", ["lying_registry", "rpc_hang", "rpc_huge"])
def test_one_bad_endpoint_of_three_is_outvoted(tmp_path: Path, fault: str) -> None:
    """Two that agree are enough, whatever the third says or does not."""
    with Network([fault], rpcs=3) as network, gateway_for(network, tmp_path) as gateway:
        answer = ask(gateway)
    assert verification(answer)["claims"]["identity_registry"] == "asserted"


# -- the request ----------------------------------------------------------------------------------------------------


def test_what_the_network_would_drop_is_refused_or_named(tmp_path: Path) -> None:
    """Under `refuse` no prompt leaves and the error names the member; under `list` the answer does."""
    with (
        Network() as network,
        policies(tmp_path, "buffer", more='\n[request]\nunsupported = "list"\n') as sections,
        gateway_for(network, tmp_path, **sections) as gateway,
    ):
        listed = ask(gateway, top_p=0.5, seed=7)
        plain = ask(gateway, n=1, temperature=openai.omit)
    assert verification(listed)["dropped_params"] == ["seed", "top_p"]
    assert verification(plain)["dropped_params"] == ["temperature=0.0"]
    with Network() as network, gateway_for(network, tmp_path) as gateway:
        error, receipt = refused(gateway, top_p=0.5)
        assert prompts(network) == []
    assert (error.status_code, error.code, error.param) == (400, "unsupported_parameter", "top_p")
    assert receipt["release"] == "refused"


# -- money ----------------------------------------------------------------------------------------------------------


def paying(folder: Path, **more: Any) -> dict[str, Any]:
    wallet = folder / "wallet.hex"
    wallet.write_text("11" * 32)
    wallet.chmod(0o600)
    asset = {"network": NETWORK, "address": OPG, "decimals": 18, "unit": "OPG", "per_request": "0.1"}
    asset |= {"per_key_day": "1", "per_node_day": "1", "global_day": "1"}
    rules = {"wallet_file": str(wallet), "networks": [NETWORK], "schemes": ["upto"], "facilitators": [FACILITATOR]}
    return {"payment": {**rules, "pay_to": [PAY_TO], "assets": [asset], **more}}


def test_a_node_that_asks_is_paid_once_and_the_receipt_says_so(tmp_path: Path) -> None:
    """One 402, one signature; the session pays for what follows; receipts hold it as evidence of payment alone."""
    with Network(paid=True) as network, gateway_for(network, tmp_path, **paying(tmp_path)) as gateway:
        first = ask(gateway)
        second = ask(gateway)
        receipt = gateway.receipt(verification(first)["receipt"])
        assert len(network.till.payers) == 1
    assert receipt["payment"]["amount"] == str(10**17)
    assert receipt["payment"]["payTo"].lower() == PAY_TO.lower()
    assert verification(first)["payment"]["id"] == receipt["payment"]["id"]
    assert "payment" not in verification(second)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("pay_too_much", "payment_cap"),
        ("pay_other_asset", "payment_asset"),
        ("pay_other_payee", "payment_pay_to_not_pinned"),
    ],
)
def test_a_demand_outside_of_the_rules_is_not_paid(tmp_path: Path, fault: str, reason: str) -> None:
    """Nothing is signed; the error names the rule, and there is a receipt."""
    with Network([fault], paid=True) as network, gateway_for(network, tmp_path, **paying(tmp_path)) as gateway:
        error, receipt = refused(gateway)
        assert network.till.payers == []
    assert (error.status_code, error.code) == (402, "payment_refused")
    assert error.body["reason"] == reason  # type: ignore[index]
    assert receipt["reason"] == reason


def test_a_node_that_is_never_content_is_paid_once_at_most(tmp_path: Path) -> None:
    """A second 402 for the same request is a failure of the node, and nothing more is signed."""
    with (
        Network(["pay_forever"], paid=True) as network,
        gateway_for(network, tmp_path, **paying(tmp_path)) as gateway,
    ):
        error, receipt = refused(gateway)
        assert len(prompts(network)) == 2
    assert (error.status_code, error.code) == (502, "upstream_failed")
    assert receipt["payment"]["id"]


def test_a_budget_that_is_used_up_stays_used_up(tmp_path: Path) -> None:
    """Where one payment is all that the day has, a node that asks for a second one gets none."""
    rules = paying(tmp_path)
    rules["payment"]["assets"][0]["global_day"] = "0.1"
    with Network(paid=True) as network, gateway_for(network, tmp_path, **rules) as gateway:
        ask(gateway)
        network.till.sessions.clear()  # what was paid is forgotten, and asked for again
        error, receipt = refused(gateway, messages=[{"role": "user", "content": "Again."}])
        assert len(network.till.payers) == 1
    assert (error.status_code, error.code, receipt["reason"]) == (402, "payment_refused", "budget_global")


def test_a_settlement_that_publishes_prompts_needs_the_policy_s_word(tmp_path: Path) -> None:
    """Settings alone do not do: `individual` is blocked unless the policy in force names it, before a prompt leaves."""
    rules = paying(tmp_path, settlement="individual")
    with Network(paid=True) as network, gateway_for(network, tmp_path, **rules) as gateway:
        error, receipt = refused(gateway)
        assert prompts(network) == []
    assert (error.status_code, receipt["reason"]) == (503, "settlement_denied")
    named = '\n[payment]\nsettlement = ["individual"]\n'
    with (
        Network(paid=True) as network,
        policies(tmp_path, "buffer", more=named) as sections,
        gateway_for(network, tmp_path, **rules, **sections) as gateway,
    ):
        assert verification(ask(gateway))["payment"]["id"]
        sent = [request.headers.get("x-settlement-type") for _, request in network.heard if request.method == "POST"]
    assert "individual" in sent


def test_without_rules_nobody_is_paid(tmp_path: Path) -> None:
    """A 402 is then a failure like any other."""
    with Network(paid=True) as network, gateway_for(network, tmp_path) as gateway:
        error, _ = refused(gateway)
        assert network.till.payers == []
    assert (error.status_code, error.code) == (502, "upstream_failed")


def test_a_record_that_cannot_be_used_is_in_the_log(tmp_path: Path) -> None:
    """The registry's list names one key twice: the log has an alarm with its place, and so has a line of the gateway."""
    with Network() as network:
        network.chain.tees = network.chain.tees * 2
        with gateway_for(network, tmp_path) as gateway:
            ask(gateway)
            assert gateway.process is not None
            (alarm,) = Ledger(gateway.database).alarms("registry_record_unreadable")
            (line,) = [row for row in gateway.process.errors().splitlines() if '"network.alarm"' in row]
    assert (alarm["network"], alarm["index"], alarm["reason"]) == ("opengradient", 1, "duplicate_tee")
    assert json.loads(line)["kind"] == "registry_record_unreadable"
    assert "index=1, reason=duplicate_tee" in json.loads(line)["notice"]
