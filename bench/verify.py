"""The median CPU time of one verification, for each kind of evidence: `make bench-verify`, or with `--json`.

Each row of `FAMILIES` is a name, a target in milliseconds and a function that makes genuine evidence and returns the
call to time. The evidence is the test suite's own, under test roots. Process time, so that a busy machine counts less;
the first call is not timed, for what it caches.
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
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # the evidence is made by the tests' own makers

from tee_worlds import keys  # noqa: E402

from gateway.crypto.algorithms import Alg, verify  # noqa: E402
from gateway.crypto.secp256k1 import eip191_digest, plain_recover, plain_verify  # noqa: E402
from gateway.verify.preimages import PreimageRule, preimage  # noqa: E402
from gateway.verify.tee.bindings import BindingInputs, BindingRule, bind  # noqa: E402

RUNS = 200
REQUEST, RESPONSE = b'{"model":"m"}' * 20, b"data: {}\n\n" * 200


class Family(NamedTuple):
    """One row: `make` returns the call to time, whose answer must be true. A target of None is a figure to know."""

    name: str
    target_ms: float | None
    make: Callable[[], Callable[[], object]]


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


def median_ms(family: Family, runs: int) -> float:
    """The median of `runs` calls in milliseconds of process time."""
    call = family.make()
    if not call():
        raise SystemExit(f"{family.name}: the evidence did not verify")
    times = []
    for _ in range(runs):
        begun = time.process_time()
        call()
        times.append(time.process_time() - begun)
    return statistics.median(times) * 1000


def measured(runs: int, families: list[Family] | None = None) -> list[dict[str, Any]]:
    """One row for each family: name, median, target, and whether it is within it."""
    rows = []
    for family in FAMILIES if families is None else families:
        took = median_ms(family, runs)
        within = None if family.target_ms is None else took <= family.target_ms
        rows.append({"name": family.name, "median_ms": round(took, 4), "target_ms": family.target_ms, "within": within})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'verification':<32}{'median ms':>11}{'target ms':>11}"]
    for row in rows:
        target = "" if row["target_ms"] is None else f"{row['target_ms']:g}"
        over = "  over" if row["within"] is False else ""
        lines.append(f"{row['name']:<32}{row['median_ms']:>11.3f}{target:>11}{over}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--runs", type=int, default=RUNS)
    asked = parser.parse_args(arguments)
    rows = measured(asked.runs)
    print(json.dumps({"runs": asked.runs, "rows": rows}, indent=2) if asked.json else table(rows))


if __name__ == "__main__":
    main()
