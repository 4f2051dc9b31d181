"""Policies, calibrations and scripted references for the tests of gathering."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from running import MODEL

from gateway.policy.schema import CompiledPolicy
from gateway.policy_files import read_policies
from gateway.references import Calibrations
from gateway.verify.proofs.calibration import Calibration, Quantiles, Statistic
from gateway.verify.proofs.toploc_judge import ToplocCalibration

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
ASKED: dict[str, Any] = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Tell me a long story about a fox, a bear and a lamp."}],
    "temperature": 0,
    "max_tokens": 64,
    "return_token_ids": True,
    "logprobs": True,
    "top_logprobs": 5,
    "toploc": True,
}
ALL = frozenset({"proof_reexec", "proof_logprob", "proof_toploc"})


def policy(
    *,
    timeout_s: float = 15.0,
    claims: tuple[str, ...] = ("greedy",),
    references: frozenset[str] | None = None,
    calibrations: frozenset[str] | None = None,
    limits: frozenset[str] | None = None,
    circuits: frozenset[str] | None = None,
) -> CompiledPolicy:
    """The built-in `observe` with these terms of proofs."""
    observe = read_policies(None)["observe"]
    replaced = msgspec.structs.replace
    return replaced(
        observe,
        proofs=replaced(observe.proofs, timeout_s=timeout_s),
        reexec=replaced(observe.reexec, references=references, calibrations=calibrations, claims=frozenset(claims)),
        logprob=replaced(observe.logprob, min_similarity=0.98),
        toploc=replaced(observe.toploc, calibrations=limits),
        zk=replaced(observe.zk, circuits=circuits),
    )


def margins(statistic: Statistic, reference: str = "ref", model: str = MODEL, **changes: Any) -> Calibration:
    rows = (Quantiles(16, 500, 0.0, 0.002, 0.006), Quantiles(64, 500, 0.0, 0.0007, 0.003))
    values = {"revision": "weights-1", "made": "2026-01-31", "seeds": (1,), "quantiles": rows} | changes
    return Calibration(version=1, kind="reexec", statistic=statistic, reference=reference, model=model, **values)


def distances(reference: str = "ref", **changes: Any) -> Calibration:
    """What honest log-probs differ by, five alternatives compared."""
    rows = (Quantiles(16, 500, 0.002, 0.003, 0.004, 0.005), Quantiles(64, 500, 0.002, 0.003, 0.0035, 0.004))
    return margins(Statistic.LOGPROB_DISTANCE, reference, **({"quantiles": rows, "top": 5} | changes))


def limits(reference: str = "ref", **changes: Any) -> ToplocCalibration:
    values: dict[str, Any] = {
        "revision": "weights-1", "made": "2026-01-31", "seeds": (1,), "batches": 500, "exponents": 12,
        "mantissa_mean": 3.0, "mantissa_median": 3.0, "signs": 4,
    } | changes  # fmt: skip
    return ToplocCalibration(version=1, kind="toploc", reference=reference, model=MODEL, **values)


def calibrated(reference: str = "ref") -> Calibrations:
    """A calibration of every kind for one reference."""
    made = [margins(s, reference) for s in (Statistic.GREEDY_MARGIN, Statistic.SEEDED_MARGIN)]
    values = limits(reference)
    return Calibrations({c.id: c for c in made}, {values.id: values})


Answer = tuple[int, bytes] | bytes | float | None


@contextmanager
def serving(answer: Callable[[str, Any], Answer]) -> Iterator[str]:
    """A server that answers each POST as told: a status and a body, a body, seconds of silence, or a cut (None)."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            said = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.server.asked.append((self.path, said, dict(self.headers)))  # type: ignore[attr-defined]
            found = answer(self.path, said)
            if found is None:
                self.close_connection = True
                return
            if isinstance(found, int | float):
                time.sleep(found)
                self.close_connection = True
                return
            status, body = found if isinstance(found, tuple) else (200, found)
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
