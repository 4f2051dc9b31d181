"""The gateway's own keys: made once, and there to stay."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from gateway.errors import ConfigError
from gateway.keyfiles import load_or_make


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What is synced, in order."""
    paths: list[Path] = []
    sync = os.fsync

    def noted(descriptor: int) -> None:
        paths.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return paths


def test_new_keys_are_on_disk_by_name_before_there_is_a_log(tmp_path: Path, synced: list[Path]) -> None:
    """Both files are synced, then the folder that names them and the folder that names that one."""
    folder = tmp_path / "audit.db.keys"
    assert load_or_make(str(folder), "test.example/log", log_exists=False).made
    assert synced == [folder / "log.key", folder / "receipt.key", folder, tmp_path]
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    synced.clear()
    assert not load_or_make(str(folder), "test.example/log", log_exists=True).made
    assert not synced


def test_every_folder_made_for_the_keys_is_named_on_disk(tmp_path: Path, synced: list[Path]) -> None:
    """Of new folders in new folders the outermost one's name is lost as easily, and all that is in it."""
    folder = tmp_path / "new" / "er" / "keys"
    assert load_or_make(str(folder), "test.example/log", log_exists=False).made
    assert synced[2:] == [folder, folder.parent, folder.parent.parent, tmp_path]


def test_the_folder_of_a_folder_that_was_there_is_left_alone(tmp_path: Path, synced: list[Path]) -> None:
    """It is somebody else's, and may not be readable."""
    assert load_or_make(str(tmp_path), "test.example/log", log_exists=False).made
    assert synced == [tmp_path / "log.key", tmp_path / "receipt.key", tmp_path]


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_l03_a_folder_that_others_can_write_into_is_refused(tmp_path: Path, mode: int) -> None:
    """They could put other keys there; what to do is said. No key is made in one either."""
    folder = tmp_path / "keys"
    folder.mkdir()
    for exists in (False, True):
        folder.chmod(mode)
        with pytest.raises(ConfigError, match=rf"mode 0{mode:o}\); run: chmod go-w .*keys"):
            load_or_make(str(folder), "test.example/log", log_exists=exists)
        folder.chmod(0o755)
        load_or_make(str(folder), "test.example/log", log_exists=exists)


def test_a_folder_in_which_nobody_moves_the_files_of_others_will_do(tmp_path: Path) -> None:
    """So an orchestrator mounts secrets."""
    tmp_path.chmod(0o1777)
    assert load_or_make(str(tmp_path), "test.example/log", log_exists=False).made
