"""The machine that a node pretends to run on: its folder, its evidence, and the ways in which it lies about itself.

    machine = open_machine("tdx", Path("world"), now, gpu=True, lie=None)
    machine.attest(statement, nonce, now)          ("tdx", {"platform": "tdx", "quote": "…", …})

Everything is test material (`gateway.testing`): no hardware is behind it, and a gateway believes it only when its
settings name the root in the folder as a test root. The folder:

    machine.json      secret, mode 0600: the seed that all keys follow from, and SNP's root with its keys
    root.der          the root certificate, for the gateway's settings; nvidia-root.der beside it with a GPU
    supplied/         the vendor's documents, as the folder of that name in a gateway's collateral directory has them;
                      written at each start, good for 29 days

The lies: `debug`, `unbound`, `stale-tcb`, `foreign-root` (docs/node-profile.md section 9).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from gateway.crypto.canonical import strict_json
from gateway.errors import ConfigError, FormatError
from gateway.testing.tee.machines import (
    PRODUCT,
    Gpu,
    Machine,
    NitroMachine,
    SnpMachine,
    TdxMachine,
    chip_of,
    fmspc_of,
)
from gateway.verify import aci
from gateway.verify.tee.amd_certificates import parse_certificate

from . import secret_file
from .dishonest import Mischief

TEES = ("tdx", "snp", "nitro")
_SEED = re.compile(r"[0-9a-f]{64}")
_MAX_BYTES = 65_536
_RSA_BITS = 3072  #: AMD's are of 4096; making one of those can take seconds


class Attester:
    """Makes the evidence of one node, honest or not. `root_sha256` is of the root that its folder shows."""

    def __init__(self, honest: Machine, liar: Machine, gpu: Gpu | None, mischief: Mischief | None) -> None:
        self._honest, self._liar, self._gpu = honest, liar, gpu
        self._mischief = mischief
        self._other_keyset = "sha256:" + secrets.token_hex(32)
        self.root_sha256 = hashlib.sha256(honest.root).hexdigest()

    def attest(self, statement: bytes, nonce: str | None, now: float) -> tuple[str, dict[str, Any]]:
        """`tee_type` and `evidence` of the report that makes `statement`, which holds `nonce`."""
        lie = None if self._mischief is None else self._mischief.now()
        if lie == "unbound":
            statement = aci.statement(self._other_keyset, nonce)
        data = aci.report_data(statement)
        machine = self._honest if lie is None else self._liar
        evidence = machine.evidence(data, None if nonce is None else bytes.fromhex(nonce), now)
        if self._gpu is not None:
            evidence["nvidia_payload"] = self._gpu.payload(data)
        return machine.tee_type, evidence


def open_machine(
    tee: str, folder: Path, now: float, *, gpu: bool = False, mischief: Mischief | None = None
) -> Attester:
    """The machine in `folder`, made when there is none, with its roots and documents written out.

    Raises `ConfigError` saying what to do.
    """
    lie = mischief.mode if mischief else None
    if tee == "nitro" and lie == "stale-tcb":
        raise ConfigError("--dishonest stale-tcb is not for nitro: its documents state no security version")
    if tee == "nitro" and gpu:
        raise ConfigError("--tee-gpu is not for nitro: there is no report_data that a GPU's nonce could be tied to")
    kept = _Kept.open(folder, tee, now)
    honest = kept.machine()
    liar = kept.machine(lie)
    card = Gpu(kept.seed + " gpu ") if gpu else None
    for path, data in _files(honest, liar, card, now).items():
        _write(folder / path, data)
    return Attester(honest, liar, card, mischief)


def _files(honest: Machine, liar: Machine, gpu: Gpu | None, now: float) -> Mapping[str, bytes]:
    """What stands in the folder for others, by path."""
    files = {"root.der": honest.root}
    if gpu is not None:
        files["nvidia-root.der"] = gpu.root
    for machine in (honest, liar):
        # A machine of another root has no documents of this one, and its own are not for anybody to find.
        if machine.root == honest.root:
            files.update(collateral_files(machine, now))
    return files


def collateral_files(machine: Machine, now: float) -> dict[str, bytes]:
    """The documents of `machine` as of `now`, by their paths in a gateway's collateral directory."""
    blobs = machine.endorsements(now)
    if isinstance(machine, TdxMachine):
        return {f"supplied/intel/tdx-{machine.fmspc}-platform.json": blobs["collateral"]}
    if isinstance(machine, SnpMachine):
        base = f"supplied/amd/{PRODUCT}"
        tcb = "-".join(f"{part}{machine.tcb[part]}" for part in ("bl", "tee", "snp", "ucode"))
        return {
            f"{base}/ark.der": blobs["root:ark"],
            f"{base}/ask.der": blobs["ask"],
            f"{base}/vcek.crl": blobs["crl"],
            f"{base}/vcek-{machine.chip.hex()}-{tcb}.der": blobs["ek"],
        }
    return {}


class _Kept:
    """What `machine.json` keeps."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        """Raises `FormatError`."""
        seed, made_at = document.get("seed"), document.get("made_at")
        if document.get("version") != 1 or document.get("tee") not in TEES:
            raise FormatError("not a machine of version 1")
        if not isinstance(seed, str) or _SEED.fullmatch(seed) is None:
            raise FormatError("the seed is not 64 hex digits")
        if type(made_at) is not int or not 0 <= made_at < 1 << 32:
            raise FormatError("made_at is no time")
        self.tee, self.seed, self._made_at = str(document["tee"]), seed, made_at
        if self.tee == "snp":
            self._keys = _rsa(document.get("ark_key")), _rsa(document.get("ask_key"))
            self._ark = _certificate(document.get("ark"))

    @classmethod
    def open(cls, folder: Path, tee: str, now: float) -> _Kept:
        path = folder / "machine.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if path.exists():  # making one may take seconds
                return cls._load(path, tee)
            document = _made(tee, now)
            secret_file.make(path, document)
        except FileExistsError:
            return cls._load(path, tee)
        except OSError as error:
            raise ConfigError(f"cannot create {path}: {error.strerror}") from None
        return cls(document)

    @classmethod
    def _load(cls, path: Path, tee: str) -> _Kept:
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                data = file.read(_MAX_BYTES + 1)
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from None
        if stat.S_IMODE(mode) & 0o077:
            raise ConfigError(f"{path} can be read by others; run: chmod 600 {path}")
        try:
            document = strict_json(data, max_bytes=_MAX_BYTES)
            kept = cls(document if isinstance(document, dict) else {})
        except FormatError as error:
            raise ConfigError(f"{path} is damaged: {error}") from None
        if kept.tee != tee:
            raise ConfigError(f"{path} is a machine for --tee {kept.tee}; give another --tee-root")
        return kept

    def machine(self, lie: str | None = None) -> Machine:
        """The machine, honest or as `lie` has it."""
        seed = secrets.token_hex(32) if lie == "foreign-root" else self.seed
        debug, stale = lie == "debug", lie == "stale-tcb"
        if self.tee == "tdx":
            return TdxMachine(seed, self._made_at, fmspc=fmspc_of(self.seed), debug=debug, stale=stale)
        if self.tee == "nitro":
            return NitroMachine(seed, self._made_at, debug=debug)
        # Above, a stranger claims this platform's FMSPC, and here a stranger's key this chip: the gateway finds the
        # documents of the one and the certificate of the other, and neither belongs to who signed.
        ark = None if lie == "foreign-root" else self._ark
        return SnpMachine(seed, keys=self._keys, ark=ark, chip=chip_of(self.seed), debug=debug, stale=stale)


def _made(tee: str, now: float) -> dict[str, Any]:
    """A new machine's document."""
    document: dict[str, Any] = {"version": 1, "tee": tee, "seed": secrets.token_hex(32), "made_at": int(now)}
    if tee == "snp":
        keys = rsa.generate_private_key(65537, _RSA_BITS), rsa.generate_private_key(65537, _RSA_BITS)
        document["ark_key"], document["ask_key"] = (
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode() for key in keys
        )
        document["ark"] = SnpMachine(document["seed"], keys=keys).root.hex()
    return document


def _rsa(pem: object) -> rsa.RSAPrivateKey:
    try:
        key = load_pem_private_key(pem.encode(), None) if isinstance(pem, str) else None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise FormatError("a key of SNP's root is no RSA key")
    return key


def _certificate(text: object) -> bytes:
    try:
        der = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        der = b""
    parse_certificate(der)
    return der


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all: a gateway may be reading."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None
