"""From the rows of one run to tables, and to the targets: met, missed, or not measured.

python bench/report.py bench/results/20260101-120000.json
"""

from __future__ import annotations

import json
import pathlib
import statistics
import sys
from typing import Any


def rows_of(result: dict[str, Any], target: str, scenario: str) -> list[dict[str, Any]]:
    """The rounds that have something to measure: with a right answer."""
    return [r for r in all_rows_of(result, target, scenario) if r["ok"]]


def all_rows_of(result: dict[str, Any], target: str, scenario: str) -> list[dict[str, Any]]:
    return [r for r in result["rows"] if r["target"] == target and r["scenario"] == scenario]


def median(values: list[float | None]) -> float | None:
    found = [v for v in values if v is not None]
    return statistics.median(found) if found else None


def added(result: dict[str, Any], target: str, scenario: str, member: str, point: str) -> float | None:
    """The median over rounds of what `target` adds to `direct` in the same round, in microseconds."""
    direct = {r["round"]: percentile(r[member], point) for r in rows_of(result, "direct", scenario)}
    pairs = [(percentile(r[member], point), direct.get(r["round"])) for r in rows_of(result, target, scenario)]
    return median([mine - zero for mine, zero in pairs if mine is not None and zero is not None])


def percentile(samples: dict[str, float], point: str) -> float | None:
    """`point` of one run's samples; none for the p99 of fewer than 100, which would be the slowest one."""
    return None if point == "p99" and samples["n"] < 100 else samples[point]


def middle(result: dict[str, Any], target: str, scenario: str, member: str) -> float | None:
    return median([r[member] for r in rows_of(result, target, scenario)])


def pinned(result: dict[str, Any]) -> bool:
    return bool(result["machine"].get("pinned", True))


def judge(result: dict[str, Any]) -> list[dict[str, Any]]:
    """One line for each target of the design: what was asked, what was found, and whether it was met."""
    us = "veriroute"
    info = result["info"].get(us, {})
    lines = []

    def line(what: str, found: float | None, limit: float | None, unit: str, *, least: bool = False) -> None:
        met = None
        if found is not None and limit is not None:
            met = found >= limit if least else found <= limit
        lines.append({"what": what, "found": found, "limit": limit, "unit": unit, "least": least, "met": met})

    cpu = middle(result, us, "json-16", "cpu_us")
    line(
        "JSON requests a second, 16 connections, one core",
        middle(result, us, "json-16", "rate") if pinned(result) else None,
        6000,
        "/s",
        least=True,
    )
    line("the same, had the core done nothing else (from CPU time)", 1e6 / cpu if cpu else None, 6000, "/s", least=True)
    line("added at the median, 1 connection", added(result, us, "json-1", "latency_us", "p50"), 450, "µs")
    line("of which two durable writes of this disk take", 2000 * result["machine"]["fsync_ms"], None, "µs")
    for streams in ("sse-16", "sse-64"):
        line(f"CPU of one streamed chunk, {streams[4:]} streams", middle(result, us, streams, "cpu_us"), 60, "µs")
    line("time to first byte over direct, 1 stream", added(result, us, "sse-1", "first_event_us", "p50"), 2000, "µs")
    line("memory idle (PSS)", info.get("memory_idle_mb", {}).get("pss"), 80, "MB")
    early, late = [*info.get("memory_after", []), {}, {}][:2]
    grown = late["pss"] - early["pss"] if "pss" in early and "pss" in late else None
    line("growth over 100,000 requests (PSS)", grown, 2, "MB")
    audit = result.get("audit")
    missing = abs(audit["requests"] - audit["receipts"]) if audit else None
    line("requests without exactly one receipt in the log", missing, 0, "")
    broken = None if audit is None else int(audit["audit_verify"] != "ok")
    line("audit verify refused the log", broken, 0, "")
    uncovered = abs(audit["leaves"] - audit["log_size"]) if audit else None
    line("leaves that the newest checkpoint does not count", uncovered, 0, "")
    wrong = info.get("failed", sum(r["failed"] for r in result["rows"] if r["target"] == us))
    line("wrong or unverified answers", wrong if info and "left_out" not in info else None, 0, "")
    return lines


def text(result: dict[str, Any]) -> str:
    """Every table of one run."""
    parts = [startup(result)]
    scenarios = list(dict.fromkeys(r["scenario"] for r in result["rows"]))
    for scenario in scenarios:
        parts.append(one_scenario(result, scenario))
    parts.append(targets(result))
    if result.get("audit"):
        parts.append("log: " + ", ".join(f"{name} {value}" for name, value in result["audit"].items()))
    others = sorted(r["others"] for r in result["rows"])
    if others:
        parts.append(
            f"noise: other programs used {statistics.median(others):.2f} cores at the median, {others[-1]:.2f} at most;"
            f" a small fsync takes {result['machine']['fsync_ms']} ms here"
        )
    if not pinned(result):
        parts.append("nothing was pinned, for want of a second core or of taskset: no rate is that of one core")
    return "\n\n".join(parts)


def table(title: str, head: list[str], body: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in [head, *body]) for i in range(len(head))]
    lines = [title]
    for row in [head, ["-" * w for w in widths], *body]:
        cells = [
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  " + "  ".join(cells))
    return "\n".join(lines)


def number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def percent(rows: list[dict[str, Any]], member: str) -> str:
    share = median([r.get(member) for r in rows])
    return number(None if share is None else 100 * share)


def sums(info: dict[str, Any]) -> list[dict[str, Any]]:
    """The readings of one target's memory, each with the requests until then."""
    readings = info.get("memory_after", [])
    return [r | {"requests": sum(x["requests"] for x in readings[: i + 1])} for i, r in enumerate(readings)]


def startup(result: dict[str, Any]) -> str:
    asked = sorted({reading["requests"] for info in result["info"].values() for reading in sums(info)})
    body = []
    for name, info in result["info"].items():
        if "left_out" in info:
            body.append([name, "left out", "", ""] + [""] * len(asked))
            continue
        found = {reading["requests"]: reading.get("pss") for reading in sums(info)}
        after = [found.get(n) for n in asked]
        idle = info.get("memory_idle_mb", {})
        body.append(
            [
                name,
                number(info["start_s"], 2),
                number(idle.get("rss"), 1),
                number(idle.get("pss"), 1),
                *[number(v, 1) for v in after],
            ]
        )
    return table("start and memory", ["", "start s", "RSS MB", "PSS MB", *[f"after {n:,}" for n in asked]], body)


def one_scenario(result: dict[str, Any], scenario: str) -> str:
    streaming = scenario.startswith("sse")
    body = []
    for name in result["info"]:
        found = rows_of(result, name, scenario)
        asked = all_rows_of(result, name, scenario)
        if not asked:
            continue
        rates = [r.get("chunk_rate", r["event_rate"]) if streaming else r["rate"] for r in found]
        member = "first_event_us" if streaming else "latency_us"
        body.append(
            [
                name,
                number(median(rates)),
                f"{number(min(rates))}–{number(max(rates))}" if rates else "–",
                number(median([r[member]["p50"] for r in found])),
                number(median([percentile(r[member], "p99") for r in found])),
                number(added(result, name, scenario, member, "p50")),
                number(added(result, name, scenario, member, "p99")),
                number(None if name == "direct" else median([r["cpu_us"] for r in found]), 1),
                "–" if name == "direct" else percent(found, "cpu_share"),
                percent(found, "load_share"),
                number(sum(r["failed"] for r in asked)),
            ]
        )
    unit = "chunk" if streaming else "request"
    what = "first event" if streaming else "latency"
    head = ["", f"{unit}s/s", "min–max", f"{what} p50 µs", "p99", "added p50", "added p99", f"CPU µs/{unit}"]
    head += ["core %", "node's %", "failed"]
    return table(scenario, head, body)


def targets(result: dict[str, Any]) -> str:
    marks = {True: "met", False: "MISSED", None: "not measured"}
    body = []
    for line in result["targets"]:
        bound = f"{'≥' if line['least'] else '≤'} {number(line['limit'])} {line['unit']}".strip()
        if line["limit"] is None:
            bound = ""
        found = "–" if line["found"] is None else f"{number(line['found'], 1)} {line['unit']}".strip()
        body.append([line["what"], bound, found, marks[line["met"]] if bound else ""])
    return table("targets", ["", "asked", "found", ""], body)


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python bench/report.py bench/results/TIME.json", file=sys.stderr)
        return 2
    try:
        print(text(json.loads(pathlib.Path(sys.argv[1]).read_text())))
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"report: {sys.argv[1]} holds no results of bench/run.py: {error!r}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
