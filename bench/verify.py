"""The CPU time of one verification, for each kind of evidence: `make bench-verify`, or with `--json`.

Each row of `FAMILIES` is a name, a target in milliseconds and a function that makes genuine evidence and returns the
call to time. The evidence is the test suite's own, under test roots; where the folder of real vectors lies beside the
checkout, the first genuine one of the kind is timed too. Process time, so that a busy machine counts less.

Four figures: the median and the 99th percentile of all calls; `first`, the median of calls that find nothing
remembered, as after a restart; and `real`, the median over the real vector. A median over its target, of either kind
of evidence, ends the program with 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "bench")]  # the evidence is made by the tests' own makers

import evidence  # noqa: E402
from tee_worlds import keys  # noqa: E402

from gateway.crypto.algorithms import Alg, verify  # noqa: E402
from gateway.crypto.secp256k1 import eip191_digest, plain_recover, plain_verify  # noqa: E402
from gateway.verify.preimages import PreimageRule, preimage  # noqa: E402
from gateway.verify.tee.bindings import BindingInputs, BindingRule, bind  # noqa: E402

RUNS = 200
FIRST_RUNS = 20
REQUEST, RESPONSE = b'{"model":"m"}' * 20, b"data: {}\n\n" * 200


class Family(NamedTuple):
    """One row: `make` returns the call to time, whose answer must be true. A target of None is a figure to know.

    `real` does the same for a real vector, and returns None where there is none.
    """

    name: str
    target_ms: float | None
    make: Callable[[], Callable[[], object]]
    real: Callable[[], Callable[[], object] | None] | None = None


def signature(alg: Alg, key: bytes | None = None) -> Callable[[], Callable[[], object]]:
    """A verification of a signature text, its preimage's hashes included."""

    def make() -> Callable[[], object]:
        message = preimage(PreimageRule.NEAR, REQUEST, RESPONSE, {"model": "m"}).message
        own, made = keys.genuine(message)[alg]
        public = own if key is None else key
        return lambda: verify(public, alg, message, made)

    return make


def plain(recover: bool) -> Callable[[], Callable[[], object]]:
    """secp256k1 as it is where libsecp256k1 is not installed."""

    def make() -> Callable[[], object]:
        key, digest = keys.ec_key("secp256k1"), eip191_digest(keys.MESSAGE)
        r, s, parity = key.numbers(digest)
        if recover:
            return lambda: plain_recover(digest, (r, s), parity)
        return lambda: plain_verify(key.raw, digest, (r, s))

    return make


def binding() -> Callable[[], object]:
    inputs = BindingInputs(signing_key=b"\1" * 20, spki_sha256=b"\2" * 32, nonce=b"\3" * 32)
    seen = keys.claims(report_data=hashlib.sha256(b"\1" * 20 + b"\2" * 32).hexdigest() + "03" * 32)
    return lambda: bind(BindingRule.DSTACK_TLS, seen, inputs).status == "bound"


FAMILIES: list[Family] = [
    Family("Intel TDX quote", 2, evidence.tdx, evidence.real("tdx")),
    Family("Intel SGX quote", None, evidence.sgx),
    Family("AMD SEV-SNP report", 2, evidence.snp, evidence.real("snp")),
    Family("AWS Nitro document", 6, evidence.nitro_document, evidence.real("nitro")),
    Family("NVIDIA SPDM report", 6, evidence.spdm, evidence.real("nvidia_spdm")),
    Family("NVIDIA SPDM report, one RIM", None, lambda: evidence.spdm(rim=True)),
    Family("NVIDIA NRAS bundle", None, evidence.nras, evidence.real("nvidia_nras")),
    Family("Confidential Space token", None, evidence.gcs, evidence.real("gcs")),
    Family("Azure Attestation token", None, evidence.maa),
    Family("Azure vTPM on SNP", None, evidence.azure_vtpm, evidence.real("azure_vtpm")),
    Family("Arm CCA token", None, evidence.arm_cca, evidence.real("cca")),
    Family("RTMR replay of an event log", None, evidence.replay),
    Family("dstack guest, quote apart", None, evidence.guest),
    Family("Sigstore bundle", None, evidence.sigstore_bundle),
    Family("Ed25519", 0.1, signature(Alg.ED25519)),
    Family("EIP-191, key known", 0.2, signature(Alg.EIP191, keys.ec_key("secp256k1").raw)),
    Family("EIP-191, address alone", 0.2, signature(Alg.EIP191)),
    Family("EIP-191, key known, OpenSSL", None, plain(recover=False)),
    Family("EIP-191, recovery in Python", None, plain(recover=True)),
    Family("ECDSA P-256", None, signature(Alg.ES256)),
    Family("ECDSA P-384", None, signature(Alg.ES384)),
    Family("RSA-PSS 2048", None, signature(Alg.PS256)),
    Family("binding of report_data", None, binding),
]


def forget() -> None:
    """Empty every cache of the verifiers: what they remember of certificates, lists and documents."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("gateway.verify", "gateway.crypto")):
            for member in list(vars(module).values()):
                clear = getattr(member, "cache_clear", None)
                if clear is not None:
                    clear()


def timed(call: Callable[[], object], runs: int, before: Callable[[], None] | None = None) -> list[float]:
    """The milliseconds of process time of each of `runs` calls, sorted. `before` runs untimed before each."""
    times = []
    for _ in range(runs):
        if before is not None:
            before()
        begun = time.process_time()
        call()
        times.append((time.process_time() - begun) * 1000)
    return sorted(times)


def checked(name: str, call: Callable[[], object]) -> Callable[[], object]:
    if not call():
        raise SystemExit(f"{name}: the evidence did not verify")
    return call


def measure(family: Family, runs: int) -> dict[str, Any]:
    """One row: median, p99, first, real (None without a vector), target, and whether the median is within it."""
    call = checked(family.name, family.make())
    times = timed(call, runs)
    median = statistics.median(times)
    vector = family.real() if family.real is not None else None
    real = None if vector is None else statistics.median(timed(checked(f"{family.name}, real", vector), runs))
    return {
        "name": family.name,
        "median_ms": round(median, 4),
        "p99_ms": round(times[(len(times) * 99 - 1) // 100], 4),
        "first_ms": round(statistics.median(timed(call, min(runs, FIRST_RUNS), forget)), 4),
        "real_ms": None if real is None else round(real, 4),
        "target_ms": family.target_ms,
        "within": None if family.target_ms is None else max(median, real or 0) <= family.target_ms,
    }


def measured(runs: int, families: list[Family] | None = None) -> list[dict[str, Any]]:
    return [measure(family, runs) for family in (FAMILIES if families is None else families)]


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'verification, CPU ms':<30}{'median':>9}{'p99':>9}{'first':>9}{'real':>9}{'target':>9}"]
    for row in rows:
        real = "" if row["real_ms"] is None else f"{row['real_ms']:.3f}"
        target = "" if row["target_ms"] is None else f"{row['target_ms']:g}"
        over = "  over" if row["within"] is False else ""
        figures = f"{row['median_ms']:>9.3f}{row['p99_ms']:>9.3f}{row['first_ms']:>9.3f}{real:>9}{target:>9}"
        lines.append(f"{row['name']:<30}{figures}{over}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--runs", type=int, default=RUNS)
    asked = parser.parse_args(arguments)
    rows = measured(asked.runs)
    print(json.dumps({"runs": asked.runs, "rows": rows}, indent=2) if asked.json else table(rows))
    return int(any(row["within"] is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
