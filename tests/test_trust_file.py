"""The trust file beside the keys: what the earlier receipt keys of this log signed verifies with it, and nothing else."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import structlog

from gateway.app import Gateway
from gateway.errors import ConfigError
from gateway.log.note import NoteSigner
from gateway.log.trust import parse_trust
from gateway.settings import Settings, load

NAME = "veriroute.local/log/receipts"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(Gateway, "_front", lambda self: None)
    return load(f'storage.url = "sqlite:///{tmp_path}/log.db"\nlog.origin = "veriroute.local/log"')


@pytest.fixture
def trust(tmp_path: Path) -> Path:
    return tmp_path / "log.db.keys" / "trust.txt"


async def started(settings: Settings) -> list[str]:
    """Start and stop; what was said of the trust file."""
    gateway = Gateway(settings)
    with structlog.testing.capture_logs() as lines:
        await gateway.open()
        assert await gateway.close()
    return [line["notice"] for line in lines if "trust.txt" in line.get("notice", "")]


def exchanged(trust: Path) -> str:
    """Another receipt key; its public half."""
    signer = NoteSigner(NAME, os.urandom(32))
    trust.with_name("receipt.key").write_text(signer.skey + "\n")
    return signer.vkey


def receipt_keys(trust: Path) -> list[str]:
    return [str(key) for key in parse_trust(trust.read_bytes()).receipt_keys]


async def test_receipt_keys_of_before_stay(settings: Settings, trust: Path) -> None:
    """The one in force stands first; a key that is changed is told once, and the file is then left alone."""
    assert await started(settings) == []
    assert trust.read_text().count("\n") == 3
    assert stat.S_IMODE(trust.stat().st_mode) & 0o077 == 0o044
    keys = receipt_keys(trust)
    for _ in range(3):
        keys.insert(0, exchanged(trust))
        (notice,) = await started(settings)
        assert "another key from now on" in notice
        assert receipt_keys(trust)[0] == keys[0]
        assert sorted(receipt_keys(trust)) == sorted(keys)
        was = trust.stat()
        assert await started(settings) == []
        assert (trust.stat().st_ino, trust.stat().st_mtime_ns) == (was.st_ino, was.st_mtime_ns)


async def test_a_key_that_comes_back_is_in_force_again(settings: Settings, trust: Path) -> None:
    """Both stay, each once."""
    await started(settings)
    private = trust.with_name("receipt.key").read_text()
    first = receipt_keys(trust)
    second = exchanged(trust)
    await started(settings)
    trust.with_name("receipt.key").write_text(private)
    (notice,) = await started(settings)
    assert "another key from now on" in notice
    assert receipt_keys(trust) == [*first, second]


@pytest.mark.parametrize("entry", ["", "# from entry 0\n", "# from entry 1\n", "# from entry 999\n"])
async def test_a_key_that_the_log_does_not_know_goes(settings: Settings, trust: Path, entry: str) -> None:
    """Somebody wrote it into the file: it is not handed on as ours, whatever entry it is said to have signed."""
    await started(settings)
    text = trust.read_text()
    stranger = NoteSigner(NAME, os.urandom(32))
    trust.write_text(text.replace("quorum", f"{entry}#!receipt {stranger.vkey}\n#!receipt nonsense\nquorum"))
    (notice,) = await started(settings)
    assert "signed nothing here" in notice
    assert str(stranger.vkey) in notice
    assert trust.read_text() == text


async def test_a_file_that_is_gone_or_no_text_is_written_anew(settings: Settings, trust: Path) -> None:
    """With the key in force, from the entry on that it signs next."""
    await started(settings)
    keys = receipt_keys(trust)
    for damage in (trust.unlink, lambda: trust.write_bytes(b"\xff\n")):
        damage()
        assert await started(settings) == []
        assert receipt_keys(trust) == keys


async def test_a_file_that_cannot_be_written_is_said(settings: Settings, trust: Path) -> None:
    """With its name."""
    trust.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"cannot write .*trust\.txt"):
        await Gateway(settings).open()
