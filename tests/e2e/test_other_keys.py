"""A log whose receipts were signed by one key, and then by another: one trust file with both verifies all of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from agents import good_script, prompt
from running import Gateway, command
from scripted import ScriptedNode

from gateway.log.note import NoteSigner


def bundle(gateway: Gateway, name: str) -> Path:
    """The bundle of one answered request, as a file."""
    with gateway.http() as client:
        answer = client.post("/v1/chat/completions", content=prompt(name), headers={"content-type": "application/json"})
        assert answer.status_code == 200, answer.text
        found = client.get(f"/v1/receipts/{answer.headers['x-veriroute-receipt']}/bundle")
    path = gateway.folder / f"{name}.bundle"
    path.write_bytes(found.content)
    return path


def test_j30_receipts_of_an_earlier_key_verify_beside_those_of_the_next(tmp_path: Path) -> None:
    """The trust file that the gateway writes has both receipt keys, and all is affirming; with one of them, the other's
    are not decided.

    The log's own key cannot be changed: another one is refused.
    """
    node = ScriptedNode()
    node.script = good_script(node)
    gateway = Gateway(tmp_path, [node.table()]).start()
    keys = tmp_path / "audit.db.keys"
    try:
        files = [bundle(gateway, "earlier")]
        gateway.stop()
        one = tmp_path / "one.trust"
        signer = NoteSigner("test.example/log/receipts", os.urandom(32))
        (keys / "receipt.key").write_text(signer.skey + "\n")
        files.append(bundle(gateway.start(), "later"))
        gateway.stop()
        both = gateway.trust
        log, _, later, _, quorum = both.read_text().splitlines(keepends=True)
        assert later == f"#!receipt {signer.vkey}\n"
        one.write_text(log + later + quorum)
        ends = {
            trust: [command("verify", str(file), "--trust", str(trust)).returncode for file in files]
            for trust in (both, one)
        }
        assert ends == {both: [0, 0], one: [3, 0]}
        memory = ("--memory", f"{gateway.database}.checkpoint")
        audit = ("audit", "verify", str(gateway.database), *memory, "--trust")
        assert command(*audit, str(both)).returncode == 0
        assert command(*audit, str(one)).returncode == 3
        (keys / "log.key").write_text(NoteSigner("test.example/log", os.urandom(32)).skey + "\n")
        serve = [sys.executable, "-m", "gateway", "serve", "--config", str(gateway.config)]
        done = subprocess.run(serve, capture_output=True, text=True, timeout=60, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert "restore the key that belongs to it" in done.stderr
    finally:
        if gateway.process is not None:
            gateway.stop()
        node.close()
