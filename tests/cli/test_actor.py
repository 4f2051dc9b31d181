"""Who an act of administration is of, as its entry in the log says."""

import json
import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from running import command
from stored_log import StoredLog

from gateway.storage.reads import Reader

ACCOUNT = pwd.getpwuid(os.getuid()).pw_name


def _administer(folder: Path, **environment: str) -> list[dict[str, Any]]:
    """A key made and revoked and an export made, with these variables set; the acts that they leave."""
    path, config = StoredLog(folder, 2).path, str(folder / "veriroute.toml")
    Path(config).write_text(f'[storage]\nurl = "sqlite:///{path}"\n')
    made = command("keys", "create", "--name", "agent", "--json", "--config", config, env=environment)
    done = command("keys", "revoke", json.loads(made.stdout)["id"], "--config", config, env=environment)
    assert done.returncode == 0, done.stderr
    done = command("audit", "export", path, "--out", str(folder / "out"), "--unsigned", env=environment)
    assert done.returncode == 0, done.stderr
    with Reader(path) as reader:
        return [json.loads(event.document) for event in reader.pending_events()]


@pytest.mark.parametrize("name", ["somebody-else", "not-utf-8-\udcff"])
def test_g15_an_act_is_of_the_account_that_runs_the_command(tmp_path: Path, name: str) -> None:
    """Making a key, revoking it and exporting name the account of the user id, whatever the environment says."""
    acts = _administer(tmp_path, LOGNAME=name, USER=name)
    assert [act["actor"] for act in acts] == [ACCOUNT] * 3


def test_g15_an_account_without_a_name_is_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container a user id may have no name; the act is of the number then."""
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    assert {act["actor"] for act in _administer(tmp_path)} == {f"uid {os.getuid()}"}
