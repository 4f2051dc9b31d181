"""A node with synthetic TEE evidence: each form holds under the root in its folder, and each lie is found out."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from node_kit import HELLO, NONCE, Running, ask, node, problems, report, start

from adapters.selfhosted import command, dishonest
from adapters.selfhosted import machine as machines
from adapters.selfhosted.dishonest import MACHINE_MODES, Mischief
from adapters.selfhosted.machine import Attester, open_machine
from gateway.errors import ConfigError
from gateway.model.tee import BindingStatus, FreshnessClass, TcbStatus, TeeResult
from gateway.testing.tee.machines import NitroMachine
from gateway.verify import aci
from gateway.verify.node_evidence import read_evidence, verify_evidence
from gateway.verify.tee import dstack
from gateway.verify.tee.nitro import verify_nitro
from gateway.verify.tee.roots import Anchor, TrustRoots
from gateway.verify.tee.rules import TeeRules, judge, violations

TEES = ("tdx", "snp", "nitro")
DIGEST = "sha256:" + "ab" * 32
STATEMENT = aci.statement(DIGEST, NONCE)
DATA = aci.report_data(STATEMENT)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A machine of each kind for all tests: making SNP's root takes a second."""
    return {tee: tmp_path_factory.mktemp("machine") / tee for tee in TEES}


def roots(folder: Path) -> TrustRoots:
    """What an operator trusts who names the folder's roots as test roots."""
    anchors = []
    for file, vendors in (("root.der", ("intel", "amd", "nitro")), ("nvidia-root.der", ("nvidia_device",))):
        if (folder / file).exists():
            digest = hashlib.sha256((folder / file).read_bytes()).hexdigest()
            anchors += [Anchor(vendor, f"test {vendor}", digest, test=True) for vendor in vendors]
    return TrustRoots(tuple(anchors))


def collateral(folder: Path, evidence: bytes = b"") -> dict[str, bytes]:
    """The documents in the folder by their roles; for SNP those of the reported chip and TCB."""
    base = folder / "supplied"
    blobs = {role: path.read_bytes() for path in base.glob("intel/*") for role in ("collateral",)}
    amd = base / "amd" / "Genoa"
    if amd.exists():
        chip, tcb = evidence[0x1A0:0x1E0].hex(), evidence[0x180:0x188]
        ek = amd / f"vcek-{chip}-bl{tcb[0]}-tee{tcb[1]}-snp{tcb[6]}-ucode{tcb[7]}.der"
        for role, path in (
            ("ek", ek),
            ("ask", amd / "ask.der"),
            ("root:ark", amd / "ark.der"),
            ("crl", amd / "vcek.crl"),
        ):
            blobs[role] = path.read_bytes()
    return blobs


def document(attester: Attester, statement: bytes = STATEMENT, nonce: str | None = NONCE) -> aci.Report:
    """An ACI report around the evidence; its keyset is of no importance here."""
    tee_type, evidence = attester.attest(statement, nonce, time.time())
    keys = [{"key_id": "k", "algo": "ed25519", "public_key": "11" * 32}]
    return aci.parse_report(
        json.dumps(
            {
                "api_version": "aci/1",
                "workload_keyset_digest": DIGEST,
                "attestation": {
                    "tee_type": tee_type,
                    "workload_keyset": {
                        "subject": "s", "not_after": 1, "receipt_signing_keys": keys, "e2ee_public_keys": [], "tls_public_keys": [],
                    },
                    "report_data": DATA.hex(),
                    "evidence": evidence,
                },
                "service_capabilities": {},
            }
        ).encode()
    )  # fmt: skip


def verified(folder: Path, shown: aci.Report, *, digest: str = DIGEST, nonce: str = NONCE) -> TeeResult:
    """What the gateway's verifier finds, holding the evidence to the folder's roots and documents."""
    item = read_evidence(shown)
    assert item is not None
    return verify_evidence(
        item, collateral(folder, item.data), keyset_digest=digest, nonce=nonce, roots=roots(folder), now=time.time()
    )


def opened(folder: Path, tee: str, lie: str | None = None, **more: Any) -> Attester:
    return open_machine(tee, folder, time.time(), mischief=Mischief(lie) if lie else None, **more)


# --- Honest


@pytest.mark.parametrize("tee", TEES)
def test_the_evidence_holds_and_is_bound(folders: dict[str, Path], tee: str) -> None:
    """The pure verifier finds it authentic under the folder's root, marked as a test, and bound to keys and nonce."""
    result = verified(folders[tee], document(opened(folders[tee], tee)))
    claims = result.claims
    assert (claims.authentic, claims.reject_code) == (True, None)
    assert claims.root is not None
    assert claims.root.test
    assert (claims.binding.status, claims.binding.kind) == (BindingStatus.BOUND, "aci-statement")
    assert claims.freshness.kind is FreshnessClass.CHALLENGE
    assert claims.debug is False
    assert claims.tcb_status is (TcbStatus.UP_TO_DATE if tee == "tdx" else TcbStatus.NOT_APPLICABLE)


@pytest.mark.parametrize("tee", TEES)
def test_where_the_64_bytes_stand(folders: dict[str, Path], tee: str) -> None:
    """report_data is in the quote's, the report's or the document's own slot; Nitro has the nonce in its own too."""
    shown = document(opened(folders[tee], tee))
    assert shown.tee_type == {"tdx": "tdx", "snp": "sev-snp", "nitro": "nitro"}[tee]
    assert shown.evidence["platform"] == tee
    if tee == "tdx":
        quote = bytes.fromhex(shown.evidence["quote"])
        assert quote[48 + 520 : 48 + 584] == DATA
    elif tee == "snp":
        assert bytes.fromhex(shown.evidence["report"])[0x50:0x90] == DATA
    else:
        data = base64.b64decode(shown.evidence["document"], validate=True)
        result = verify_nitro(data, roots=roots(folders[tee]), now=time.time(), nonce=bytes.fromhex(NONCE))
        assert result.claims.authentic
        assert result.claims.raw["user_data"] == DATA.hex()


@pytest.mark.parametrize("tee", TEES)
def test_another_nonce_or_keyset_is_not_what_it_speaks_for(folders: dict[str, Path], tee: str) -> None:
    """The same evidence held to another nonce, or to other keys, is a mismatch."""
    shown = document(opened(folders[tee], tee))
    assert verified(folders[tee], shown, nonce="01" * 32).claims.binding.status is BindingStatus.MISMATCH
    other = "sha256:" + "cd" * 32
    assert verified(folders[tee], shown, digest=other).claims.binding.status is BindingStatus.MISMATCH


def test_event_log_and_compose_are_the_quotes(folders: dict[str, Path]) -> None:
    """The event log replays to all four registers, and the compose document is the one that MR_CONFIG_ID names."""
    shown = document(opened(folders["tdx"], "tdx"))
    claims = verified(folders["tdx"], shown).claims
    log, compose = shown.evidence["event_log"].encode(), shown.evidence["app_compose"].encode()
    result = dstack.appraise_dstack(claims, log, compose)
    outcomes = {check.id: check.outcome.value for check in result.checks}
    assert [outcomes[i] for i in ("rtmr_log", "rtmr_replay", "compose_bound")] == ["affirming"] * 3
    changed = {c.id: c.outcome.value for c in dstack.appraise_dstack(claims, log, compose + b" ").checks}
    assert changed["compose_bound"] == "contraindicated"


@pytest.mark.parametrize("tee", ["tdx", "snp"])
def test_a_gpu_tied_to_the_machine(folders: dict[str, Path], tee: str) -> None:
    """With a GPU its report is authentic under the folder's second root, and its nonce is the machine's."""
    (gpu,) = verified(folders[tee], document(opened(folders[tee], tee, gpu=True))).claims.children
    assert (gpu.authentic, gpu.nonce, gpu.binding.status) == (True, DATA[:32].hex(), BindingStatus.BOUND)
    assert gpu.root is not None
    assert gpu.root.test


@pytest.mark.parametrize("tee", TEES)
def test_without_a_nonce(folders: dict[str, Path], tee: str) -> None:
    """Who asks without a nonce gets evidence over the statement without one."""
    statement = aci.statement(DIGEST, None)
    item = read_evidence(document(opened(folders[tee], tee), statement, None))
    assert item is not None
    assert aci.report_data(statement) in item.data


@pytest.mark.parametrize("tee", TEES)
def test_a_machine_that_is_opened_again_is_the_same(folders: dict[str, Path], tee: str) -> None:
    """Root and machine id survive a restart; the documents are written anew; no two folders share either."""
    root = opened(folders[tee], tee).root_sha256
    first = verified(folders[tee], document(opened(folders[tee], tee))).claims
    for path in (folders[tee] / "supplied").rglob("*.*"):
        path.write_bytes(b"old")
    again = opened(folders[tee], tee)
    assert again.root_sha256 == root == hashlib.sha256((folders[tee] / "root.der").read_bytes()).hexdigest()
    second = verified(folders[tee], document(again)).claims
    assert second.authentic
    assert (first.machine_id, first.root) == (second.machine_id, second.root)
    assert first.machine_id is not None
    if tee != "snp":
        other = folders[tee].with_name(f"{tee}-other")
        third = verified(other, document(opened(other, tee))).claims
        assert third.root != first.root
        assert third.machine_id != first.machine_id


@pytest.mark.parametrize("tee", TEES)
def test_the_seed_stays_in_its_file(folders: dict[str, Path], tee: str) -> None:
    """What all keys follow from is readable by its owner only, and stands in no evidence and no other file."""
    attester = opened(folders[tee], tee, gpu=tee != "nitro")
    secret = folders[tee] / "machine.json"
    assert secret.stat().st_mode & 0o777 == 0o600
    seed = json.loads(secret.read_bytes())["seed"].encode()
    item = read_evidence(document(attester))
    assert item is not None
    seen = [item.data, *(p.read_bytes() for p in folders[tee].rglob("*") if p.is_file() and p != secret)]
    assert len(seen) >= 2
    assert not any(seed in data or bytes.fromhex(seed.decode()) in data for data in seen)


def test_a_nitro_node_that_runs_for_days() -> None:
    """A document is signed by a leaf of its own time, under the same root."""
    begun = 1_795_000_000.0
    enclave = NitroMachine("seed", begun)
    trusted = TrustRoots((Anchor("nitro", "t", hashlib.sha256(enclave.root).hexdigest(), test=True),))
    for later in (0, 3500, 4 * 3600, 40 * 86_400):
        shown = base64.b64decode(enclave.evidence(DATA, None, begun + later)["document"])
        assert verify_nitro(shown, roots=trusted, now=begun + later, max_age_s=1).claims.authentic


# --- Lies


@pytest.mark.parametrize("tee", TEES)
def test_debug(folders: dict[str, Path], tee: str) -> None:
    """Genuine evidence of a machine in debug mode: authentic, bound, and refused by the rule `tee_debug`."""
    claims = verified(folders[tee], document(opened(folders[tee], tee, "debug"))).claims
    assert (claims.authentic, claims.debug, claims.binding.status) == (True, True, BindingStatus.BOUND)
    honest = verified(folders[tee], document(opened(folders[tee], tee))).claims
    assert set(refused(claims)) - set(refused(honest)) == {"debug"}


def refused(claims: Any, **rules: Any) -> tuple[str, ...]:
    return violations(judge(claims, TeeRules(**rules)))


@pytest.mark.parametrize("tee", TEES)
def test_unbound(folders: dict[str, Path], tee: str) -> None:
    """Genuine evidence that commits to another keyset is authentic and a mismatch."""
    claims = verified(folders[tee], document(opened(folders[tee], tee, "unbound"))).claims
    assert (claims.authentic, claims.binding.status) == (True, BindingStatus.MISMATCH)
    assert "mismatch" in refused(claims)


def test_stale_tcb_of_tdx(folders: dict[str, Path]) -> None:
    """Intel lists the platform's level as OutOfDate: authentic, and refused by the rule `tee_tcb_status`."""
    claims = verified(folders["tdx"], document(opened(folders["tdx"], "tdx", "stale-tcb"))).claims
    assert (claims.authentic, claims.tcb_status) == (True, TcbStatus.OUT_OF_DATE)
    honest = verified(folders["tdx"], document(opened(folders["tdx"], "tdx"))).claims
    assert set(refused(claims)) - set(refused(honest)) == {"tcb_status:OutOfDate"}


def test_stale_tcb_of_snp(folders: dict[str, Path]) -> None:
    """AMD lists no levels: authentic under the certificate of the old TCB, and refused by a least version."""
    claims = verified(folders["snp"], document(opened(folders["snp"], "snp", "stale-tcb"))).claims
    assert claims.authentic
    assert "svn_low" in refused(claims, minimum_svn={"ucode": 200})
    honest = verified(folders["snp"], document(opened(folders["snp"], "snp"))).claims
    assert "svn_low" not in refused(honest, minimum_svn={"ucode": 200})


@pytest.mark.parametrize(
    ("tee", "reason"),
    [("tdx", "chain_untrusted_root"), ("snp", "snp_bad_signature"), ("nitro", "nitro_untrusted_root")],
)
def test_foreign_root(folders: dict[str, Path], tee: str, reason: str) -> None:
    """A chain to another root ends in none that is pinned; a chip's key that nobody certified did not sign for it."""
    claims = verified(folders[tee], document(opened(folders[tee], tee, "foreign-root"))).claims
    assert (claims.authentic, claims.reject_code) == (False, reason)


def test_honest_reports_first(folders: dict[str, Path]) -> None:
    """With two honest reports the third is the first lie."""
    attester = open_machine("tdx", folders["tdx"], time.time(), mischief=Mischief("unbound", 2))
    status = [verified(folders["tdx"], document(attester)).claims.binding.status for _ in range(3)]
    assert status == [BindingStatus.BOUND, BindingStatus.BOUND, BindingStatus.MISMATCH]


# --- The folder


def test_what_cannot_be() -> None:
    """Nitro states no security version, and has no report_data for a GPU to answer."""
    with pytest.raises(ConfigError, match="stale-tcb is not for nitro"):
        open_machine("nitro", Path("unused"), 0.0, mischief=Mischief("stale-tcb"))
    with pytest.raises(ConfigError, match="--tee-gpu is not for nitro"):
        open_machine("nitro", Path("unused"), 0.0, gpu=True)


SEED = "00" * 32
DAMAGED: list[tuple[bytes, str]] = [
    (b"{", "is damaged"),
    (b"[" * 5000, "is damaged"),
    (b" " * 70_000, "is damaged"),
    (b"[]", "not a machine of version 1"),
    (b'{"version":1,"tee":["tdx"]}', "not a machine of version 1"),
    (b'{"version":1,"tee":"tdx","seed":"00","made_at":1}', "seed is not"),
    *(
        (json.dumps({"version": 1, "tee": "tdx", "seed": SEED, "made_at": at}).encode(), "no time")
        for at in (None, True, -1, 1e9, 1 << 32)
    ),
    (json.dumps({"version": 1, "tee": "nitro", "seed": SEED, "made_at": 1}).encode(), "is a machine for --tee nitro"),
]


@pytest.mark.parametrize(("data", "said"), DAMAGED)
def test_a_damaged_machine(tmp_path: Path, data: bytes, said: str) -> None:
    """A file that is no machine, or one of another kind, is refused by name and left as it is."""
    path = tmp_path / "machine.json"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=said):
        opened(tmp_path, "tdx")
    assert path.read_bytes() == data


def test_a_machine_whose_making_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its keys take seconds; a start that ends in them leaves no file, which the next would find damaged."""

    def interrupted(tee: str, now: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(machines, "_made", interrupted)
        with pytest.raises(KeyboardInterrupt):
            opened(tmp_path, "tdx")
    opened(tmp_path, "tdx")


def _ed25519() -> str:
    key = ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize(
    ("member", "value"),
    [
        *(("ark_key", value) for value in (None, 5, "", "no PEM", _ed25519())),
        *(("ark", value) for value in (None, "zz", "00")),
    ],
)
def test_a_damaged_root_of_snp(folders: dict[str, Path], tmp_path: Path, member: str, value: object) -> None:
    """A kept root whose key is no RSA key, or whose certificate is none, is damaged."""
    opened(folders["snp"], "snp")
    document = json.loads((folders["snp"] / "machine.json").read_bytes())
    (tmp_path / "machine.json").write_text(json.dumps({**document, member: value}))
    (tmp_path / "machine.json").chmod(0o600)
    with pytest.raises(ConfigError, match="is damaged"):
        opened(tmp_path, "snp")


def test_a_machine_that_others_can_read(tmp_path: Path) -> None:
    """Keys that are no secret any more are not used."""
    opened(tmp_path, "tdx")
    (tmp_path / "machine.json").chmod(0o644)
    with pytest.raises(ConfigError, match="can be read by others"):
        opened(tmp_path, "tdx")


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    """A folder that cannot be made, read or written is a configuration error with its path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot create"):
        opened(tmp_path / "file" / "x", "tdx")
    (tmp_path / "a" / "machine.json").mkdir(parents=True)
    with pytest.raises(ConfigError, match="cannot read"):
        opened(tmp_path / "a", "tdx")
    opened(tmp_path / "b", "tdx")
    (tmp_path / "b" / "root.der").unlink()
    (tmp_path / "b" / "root.der").mkdir()
    with pytest.raises(ConfigError, match="cannot write"):
        opened(tmp_path / "b", "tdx")


# --- The command


@pytest.fixture(scope="module")
def running(folders: dict[str, Path]) -> Any:
    opened(folders["tdx"], "tdx")
    with node("--tee", "tdx", "--tee-root", str(folders["tdx"]), "--tee-gpu") as process:
        yield process


def test_a_running_node(running: Running, folders: dict[str, Path]) -> None:
    """Over its socket a node shows evidence that binds its own keyset and the nonce of each who asks."""
    for nonce in (NONCE, "0f" * 32):
        shown = report(running.url, nonce)
        claims = verified(folders["tdx"], shown, digest=running.pin, nonce=nonce).claims
        assert (claims.authentic, claims.binding.status) == (True, BindingStatus.BOUND)
        assert [child.binding.status for child in claims.children] == [BindingStatus.BOUND]
        assert problems(ask(running.url, HELLO), shown) == set()


def test_what_it_says_when_ready(folders: dict[str, Path]) -> None:
    """The ready line names the root that a gateway needs, for programs and for people."""
    process = start("--tee", "nitro", "--tee-root", str(folders["nitro"]))
    ready = json.loads(process.stdout.readline())  # type: ignore[union-attr]
    process.terminate()
    process.communicate(timeout=10)
    root = folders["nitro"] / "root.der"
    assert (ready["tee"], ready["root"]) == ("nitro", str(root))
    assert ready["root_sha256"] == hashlib.sha256(root.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tee", "tdx"], "go together"),
        (["--tee-root", "x"], "go together"),
        (["--tee-gpu"], "are for --tee"),
        (["--dishonest", "debug"], "are for --tee"),
        (["--tee", "nitro", "--tee-root", os.devnull + "/x", "--tee-gpu"], "not for nitro"),
    ],
)
def test_arguments_that_do_not_fit(arguments: list[str], said: str) -> None:
    """A combination that means nothing is refused before anything is served."""
    process = start(*arguments)
    out, errors = process.communicate(timeout=20)
    assert process.returncode != 0
    assert out == ""
    assert said in errors


def test_the_words_of_the_command() -> None:
    """The command's choices are those that exist, stated twice so that `--help` loads nothing."""
    assert command._TEES == machines.TEES == TEES
    assert command._MACHINE_MODES == MACHINE_MODES
    others = {*dishonest.ANSWER_MODES, *dishonest.SAMPLING_MODES, *dishonest.MODERATION_MODES}
    assert set(MACHINE_MODES) == set(dishonest.MODES) - others
