"""Test material: machines that make fresh evidence about themselves, as a node in a TEE would ask its platform to.

    machine = TdxMachine(seed, made_at)
    machine.root                                     DER of the root that a verifier has to be told is a test root
    machine.evidence(report_data, nonce, now)        the members of `evidence` in an ACI report
    machine.endorsements(now)                        the vendor's documents by role, as of `now`

Everything but SNP's root follows from `seed` (secret; whoever knows it can make the same evidence) and `made_at`, so
that a machine that is made again is the same one. Times are Unix seconds, `report_data` has 64 bytes. `debug` is a
machine that is open to its host; a `stale` one is behind its vendor's security level. docs/node-profile.md section 2.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric import rsa

from . import amd, dstack, intel, nitro, nvidia

DAY = 86_400
PRODUCT = "Genoa"
#: The PCESVN of a platform that fits no level but the OutOfDate one of `intel.World.tcb_info`.
_OLD_PCE = 5
_OLD_LEVELS = {**amd.LEVELS, "snp": 8, "ucode": 72}
#: A leaf of Nitro's lives for three hours; a document under an older one than this gets a new one.
_RENEW_AFTER = 3600


class Machine(Protocol):
    """What makes evidence. `tee_type` is the word of the ACI report."""

    tee_type: str

    @property
    def root(self) -> bytes: ...

    def evidence(self, report_data: bytes, nonce: bytes | None, now: float) -> dict[str, Any]: ...

    def endorsements(self, now: float) -> Mapping[str, bytes]: ...


class TdxMachine:
    """A TDX guest with dstack's event log and app-compose: quotes of version 4."""

    tee_type = "tdx"

    def __init__(
        self, seed: str, made_at: float, *, fmspc: str | None = None, debug: bool = False, stale: bool = False
    ) -> None:
        """`fmspc` is 12 hex digits; for want of one it follows from the seed, so that no two worlds share documents."""
        self.fmspc = fmspc or fmspc_of(seed)
        mark = hashlib.sha256(f"platform {seed}".encode()).digest()
        extension = intel.sgx_extension(
            fmspc=bytes.fromhex(self.fmspc),
            ppid=mark[:16],
            instance=mark[16:],
            pce_svn=_OLD_PCE if stale else intel.PCE_SVN,
        )
        self._world = intel.World(now=made_at, seed=seed, fmspc=self.fmspc.upper(), extension=extension)
        self._attributes = 1 << 28 | debug
        self._app_compose = dstack.app_compose()
        self._hash = hashlib.sha256(self._app_compose).digest()
        self._log = dstack.booted().system(self._hash)

    @property
    def root(self) -> bytes:
        return self._world.root_der

    def evidence(self, report_data: bytes, nonce: bytes | None, now: float) -> dict[str, Any]:
        quote = self._world.quote(
            report_data=report_data,
            rtmrs=self._log.rtmrs(),
            attributes=self._attributes,
            mr_config_id=b"\1" + self._hash + bytes(15),
        )
        return {
            "platform": "tdx",
            "quote": quote.hex(),
            "event_log": self._log.json().decode(),
            "app_compose": self._app_compose.decode(),
        }

    def endorsements(self, now: float) -> Mapping[str, bytes]:
        """`collateral`: dcap-qvl's envelope, issued a day ago, good for 29 more."""
        self._world.now = now
        return {"collateral": self._world.collateral()}


def fmspc_of(seed: str) -> str:
    """The FMSPC, 12 lower-case hex digits, of the machine of that seed."""
    return hashlib.sha256(f"fmspc {seed}".encode()).hexdigest()[:12]


class SnpMachine:
    """A SEV-SNP guest on one Genoa chip: reports of version 3 under its VCEK."""

    tee_type = "sev-snp"

    def __init__(
        self,
        seed: str,
        *,
        keys: tuple[rsa.RSAPrivateKey, rsa.RSAPrivateKey],
        ark: bytes | None = None,
        chip: bytes | None = None,
        debug: bool = False,
        stale: bool = False,
    ) -> None:
        """`keys` are ARK's and ASK's, `ark` is the certificate when there is one already."""
        tcb = _OLD_LEVELS if stale else amd.LEVELS
        self._world = amd.World(PRODUCT, tcb=tcb, chip=chip or chip_of(seed), label=seed, keys=keys, ark=ark)
        self._debug = debug

    @property
    def root(self) -> bytes:
        return self._world.ark

    @property
    def chip(self) -> bytes:
        return self._world.chip

    @property
    def tcb(self) -> Mapping[str, int]:
        return self._world.levels

    def evidence(self, report_data: bytes, nonce: bytes | None, now: float) -> dict[str, Any]:
        report = self._world.report(report_data=report_data, debug=self._debug)
        return {"platform": "snp", "report": report.hex()}

    def endorsements(self, now: float) -> Mapping[str, bytes]:
        """`ek`, `ask`, `root:ark`, and a `crl` that names nobody, issued a day ago, good for 29 more."""
        crl = self._world.crl(this_update=now - DAY, next_update=now + 29 * DAY)
        return {"ek": self._world.ek, "ask": self._world.ask, "root:ark": self._world.ark, "crl": crl}


def chip_of(seed: str) -> bytes:
    """The CHIP_ID, 64 bytes, of the machine of that seed."""
    return hashlib.sha512(f"chip {seed}".encode()).digest()


class NitroMachine:
    """A Nitro enclave: documents whose user_data are the 64 bytes, with our nonce in its own slot."""

    tee_type = "nitro"

    def __init__(self, seed: str, made_at: float, *, debug: bool = False) -> None:
        mark = hashlib.sha256(f"module {seed}".encode()).hexdigest()
        self._world = nitro.World(now=made_at, seed=seed, label=mark[:16])
        self._module = f"i-{mark[:17]}-enc{mark[17:33]}"
        self._pcrs = nitro.debug_pcrs() if debug else nitro.default_pcrs()

    @property
    def root(self) -> bytes:
        return nitro.der(self._world.root)

    def evidence(self, report_data: bytes, nonce: bytes | None, now: float) -> dict[str, Any]:
        if not 0 <= now - self._world.now < _RENEW_AFTER:
            self._world.renew(now)
        document = self._world.document(
            user_data=report_data, nonce=nonce, pcrs=self._pcrs, timestamp=now, change={"module_id": self._module}
        )
        return {"platform": "nitro", "document": base64.b64encode(document).decode()}

    def endorsements(self, now: float) -> Mapping[str, bytes]:
        """None: the chain travels in the document."""
        return {}


class Gpu:
    """One synthetic H100 beside a machine."""

    def __init__(self, seed: str) -> None:
        self._device = "device 1"
        self._seed = seed
        self._chain = nvidia.device_chain(serial=self._device, seed=seed)
        self._pem = nvidia.pem_of(self._chain)

    @property
    def root(self) -> bytes:
        return nvidia.der_of(self._chain[-1])

    def payload(self, report_data: bytes) -> Any:
        """`nvidia_payload` as JSON: the device answers the first 32 bytes of what the CPU's evidence commits to."""
        nonce = report_data[:32]
        report = nvidia.report(nonce=nonce, serial=self._seed + self._device)
        return json.loads(nvidia.payload((report, self._pem), nonce=nonce))
