"""The classifier's circuit: its keys, made once into a folder, and the folder that gateways pin.

    DIR/circuits/veriroute-moderation-1/   circuit.toml, vk.key, settings.json, verifier.srs: all that a gateway needs
    DIR/keys/                              model.compiled, pk.key, kzg.srs: what proving needs
    DIR/made.json                          of which model, by which ezkl; written last

Given the SRS the keys follow from the model. The SRS is made here, by this machine, from randomness that whoever has it
could use to prove anything: such a circuit is for tests, and `circuit.toml` says so. Every SRS makes another verifying
key, so every folder is another circuit.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.errors import ConfigError
from gateway.verify.proofs.features import FEATURES, TEXT_V1
from gateway.verify.proofs.zk_manifest import EZKL_VERSION

from .model import ABOVE, CATEGORIES, MODEL, SCALE, as_onnx, load

LOGROWS = 12
PROOF_LEN = 3_072
CIRCUITS, KEYS, MADE = "circuits", "keys", "made.json"
_PINNED = ("vk.key", "settings.json", "verifier.srs")
Say = Callable[[str], None]


def pinned(folder: Path) -> Path:
    """The circuit's own folder, as an operator copies it to a gateway."""
    return folder / CIRCUITS / MODEL


def circuit_id(folder: Path) -> str:
    """`sha256:<hex>` of the verifying key in `folder`."""
    return f"sha256:{_sha256(pinned(folder) / 'vk.key')}"


def ensure(folder: Path, say: Say) -> None:
    """Make the keys unless `folder` has them; about two seconds of one core. Raises `ConfigError` for a folder of
    another model or with anything else in it: a new circuit has to be pinned anew, so it is never made on the side.
    """
    wanted = {"model_sha256": hashlib.sha256(as_onnx(load())).hexdigest(), "ezkl": EZKL_VERSION}
    if (folder / MADE).is_file():
        if json.loads((folder / MADE).read_text("utf-8")) != wanted:
            raise ConfigError(f"--prove {folder}: its circuit is of another model or ezkl; give a new folder")
        return
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"--prove {folder}: neither empty nor a folder of this node's circuit")
    new = folder.with_name(folder.name + ".new")
    shutil.rmtree(new, ignore_errors=True)  # of a start that was cut off
    _make(new, say)
    (new / MADE).write_text(json.dumps(wanted), "utf-8")
    if folder.exists():
        folder.rmdir()
    os.rename(new, folder)


def _make(folder: Path, say: Say) -> None:
    import ezkl

    keys, out = folder / KEYS, pinned(folder)
    keys.mkdir(mode=0o700, parents=True)
    out.mkdir(parents=True)
    network, compiled, srs = (str(keys / name) for name in ("model.onnx", "model.compiled", "kzg.srs"))
    settings, vk = str(out / "settings.json"), str(out / "vk.key")
    (keys / "model.onnx").write_bytes(as_onnx(load()))
    say("the circuit's settings")
    ezkl.gen_settings(network, settings, py_run_args=_run_args(ezkl))
    say(f"an SRS for 2^{LOGROWS} rows, of this machine's own randomness: for tests only")
    ezkl.gen_srs(srs, LOGROWS)
    say("the circuit and its keys")
    ezkl.compile_circuit(network, compiled, settings)
    ezkl.setup(compiled, vk, str(keys / "pk.key"), srs)
    (out / "verifier.srs").write_bytes(_first_powers((keys / "kzg.srs").read_bytes()))
    (out / "circuit.toml").write_text(manifest(out), "utf-8")


def _run_args(ezkl: Any) -> Any:
    """Set by hand: ezkl's defaults would take a circuit of eight times the rows for a model of this size."""
    args = ezkl.PyRunArgs()
    args.input_visibility, args.output_visibility, args.param_visibility = "public", "public", "fixed"
    args.logrows, args.lookup_range = LOGROWS, (-1024, 1024)
    args.decomp_base, args.decomp_legs = 128, 3
    args.input_scale = args.param_scale = SCALE
    return args


def _first_powers(srs: bytes) -> bytes:
    """What a verifier needs of an SRS of k = LOGROWS: one of k = 1. Points as they are, 64 bytes in G1, 128 in G2.

    u32le k || 2**k points || 2**k points in Lagrange form || 2 points in G2. ezkl's verifier uses none of the Lagrange
    points, so the first two of the larger SRS fill their place.
    """
    rows = 1 << LOGROWS
    lagrange = 4 + 64 * rows
    return (1).to_bytes(4, "little") + srs[4 : 4 + 128] + srs[lagrange : lagrange + 128] + srs[-256:]


def manifest(out: Path) -> str:
    """`circuit.toml` for the three files in `out`: what a gateway holds a proof of this circuit against."""
    vk, settings, srs = (_sha256(out / name) for name in _PINNED)
    inputs = FEATURES[TEXT_V1].count
    head = [
        f"# {MODEL}, made by `veriroute node --prove`. Its SRS is one machine's own: for tests, no proof to others.",
        f'id = "sha256:{vk}"', 'system = "ezkl"', f'ezkl_version = "{EZKL_VERSION}"', f"proof_len = {PROOF_LEN}",
        f"n_instances = {inputs + len(CATEGORIES)}", f'vk_sha256 = "{vk}"', f'settings_sha256 = "{settings}"',
        f'srs = "sha256:{srs}"', "",
        "[[inputs]]", 'pointer = "/input"', f'features = "{TEXT_V1}"', "offset = 0", f"count = {inputs}",
        f"scale = {SCALE}", 'visibility = "public"',
    ]  # fmt: skip
    for index, name in enumerate(CATEGORIES, inputs):
        head += [
            "", "[[outputs]]", f'pointer = "/results/0/category_scores/{name}"', f"offset = {index}", "count = 1",
            f"scale = {SCALE}", "tolerance = 0.0", 'on_release = "compare"',
        ]  # fmt: skip
    for name, offset, count in (
        ("flagged", inputs, len(CATEGORIES)),
        *((f"categories/{name}", index, 1) for index, name in enumerate(CATEGORIES, inputs)),
    ):
        head += [
            "", "[[flags]]", f'pointer = "/results/0/{name}"', f"offset = {offset}", f"count = {count}",
            f"above = {ABOVE}", 'on_release = "compare"',
        ]  # fmt: skip
    return "\n".join(head) + "\n"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
