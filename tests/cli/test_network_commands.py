"""`veriroute nodes discover` and `veriroute doctor`, against a network with a registry."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from og_running import TOKEN_ENV, node, settings
from opengradient_world import Network
from opengradient_world.registry_answers import OWNER
from running import Gateway

from adapters.aci import adapter as aci
from gateway.cli import main

CONFIG = ("--config", "veriroute.toml")


def gateway(folder: Path, network: Network, *, nodes: list[dict[str, Any]] | None = None, **table: Any) -> Gateway:
    return Gateway(folder, nodes or [node()], **settings(network, folder, **table))


def test_the_registry_s_nodes_are_listed(tmp_path: Path) -> None:
    """Each TEE that is active is a node; a pin that none of them has is said to be unresolved."""
    with Network() as network:
        world = gateway(
            tmp_path,
            network,
            nodes=[node(), node(id="mine", pin=network.enclave.tee_id), node(id="x", pin="0x" + "0" * 64)],
        )
        found = json.loads(world.cli("nodes", "discover", "opengradient", "--json", *CONFIG))
        text = world.cli("nodes", "discover", "opengradient", *CONFIG)
    assert [n["id"] for n in found["nodes"]] == [f"og-{network.enclave.tee_id[2:10]}", "mine"]
    assert {n["base_url"] for n in found["nodes"]} == {network.enclave.url}
    assert found["unresolved"] == {"x": "tee_not_registered"}
    assert "2 nodes" in text
    assert f"operator unknown\n{'':27}registered by {OWNER}\n" in text
    assert "tee_not_registered" in text


def test_the_doctor_shows_each_check_with_what_was_found(tmp_path: Path) -> None:
    """An honest node passes every check; the claims say that it relays, and under which root it was attested."""
    with Network() as network:
        world = gateway(tmp_path, network)
        text = world.cli("doctor", "opengradient", *CONFIG)
        report = json.loads(world.cli("doctor", "opengradient", "--json", *CONFIG))
    (only,) = report["nodes"]
    assert only["permitted"]
    assert {check["outcome"] for check in only["checks"]} == {"affirming"}
    claims = {claim["name"]: claim["status"] for claim in only["claims"]}
    assert (claims["identity_live"], claims["identity_calldata"], claims["pcr_known"]) == ("asserted",) * 3
    assert claims["executed_in_tee"] == "refuted"
    for words in ("root=TEST", "relayed_to_provider", "a prompt may leave for it", "1 of 1 nodes may be used"):
        assert words in text


DENIED = """name = "denied"
version = 1

[require]
all = ["evidence", "key_bound"]

[%s]
deny = ["%s"]
"""


def test_the_doctor_asks_what_routing_asks(tmp_path: Path) -> None:
    """Where no prompt would leave for a genuine node, because of its form or of a name, the doctor says so too."""
    with Network() as network:
        world = gateway(tmp_path, network, nodes=[node(operator="somebody")])
        named = f"og-{network.enclave.tee_id[2:10]}"
        reasons = {}
        for section, name in (("networks", "opengradient"), ("nodes", named), ("operators", "somebody")):
            (world.folder / "policies.d").mkdir(exist_ok=True)
            (world.folder / "policies.d" / "denied.toml").write_text(DENIED % (section, name), "utf-8")
            reasons[section] = refused(world, "denied")
        strict, regulated = refused(world, "strict"), refused(world, "regulated")
        text = world.run("doctor", "opengradient", "--policy", "strict", *CONFIG).stdout
    assert reasons == {"networks": "network_denied", "nodes": "node_denied", "operators": "operator_denied"}
    assert (strict, regulated) == ("replay", "replay")
    assert "no prompt leaves for it: replay" in text
    assert "0 of 1 nodes may be used" in text


def refused(world: Gateway, policy: str) -> str:
    """Why the one node gets no prompt under `policy`, all of whose checks hold."""
    env = {"VERIROUTE_POLICY_DIR": "policies.d"}
    done = world.run("doctor", "opengradient", "--policy", policy, "--json", *CONFIG, env=env)
    (only,) = json.loads(done.stdout)["nodes"]
    assert (done.returncode, only["permitted"]) == (1, False)
    assert {check["outcome"] for check in only["checks"]} == {"affirming"}
    return str(only["reason"])


def test_sealed_transport_is_bound_to_the_enclave_s_key(tmp_path: Path) -> None:
    """With the relay in between it is the signed OHTTP key that binds the channel."""
    with Network() as network:
        world = gateway(tmp_path, network, transport="ohttp")
        report = json.loads(world.cli("doctor", "opengradient", "--json", *CONFIG, env=TOKEN_ENV))
        without = world.run("doctor", "opengradient", *CONFIG)
    checks = {check["id"]: check for check in report["nodes"][0]["checks"]}
    assert checks["channel_bound"]["outcome"] == "affirming"
    assert "OHTTP" in checks["channel_bound"]["over"]
    assert without.returncode == 2
    assert "VERIROUTE_OPENGRADIENT_TOKEN" in without.stderr


def examined(world: Gateway) -> tuple[int, dict[str, Any]]:
    """The exit code of the doctor, and the checks of the one node by id."""
    done = world.run("doctor", "opengradient", "--json", *CONFIG)
    (only,) = json.loads(done.stdout)["nodes"]
    assert only["permitted"] is (done.returncode == 0)
    return done.returncode, {check["id"]: check for check in only["checks"]}


def test_a_document_that_is_an_hour_old_gets_no_prompt(tmp_path: Path) -> None:
    """Our nonce alone does not make evidence fresh."""
    with Network(["expired_attestation"]) as network:
        code, checks = examined(gateway(tmp_path, network))
    assert (code, checks["evidence"]["outcome"], checks["fresh"]["reason"]) == (1, "contraindicated", "nitro_stale")


def test_a_document_that_was_made_for_another_gets_no_prompt(tmp_path: Path) -> None:
    """The enclave gives the first document again: it holds the nonce of the first to ask, not ours."""
    with Network(["replayed_attestation"]) as network:
        world = gateway(tmp_path, network)
        first, second = examined(world), examined(world)
    assert first[0] == 0
    assert (second[0], second[1]["fresh"]["reason"]) == (1, "nonce_mismatch")


def test_a_build_that_nobody_knows_gets_no_prompt_without_a_pin(tmp_path: Path) -> None:
    """Anybody can rent such hardware, so what runs in it has to be in the table, or the node to be pinned."""
    with Network(["pcr_unknown"]) as network:
        code, checks = examined(gateway(tmp_path, network, pcr_table=str(_empty_table(tmp_path))))
        pinned = [node(pin=network.enclave.tee_id)]
        named, held = examined(gateway(tmp_path, network, nodes=pinned, pcr_table=str(_empty_table(tmp_path))))
    assert (code, checks["keyset_valid"]["outcome"], checks["keyset_valid"]["reason"]) == (1, "none", "pcr_unknown")
    assert (named, held["keyset_valid"]["outcome"]) == (0, "warning")


def _empty_table(folder: Path) -> Path:
    path = folder / "none.json"
    path.write_text('{"schema": "opengradient-pcrs/1", "versions": []}', "utf-8")
    return path


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("wrong_chain", "wrong_chain"),
        ("rpc_hang", "rpc"),
        ("rpc_huge", "rpc"),
        ("rpc_redirect", "rpc"),
    ],
)
def test_a_registry_that_cannot_be_read_is_no_empty_registry(tmp_path: Path, fault: str, words: str) -> None:
    """With one endpoint that fails there is no quorum of one: the command ends with 2 and says how it failed."""
    with Network([fault], rpcs=1) as network:
        world = gateway(tmp_path, network)
        done = world.run("nodes", "discover", "opengradient", *CONFIG)
    assert done.returncode == 2, done.stdout
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [("nodes", "discover"), ("doctor",)])
def test_an_adapter_that_fails_is_no_empty_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    """Anybody's code may look a network's nodes up: what it raises is one sentence, and no list without nodes."""

    async def discover(*_: object) -> None:
        await asyncio.sleep(0)
        raise KeyError("SECRET")

    monkeypatch.setattr(type(aci), "discover", discover)
    (tmp_path / "veriroute.toml").write_text(
        '[[nodes]]\nid = "n"\nbase_url = "http://127.0.0.1:9"\nmodels = ["m"]\n', "utf-8"
    )
    assert main([*command, "aci", "--config", str(tmp_path / "veriroute.toml")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"veriroute {command[0]}: The adapter for aci failed at looking up its nodes: KeyError." in said.err


def test_settings_that_name_no_node_of_the_network(tmp_path: Path) -> None:
    """The command says what to add."""
    with Network() as network:
        world = gateway(tmp_path, network)
        done = world.run("doctor", "aci", *CONFIG)
        other = world.run("doctor", "opengradient", "--node", "nobody", *CONFIG)
        policy = world.run("doctor", "opengradient", "--policy", "nothing", *CONFIG)
    assert (done.returncode, other.returncode, policy.returncode) == (2, 2, 2)
    assert '[[nodes]] with network = "aci"' in done.stderr
    assert "there is no node 'nobody'" in other.stderr
    assert "there is no policy 'nothing'" in policy.stderr
