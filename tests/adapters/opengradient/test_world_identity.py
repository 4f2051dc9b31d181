"""What is fetched from the test network, appraised: an honest enclave is live-attested, and each lie shows."""

from __future__ import annotations

import base64
import hashlib
import ssl
from typing import Any

import msgspec
import pytest
from opengradient_world import Network
from opengradient_world.chain import REGISTRY, TEE_REGISTERED, listed
from world_kit import active, ask, eth_abi, keccak, rpc

from gateway.crypto.x509 import spki_sha256
from gateway.model.node import Node
from gateway.model.verdict import Outcome
from gateway.verify.opengradient.dossier import Dossier, Live, Registration, parse_dossier, write_dossier
from gateway.verify.opengradient.identity import Registered, appraise_identity
from gateway.verify.opengradient.identity_claims import grade
from gateway.verify.opengradient.pcrs import PcrVersion

NONCE = "5a" * 32


class Record(msgspec.Struct, frozen=True):
    tee_id: bytes
    public_key: bytes
    tls_certificate: bytes
    pcr_hash: bytes
    tee_type: int
    enabled: bool
    registered_at: int
    last_heartbeat_at: int


def fetched(network: Network) -> tuple[Record, str, Dossier]:
    """The record that endpoint 0 gives, where its enclave is, and the dossier, as an auditor would read it."""
    (info,) = active(network)
    record = Record(keccak(info[3]), *info[3:10])
    wanted = {"fromBlock": "0x0", "address": REGISTRY, "topics": [TEE_REGISTERED, "0x" + record.tee_id.hex()]}
    (log,) = rpc(network, "eth_getLogs", wanted)
    transaction = rpc(network, "eth_getTransactionByHash", log["transactionHash"])
    document = ask(info[2], f"/enclave/attestation?nonce={NONCE[:40]}")[2]
    dossier = Dossier(
        chain_id=int(rpc(network, "eth_chainId"), 16),
        registry=bytes.fromhex(REGISTRY[2:]),
        tee_type=0,
        tee_id=record.tee_id,
        block_number=int(log["blockNumber"], 16),
        block_hash=bytes.fromhex(log["blockHash"][2:]),
        registration=Registration(
            bytes.fromhex(log["transactionHash"][2:]),
            int(log["blockNumber"], 16),
            bytes.fromhex(transaction["input"][2:]),
        ),
        live=Live(bytes.fromhex(NONCE[:40]), base64.b64decode(document)),
    )
    return record, info[2], parse_dossier(write_dossier(dossier))


def appraised(network: Network, known: bytes, pin: str | None = None) -> Any:
    record, url, dossier = fetched(network)
    assert dossier.registration is not None
    arguments = eth_abi.decode(
        ["bytes", "bytes", "bytes", "address", "string", "uint8"], dossier.registration.input[4:]
    )
    leaf = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", int(url.rpartition(":")[2]))))
    return appraise_identity(
        Node("og", "opengradient", url, ("gpt-4.1",), pin=pin),
        record,
        Registered(*arguments[:3], tee_type=arguments[5]),
        dossier.live,
        None,
        nonce=NONCE,
        now=network.clock(),
        spki=spki_sha256(leaf),
        tls=True,
        roots=network.nitro.roots,
        known_pcrs={known: PcrVersion("", "ours", "", "", "rebuilt", "known")},
        max_heartbeat_age_s=1800.0,
        attestation_ttl_s=3600.0,
        evidence_digest=hashlib.sha256(write_dossier(dossier)).hexdigest(),
    )


def test_an_honest_network_is_live_attested(network: Network) -> None:
    """Fetched over sockets, written as a dossier, read again: every check holds."""
    result, session = appraised(network, network.enclave.pcr_hash, pin=network.enclave.tee_id)
    assert session.outcome is Outcome.AFFIRMING, result.checks
    assert grade(result.claims) == "live-attested"
    assert session.keys[0].key_id == network.enclave.tee_id


@pytest.mark.parametrize(
    ("fault", "check", "outcome", "reason"),
    [
        ("lying_registry", "evidence", "contraindicated", "nitro_untrusted_root"),
        ("expired_attestation", "fresh", "contraindicated", "nitro_stale"),
        ("replayed_attestation", "fresh", "contraindicated", "nonce_mismatch"),
    ],
)
def test_each_lie_shows(network: Network, fault: str, check: str, outcome: str, reason: str) -> None:
    """The check that the lie is about fails, and the session with it."""
    ask(network.enclave.url, "/enclave/attestation?nonce=" + "00" * 20)  # there is a document to replay
    network.faults.add(fault)
    result, session = appraised(network, network.enclave.pcr_hash)
    assert {c.id: (c.outcome.value, c.reason) for c in result.checks}[check] == (outcome, reason)
    assert session.outcome is Outcome.CONTRAINDICATED


def test_an_unknown_build_is_not_shown() -> None:
    """The hardware's word for a build that nobody knows leaves the node unshown, and its key pinned makes it a warning."""
    with Network(rpcs=0) as known:
        expected = known.enclave.pcr_hash
    with Network(["pcr_unknown"], rpcs=1) as network:
        result, session = appraised(network, expected)
        assert {c.id: (c.outcome.value, c.reason) for c in result.checks}["keyset_valid"] == ("none", "pcr_unknown")
        assert session.outcome is Outcome.NONE
        assert appraised(network, expected, pin=network.enclave.tee_id)[1].outcome is Outcome.WARNING


def test_an_impostor_on_genuine_hardware_is_an_unknown_build() -> None:
    """Whoever rents a machine and answers for the chain gets as far as a measurement, which nobody knows."""
    with Network(["lying_registry"], rpcs=1) as network:
        network.impostor.nitro = network.nitro
        network.impostor.pcrs = {**network.impostor.pcrs, 0: b"\x66" * 48}
        network.chain.liar = listed(network.impostor)
        network.chain.approved.add(network.impostor.pcr_hash)
        result, session = appraised(network, network.enclave.pcr_hash)
        assert {c.id: c.reason for c in result.checks}["keyset_valid"] == "pcr_unknown"
        assert grade(result.claims) == "live-attested"
        assert session.outcome is Outcome.NONE
        result, session = appraised(network, network.enclave.pcr_hash, pin=network.enclave.tee_id)
        assert {c.id: c.reason for c in result.checks}["key_bound"] == "keyset_not_pinned"


def test_a_restarted_enclave_is_not_the_one_that_is_listed() -> None:
    """Its document is genuine and speaks for other keys than the registry's."""
    with Network(["key_rotated"], rpcs=1) as network:
        result, session = appraised(network, network.enclave.pcr_hash)
        found = {c.id: c.reason for c in result.checks}
        assert (found["key_bound"], found["channel_bound"]) == ("signing_key_binding", "spki_mismatch")
        assert session.outcome is Outcome.CONTRAINDICATED
