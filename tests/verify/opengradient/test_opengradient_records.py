"""The registry's records in the three layouts that are deployed, and the calls that fetch them."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from eth_abi import encode
from hypothesis import given, settings
from hypothesis import strategies as st
from opengradient_world.registry_answers import (
    INFO_10,
    INFO_11,
    KEY,
    NO_OHTTP,
    OHTTP_V2,
    OWNER,
    PAYEE,
    REGISTER,
    call,
    info,
    register,
    spki,
    tee_id,
    tees_10,
    tees_11,
    tees_v2,
)

from gateway.errors import FormatError
from gateway.verify.opengradient import registry
from gateway.verify.opengradient.registry_calldata import (
    CALLS,
    MAX_REGISTRATION,
    VIEWS,
    calldata,
    decode_registration,
    selector,
)

BAD_TEXT = b"\xff\xfe"


def with_bad_text(data: bytes, text: str) -> bytes:
    assert data.count(text.encode()) == 1
    return data.replace(text.encode()[:2], BAD_TEXT, 1)


SELECTORS = {
    "getActiveTEEs": "4b6014da",
    "getEnabledTEEs": "63b86b89",
    "isTEEActive": "a3bf31f1",
    "getTEEPublicKey": "2cbe7552",
    "isPCRApproved": "9831ced5",
    "pcrRecords": "2068b3db",
    "getActiveTEERecordsWithOHTTPConfig": "046c59d7",
    "getTEE": "418b207d",
    "getTEEsByType": "b82644b7",
    "isTEEEnabled": "927d3c95",
    "heartbeatMaxAge": "87267aca",
    "getApprovedPCRs": "5766275a",
    "awsRootCertificate": "f44a0780",
    "getOHTTPConfig": "abbf8f6a",
}


def test_selectors_are_the_contracts() -> None:
    """Each is computed from its signature and is the one that stands in deployed clients."""
    assert {name: selector(name, types).hex() for name, types in VIEWS.items()} == SELECTORS
    assert {found.hex(): name for found, name in CALLS.items()} == {v: k for k, v in SELECTORS.items()}
    assert register(0)[:4].hex() == "15c9bdb4"


def test_calldata_is_selector_and_arguments() -> None:
    """A view without arguments is four bytes; a wrong argument is refused."""
    assert calldata("getActiveTEEs", 0) == bytes.fromhex("4b6014da" + "00" * 32)
    assert calldata("isPCRApproved", 1, b"h" * 32) == bytes.fromhex("9831ced5" + "00" * 31 + "01") + b"h" * 32
    assert calldata("heartbeatMaxAge").hex() == "87267aca"
    for arguments in ((), (1, 2), (b"short",), (-1,)):
        with pytest.raises(FormatError):
            calldata("getActiveTEEs", *arguments)


def test_eleven_fields() -> None:
    """Every field of the newest layout arrives, and the id is computed from the key."""
    found = registry.decode_tees(tees_11(info(1)))
    assert found.refused == ()
    assert found.records == (
        registry.TeeRecord(
            tee_id=tee_id(1),
            owner=OWNER,
            payment_address=PAYEE,
            endpoint="https://node-1.example",
            public_key=spki(1),
            tls_certificate=b"der-1",
            pcr_hash=info(1)[5],
            tee_type=0,
            enabled=True,
            registered_at=1_790_000_001,
            last_heartbeat_at=1_790_001_001,
            ohttp=registry.OhttpRecord(1, 0x20, 1, 3, b"K" * 32, b"C" * 41, 1_790_000_100),
            layout="tee-info-11",
        ),
    )


@pytest.mark.parametrize(
    ("data", "read", "layout", "ohttp"),
    [
        (tees_11(info(1), ohttp=NO_OHTTP), registry.decode_tees, "tee-info-11", None),
        (tees_11(info(1), ohttp=(0, 0, 0, 0, b"k", b"", 0)), registry.decode_tees, "tee-info-11", b"k"),
        (tees_10(info(1)), registry.decode_tees, "tee-info-10", None),
        (tees_v2(info(1)), registry.decode_v2_tees, "registry-v2", b"K" * 32),
    ],
)
def test_layouts_are_told_apart(data: bytes, read: Any, layout: str, ohttp: bytes | None) -> None:
    """The bytes say which layout they have; an OHTTP config of zeros is none."""
    (record,) = read(data).records
    assert (record.layout, record.tee_id) == (layout, tee_id(1))
    assert (record.ohttp and record.ohttp.public_key) == ohttp
    assert (record.ohttp.updated_at if layout == "registry-v2" else None) in (None, 1_790_000_200)


def test_one_record() -> None:
    """`getTEE` gives one record in either layout."""
    assert registry.decode_tee(encode([INFO_11], [(*info(2), KEY)])).layout == "tee-info-11"
    assert registry.decode_tee(encode([INFO_10], [info(2)])).tee_id == tee_id(2)
    for data in (b"", b"\0" * 32, encode([INFO_10], [info(2)]) + bytes(32), tees_10(info(2))):
        with pytest.raises(FormatError):
            registry.decode_tee(data)


@pytest.mark.parametrize("read", [registry.decode_tees, registry.decode_v2_tees])
def test_an_empty_registry_is_an_answer(read: Any) -> None:
    """No records and none refused."""
    assert read(tees_10()) == registry.Records(())


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (tees_11(info(1), info(1, owner=PAYEE)), "duplicate_tee"),
        (with_bad_text(tees_11(info(1), info(2, endpoint="@@bad")), "@@bad"), "abi_malformed"),
        (tees_11(info(1), info(2, endpoint="x" * 2049)), "field_too_long"),
        (tees_11(info(1), info(2, key=b"x" * 4097)), "field_too_long"),
        (tees_11(info(1), info(2, certificate=b"x" * 16385)), "field_too_long"),
        (tees_11(info(1), info(2, registered=2**63)), "record_malformed"),
        (tees_11(info(1), info(2, heartbeat=2**256 - 1)), "record_malformed"),
    ],
)
def test_a_record_that_cannot_be_used_leaves_the_others(bad: bytes, reason: str) -> None:
    """Whoever registers nonsense hides no TEE but its own."""
    found = registry.decode_tees(bad)
    assert [record.tee_id for record in found.records] == [tee_id(1)]
    assert [(entry.index, entry.reason) for entry in found.refused] == [(1, reason)]


def test_an_id_that_is_not_the_keys_is_refused() -> None:
    """V2 states ids; one that names another key is not used."""
    found = registry.decode_v2_tees(tees_v2(info(1), info(2), ids=[tee_id(1), tee_id(3)]))
    assert [record.tee_id for record in found.records] == [tee_id(1)]
    assert [entry.reason for entry in found.refused] == ["tee_id_mismatch"]


def test_a_malformed_list_is_refused_whole() -> None:
    """A list that does not hold together gives no records at all; bytes cut or added spoil the record they touch."""
    whole = tees_11(info(1))
    for data in (b"", whole[:64], whole[32:], whole[:-1]):
        with pytest.raises(FormatError):
            registry.decode_tees(data)
    for data in (whole[:-32], whole + bytes(32)):
        found = registry.decode_tees(data)
        assert (found.records, [entry.reason for entry in found.refused]) == ((), ["abi_malformed"])


ANSWERS: list[tuple[str, tuple[Any, ...], bytes, object]] = [
    ("isTEEActive", (tee_id(1),), encode(["bool"], [True]), True),
    ("isTEEEnabled", (tee_id(1),), encode(["bool"], [False]), False),
    ("isPCRApproved", (0, b"h" * 32), encode(["bool"], [True]), True),
    ("heartbeatMaxAge", (), encode(["uint256"], [1800]), 1800),
    ("awsRootCertificate", (), encode(["bytes"], [b"root"]), b"root"),
    ("getTEEPublicKey", (tee_id(1),), encode(["bytes"], [spki(1)]), spki(1)),
    ("getEnabledTEEs", (0,), encode(["bytes32[]"], [[tee_id(1)]]), (tee_id(1),)),
    ("getTEEsByType", (0,), encode(["bytes32[]"], [[]]), ()),
    (
        "getApprovedPCRs",
        (),
        encode(["(bytes32,uint8)[]"], [[(b"h" * 32, 1)]]),
        (registry.PcrKey(b"h" * 32, 1),),
    ),
    (
        "pcrRecords",
        (0, b"h" * 32),
        encode(["bool", "uint8", "uint256", "string"], [True, 0, 1_790_000_000, "v1.2.0"]),
        registry.PcrRecord(True, 0, 1_790_000_000, "v1.2.0"),
    ),
    (
        "getOHTTPConfig",
        (tee_id(1),),
        encode([OHTTP_V2], [(*KEY, 5)]),
        registry.OhttpRecord(1, 0x20, 1, 3, b"K" * 32, b"C" * 41, 1_790_000_100, 5),
    ),
    ("getActiveTEEs", (0,), tees_10(), registry.Records(())),
    ("getActiveTEERecordsWithOHTTPConfig", (0,), tees_10(), registry.Records(())),
    ("getTEE", (tee_id(1),), encode([INFO_10], [info(1)]), registry.decode_tees(tees_10(info(1))).records[0]),
]


@pytest.mark.parametrize(("view", "arguments", "data", "expected"), ANSWERS, ids=[row[0] for row in ANSWERS])
def test_a_stored_read_is_read_again(view: str, arguments: tuple[Any, ...], data: bytes, expected: object) -> None:
    """Calldata names the view, and the view how its answer is read; trailing bytes are refused in each."""
    assert registry.decode_answer(calldata(view, *arguments), data) == (view, expected)
    with pytest.raises(FormatError):
        registry.decode_answer(calldata(view, *arguments), data + bytes(32))


def test_every_view_can_be_read_again() -> None:
    """No view is without a reader, and what is none of ours is refused."""
    assert {row[0] for row in ANSWERS} == set(VIEWS)
    with pytest.raises(FormatError) as caught:
        registry.decode_answer(b"\1\2\3\4", b"")
    assert caught.value.reason == "selector_unknown"


def test_a_registration_is_taken_out_of_calldata() -> None:
    """The attestation document, the key, the certificate, the payee, the endpoint and the type."""
    found = decode_registration(register(1, b"document"))
    assert (found.document, found.spki, found.tls_certificate) == (b"document", spki(1), b"der-1")
    assert (found.payment_address, found.endpoint, found.tee_type) == (PAYEE, "https://node-1.example", 0)
    assert found.ohttp_signature is None


def test_a_registration_with_an_ohttp_key_is_one_too() -> None:
    """TEERegistryV2's form carries the enclave's signature over its OHTTP config."""
    types = [*REGISTER, "uint8", "uint16", "uint16", "uint16", "bytes", "bytes", "bytes"]
    values = [b"document", spki(1), b"der", PAYEE, "https://a", 0, 1, 0x20, 1, 3, b"K" * 32, b"C" * 41, b"S" * 256]
    data = call(f"registerTEEWithAttestationAndOHTTPConfig({','.join(types)})", types, values)
    found = decode_registration(data)
    assert (found.document, found.ohttp_signature) == (b"document", b"S" * 256)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "registration_unknown"),
        (b"\1\2\3\4" + bytes(64), "registration_unknown"),
        (register(1)[:-32], "abi_malformed"),
        (register(1) + bytes(32), "abi_malformed"),
        (register(1)[:4] + bytes(192), "abi_malformed"),
        (register(1, b"x" * 300_000), "too_large"),
        (bytes(MAX_REGISTRATION + 1), "too_large"),
        (
            register(1).replace(b"https://node-1.example", b"https://node-1.\xff\xff\xff\xff\xff\xff\xff"),
            "abi_malformed",
        ),
    ],
)
def test_what_is_no_registration_is_refused(data: bytes, reason: str) -> None:
    """Another function, bytes cut or added, and calldata that is too long."""
    with pytest.raises(FormatError) as caught:
        decode_registration(data)
    assert caught.value.reason == reason


def test_a_long_endpoint_is_no_registration() -> None:
    """The endpoint of a registration is as short as that of a record."""
    data = call(f"registerTEEWithAttestation({','.join(REGISTER)})", REGISTER, [b"", b"", b"", PAYEE, "x" * 2049, 0])
    with pytest.raises(FormatError, match="endpoint"):
        decode_registration(data)


GENUINE = [tees_11(info(1), info(2)), tees_10(info(1), info(2)), tees_v2(info(1)), register(1)]


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 3), st.lists(st.tuples(st.integers(0, 4000), st.binary(min_size=1, max_size=32)), max_size=3))
def test_changed_answers_give_records_or_our_error(which: int, changes: list[tuple[int, bytes]]) -> None:
    """Bytes that were changed anywhere are read, refused in part, or refused; nothing else is raised."""
    data = bytearray(GENUINE[which])
    for at, new in changes:
        start = at % len(data)
        data[start : start + len(new)] = new[: len(data) - start]
    for read in (registry.decode_tees, registry.decode_v2_tees, registry.decode_tee, decode_registration):
        with contextlib.suppress(FormatError):
            assert read(bytes(data)) is not None
