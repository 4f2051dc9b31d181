"""The SGX extension of a PCK certificate, and a DER reader that knows one spelling."""

from __future__ import annotations

import hashlib

import pytest
from tee_worlds.intel import COMPONENTS, NOW, World, certificate, number, pair, sgx_extension, tlv

from gateway.errors import FormatError
from gateway.verify.tee.pck import Pck, read_pck

W = World()


def read(extension: bytes | None) -> Pck:
    return read_pck(certificate("x", W.pck_key, W.ca, W.ca_key, begins=NOW - 1, ends=NOW + 1, extension=extension))


def members(**changes: bytes | None) -> bytes:
    """The extension made of its members, some of them replaced or left out."""
    tcb = [pair((2, place), number(svn)) for place, svn in enumerate(COMPONENTS, 1)]
    parts: dict[str, bytes | None] = {
        "ppid": pair((1,), tlv(4, bytes(16))),
        "tcb": pair((2,), tlv(0x30, b"".join([*tcb, pair((2, 17), number(13)), pair((2, 18), tlv(4, bytes(16)))]))),
        "pceid": pair((3,), tlv(4, bytes(2))),
        "fmspc": pair((4,), tlv(4, bytes(6))),
        "type": pair((5,), number(1, 0x0A)),
    }
    return tlv(0x30, b"".join(part for part in {**parts, **changes}.values() if part is not None))


def test_all_members_are_read() -> None:
    """Every member comes out with its own value; the machine's name is the digest of its PPID."""
    pck = read(
        sgx_extension(fmspc=b"fmspc!", components=bytes(range(240, 256)), pce_svn=65_535, ppid=b"p" * 16, smt=False)
    )
    assert (pck.fmspc, pck.components, pck.pce_svn, pck.ppid) == (b"fmspc!", bytes(range(240, 256)), 65_535, b"p" * 16)
    assert (pck.dynamic_platform, pck.cached_keys, pck.smt_enabled, pck.sgx_type) == (True, False, False, 1)
    assert pck.machine_id == hashlib.sha256(b"p" * 16).hexdigest()


def test_optional_members_may_be_missing() -> None:
    """Type, instance and configuration are None where the certificate has none."""
    pck = read(members(type=None))
    assert [pck.sgx_type, pck.platform_instance_id, pck.dynamic_platform, pck.cached_keys, pck.smt_enabled] == [
        None
    ] * 5
    assert read(members(flags=pair((7,), tlv(0x30, b"")))).smt_enabled is None


def numbered(value: bytes) -> bytes:
    """The extension with the first component spelled as `value`."""
    rest = [pair((2, place), number(1)) for place in range(2, 18)]
    return members(
        tcb=pair((2,), tlv(0x30, b"".join([pair((2, 1), tlv(2, value)), *rest, pair((2, 18), tlv(4, bytes(16)))])))
    )


REFUSED = {
    "none": None,
    "empty": b"",
    "no-sequence": tlv(0x31, b""),
    "two-sequences": members() + members(),
    "cut": members()[:-1],
    "ppid-missing": members(ppid=None),
    "tcb-missing": members(tcb=None),
    "ppid-15": members(ppid=pair((1,), tlv(4, bytes(15)))),
    "fmspc-5": members(fmspc=pair((4,), tlv(4, bytes(5)))),
    "fmspc-of-another-type": members(fmspc=pair((4,), number(5))),
    "instance-15": members(instance=pair((6,), tlv(4, bytes(15)))),
    "member-twice": members(again=pair((1,), tlv(4, bytes(16)))),
    "member-of-another-arc": members(extra=tlv(0x30, tlv(6, b"\x2a\x03\x04") + tlv(4, b""))),
    "member-no-pair": members(extra=tlv(0x30, tlv(6, b"\x2a"))),
    "member-no-sequence": members(extra=tlv(4, b"")),
    "member-no-oid": members(extra=tlv(0x30, tlv(4, b"") + tlv(4, b""))),
    "component-256": numbered(b"\x01\x00"),
    "component-negative": numbered(b"\x80"),
    "component-empty": numbered(b""),
    "component-with-zeros": numbered(b"\x00\x05"),
    "type-256": members(type=pair((5,), number(256, 0x0A))),
    "flag-neither": members(flags=pair((7,), tlv(0x30, pair((7, 1), tlv(1, b"\x01"))))),
    "flag-of-two-bytes": members(flags=pair((7,), tlv(0x30, pair((7, 1), tlv(1, b"\xff\xff"))))),
    "flags-no-sequence": members(flags=pair((7,), tlv(4, b""))),
    "length-not-minimal": b"\x30\x81\x05" + bytes(5),
    "length-with-zero": b"\x30\x82\x00\x85" + bytes(0x85),
    "length-indefinite": b"\x30\x80" + bytes(2),
    "length-of-three-bytes": b"\x30\x83\x01\x00\x00" + bytes(0x10000 % 1000),
    "length-missing": b"\x30",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_extension(name: str) -> None:
    """A member missing, repeated, of another type or length, or DER in a second spelling is refused."""
    with pytest.raises(FormatError) as caught:
        read(REFUSED[name])
    assert caught.value.reason == "pck_malformed"


def test_lengths_of_one_and_two_bytes() -> None:
    """Long members with DER's longer lengths are read."""
    for size in (0x80, 0x100):
        pck = read(members(extra=pair((9,), tlv(4, bytes(size)))))
        assert pck.pce_svn == 13
