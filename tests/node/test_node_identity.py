"""The identity file, the keyset it makes, and the receipts that are kept."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path

import pytest
from support_tls import Authority

from adapters.selfhosted import identity as identities
from adapters.selfhosted.receipts import ReceiptStore, Sealer, attestation
from gateway.errors import ConfigError, FormatError
from gateway.model.node import Node
from gateway.model.verdict import Outcome
from gateway.verify import aci
from gateway.verify.appraise import appraise_node


def test_made_once_and_kept(tmp_path: Path) -> None:
    """An identity is made private when its file is absent, and is the same the next time."""
    path = tmp_path / "identity.json"
    made = identities.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = identities.load_or_create(path)
    assert identities.pin(identities.keyset(made)) == identities.pin(identities.keyset(again))
    assert made.active.signer.public_key == again.active.signer.public_key


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_nothing_stays_of_one_that_was_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    """A full disk is said, and what was written of the file is gone: the next start makes it."""

    def fails(descriptor: int) -> None:
        raise failure

    path = tmp_path / "identity.json"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fails)
        with pytest.raises((ConfigError, KeyboardInterrupt), match=r"No space left|^$"):
            identities.load_or_create(path)
    assert list(tmp_path.iterdir()) == []
    identities.load_or_create(path)


def test_refused_when_others_can_read_it(tmp_path: Path) -> None:
    """A key file that others may read is refused, with the command that mends it."""
    path = tmp_path / "identity.json"
    identities.load_or_create(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        identities.load_or_create(path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 2}, "version 1"),
        ({"keys": []}, "at least one key"),
        ({"subject": None}, "subject"),
        ({"keys": [{"key_id": "a", "algo": "ed25519", "seed": "00"}]}, "64 lower-case hex"),
        ({"keys": [{"key_id": "a", "algo": "rsa", "seed": "00" * 32}]}, "algo ed25519"),
        ({"keys": [{"key_id": "a", "algo": "ed25519", "seed": seed * 32} for seed in ("01", "02")]}, "share a key_id"),
        ({"not_after": 1 << 80}, "is damaged"),
        ({"not_after": 1}, "ran out"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    """A file that is no usable identity is refused with the reason, and is not overwritten."""
    path = tmp_path / "identity.json"
    identities.load_or_create(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=reason):
        identities.load_or_create(path)
    assert path.read_bytes() == before
    path.write_text("[" * 100_000)
    with pytest.raises(ConfigError, match="is damaged"):
        identities.load_or_create(path)


def test_unreadable_places(tmp_path: Path) -> None:
    """A path where no file can be made, and one that is no JSON, say so."""
    with pytest.raises(ConfigError, match="cannot create"):
        identities.load_or_create(tmp_path / "absent" / "identity.json")
    path = tmp_path / "identity.json"
    os.close(os.open(path, os.O_CREAT, 0o600))
    with pytest.raises(ConfigError, match="damaged"):
        identities.load_or_create(path)
    with pytest.raises(FormatError):
        identities.parse([])


def test_more_keys_than_one() -> None:
    """Every key stands in the keyset; the first one signs."""
    keys = [{"key_id": f"k{i}", "algo": "ed25519", "seed": f"{i:064x}"} for i in (1, 2)]
    identity = identities.parse({"version": 1, "subject": "s", "not_after": 2_000_000_000, "keys": keys})
    parsed = aci.parse_keyset(identities.keyset(identity))
    assert [k.key_id for k in parsed.keys] == ["k1", "k2"]
    assert identity.active.key_id == "k1"


def test_a_certificate_joins_the_keyset(tmp_path: Path) -> None:
    """With a TLS certificate the keyset names its key, so the pin covers the channel too."""
    issued = Authority().issue("localhost")
    (tmp_path / "cert.pem").write_bytes(issued.pem())
    spki = identities.certificate_spki(tmp_path / "cert.pem")
    assert spki == issued.spki
    identity = identities.ephemeral()
    assert aci.parse_keyset(identities.keyset(identity, spki)).spki == (issued.spki,)
    assert identities.pin(identities.keyset(identity, spki)) != identities.pin(identities.keyset(identity))
    (tmp_path / "other.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match="PEM"):
        identities.certificate_spki(tmp_path / "other.pem")


def test_the_report_is_appraised_as_what_it_is() -> None:
    """The gateway's appraisal accepts the report, and says that no TEE stands behind it."""
    identity, nonce = identities.ephemeral(), "ab" * 32
    keyset = identities.keyset(identity)
    document = json.dumps(attestation(identity, keyset, nonce, {"serving": "direct"}, {})).encode()
    node = Node("n", "selfhosted", "http://n", ("m",), pin=identities.pin(keyset))
    result, report = appraise_node(node, document, None, nonce, now=identity.not_after - 100, spki=None, tls=False)
    assert report is not None
    outcomes = {c.id: c.outcome for c in result.checks}
    assert outcomes.pop("channel_bound") is outcomes.pop("tee_rules") is Outcome.NONE
    assert set(outcomes.values()) == {Outcome.AFFIRMING}
    claims = {c.name: c.status for c in result.claims}
    assert claims["tee_attested"] == claims["executed_in_tee"] == "refuted"
    other, _ = appraise_node(node, document, None, "cd" * 32, now=0, spki=None, tls=False)
    assert {c.id: c.outcome for c in other.checks}["fresh"] is Outcome.CONTRAINDICATED


def test_receipts_are_bounded() -> None:
    """The store forgets its oldest receipt first."""
    identity = identities.ephemeral()
    store = ReceiptStore(limit=3)
    sealer = Sealer(identity.active, "sha256:" + "0" * 64, store)
    ids = []
    for number in range(5):
        seal = sealer.begin("/v1/embeddings", b"%d" % number, None, "m")
        seal.close("m", None, 1_800_000_000.5)
        ids.append(seal.receipt_id)
    assert len(store) == 3
    assert [store.get(i) is not None for i in ids] == [False, False, True, True, True]
    kept = aci.parse_receipt(store.get(ids[-1]) or b"").receipt
    assert (kept.request_nonce, kept.chat_id, kept.served_at) == (None, None, 1_800_000_000)
