"""Hardware evidence from end to end, without hardware: real nodes with synthetic TEEs, a real gateway, test roots.

Evidence, endorsements, session, pinned channel, verified answer and receipt are those of production; only the roots are
made here, and the settings say so.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from ledger import Ledger
from running import Gateway, Process
from support_tls import Authority

ASK: list[Any] = [{"role": "user", "content": "What is a receipt?"}]
TEES = {"tdx": "intel-tdx", "snp": "amd-sev-snp", "nitro": "aws-nitro"}
#: (TEE, lie) -> why the node is not routed to (a rule of [tee], or a check), and the checks of its session that do not hold, with their reasons.
LIES: dict[tuple[str, str], tuple[str, dict[str, str]]] = {
    ("tdx", "debug"): ("debug", {}),
    ("tdx", "unbound"): ("mismatch", {"fresh": "unbound"}),
    ("tdx", "stale-tcb"): ("tcb_status", {}),
    ("tdx", "foreign-root"): ("evidence", {"evidence": "chain_untrusted_root"}),
    ("snp", "unbound"): ("mismatch", {"fresh": "unbound"}),
    ("snp", "foreign-root"): ("evidence", {"evidence": "snp_bad_signature"}),
    ("nitro", "debug"): ("debug", {}),
    ("nitro", "foreign-root"): ("evidence", {"evidence": "nitro_untrusted_root"}),
}
OLD = "snp-stale-tcb"


def firmware() -> str:
    """The built-in policy `strict`, with a least microcode: AMD has no list that would refuse old firmware."""
    text = (resources.files("policies") / "strict.toml").read_text("utf-8")
    assert "[tee]" not in text
    return text.replace('name = "strict"', 'name = "firmware"') + '\n[tee]\nminimum_svn = ["ucode:200"]\n'


class World:
    """Nodes of every kind over TLS, the folders of their machines, and gateways before them."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.nodes: dict[str, Process] = {}
        certificate = Authority().issue("localhost", addresses=["127.0.0.1"])
        (folder / "cert.pem").write_bytes(certificate.certificate.public_bytes(Encoding.PEM))
        key = certificate.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (folder / "key.pem").write_bytes(key)
        for tee in TEES:
            self.start(tee, tee, *(["--tee-gpu"] if tee == "tdx" else []))
        for tee, lie in (*LIES, ("snp", "stale-tcb")):
            self.start(f"{tee}-{lie}", tee, "--dishonest", lie)
        for tee in ("tdx", "snp"):  # a Nitro document brings its chain
            shutil.copytree(folder / tee / "supplied", folder / "vendors" / "supplied", dirs_exist_ok=True)

    def start(self, name: str, tee: str, *more: str, port: int = 0) -> None:
        tls = ["--tls-cert", str(self.folder / "cert.pem"), "--tls-key", str(self.folder / "key.pem")]
        machine = ["--tee", tee, "--tee-root", str(self.folder / tee)]
        identity = ["--identity", str(self.folder / f"{name}.json"), "--model-name", name]
        node = Process(["node", "--port", str(port), "--json", *identity, *machine, *tls, *more], cwd=self.folder)
        self._stack.callback(node.stop)
        self.nodes[name] = node

    def gateway(
        self, name: str, nodes: list[str], *, trusted: bool = True, supplied: bool = True, refresh_s: float = 240.0
    ) -> Gateway:
        """A gateway under the policy `strict`, without pins: it is the hardware that vouches for the keys."""
        folder = self.folder / f"gateway-{name}"
        (folder / "policies").mkdir(parents=True)
        (folder / "policies" / "firmware.toml").write_text(firmware(), "utf-8")
        if supplied:
            shutil.copytree(self.folder / "vendors", folder / "collateral")
        roots = [
            str(self.folder / path)
            for path in ("tdx/root.der", "tdx/nvidia-root.der", "snp/root.der", "nitro/root.der")
        ]
        gateway = Gateway(
            folder,
            [{"id": n, "base_url": self.nodes[n].url, "models": [n]} for n in nodes],
            policy={"default": "strict", "dir": str(folder / "policies")},
            upstream={"refresh_s": refresh_s},
            collateral={"directory": str(folder / "collateral"), "offline": True},
            tee={"dangerous_test_roots": roots, "dangerous_allow_test_roots": True} if trusted else {},
        ).start()
        self._stack.callback(gateway.stop)
        return gateway


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("tee"), stack)


@pytest.fixture(scope="module")
def gateway(world: World) -> Gateway:
    return world.gateway("trusting", list(world.nodes))


def ask(gateway: Gateway, model: str, policy: str | None = None) -> tuple[int, dict[str, Any]]:
    """Status and document of a small request to the one node that has `model`."""
    headers = {} if policy is None else {"x-veriroute-policy": policy}
    body = {"model": model, "messages": ASK, "max_tokens": 8}
    with gateway.http() as client:
        answer = client.post("/v1/chat/completions", json=body, headers=headers)
    return answer.status_code, answer.json()


def refusal(gateway: Gateway, model: str, policy: str | None = None) -> str:
    """Why the node with `model` is not routed to (of `tee_rules`, which rule); its receipt says that nothing was sent."""
    status, document = ask(gateway, model, policy)
    assert status == 503
    error = document["error"]
    assert error["code"] == "no_eligible_node"
    receipt = gateway.receipt(error["receipt"])
    assert (receipt["release"], receipt["route"]["decision"]) == ("refused", "refused")
    (rejected,) = receipt["route"]["rejected"]
    (told,) = error["nodes"]
    assert rejected["node"] == told["node"] == model
    if "rule" in told:
        assert (rejected["reason"], rejected["cause"]) == ("tee_rules", told["rule"])
        assert f"tee_rules ({told['rule']})" in error["message"]
        return str(told["rule"])
    return str(rejected["reason"])


def session(gateway: Gateway, node: str) -> dict[str, dict[str, Any]]:
    """The checks of the session that the gateway holds for a node, by their ids."""
    with gateway.http(gateway.admin_key) as client:
        views = client.get("/admin/v1/nodes").json()["nodes"]
    (view,) = [view for view in views if view["id"] == node]
    return {check["id"]: check for check in view["session"]["checks"]}


@pytest.mark.parametrize("tee", TEES)
def test_an_answer_from_attested_hardware(gateway: Gateway, tee: str) -> None:
    """Under `strict` the answer is affirming; the receipt says what the hardware proved, and that the root is a test's."""
    status, document = ask(gateway, tee)
    assert status == 200
    assert document["verification"]["verdict"] == "affirming"
    receipt = gateway.receipt(document["verification"]["receipt"])
    assert (receipt["verdict"], receipt["release"]) == ("affirming", "released")
    claims = {claim["name"]: claim for claim in receipt["claims"]}
    assert (claims["tee_attested"]["status"], claims["tee_attested"]["source"]) == ("asserted", "hardware_proven")
    assert "root=TEST" in json.dumps(claims["tee_attested"])
    assert claims["channel_bound"]["status"] == "asserted"
    assert claims["tcb_up_to_date"]["status"] == ("asserted" if tee == "tdx" else "unknown")
    assert claims["gpu_attested"]["status"] == ("asserted" if tee == "tdx" else "unknown")
    checks = {check["id"]: check for check in receipt["checks"]}
    assert checks["evidence"]["found"].startswith(f"{TEES[tee]}, root=TEST")
    assert checks["key_bound"]["outcome"] == checks["fresh"]["outcome"] == checks["tee_rules"]["outcome"] == "affirming"


@pytest.mark.parametrize(("tee", "lie"), LIES)
def test_a_lie_about_the_machine_is_refused(gateway: Gateway, tee: str, lie: str) -> None:
    """The node is not routed to; its session shows the check that found the lie, and nothing else amiss."""
    reason, wrong = LIES[tee, lie]
    node = f"{tee}-{lie}"
    assert refusal(gateway, node) == reason
    checks = session(gateway, node)
    bad = {i: check.get("reason") for i, check in checks.items() if check["outcome"] == "contraindicated"}
    assert bad == wrong
    if not wrong:
        assert all(checks[i]["outcome"] == "affirming" for i in ("evidence", "key_bound", "fresh", "channel_bound"))


def test_old_firmware_is_refused_by_who_asks_for_newer(gateway: Gateway) -> None:
    """AMD lists no levels, so `strict` serves from an old chip; a policy with a least version does not, and from a new does."""
    assert ask(gateway, OLD)[0] == 200
    assert refusal(gateway, OLD, "firmware") == "svn_low"
    assert ask(gateway, "snp", "firmware")[0] == 200


def test_without_the_test_roots_nothing_is_believed(world: World) -> None:
    """Where the settings name no test root, the same evidence and the same documents are refused, each for its root."""
    gateway = world.gateway("production", list(TEES), trusted=False)
    for tee, reason in (
        ("tdx", "collateral_invalid"),
        ("snp", "collateral_invalid"),
        ("nitro", "nitro_untrusted_root"),
    ):
        assert refusal(gateway, tee) == "evidence"
        assert session(gateway, tee)["evidence"]["reason"] == reason


def test_without_the_vendors_documents_nothing_is_shown(world: World) -> None:
    """Evidence that cannot be held against anything is refused; what brings its whole chain along is not affected."""
    gateway = world.gateway("bare", list(TEES), supplied=False)
    for tee in ("tdx", "snp"):
        assert refusal(gateway, tee) == "evidence"
        check = session(gateway, tee)["evidence"]
        assert (check["outcome"], check["reason"]) == ("none", "collateral_unavailable")
    assert ask(gateway, "nitro")[0] == 200


def test_a_node_that_moves_to_another_machine_is_told_once(world: World) -> None:
    """Its new machine is as genuine as the old one and serves; the log has one alarm that names both, and a line."""
    world.start("mover", "snp")
    gateway = world.gateway("watching", ["mover"], refresh_s=1.0)
    assert ask(gateway, "mover")[0] == 200
    assert Ledger(gateway.database).alarms("machine_changed") == []
    port = urlsplit(world.nodes["mover"].url).port
    assert port is not None
    world.nodes["mover"].stop()
    world.start("mover", "nitro", port=port)
    deadline = time.monotonic() + 60
    while not Ledger(gateway.database).alarms("machine_changed"):
        assert time.monotonic() < deadline, gateway.process.errors()
        time.sleep(0.2)
    time.sleep(2.5)  # two further appraisals of the same machine
    (alarm,) = Ledger(gateway.database).alarms("machine_changed")
    assert (alarm["node"], len(alarm["before"]), len(alarm["after"])) == ("mover", 64, 64)
    assert alarm["before"] != alarm["after"]
    assert gateway.process.errors().count('"node.machine_changed"') == 1
    assert ask(gateway, "mover")[0] == 200
