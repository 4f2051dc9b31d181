"""Nodes whose evidence, keys or channel are not right, before a real gateway: no byte of a prompt reaches one.

One gateway stands before all of them under the policy `strict`; the roots are made here, and its settings say so.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from running import Gateway
from support_tls import self_signed
from tee_node import Ask, Evidence, Machine, Nitro, Snp, Tdx, TeeNode, honest, supply

from gateway.testing.tee import amd, dstack, intel, nitro, nvidia

CANARY = "canary-3f1c"
HARDWARE = ("tdx", "snp", "nitro")
CARDS = [nvidia.device_chain(serial=f"device {number}") for number in range(1, 9)]


def over(data: Any) -> Evidence:
    """Genuine evidence over the bytes that `data(ask)` gives."""
    return lambda machine, ask: machine.evidence(data(ask), ask.nonce)


def made(**changes: Any) -> Evidence:
    """Genuine evidence of a machine that is otherwise."""
    return lambda machine, ask: machine.evidence(ask.data, ask.nonce, **changes)


def bent(change: Any) -> Evidence:
    """Evidence whose bytes were changed on the way."""

    def evidence(machine: Any, ask: Ask) -> Mapping[str, Any]:
        if isinstance(machine, Tdx):
            return machine.shown(change(machine.quote(ask.data)))
        if isinstance(machine, Snp):
            return machine.shown(change(machine.world.report(report_data=ask.data)))
        return machine.shown(change(machine.world.document(user_data=ask.data, nonce=bytes.fromhex(ask.nonce))))

    return evidence


def gpus(*numbers: int, nonce: Any = lambda ask: ask.data[:32]) -> Evidence:
    """Genuine evidence beside that of these devices, which answer `nonce(ask)`."""

    def evidence(machine: Any, ask: Ask) -> Mapping[str, Any]:
        reports = [nvidia.report(nonce=nonce(ask), serial=f"device {number}") for number in numbers]
        chains = [nvidia.pem_of(CARDS[number - 1]) for number in numbers]
        payload = nvidia.payload(*zip(reports, chains, strict=True), nonce=nonce(ask))
        return {**machine.evidence(ask.data, ask.nonce), "nvidia_payload": json.loads(payload)}

    return evidence


def relabelled(**members: Any) -> Evidence:
    """A genuine quote whose log replays to its registers, with another text beside the digest of `compose-hash`."""

    def evidence(machine: Any, ask: Ask) -> Mapping[str, Any]:
        log = json.loads(machine.log.json())
        next(entry for entry in log if entry["event"] == "compose-hash").update(members)
        return machine.shown(machine.quote(ask.data), event_log=json.dumps(log))

    return evidence


def running(compose: bytes, repeated: bytes) -> Evidence:
    """A guest of the same system that was started with `compose` (its hash); its application then repeats the event."""
    log = dstack.booted().system(compose).runtime("compose-hash", repeated)

    def evidence(machine: Any, ask: Ask) -> Mapping[str, Any]:
        quote = machine.quote(ask.data, rtmrs=log.rtmrs(), mr_config_id=bytes(48))
        return {"platform": "tdx", "quote": quote.hex(), "event_log": log.json().decode()}

    return evidence


APPROVED, OTHER = hashlib.sha256(dstack.app_compose()).digest(), hashlib.sha256(b"another document").digest()
#: row -> evidence, and what the agent is told under a policy that approves one document of one system; None: it serves.
COMPOSED: dict[str, tuple[Evidence, tuple[str, str] | None]] = {
    "b30-approved": (running(APPROVED, OTHER), None),
    "b30-repeated": (running(OTHER, APPROVED), ("tee_rules", "measurement")),
    "b30-no-log": (
        lambda machine, ask: machine.shown(machine.quote(ask.data), event_log=None),
        ("tee_rules", "measurement_unknown"),
    ),
}


def composed() -> str:
    """The built-in policy `strict`, for one app-compose document on one reviewed system."""
    text = (resources.files("policies") / "strict.toml").read_text("utf-8")
    boot = "/".join(f"rtmr{number}:{value.hex()}" for number, value in enumerate(dstack.booted().rtmrs()[:3]))
    measured = f"mr_td:{intel.mark('mrtd').hex()}/{boot}/compose_hash:{APPROVED.hex()}"
    return text.replace('name = "strict"', 'name = "composed"') + f'\n[tee]\nmeasurements = ["{measured}"]\n'


#: row, and what is tried of it -> the machine, its evidence, and what the agent is told: reason, and what is behind it.
ROWS: dict[str, tuple[str, Evidence, tuple[str, str]]] = {
    "b11-nothing": ("nitro", made(user_data=None), ("tee_rules", "unbound")),
    "b20-tdx": ("tdx", made(attributes=1 << 28 | 1), ("tee_rules", "debug")),
    "b20-snp": ("snp", made(debug=True), ("tee_rules", "debug")),
    "b20-nitro": ("nitro", made(pcrs=nitro.debug_pcrs()), ("tee_rules", "debug")),
    "b20-nitro-pcr0": ("nitro", made(pcrs={**nitro.default_pcrs(), 0: bytes(48)}), ("tee_rules", "debug")),
    "b21-migration": ("snp", made(migrate_ma=True), ("tee_rules", "migratable")),
    "b21-vmpl-1": ("snp", made(vmpl=1), ("tee_rules", "vmpl")),
    "b21-vmpl-3": ("snp", made(vmpl=3), ("tee_rules", "vmpl")),
    "b21-milan": ("milan", honest, ("tee_rules", "milan")),
    "b22-tdx": ("other-tdx", honest, ("evidence", "chain_untrusted_root")),
    "b22-snp": ("other-snp", honest, ("evidence", "snp_bad_signature")),
    "b22-nitro": ("other-nitro", honest, ("evidence", "nitro_untrusted_root")),
    "b27-other-request": (
        "tdx",
        gpus(1, nonce=lambda ask: ask.of_another_nonce().data[:32]),
        ("tee_rules", "gpu_not_authentic"),
    ),
    "b27-nonce-alone": (
        "snp",
        gpus(1, nonce=lambda ask: bytes.fromhex(ask.nonce)),
        ("tee_rules", "gpu_not_authentic"),
    ),
    "b28-tdx": ("tdx", gpus(1, 2, 3, 4, 5, 6, 7, 7), ("tee_rules", "gpu_not_authentic")),
    "b29-type": (
        "tdx",
        relabelled(event_type=4, event_payload=OTHER.hex()),
        ("event_log", "event_relabelled"),
    ),
    "b29-name": ("tdx", relabelled(event="app-name"), ("event_log", "event_digest")),
    "b29-payload": ("tdx", relabelled(event_payload=OTHER.hex()), ("event_log", "event_digest")),
    "b28-snp": ("snp", gpus(1, 2, 3, 4, 5, 6, 7, 7), ("tee_rules", "gpu_not_authentic")),
}
for tee in HARDWARE:
    ROWS |= {
        f"b01-{tee}": (tee, over(lambda ask: ask.of_another_nonce().data), ("tee_rules", "mismatch")),
        f"b02-{tee}": (tee, over(lambda ask: ask.of_another_key().data), ("tee_rules", "mismatch")),
        f"b09-zero-{tee}": (tee, over(lambda ask: bytes(64)), ("tee_rules", "unbound")),
        f"b09-nonce-{tee}": (
            tee,
            over(lambda ask: bytes.fromhex(ask.nonce).ljust(64, b"\0")),
            ("tee_rules", "mismatch"),
        ),
        f"b09-key-{tee}": (
            tee,
            over(lambda ask: bytes.fromhex(ask.keyset[7:]).ljust(64, b"\0")),
            ("tee_rules", "mismatch"),
        ),
        f"b10-{tee}": (tee, over(lambda ask: ask.data[:32] + b"\x5a" * 32), ("tee_rules", "mismatch")),
        f"b32-cut-{tee}": (tee, bent(lambda data: data[:-20]), ("evidence", "nitro_bad_cbor")),
        f"b32-large-{tee}": (tee, bent(lambda data: data + bytes(1 << 20)), ("evidence", "malformed")),
        f"b32-trailing-{tee}": (tee, bent(lambda data: data + b"junk"), ("evidence", "nitro_trailing_bytes")),
        f"b32-version-{tee}": (tee, bent(lambda data: b"\x63" + data[1:]), ("evidence", "nitro_bad_cbor")),
        f"b32-type-{tee}": (
            tee,
            lambda machine, ask: {**machine.evidence(ask.data, ask.nonce), "platform": "sgx9"},
            ("evidence", "platform_unsupported"),
        ),
    }
for name, (tee, evidence, (reason, cause)) in ROWS.items():
    if name.startswith("b32") and tee != "nitro" and cause.startswith("nitro"):
        ROWS[name] = (tee, evidence, (reason, "malformed"))


class World:
    """Every node, by its row; and one gateway before them."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        now, keys = int(time.time()), (amd.rsa_key("ark"), amd.rsa_key("ask"))
        tdx, snp, milan = Tdx("rows", now), Snp("rows", now, keys), Snp("rows", now, keys, "Milan")
        machines: dict[str, Machine] = {"tdx": tdx, "snp": snp, "nitro": Nitro("rows", now), "milan": milan}
        trusted = [machine.root for machine in machines.values()]
        machines |= {
            "other-tdx": Tdx("other", now),
            "other-snp": Snp("other", now, keys),
            "other-nitro": Nitro("o", now),
        }
        # Look-alikes: the same platform and the same chip, by the same names, with keys that nobody vouches for.
        fmspc = bytes.fromhex(tdx.fmspc)
        machines["other-tdx"].world = intel.World(  # type: ignore[union-attr]
            now=now, seed="other", fmspc=tdx.fmspc.upper(), extension=intel.sgx_extension(fmspc=fmspc)
        )
        machines["other-snp"].world = amd.World("Genoa", label="other", keys=keys, chip=snp.world.chip)
        self.folder, self._stack, self.machines, self.nodes = folder, stack, machines, dict[str, TeeNode]()
        for name, (tee, evidence, _) in ROWS.items():
            self.node(name, tee, evidence)
        for name, (evidence, _) in COMPOSED.items():
            self.node(name, "tdx", evidence)
        self.node("b03-tdx", "tdx").wear(self_signed())
        self.node("b03-snp", "snp").wear(self_signed())
        weak = self.node("b13-small-order", "tdx")
        weak.keyset["receipt_signing_keys"][0]["public_key"] = "01" + "00" * 31
        other = self.node("b07-other-keyset", "snp")
        other.said = {"workload_keyset": {**other.keyset, "subject": "another"}}
        for tee in HARDWARE:
            self.node(f"b04-{tee}", tee)
        self.node("b06-a", "snp")
        self.node("b06-b", "snp")
        for name in ("b31-good", "b31-bad"):
            pair = self.node(name, "nitro", honest if name == "b31-good" else made(pcrs=nitro.debug_pcrs()))
            pair.models = ("pair",)
            pair.answers()
        for machine in (tdx, snp, milan):
            supply(folder / "collateral", machine.documents())
        roots = []
        for number, der in enumerate([*trusted, nvidia.der_of(CARDS[0][-1])]):
            (folder / f"root-{number}.der").write_bytes(der)
            roots.append(str(folder / f"root-{number}.der"))
        (folder / "gateway" / "policies").mkdir(parents=True)
        (folder / "gateway" / "policies" / "composed.toml").write_text(composed(), "utf-8")
        self.gateway = Gateway(
            folder / "gateway",
            [node.table() for node in self.nodes.values()],
            policy={"default": "strict", "dir": str(folder / "gateway" / "policies")},
            upstream={"refresh_s": 8.0},
            collateral={"directory": str(folder / "collateral"), "offline": True},
            tee={"dangerous_test_roots": roots, "dangerous_allow_test_roots": True},
        ).start()
        stack.callback(self.gateway.stop)

    def node(self, name: str, tee: str, evidence: Evidence = honest) -> TeeNode:
        node = TeeNode(self.folder, self.machines[tee], name, evidence)
        self._stack.callback(node.close)
        self.nodes[name] = node
        return node

    def ask(self, model: str, policy: str = "strict") -> tuple[int, dict[str, Any]]:
        body = {"model": model, "messages": [{"role": "user", "content": CANARY}]}
        with self.gateway.http() as client:
            answer = client.post("/v1/chat/completions", json=body, headers={"x-veriroute-policy": policy})
        return answer.status_code, answer.json()

    def refusal(self, model: str, policy: str = "strict") -> tuple[str, str | None]:
        """Reason and cause for which the one node with `model` gets nothing; the receipt names it as well."""
        status, document = self.ask(model, policy)
        assert (status, document["error"]["code"]) == (503, "no_eligible_node")
        receipt = self.gateway.receipt(document["error"]["receipt"])
        assert receipt["release"] == "refused"
        (rejected,), (told,) = receipt["route"]["rejected"], document["error"]["nodes"]
        cause = told.get("rule", told.get("cause"))
        assert rejected == {"node": model, "reason": told["reason"]} | ({"cause": cause} if cause else {})
        assert cause is None or f"({cause})" in document["error"]["message"]
        return told["reason"], cause

    def until(self, model: str, wanted: int, within_s: float = 30.0) -> dict[str, Any]:
        """Ask until the answer has the status `wanted`."""
        deadline = time.monotonic() + within_s
        while True:
            status, document = self.ask(model)
            if status == wanted:
                return document
            assert time.monotonic() < deadline, document
            time.sleep(0.2)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("rows"), stack)


@pytest.mark.parametrize("row", ROWS)
def test_b01_to_b32_evidence_that_does_not_hold(world: World, row: str) -> None:
    """The agent hears which rule or check found it, and the node never hears the prompt (B31)."""
    assert world.refusal(row) == ROWS[row][2]
    assert CANARY.encode() not in world.nodes[row].heard
    assert world.nodes[row].attestations > 0


@pytest.mark.parametrize("row", COMPOSED)
def test_b30_the_measured_document_counts(world: World, row: str) -> None:
    """An application's own `compose-hash`, after `system-ready`, neither approves another document nor spoils this one."""
    told = COMPOSED[row][1]
    if told is not None:
        assert world.refusal(row, "composed") == told
        assert CANARY.encode() not in world.nodes[row].heard
    status, document = world.ask(row, "strict" if told else "composed")
    assert status == 200
    checks = {check["id"]: check for check in world.gateway.receipt(document["verification"]["receipt"])["checks"]}
    assert checks["event_log"]["outcome"] == ("none" if row == "b30-no-log" else "affirming")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("b03-tdx", ("channel_bound", "spki_mismatch")),
        ("b03-snp", ("channel_bound", "spki_mismatch")),
        ("b07-other-keyset", ("tee_rules", "mismatch")),
        ("b13-small-order", ("key_weak", "weak_key")),
    ],
)
def test_b03_b07_b13_keys_that_are_not_right(world: World, row: str, told: tuple[str, str]) -> None:
    """Another TLS key than the attested one, another keyset than the quote commits to, a key for which all is signed."""
    assert world.refusal(row) == told
    assert CANARY.encode() not in world.nodes[row].heard


@pytest.mark.parametrize("tee", HARDWARE)
def test_b04_another_key_at_the_next_handshake(world: World, tee: str) -> None:
    """The connection is refused, the node appraised again at once, and passed over until its key is back."""
    node = world.nodes[f"b04-{tee}"]
    assert world.ask(node.name)[0] == 200
    heard, attested = bytes(node.heard).count(CANARY.encode()), node.attestations
    node.wear(self_signed())
    assert world.refusal(node.name)[0] == "channel_bound"
    deadline = time.monotonic() + 10
    while world.refusal(node.name) != ("channel_bound", "spki_mismatch"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert node.attestations > attested
    assert bytes(node.heard).count(CANARY.encode()) == heard
    node.wear(node.own)
    world.until(node.name, 200)


def test_b06_an_answer_signed_by_another_attested_node(world: World) -> None:
    """Both run one image on one machine: the other's key is as genuine, and not the one of this channel."""
    node, other = world.nodes["b06-a"], world.nodes["b06-b"]
    assert world.ask("b06-a")[0] == world.ask("b06-b")[0] == 200
    node.signer = other.signer
    node.answers(workload_keyset_digest=other.pin)
    status, document = world.ask("b06-a")
    assert (status, document["error"]["code"]) == (502, "evidence_rejected")
    receipt = world.gateway.receipt(document["error"]["receipt"])
    checks = {check["id"]: check["outcome"] for check in receipt["checks"] if check["outcome"] == "contraindicated"}
    assert "key_bound" in checks
    assert (receipt["verdict"], receipt["release"]) == ("contraindicated", "withheld")
    assert world.ask("b06-b")[0] == 200


def test_b31_the_honest_node_of_two_serves(world: World) -> None:
    """Under load, while the other is refused and said to be; mended, it serves too, by itself."""
    good, bad = world.nodes["b31-good"], world.nodes["b31-bad"]
    for _ in range(4):
        status, document = world.ask("pair")
        assert status == 200
        route = world.gateway.receipt(document["verification"]["receipt"])["route"]
        assert route["rejected"] == [{"node": "b31-bad", "reason": "tee_rules", "cause": "debug"}]
    assert CANARY.encode() not in bad.heard
    good.evidence, bad.evidence = bad.evidence, good.evidence  # at re-appraisal, while requests run
    deadline = time.monotonic() + 40
    while not bad.received:
        world.ask("pair")
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(9)  # both have been appraised again
    heard = len(good.received)
    assert [world.ask("pair")[0] for _ in range(4)] == [200] * 4
    assert len(good.received) == heard
