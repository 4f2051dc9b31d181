"""References: how they are asked, when they are left alone, and what was measured with them."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from gathering_kit import limits, margins, serving

from gateway import references as module
from gateway.errors import ConfigError, ServiceError
from gateway.proofs import open_proofs
from gateway.references import Calibrations, References, keys_of, load_calibrations
from gateway.settings import Reference, load
from gateway.upstream.pool import UpstreamPool
from gateway.verify.proofs.ask import Ask
from gateway.verify.proofs.calibration import Statistic

ASK = Ask("/v1/x", {"a": [1]})
GREEDY = Statistic.GREEDY_MARGIN


class Clock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


Make = Callable[..., References]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Makes references on a pool of their own."""
    pool = UpstreamPool()
    made: list[References] = []

    def build(*chosen: Reference, **more: Any) -> References:
        made.append(References(chosen, pool, **more))
        return made[-1]

    yield build
    for one in made:
        await one.close()
    await pool.close()


async def reason(references: References, reference: Reference, within: float = 5.0) -> str | None:
    """Why it did not answer; None when it did."""
    try:
        await references.ask(reference, ASK, asyncio.get_running_loop().time() + within)
    except ServiceError as error:
        return error.reason
    return None


async def test_a_question(make: Make) -> None:
    """One POST of JSON, with the reference's own key and no other header of ours that tells who asks."""
    seen: list[Any] = []

    def answer(path: str, asked: Any) -> bytes:
        seen.append((path, asked))
        return b'{"b":1}'

    with serving(answer) as url:
        reference = Reference("ref", url + "/tenant/", ("m",))
        references = make(reference, keys={"ref": "secret", "other": "no"})
        until = asyncio.get_running_loop().time() + 5
        assert await references.ask(reference, ASK, until) == b'{"b":1}'
    assert seen == [("/tenant/v1/x", {"a": [1]})]


async def test_the_key_goes_to_its_reference(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server gets the key of its own reference, from the variable that the settings name."""
    heard: list[str | None] = []
    one, two = (
        Reference(name, "http://127.0.0.1:9", ("m",), api_key_env=env) for name, env in (("one", "KEY"), ("two", None))
    )
    assert keys_of((one, two), {"KEY": "secret"}) == {"one": "secret"}
    references = make(one, two, keys=keys_of((one, two), {"KEY": "secret"}))
    for server in references._servers.values():
        heard.append(server._headers.get("authorization"))
    assert heard == ["Bearer secret", None]
    for environ in ({}, {"KEY": ""}, {"KEY": "a\nb"}, {"KEY": "\u00e9"}):
        with pytest.raises(ConfigError, match="KEY holds no API key"):
            keys_of((one,), environ)


async def test_which_references_may_be_asked(make: Make) -> None:
    """Those that compute the model, that the policy allows, in the order of the settings."""
    one, two, three = Reference("one", "http://127.0.0.1:9", ("m",)), Reference("two", "http://127.0.0.1:9", ("n",)), Reference("three", "http://127.0.0.1:9", ("n", "m"))  # fmt: skip
    references = make(one, two, three)
    assert references.of("m", None) == (one, three)
    assert references.of("m", {"three", "two"}) == (three,)
    assert references.of("x", None) == references.of("m", set()) == ()


async def test_one_that_cannot_be_reached_is_left_alone(make: Make) -> None:
    """It is not asked again for a while, longer each time, and asked again after that."""
    clock = Clock()
    with serving(lambda path, asked: b"{}") as url:
        pass
    reference = Reference("ref", url, ("m",))
    references = make(reference, mono=clock)
    assert await reason(references, reference) == "reference_unreachable"
    with serving(lambda path, asked: b"{}") as other:
        server = references._servers["ref"]
        server._url = other  # back again, at another port
        clock.now += module.LEAST_PAUSE - 1
        assert await reason(references, reference) == "reference_unreachable"
        clock.now += 2
        assert await reason(references, reference) is None
        server._url = url
        pauses = []
        for _ in range(6):
            assert await reason(references, reference) == "reference_unreachable"
            pauses.append(server._again - clock.now)
            clock.now = server._again
        assert pauses == [5, 10, 20, 40, 60, 60]


async def test_one_that_is_late_is_left_alone_after_some(make: Make) -> None:
    """A late answer may be the question's fault, three in a row are not; a timely one starts the count anew."""
    slow = [True]
    with serving(lambda path, asked: 0.4 if slow[0] else b"{}") as url:
        reference = Reference("ref", url, ("m",), timeout_s=0.1)
        references = make(reference)
        server = references._servers["ref"]
        for _ in range(2):
            assert await reason(references, reference) == "reference_timeout"
        assert server._again == 0
        slow[0] = False
        assert await reason(references, reference) is None
        slow[0] = True
        for _ in range(module.LATE_IN_A_ROW):
            assert await reason(references, reference) == "reference_timeout"
        assert server._again > 0
        slow[0] = False
        assert await reason(references, reference) == "reference_timeout"  # without being asked


async def test_an_exchange_of_little_time_says_nothing_of_the_reference(make: Make) -> None:
    """Who hardly waits cannot get a reference left alone for others."""
    with serving(lambda path, asked: 0.4) as url:
        reference = Reference("ref", url, ("m",), timeout_s=10)
        references = make(reference)
        for _ in range(module.LATE_IN_A_ROW + 1):
            assert await reason(references, reference, 0.05) == "reference_timeout"
        assert references._servers["ref"]._again == 0


async def test_questions_wait_their_turn(make: Make) -> None:
    """As many at once as the settings say; who waits too long was not answered, and the reference is not at fault."""
    with serving(lambda path, asked: 0.5) as url:
        reference = Reference("ref", url, ("m",), max_in_flight=1, timeout_s=0.3)
        references = make(reference)
        found = await asyncio.gather(*(reason(references, reference, 0.2) for _ in range(4)))
        assert set(found) == {"reference_timeout"}
        assert references._servers["ref"]._late == 1


async def test_an_answer_that_is_too_large(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken, and the reference is not left alone for it, nor sooner for one that is late afterwards."""
    monkeypatch.setattr(module, "MAX_ANSWER", 100)
    slow = [False]
    with serving(lambda path, asked: 0.6 if slow[0] else b" " * 200) as url:
        reference = Reference("ref", url, ("m",), timeout_s=0.3)
        references = make(reference)
        for _ in range(4):
            assert await reason(references, reference) == "reference_oversize"
        slow[0] = True
        assert await reason(references, reference) == "reference_timeout"
        assert references._servers["ref"]._again == 0


async def test_plain_http_beyond_this_machine(make: Make) -> None:
    """Without the settings' leave a reference elsewhere is not asked in clear text."""
    reference = Reference("ref", "http://192.0.2.1", ("m",))
    assert await reason(make(reference), reference) == "reference_unreachable"


def test_the_newest_calibration_that_fits() -> None:
    """Statistic, reference, model, revision and the policy's ids choose; of several the newest."""
    old, new = margins(GREEDY), margins(GREEDY, made="2026-02-01")
    others = [margins(Statistic.SEEDED_MARGIN), margins(GREEDY, "other"), margins(GREEDY, model="other"), margins(GREEDY, revision="weights-2", made="2026-03-01")]  # fmt: skip
    near, far = limits(), limits("other")
    known = Calibrations({c.id: c for c in (old, new, *others)}, {c.id: c for c in (near, far)})
    reference = Reference("ref", "http://127.0.0.1:9", ("m",), revision="weights-1")
    assert known.quantiles(GREEDY, reference, old.model, None) == new
    assert known.quantiles(GREEDY, reference, old.model, {old.id}) == old
    assert known.quantiles(GREEDY, reference, old.model, {others[3].id}) is None
    anything = Reference("ref", "http://127.0.0.1:9", ("m",))
    assert known.quantiles(GREEDY, anything, old.model, None) == others[3]
    assert known.limits(reference, near.model, None) == near
    assert known.limits(reference, near.model, {far.id}) is None


def test_calibrations_of_a_folder(tmp_path: Path) -> None:
    """Every JSON file in it is one, of either kind, known by its id."""
    made, values = margins(GREEDY), limits()
    (tmp_path / "a.json").write_bytes(made.document())
    (tmp_path / "b.json").write_bytes(values.document() + b"\n")
    (tmp_path / "README.md").write_text("not one")
    found = load_calibrations(str(tmp_path))
    assert (dict(found.reexec), dict(found.toploc)) == ({made.id: made}, {values.id: values})


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'{"kind":"toploc"}', json.dumps({"kind": 1}).encode(), b" " * 70_000, None],
    ids=range(8),
)
def test_what_is_no_calibration(tmp_path: Path, content: bytes | None) -> None:
    """The error names the file."""
    path = tmp_path / "bad.json"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"bad\.json"):
        load_calibrations(str(tmp_path))


@pytest.mark.parametrize("key", ["calibrations", "circuits"])
async def test_folders_that_are_not_there(tmp_path: Path, key: str) -> None:
    """A folder that the settings name has to be there."""
    pool = UpstreamPool()
    with pytest.raises(ConfigError, match=f"proofs.{key}: there is no folder"):
        open_proofs(load(f'[proofs]\n{key} = "{tmp_path}/none"'), pool, {})
    await pool.close()


async def test_a_circuit_that_is_none(tmp_path: Path) -> None:
    """A circuit that cannot be used stops the start, and is named."""
    (tmp_path / "c" / "one").mkdir(parents=True)
    (tmp_path / "c" / "one" / "circuit.toml").write_text("x = 1")
    pool = UpstreamPool()
    with pytest.raises(ConfigError, match=r"proofs\.circuits: .*circuit\.toml"):
        open_proofs(load(f'[proofs]\ncircuits = "{tmp_path}/c"'), pool, {})
    shutil.rmtree(tmp_path / "c" / "one")
    proofs = open_proofs(load(f'[proofs]\ncircuits = "{tmp_path}/c"\ncalibrations = "{tmp_path}"'), pool, {})
    await proofs.close()
    await open_proofs(load(""), pool, {}).close()  # nothing is configured, and nothing is looked for
    await pool.close()
