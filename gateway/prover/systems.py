"""The proof systems as a worker runs them: a job and the folder of its circuit's files in, a verdict out.

ezkl answers True or raises `RuntimeError`, and a Rust panic or an abort ends the worker. What it says about a proof
starts with `[halo2]`; anything else is about the files or the machine, so it is no verdict on the node.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

from gateway.errors import ConfigError, FormatError
from gateway.verify.proofs import groth16
from gateway.verify.proofs.zk import Ran, ZkVerdict
from gateway.verify.proofs.zk_manifest import EZKL_VERSION, System

from .jobs import Job

_PROOF = "proof.json"
_ABOUT_THE_PROOF = "Failed to run verify: [halo2]"

Run = Callable[[Job, Path], Ran]


def store(job: Job, folder: Path) -> None:
    """Write the pinned files of the job's circuit into `folder`, which is this worker's own."""
    if job.files is None:
        return
    folder.mkdir(mode=0o700, exist_ok=True)
    for name, data in (("vk", job.files.vk), ("settings", job.files.settings), ("srs", job.files.srs)):
        (folder / name).write_bytes(data)


def run_ezkl(job: Job, folder: Path) -> Ran:
    """ezkl's verdict. The proof file is written from the parsed proof: nothing else that a node wrote gets there."""
    try:
        import ezkl
    except ImportError:
        return Ran(ZkVerdict.INCONCLUSIVE, "verifier_missing")
    if version("ezkl") != EZKL_VERSION:
        return Ran(ZkVerdict.INCONCLUSIVE, "verifier_version")
    for index, values in job.hashed:
        if ezkl.poseidon_hash([value.hex() for value in values]) != [job.instances[index].hex()]:
            return Ran(ZkVerdict.FAIL, "binding_failed")
    proof = folder / _PROOF
    document = {"instances": [[value.hex() for value in job.instances]], "proof": list(job.proof)}
    proof.write_text(json.dumps(document))
    try:
        held = ezkl.verify(str(proof), str(folder / "settings"), str(folder / "vk"), str(folder / "srs"), True)
    except RuntimeError as error:
        if str(error).startswith(_ABOUT_THE_PROOF):
            return Ran(ZkVerdict.FAIL, "proof_rejected")
        return Ran(ZkVerdict.INCONCLUSIVE, "verifier_error")
    finally:
        proof.unlink()
    return Ran(ZkVerdict.PASS) if held is True else Ran(ZkVerdict.FAIL, "proof_rejected")


def run_groth16(job: Job, folder: Path) -> Ran:
    """py_ecc's verdict, about 0.6 s of CPU."""
    try:
        key = groth16.parse_key((folder / "vk").read_bytes())
        instances = tuple(int.from_bytes(value, "little") for value in job.instances)
        held = groth16.verify(key, job.proof, instances)
    except FormatError as error:
        return Ran(ZkVerdict.FAIL, error.reason)
    except ConfigError:
        return Ran(ZkVerdict.INCONCLUSIVE, "verifier_missing")
    return Ran(ZkVerdict.PASS) if held else Ran(ZkVerdict.FAIL, "proof_rejected")


SYSTEMS: Mapping[str, Run] = {System.EZKL.value: run_ezkl, System.GROTH16.value: run_groth16}
