"""`veriroute ml verify`, against real logs of a local chain behind several endpoints, honest and lying."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import og_ml_kit as kit
import pytest
from opengradient_world.evm import CHAIN_ID, Chain, Emits, Endpoint, Returns, contract, serving

from adapters.opengradient.ml import command
from gateway.errors import ConfigError, VerirouteError

OTHER = b"other function"
BENT = kit.run() + bytes(32)


class World:
    """A chain with an inference contract that logs for itself, behind three endpoints."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.chain = Chain()
        self.endpoints: list[Endpoint] = []
        topics = (kit.topic(),)
        self.contract = self.chain.deploy(
            contract(
                {
                    kit.run(): Emits(topics, kit.event_data()),
                    kit.run(mode=1): Emits(topics, kit.event_data(mode=1)),
                    kit.run(mode=2): Emits(topics, kit.event_data(mode=2, made=kit.NOTHING)),
                    kit.run("lie"): Emits(topics, kit.event_data()),
                    BENT: Emits(topics, kit.event_data()),
                    OTHER: Emits(topics, kit.event_data()),
                    b"bent event": Emits(topics, kit.event_data() + bytes(32)),
                    b"nothing": Returns(b""),
                }
            )
        )

    def send(self, data: bytes) -> str:
        tx = self.chain.send(self.contract, data)
        self.chain.mine(3)
        return "0x" + tx.hex()

    def config(self, **table: Any) -> str:
        values = {"rpc": [e.url for e in self.endpoints], "chain_id": CHAIN_ID, **table}
        path = self.folder / "veriroute.toml"
        rows = [f"{name} = {json.dumps(value)}" for name, value in values.items()]
        path.write_text("\n".join(["[networks.opengradient]", *rows, ""]), "utf-8")
        return str(path)

    def file(self, data: bytes) -> str:
        path = self.folder / "result.json"
        path.write_bytes(data)
        return str(path)

    def verify(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        code, text = self.text(*arguments, "--json")
        found = json.loads(text)
        assert found["exit"] == code
        return code, found

    def text(self, *arguments: str) -> tuple[int, str]:
        at = ("--contract", self.contract, "--precompile", self.contract)
        return ran("verify", *arguments, *at, *(("--config", self.config()) if "--tx" in arguments else ()))


def ran(*arguments: str) -> tuple[int, str]:
    parser = argparse.ArgumentParser()
    command.configure(parser)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        code = command.run(parser.parse_args(arguments))
    return code, out.getvalue()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """The endpoints run in a thread of their own, since the command brings its own loop."""
    found = World(tmp_path)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def begin() -> contextlib.AsyncExitStack:
        stack = contextlib.AsyncExitStack()
        found.endpoints = [await stack.enter_async_context(serving(found.chain)) for _ in range(3)]
        return stack

    async def end(stack: contextlib.AsyncExitStack) -> None:
        await stack.aclose()
        mine = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in mine:
            task.cancel()
        await asyncio.gather(*mine, return_exceptions=True)

    stack = asyncio.run_coroutine_threadsafe(begin(), loop).result(30)
    yield found
    asyncio.run_coroutine_threadsafe(end(stack), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)
    loop.close()


def reasons(found: dict[str, Any]) -> dict[str, str | None]:
    return {check["id"]: check.get("reason") for check in found["checks"]}


def test_an_inference_is_read_from_the_chain(world: World) -> None:
    """Mode, model, digests and exact outputs come from a real log that two of three endpoints give alike."""
    code, found = world.verify("--tx", world.send(kit.run()))
    assert code == 0
    assert (found["mode"], found["model"]) == ("VANILLA", kit.MODEL)
    assert found["output"]["numbers"] == [{"name": "y", "shape": [1], "values": ["1.50"]}]
    assert found["output"]["strings"][0]["values"] == ["cat"]
    (chain,) = [check for check in found["checks"] if check["id"] == "chain"]
    assert (chain["outcome"], chain["found"][:18]) == ("affirming", "2 of 3 endpoints, ")
    assert {claim["name"]: claim["status"] for claim in found["claims"]}["chain_agreed"] == "asserted"


def test_the_text_shows_checks_claims_and_values(world: World) -> None:
    """Without --json a person sees the same, in printable characters."""
    code, text = world.text("--tx", world.send(kit.run()))
    assert code == 0
    for words in ("+ affirming", "mode      VANILLA", f"model     {kit.MODEL}", "y: 1.50", "label: cat", 'about: {"p": 0.5}',
                  "claim     zk_proof unknown (mode_not_zkml)", "keccak256:"):  # fmt: skip
        assert words in text
    assert all(character.isprintable() or character == "\n" for character in text)


@pytest.mark.parametrize(
    ("data", "code", "check", "reason"),
    [
        (kit.run("lie"), 1, "request", "request_differs"),
        (OTHER, 0, "request", "calldata_indirect"),
        (b"nothing", 1, "chain", "event_absent"),
        (b"bent event", 1, "format", "malformed"),
        (BENT, 1, "format", "malformed"),
        (kit.run(mode=2), 3, "output", "output_off_chain"),
    ],
)
def test_what_the_chain_does_not_show(world: World, data: bytes, code: int, check: str, reason: str) -> None:
    """A transaction that asks for something else, runs nothing or cannot be read is told apart from one that does."""
    found_code, found = world.verify("--tx", world.send(data))
    assert (found_code, reasons(found)[check]) == (code, reason)


@pytest.mark.parametrize(("mode", "asked", "reason"), [(1, "zk", "proof_absent"), (2, "tee", "response_unsigned")])
def test_a_requirement_fails_closed(world: World, mode: int, asked: str, reason: str) -> None:
    """The network's own word for TEE or ZKML is not taken for evidence of it, and the output says why."""
    tx = world.send(kit.run(mode=mode))
    code, found = world.verify("--tx", tx, "--require", asked)
    assert (code, reasons(found)[asked]) == (1, reason)
    assert world.verify("--tx", tx, "--require", "chain")[0] in (0, 3)


def test_only_the_precompile_s_word_counts(world: World) -> None:
    """The same event out of any other contract is no inference."""
    code, text = ran("verify", "--tx", world.send(kit.run()), "--config", world.config(), "--json")
    assert (code, reasons(json.loads(text))["chain"]) == (1, "event_absent")


def test_calldata_of_another_contract_is_not_read(world: World) -> None:
    """A workflow's contract may take bytes that look like ours; only the event says what was run."""
    at = ("--precompile", world.contract, "--config", world.config(), "--json")
    code, text = ran("verify", "--tx", world.send(kit.run("lie")), *at)
    assert (code, reasons(json.loads(text))["request"]) == (0, "calldata_indirect")


def test_a_document_is_held_against_the_chain(world: World) -> None:
    """The same output passes, another is refuted, and one that stands alone is undecided."""
    tx = world.send(kit.run())
    good = kit.document(kit.variant("VANILLA", kit.model_output()))
    other = kit.document(kit.variant("VANILLA", kit.model_output(([], [("label", ["dog"])], [], False))))
    assert world.verify(world.file(good), "--tx", tx)[0] == 0
    assert reasons(world.verify(world.file(other), "--tx", tx)[1])["output"] == "output_differs"
    code, found = world.verify(world.file(good))
    assert (code, reasons(found)["chain"]) == (3, "no_transaction")
    code, found = world.verify(world.file(b"{}"))
    assert (code, reasons(found)["format"]) == (1, "malformed")


def test_one_lying_endpoint_changes_nothing(world: World) -> None:
    """Two of three agree; when none do, nothing is believed."""
    tx = world.send(kit.run())

    def lie(method: str, params: list[Any], result: Any) -> Any:
        if method == "eth_getLogs" and result:
            return [{**result[0], "data": "0x" + kit.event_data(made=kit.NOTHING).hex()}]
        return result

    def none(method: str, params: list[Any], result: Any) -> Any:
        return [] if method == "eth_getLogs" else result

    world.endpoints[0].lie = lie
    assert world.verify("--tx", tx)[0] == 0
    world.endpoints[1].lie = none
    code, found = world.verify("--tx", tx)
    assert (code, reasons(found)["chain"]) == (3, "rpc_disagree")


def test_transactions_that_are_not_there(world: World) -> None:
    """One that nobody has, one too new, and one with no endpoint to ask are undecided, each for its reason."""
    code, found = world.verify("--tx", "0x" + "42" * 32)
    assert (code, reasons(found)["chain"]) == (3, "tx_not_found")
    new = "0x" + world.chain.send(world.contract, kit.run()).hex()
    code, found = world.verify("--tx", new)
    assert (code, reasons(found)["chain"]) == (3, "tx_unconfirmed")

    def hides(method: str, params: list[Any], result: Any) -> Any:
        return None

    for endpoint in world.endpoints:
        endpoint.lie = hides
    code, found = world.verify("--tx", new)
    assert (code, reasons(found)["chain"]) == (3, "rpc_quorum")


def test_logs_that_are_withheld_are_no_absence(world: World) -> None:
    """An endpoint that fails when it is asked for logs leaves the question open."""
    tx = world.send(kit.run())

    def fails(method: str, params: list[Any], result: Any) -> Any:
        return "junk" if method == "eth_getLogs" else result

    for endpoint in world.endpoints:
        endpoint.lie = fails
    code, found = world.verify("--tx", tx)
    assert (code, reasons(found)["chain"]) == (3, "rpc_quorum")


def test_endpoints_have_the_time_of_the_settings(world: World) -> None:
    """Who takes longer than `rpc_timeout_s` has not answered."""
    tx = world.send(kit.run())
    for endpoint in world.endpoints:
        endpoint.delay = 1.0
    at = ("--contract", world.contract, "--precompile", world.contract, "--config", world.config(rpc_timeout_s=0.2))
    code, text = ran("verify", "--tx", tx, *at, "--json")
    assert (code, reasons(json.loads(text))["chain"]) == (3, "rpc_quorum")


def test_several_inferences_of_one_transaction(world: World) -> None:
    """Which one is meant cannot be told, so nothing is decided."""
    tx = world.send(kit.run())

    def twice(method: str, params: list[Any], result: Any) -> Any:
        return [result[0], {**result[0], "logIndex": "0x7"}] if method == "eth_getLogs" else result

    for endpoint in world.endpoints:
        endpoint.lie = twice
    code, found = world.verify("--tx", tx)
    assert (code, reasons(found)["chain"]) == (3, "event_ambiguous")


def test_a_hostile_document_prints_inert(world: World) -> None:
    """Escape codes in names and values of a result reach the terminal as text."""
    nasty = "\x1b]0;owned\x07\u202e"
    made = ([(nasty, [(1, 0)] * 9, [9])], [("s", [nasty])], [], False)
    code, text = world.text(world.file(kit.document(kit.variant("TEE", kit.model_output(made)))))
    assert code == 3
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "and 3 more" in text


def test_nothing_is_cut_without_a_sign(world: World) -> None:
    """A number of many places is shown exactly in another form, a long text with dots behind it."""
    made = ([("y", [(-7, 300), (2**127 - 1, 5)], [2])], [("s", ["a" * 81])], [("j", '"' + "b" * 78 + '"')], False)
    _, text = world.text(world.file(kit.document(kit.variant("VANILLA", kit.model_output(made)))))
    assert "y: -7e-300, 1701411834604692317316873037158841.05727\n" in text
    assert f"s: {'a' * 80}...\n" in text
    assert f'j: "{"b" * 78}"\n' in text


@pytest.mark.parametrize(
    ("arguments", "because"),
    [
        (("verify",), "give the result document"),
        (("verify", "no such file"), "cannot read"),
        (("verify", "--tx", "0x42"), "--tx 0x42"),
        (("verify", "--tx", "0x" + "4" * 64, "--contract", "0x1"), "--contract 0x1"),
        (("verify", "--tx", "0x" + "4" * 64, "--precompile", "f4"), "--precompile f4"),
    ],
)
def test_usage(arguments: tuple[str, ...], because: str) -> None:
    """Arguments that name nothing are refused in a sentence, before anything is asked."""
    with pytest.raises(VerirouteError, match=because):
        ran(*arguments)


def test_settings_without_the_network(tmp_path: Path) -> None:
    """--tx needs endpoints, and says which table they stand in."""
    config = tmp_path / "veriroute.toml"
    config.write_text("", "utf-8")
    with pytest.raises(ConfigError, match=r"networks\.opengradient"):
        ran("verify", "--tx", "0x" + "4" * 64, "--config", str(config))


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dash reads the document from standard input."""
    data = kit.document(kit.variant("ZKML", kit.model_output()))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
    code, text = ran("verify", "-", "--require", "zk", "--json")
    assert code == 1
    assert reasons(json.loads(text))["zk"] == "proof_absent"
