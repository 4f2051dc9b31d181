"""Origins are parsed once, strictly, and say what they allow."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConfigError
from gateway.upstream.address import permitted
from gateway.upstream.errors import AddressRefused, ConnectFailed
from gateway.upstream.origin import is_public, parse_origin


@pytest.mark.parametrize(
    ("url", "host", "port", "prefix", "authority"),
    [
        ("https://Node.Example", "node.example", 443, "", b"node.example"),
        ("https://node.example:443/", "node.example", 443, "", b"node.example"),
        ("https://node.example:8443/tenant-1/", "node.example", 8443, "/tenant-1", b"node.example:8443"),
        ("https://8.8.8.8/a/b", "8.8.8.8", 443, "/a/b", b"8.8.8.8"),
        ("https://[2606:4700::1]:9", "2606:4700::1", 9, "", b"[2606:4700::1]:9"),
        ("https://[2606:4700:0::1]", "2606:4700::1", 443, "", b"[2606:4700::1]"),
    ],
)
def test_an_origin_is_parsed_into_its_parts(url, host, port, prefix, authority):
    """Host is lower-cased, the default port left out of Host, a trailing slash is no prefix."""
    origin = parse_origin(url)
    assert (origin.host, origin.port, origin.prefix, origin.authority) == (host, port, prefix, authority)
    assert origin.tls
    assert origin.target("/v1/models?x=1") == f"{prefix}/v1/models?x=1".encode()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "node.example",
        "//node.example",
        "ftp://node.example",
        "file:///etc/passwd",
        "https://",
        "https:///v1",
        "https://user@node.example",
        "https://user:secret@node.example",
        "https://@node.example",
        "https://node.example?x=1",
        "https://node.example/?",
        "https://node.example/#",
        "https://node.example:0",
        "https://node.example:",
        "https://node.example:65536",
        "https://node.example:-1",
        "https://node.example:8o",
        "https://node example",
        "https://node.example/a b",
        "https://node.example/a\r\nx: y",
        "https://node.example\t",
        "https://node.example/../admin",
        "https://node.example/./a",
        "https://node.example//a",
        'https://node.example/"',
        "https://nöde.example",
        "https://-node.example",
        "https://node..example",
        "https://.node.example",
        "https://node.example.",
        "https://" + "a" * 64 + ".example",
        "https://" + "a." * 130 + "example",
        "https://[::1",
        "https://[fe80::1%25eth0]",
        "https://[v1.x]",
        "https://127.1",
        "https://0x7f.0.0.1",
        "https://2130706433",
        "https://0x7f000001",
        "https://0x",
        "https://127.0.0.01",
        "http://node.example",
        "http://10.0.0.1",
        "http://localhost.example",
    ],
)
def test_anything_but_a_plain_base_url_is_refused(url):
    """A URL that could mean two things to two parsers is a ConfigError, even where everything is allowed but http."""
    with pytest.raises(ConfigError):
        parse_origin(url, allow_private=True)


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1",
        "https://localhost",
        "http://localhost:9001",
        "https://10.1.2.3",
        "https://169.254.169.254",
        "https://100.64.0.1",
        "https://0.0.0.0",
        "https://224.0.0.1",
        "https://[::1]",
        "https://[::]",
        "https://[fe80::1]",
        "https://[fd00::1]",
        "https://[ff02::1]",
        "https://[::ffff:127.0.0.1]",
        "https://[64:ff9b::7f00:1]",
        "https://[2002:7f00:1::]",
        "https://[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
        "https://[fec0::1]",
    ],
)
def test_e19_a_private_literal_needs_permission(url):
    """Loopback, private, link-local and everything that embeds such an address is refused unless allowed."""
    with pytest.raises(ConfigError, match="allowed explicitly"):
        parse_origin(url, allow_http=True)
    assert parse_origin(url, allow_http=True, allow_private=True).allow_private


def test_http_is_for_loopback_unless_allowed():
    """Plain HTTP goes to loopback alone; with `allow_http` it may go further, and the origin remembers which."""
    assert parse_origin("http://127.0.0.1:9001", allow_private=True).loopback_only
    assert parse_origin("http://[::1]:9001", allow_private=True).loopback_only
    assert not parse_origin("http://node.example", allow_http=True).loopback_only
    assert parse_origin("http://node.example", allow_http=True).port == 80


def test_origins_that_allow_differently_do_not_share_connections():
    """The pool key differs with the permissions, and not with the prefix."""
    url = "https://node.example/a"
    assert parse_origin(url).key != parse_origin(url, allow_private=True).key
    assert parse_origin(url).key == parse_origin("https://node.example/b").key


@given(st.text(max_size=60))
def test_parsing_any_text_gives_an_origin_or_a_config_error(text):
    """No text makes the parser raise anything else."""
    try:
        origin = parse_origin("https://" + text, allow_private=True)
    except ConfigError:
        return
    assert origin.authority.isascii()
    assert not set(origin.authority) & set(b" \r\n\t/@#?")


async def resolving(origin, *addresses, most=4):
    async def resolve(host, port):
        return list(addresses)

    return [str(address) for address in await permitted(origin, resolve, most)]


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "10.0.0.8", "fd00::1", "::1", "::ffff:10.0.0.1"])
async def test_e19_a_name_that_resolves_to_a_private_address_is_refused(address):
    """A public name that points inside (rebinding) is refused at the address that would be connected to."""
    with pytest.raises(AddressRefused) as caught:
        await resolving(parse_origin("https://node.example"), address)
    assert caught.value.reason == "address_refused"
    assert not caught.value.sent
    assert await resolving(parse_origin("https://node.example", allow_private=True), address) == [
        str(ipaddress.ip_address(address))
    ]


async def test_only_the_public_ones_of_mixed_addresses_are_used():
    """Of several addresses the refused ones are skipped and the rest kept in order, up to the limit."""
    origin = parse_origin("https://node.example")
    assert await resolving(origin, "127.0.0.1", "8.8.8.8", "1.1.1.1") == ["8.8.8.8", "1.1.1.1"]
    assert await resolving(origin, "8.8.8.8", "1.1.1.1", most=1) == ["8.8.8.8"]


async def test_plain_http_stays_on_loopback_whatever_localhost_resolves_to():
    """`http://localhost` that resolves elsewhere is refused: there would be no TLS on that way."""
    origin = parse_origin("http://localhost:9001", allow_private=True)
    with pytest.raises(AddressRefused):
        await resolving(origin, "10.0.0.1")
    assert await resolving(origin, "127.0.0.1") == ["127.0.0.1"]


async def test_a_multicast_or_unspecified_address_is_refused_even_where_private_ones_are_allowed():
    """0.0.0.0 and multicast name no peer."""
    for address in ("0.0.0.0", "::", "224.0.0.1"):
        with pytest.raises(AddressRefused):
            await resolving(parse_origin("https://node.example", allow_private=True), address)


async def test_a_name_without_an_address_cannot_be_connected_to():
    """Neither an empty answer nor a failing resolver is an address."""

    async def failing(host, port):
        raise OSError("no such name")

    with pytest.raises(ConnectFailed, match="no address"):
        await resolving(parse_origin("https://node.example"))
    with pytest.raises(ConnectFailed, match="does not resolve"):
        await permitted(parse_origin("https://node.example"), failing, 4)
    with pytest.raises(ConnectFailed, match="does not resolve"):
        await resolving(parse_origin("https://node.example"), "not an address")


def test_ordinary_addresses_are_public():
    """The rule does not refuse the public internet."""
    for text in ("8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "2002:808:808::1"):
        assert is_public(ipaddress.ip_address(text))
