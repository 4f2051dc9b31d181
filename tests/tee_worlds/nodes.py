"""Synthetic node reports: a TDX guest whose registers replay, its GPU evidence, and dstack's envelopes, made here.

`seeds` and `run` are for long fuzzing of the kinds that take a node's whole report.
"""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import json
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.model.tee import TeeResult
from gateway.verify.tee import dstack_inputs, nitro_history, secretvm_inputs, tinfoil_bundle
from gateway.verify.tee.roots import TrustRoots

from . import amd, dstack, intel, nitro, nvidia, sigstore

NOW = float(intel.NOW)
KEY = bytes(range(1, 21))
NONCE = nvidia.NONCE
REPORT_DATA = KEY.ljust(32, b"\0") + NONCE
ROOTFS = hashlib.sha256(b"rootfs").digest()


@cache
def machine() -> intel.World:
    return intel.World()


@cache
def guest() -> dstack.Guest:
    return dstack.Guest()


@cache
def collateral() -> bytes:
    return machine().collateral()


def roots() -> TrustRoots:
    """Intel's and NVIDIA's test roots."""
    return TrustRoots((machine().anchor, *nvidia.roots().anchors))


def quote(report_data: bytes = REPORT_DATA, **report: Any) -> bytes:
    """The quote of the synthetic guest."""
    node = guest()
    registers = {"mrtd": bytes.fromhex(dstack.MRTD), "rtmrs": node.log.rtmrs(), "mr_config_id": node.mr_config_id}
    return machine().quote(report_data=report_data, **{**registers, **report})


def gpus(nonce: bytes = NONCE) -> bytes:
    return nvidia.payload((nvidia.report(nonce=nonce), nvidia.pem_of(nvidia.device_chain())))


def report(**members: Any) -> dict[str, Any]:
    """A report as an inference node of dstack serves it; a member that is None is left out."""
    node = guest()
    document = {
        "signing_address": "0x" + KEY.hex(),
        "request_nonce": NONCE.hex(),
        "intel_quote": quote().hex(),
        "event_log": node.log.json().decode(),
        "nvidia_payload": gpus().decode(),
        "info": {"tcb_info": {"app_compose": node.app_compose.decode()}},
        **members,
    }
    return {name: value for name, value in document.items() if value is not None}


def as_json(document: object) -> bytes:
    return json.dumps(document).encode()


def compact(count: int) -> bytes:
    """SCALE's compact integer, in its first three modes."""
    if count < 1 << 6:
        return bytes((count << 2,))
    return (count << 2 | 1).to_bytes(2, "little") if count < 1 << 14 else (count << 2 | 2).to_bytes(4, "little")


def counted(data: bytes) -> bytes:
    return compact(len(data)) + data


MR_CONFIG = b'{"app_id":"00","version":3}'


def snp_envelope(world: amd.World, document: bytes = MR_CONFIG, **fields: Any) -> bytes:
    """An envelope with a report whose HOST_DATA commits to `document`."""
    host_data = hashlib.sha256(b"dstack-mr-config-v3:\0" + MR_CONFIG).digest()
    return b"\0\3" + counted(world.report(**{"host_data": host_data, **fields})) + b"\0" + counted(document) + b"rest"


def registry(environment: str = "prod") -> bytes:
    """One row, for the registers of `secret_quote`."""
    out = io.StringIO()
    rows = csv.writer(out, lineterminator="\n")
    rows.writerow(["template_name", "vm_type", "artifacts_ver", "mrtd", "rtmr0", "rtmr1", "rtmr2", "rootfs_data"])
    rtmrs = [register.hex() for register in guest().log.rtmrs()[:3]]
    rows.writerow(["small", environment, "v1", dstack.MRTD, *rtmrs, ROOTFS.hex()])
    return out.getvalue().encode()


COMPOSE = dstack.COMPOSE.encode()


def secret_quote(report_data: bytes = REPORT_DATA) -> bytes:
    """The quote of a SecretVM that runs `COMPOSE`."""
    measured = [hashlib.sha256(COMPOSE).digest() + bytes(16), ROOTFS + bytes(16)]
    return quote(report_data, rtmrs=[*guest().log.rtmrs()[:3], dstack.replay(measured)])


@cache
def certificate() -> tuple[str, bytes]:
    """A TLS certificate as PEM, and the digest of its key."""

    made = intel.certificate("router.example", intel.key_of("tls"), None, intel.key_of("tls"), begins=NOW, ends=NOW + 1)
    spki = made.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return intel.pem(made), hashlib.sha256(spki).digest()


HPKE = bytes(range(50, 82))


@cache
def tinfoil_world() -> amd.World:
    return amd.World("Genoa")


def tinfoil(evidence: bytes | None = None, kind: str = "sev-snp", **members: Any) -> dict[str, Any]:
    """A bundle whose report has the measurement of its build and the key of its certificate; None leaves out."""
    pem, spki = certificate()
    world = tinfoil_world()
    if evidence is None:
        evidence = world.report(report_data=spki + HPKE, measurement=bytes.fromhex(sigstore.SNP))
    document = {
        "domain": "router.example",
        "enclaveAttestationReport": {
            "format": f"https://tinfoil.sh/predicate/{kind}-guest/v2",
            "body": base64.b64encode(gzip.compress(evidence, mtime=0)).decode(),
        },
        "digest": sigstore.ARTIFACT,
        "sigstoreBundle": json.loads(sigstore.genuine()[0]),
        "vcek": base64.b64encode(world.ek).decode(),
        "enclaveCert": pem,
        **members,
    }
    return {name: value for name, value in document.items() if value is not None}


def suite_input(quote: bytes, **policy: Any) -> dict[str, Any]:
    """An input of the conformance suite's stage verify-attestation-tdx, under the synthetic root."""
    members = json.loads(collateral())
    documents = {
        f"{name}_json": f'{{"{member}":{members[name]},"signature":"{members[f"{name}_signature"]}"}}'
        for name, member in (("tcb_info", "tcbInfo"), ("qe_identity", "enclaveIdentity"))
    }
    chains = ("pck_crl_issuer_chain", "tcb_info_issuer_chain", "qe_identity_issuer_chain")
    return {
        "schema_version": "1",
        "quote_b64": base64.b64encode(quote).decode(),
        "expiration_check_date_unix": NOW,
        "policy": policy,
        "collateral": {
            **documents,
            **{f"{name}_pem": members[name] for name in chains},
            "root_crl_der_b64": base64.b64encode(bytes.fromhex(members["root_ca_crl"])).decode(),
            "pck_crl_der_b64": base64.b64encode(bytes.fromhex(members["pck_crl"])).decode(),
            "intel_root_ca_pem": intel.pem(machine().root),
        },
    }


def seeds() -> list[bytes]:
    """A byte for the kind, then the item."""
    return [
        b"r" + as_json(report()),
        b"r" + as_json(report(nvidia_payload=None, quote=quote().hex())),
        b"e" + snp_envelope(tinfoil_world()),
        b"e\0\2" + counted(nitro.World().document()),
        b"s" + secret_quote(),
        b"t" + as_json(tinfoil()),
        b"h" + b'[{"PCR0":"00"}]',
    ]


@cache
def _fixed() -> tuple[nitro.World, bytes]:
    world = nitro.World()
    return world, world.document()


def run(data: bytes) -> TeeResult:
    """Appraise `data` in the place that its first byte names; never raises."""
    kind, item = data[:1], data[1:]
    world = tinfoil_world()
    amd_roots = {"ek": world.ek, "ask": world.ask, "root:ark": world.ark}
    if kind == b"e":
        return dstack_inputs.from_inputs({"report": b"\0" + item[1:], **amd_roots}, {}, world.roots, amd.NOW)
    if kind == b"s":
        blobs = {"quote": item, "compose": COMPOSE, "registry": registry(), "payload": item}
        return secretvm_inputs.from_inputs(blobs, {}, roots(), NOW)
    if kind == b"t":
        blobs = {"bundle": item, "trust_root": sigstore.genuine()[1], "ask": world.ask, "root:ark": world.ark}
        return tinfoil_bundle.from_inputs(blobs, {"repository": sigstore.REPOSITORY}, world.roots, amd.NOW)
    if kind == b"h":
        enclaves, document = _fixed()
        blobs = {"doc": document, "history": item, "publisher_key": item}
        return nitro_history.from_inputs(blobs, {}, enclaves.roots, enclaves.now)
    # With the documents of both vendors: a report may say that it is of the other one, and a missing input is an error.
    return dstack_inputs.from_inputs({"report": item, "collateral": collateral(), **amd_roots}, {}, roots(), NOW)
