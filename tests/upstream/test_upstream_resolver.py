"""Names to addresses, where a name server does not answer."""

import asyncio
import contextlib
import socket
import threading

import pytest

from gateway.upstream import resolver
from gateway.upstream.errors import ChannelError
from gateway.upstream.origin import parse_origin
from gateway.upstream.pool import UpstreamPool
from gateway.upstream.resolver import THREADS, THREADS_HUNG, SystemResolver

PLACE = (socket.AF_INET, socket.SOCK_STREAM, 6, "")


class Names:
    """The system's resolver: names under `evil.example` are answered once `release` is set, and not found then."""

    def __init__(self):
        self.release = threading.Event()
        self.asked = []

    def getaddrinfo(self, host, port, **how):
        self.asked.append(host)
        if host.endswith("evil.example"):
            self.release.wait(20)
            raise socket.gaierror(-2, "Name or service not known")
        return [(*PLACE, ("192.0.2.1", 0)), (*PLACE, ("192.0.2.2", 0)), (*PLACE, ("192.0.2.1", 0))]


@pytest.fixture
def names(monkeypatch):
    names = Names()
    monkeypatch.setattr(resolver.socket, "getaddrinfo", names.getaddrinfo)
    yield names
    names.release.set()


def evil(count):
    return [f"{n}.evil.example" for n in range(count)]


async def begun(resolve, hosts):
    """Lookups of `hosts`, under way."""
    tasks = [asyncio.ensure_future(resolve(host, 443)) for host in hosts]
    await asyncio.sleep(0.1)
    return tasks


async def ended(tasks):
    """Whether all of them were not found."""
    return all(isinstance(e, socket.gaierror) for e in await asyncio.gather(*tasks, return_exceptions=True))


async def test_a_name_has_its_addresses_once(names):
    """In the system's order, without doubles; and nothing is remembered."""
    resolve = SystemResolver()
    assert await resolve("honest.example", 443) == ["192.0.2.1", "192.0.2.2"]
    assert await resolve("honest.example", 80) == ["192.0.2.1", "192.0.2.2"]
    assert names.asked == ["honest.example"] * 2


async def test_a_host_that_hangs_takes_one_thread_however_many_wait(names):
    """One lookup for all of its connections, which end by their deadlines; threads of others are not touched."""
    pool = UpstreamPool()
    origin = parse_origin("https://evil.example")
    waiting = [asyncio.ensure_future(pool.acquire(origin, None, 0.3)) for _ in range(100)]
    await asyncio.sleep(0.1)
    async with asyncio.timeout(5):
        await asyncio.to_thread(lambda: None)
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert {type(e).__name__ for e in errors} == {"ConnectTimeout"}
    with contextlib.suppress(ChannelError):
        await pool.acquire(origin, None, 0.1)
    assert names.asked == ["evil.example"]
    names.release.set()
    with pytest.raises(ChannelError) as caught:
        await pool.acquire(origin, None, 5)
    assert caught.value.reason == "connect_failed"
    await pool.close()


async def test_hosts_that_hung_before_leave_threads_to_the_others(names, monkeypatch):
    """More of them than there are threads hold up the others once; the next time they wait for each other."""
    monkeypatch.setattr(resolver, "HUNG_S", 0.5)
    resolve = SystemResolver()
    first = await begun(resolve, evil(THREADS + 8))
    assert len(names.asked) == THREADS
    honest = await begun(resolve, ["honest.example"])
    assert not honest[0].done()
    await asyncio.sleep(0.6)
    names.release.set()
    assert await ended(first)
    assert len(await honest[0]) == 2

    names.release.clear()
    names.asked.clear()
    again = await begun(resolve, evil(THREADS))
    assert len(names.asked) == THREADS_HUNG
    async with asyncio.timeout(5):
        assert len(await resolve("honest.example", 443)) == 2
    names.release.set()
    assert await ended(again)
    assert len(names.asked) == THREADS + 1


async def test_a_host_that_answers_again_waits_with_nobody(names, monkeypatch):
    """What hung once counts as hanging until it answers in time."""
    monkeypatch.setattr(resolver, "HUNG_S", 2.0)
    resolve = SystemResolver()
    hung = await begun(resolve, evil(THREADS_HUNG + 1))
    await asyncio.sleep(2.1)
    names.release.set()
    assert await ended(hung)
    assert await ended([asyncio.ensure_future(resolve("0.evil.example", 443))])
    names.release.clear()
    hung = await begun(resolve, evil(THREADS_HUNG + 1)[1:])
    names.asked.clear()
    hung += await begun(resolve, ["0.evil.example"])
    async with asyncio.timeout(5):
        while names.asked != ["0.evil.example"]:
            await asyncio.sleep(0.02)
    names.release.set()
    assert await ended(hung)


def test_a_lookup_that_hangs_holds_up_no_end(names):
    """The loop ends at once, and so can the process; what the thread finds afterwards is dropped."""

    async def main():
        await begun(SystemResolver(), ["evil.example"])

    asyncio.run(main())
    (thread,) = [t for t in threading.enumerate() if t.name == "resolver"]
    assert thread.daemon
    names.release.set()
    thread.join(5)
    assert not thread.is_alive()
