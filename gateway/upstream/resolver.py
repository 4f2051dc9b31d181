"""The system's resolver, on threads of its own: a name server that does not answer takes only these.

    resolve = SystemResolver()
    literals = await resolve("node.example", 443)        # raises `OSError`, or `UnicodeError` for what is no name

A lookup cannot be ended from outside: a deadline ends the wait for it, not its thread. So there is one lookup at a time
for each host, shared by all who wait, on at most `THREADS` threads; and hosts that made theirs wait the last time get
no more than `THREADS_HUNG` of them. The threads are daemons, so that none holds up the end of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from concurrent.futures import Future

#: Lookups at a time, and how many of them for hosts whose last one took longer than `HUNG_S`.
THREADS, THREADS_HUNG = 32, 16
HUNG_S = 2.0


class SystemResolver:
    """One per event loop; a `Resolver`."""

    def __init__(self) -> None:
        self._flights: dict[str, asyncio.Task[list[str]]] = {}
        self._hung: set[str] = set()
        self._turn, self._turn_hung = asyncio.Semaphore(THREADS), asyncio.Semaphore(THREADS_HUNG)

    async def __call__(self, host: str, _port: int) -> list[str]:
        """The addresses of `host`, without doubles."""
        flight = self._flights.get(host)
        if flight is None:
            flight = self._flights[host] = asyncio.ensure_future(self._look_up(host))
            flight.add_done_callback(lambda done: self._landed(host, done))
        return await asyncio.shield(flight)

    def _landed(self, host: str, flight: asyncio.Task[list[str]]) -> None:
        del self._flights[host]
        if not flight.cancelled():
            flight.exception()  # perhaps nobody waits for it any more

    async def _look_up(self, host: str) -> list[str]:
        async with self._turn_hung if host in self._hung else contextlib.nullcontext(), self._turn:
            loop = asyncio.get_running_loop()
            begun = loop.time()
            try:
                return await _on_a_thread(host)
            finally:
                (self._hung.add if loop.time() - begun > HUNG_S else self._hung.discard)(host)


async def _on_a_thread(host: str) -> list[str]:
    found = Future[list[str]]()
    found.set_running_or_notify_cancel()  # from here on the thread settles it, whoever still waits

    def ask() -> None:
        try:
            found.set_result(_addresses(host))
        except Exception as error:  # noqa: BLE001 - whoever waits is told, whatever it is
            found.set_exception(error)

    threading.Thread(target=ask, name="resolver", daemon=True).start()
    return await asyncio.wrap_future(found)


def _addresses(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
