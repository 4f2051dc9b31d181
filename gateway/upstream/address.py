"""From a host name to the addresses that may be connected to: resolve, check, and connect to exactly those (T19).

The check is on the address that is then used, so a name that was public when it was configured and is 127.0.0.1 or
169.254.169.254 now (DNS rebinding, E19) is refused, whatever it was before.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Awaitable, Callable

from .errors import AddressRefused, ConnectFailed, TooManyConnections
from .origin import Address, Origin, is_public

#: Host and port to address literals, in order of preference. Raises `OSError`.
Resolver = Callable[[str, int], Awaitable[list[str]]]


async def permitted(origin: Origin, resolve: Resolver, most: int) -> list[Address]:
    """The addresses of `origin` that may be connected to, at most `most`.

    Raises `ConnectFailed` when the name does not resolve, `AddressRefused` when no address of it is allowed.
    """
    try:
        literals = [origin.host] if _is_literal(origin.host) else await resolve(origin.host, origin.port)
        found = [ipaddress.ip_address(literal) for literal in literals]
    except (OSError, UnicodeError, ValueError):
        raise ConnectFailed(detail=f"{origin.host} does not resolve") from None
    allowed = [address for address in found if _allowed(origin, address)]
    if not allowed:
        if not found:
            raise ConnectFailed(detail=f"{origin.host} has no address")
        raise AddressRefused(detail=f"{origin.host} is {found[0]}")
    return allowed[:most]


async def dial(addresses: list[Address], port: int, deadline: float) -> socket.socket:
    """A connected socket to the first address that answers by `deadline` (loop time); each gets its share of the time.

    Raises `ConnectFailed`, `TooManyConnections` when this process may open no more files, or `TimeoutError` when the
    last one did not answer at all.
    """
    loop = asyncio.get_running_loop()
    for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        try:
            sock = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise TooManyConnections(detail="no more files may be opened") from None
            continue  # a family that this machine has not
        connected = False
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout((deadline - loop.time()) / left):
                await loop.sock_connect(sock, (str(address), port))
            connected = True
            return sock
        except TimeoutError:
            if left == 1:
                raise
        except OSError:
            continue
        finally:
            if not connected:
                sock.close()
    raise ConnectFailed


def _is_literal(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()


def _allowed(origin: Origin, address: Address) -> bool:
    if origin.loopback_only:
        return origin.allow_private and address.is_loopback
    return is_public(address) or (origin.allow_private and not (address.is_multicast or address.is_unspecified))
