"""Where a node is: scheme, host, port and path prefix, parsed once and strictly.

    >>> origin = parse_origin("https://node.example:8443/tenant-1")
    >>> origin.target("/v1/chat/completions"), origin.authority
    (b'/tenant-1/v1/chat/completions', b'node.example:8443')

`base_url` is without `/v1`. Whoever parses says what is allowed: `allow_http` for plain HTTP beyond loopback (there is
then no channel to bind), `allow_private` for hosts that are, or resolve to, loopback, private or link-local addresses.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

import msgspec

from gateway.errors import ConfigError

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_PATH = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]+)*/?")
_PORTS = {"http": 80, "https": 443}


class Origin(msgspec.Struct, frozen=True):
    """One node's origin. `authority` is the Host header's value, `key` names the pool that its connections share."""

    scheme: str
    host: str
    port: int
    prefix: str
    allow_private: bool
    loopback_only: bool
    authority: bytes
    key: str

    @property
    def tls(self) -> bool:
        return self.scheme == "https"

    def target(self, path: str) -> bytes:
        """The request target of `path`, which starts with `/`."""
        return (self.prefix + path).encode("ascii")


def parse_origin(base_url: str, *, allow_http: bool = False, allow_private: bool = False) -> Origin:
    """Raises `ConfigError` for everything but `http(s)://host[:port][/prefix]` that the two permissions allow."""
    named = f"base_url {told(base_url)!r}"
    if not base_url.isascii() or any(c <= " " or c in '\\"<>^`{|}\x7f' for c in base_url):
        raise ConfigError(f"{named}: only plain ASCII is allowed (write an international name as xn--…)")
    try:
        parts = urlsplit(base_url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"{named}: {error}") from None
    if parts.scheme not in _PORTS or not parts.netloc:
        raise ConfigError(f"{named}: must start with https:// (or http:// for a node on this machine)")
    if "@" in parts.netloc:
        raise ConfigError("base_url: a user name or password is not allowed in it")
    if "?" in base_url or "#" in base_url:
        raise ConfigError(f"{named}: no query and no fragment; only a path prefix may follow the host")
    if port == 0 or parts.netloc.endswith(":"):
        raise ConfigError(f"{named}: the port is missing or 0")
    host, literal = _host(base_url, parts.hostname or "")
    port = port or _PORTS[parts.scheme]
    loopback = literal.is_loopback if literal else host == "localhost"
    if parts.scheme == "http" and not (loopback or allow_http):
        raise ConfigError(f"{named}: http is allowed to loopback only; use https or allow http")
    if not allow_private and (loopback or (literal is not None and not is_public(literal))):
        raise ConfigError(f"{named}: a loopback or private address has to be allowed explicitly")
    shown = f"[{host}]" if ":" in host else host
    authority = shown if port == _PORTS[parts.scheme] else f"{shown}:{port}"
    loopback_only = parts.scheme == "http" and not allow_http
    return Origin(
        scheme=parts.scheme,
        host=host,
        port=port,
        prefix=_prefix(base_url, parts.path),
        allow_private=allow_private,
        loopback_only=loopback_only,
        authority=authority.encode("ascii"),
        key=f"{parts.scheme}://{shown}:{port} {allow_private:d}{loopback_only:d}",
    )


def told(base_url: str) -> str:
    """An address for an error's sentence: without what may be a key there, a query, a user name or a password."""
    return re.sub("[?#].*", "?…", re.sub("^([^/?#]*//)?[^/?#]*@", r"\1…@", base_url), flags=re.DOTALL)


Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: Address) -> bool:
    """Whether `address` is an ordinary public unicast one, looking through the forms that carry an IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.teredo is not None or address.is_site_local:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _host(base_url: str, host: str) -> tuple[str, Address | None]:
    """The host in lower case, and its address when it is a literal one."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        if "[" in base_url:
            raise ConfigError(f"base_url {told(base_url)!r}: not an IPv6 address in the brackets") from None
        labels = host.split(".")
        # A last label of digits is an IPv4 address in one of the old spellings (127.1, 0x7f.1): never a name.
        numeric = re.fullmatch(r"\d+|0x[0-9a-f]*", labels[-1])
        if len(host) > 253 or numeric or not all(_LABEL.fullmatch(label) for label in labels):
            raise ConfigError(f"base_url {told(base_url)!r}: not a host name") from None
        return host, None
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
        raise ConfigError(f"base_url {told(base_url)!r}: an address with a zone is not allowed")
    return str(address), address


def _prefix(base_url: str, path: str) -> str:
    if not _PATH.fullmatch(path) or any(segment in {".", ".."} for segment in path.split("/")):
        raise ConfigError(f"base_url {told(base_url)!r}: not a plain path prefix")
    return path.rstrip("/")
