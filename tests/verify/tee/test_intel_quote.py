"""The quote parser: exact lengths, closed sets, and nothing behind the end but zeros."""

from __future__ import annotations

import struct

import pytest
from tee_worlds.intel import World, enclave_report, mark, td_report

from gateway.errors import FormatError
from gateway.verify.tee.quote import EnclaveReport, TdReport, is_sgx, parse_quote

W = World()
QUOTE = W.quote()
SIGNATURE_AT = 48 + 584 + 4
CERTIFICATION_AT = SIGNATURE_AT + 128
AUTH_AT = CERTIFICATION_AT + 6 + 384 + 64
CHAIN_AT = AUTH_AT + 2 + 32


def put(at: int, form: str, *values: int, data: bytes = QUOTE) -> bytes:
    new = struct.pack(form, *values)
    return data[:at] + new + data[at + len(new) :]


def u32(at: int, data: bytes = QUOTE) -> int:
    return int(struct.unpack_from("<I", data, at)[0])


V5 = W.quote(version=5)
SGX = W.sgx_quote()
REFUSED = {
    "empty": (b"", "quote_too_short"),
    "header-only": (QUOTE[:48], "quote_too_short"),
    "one-short-of-the-least": (QUOTE[: 48 + 384 + 3], "quote_too_short"),
    "over-the-limit": (QUOTE + bytes(65_536), "quote_too_long"),
    "key-type": (put(2, "<H", 3), "quote_unsupported_key_type"),
    "vendor": (put(12, "<B", 0), "quote_bad_qe_vendor"),
    "version-2": (put(0, "<H", 2), "quote_bad_version_tee"),
    "version-3-tdx": (put(0, "<H", 3), "quote_bad_version_tee"),
    "version-4-sgx": (put(4, "<I", 0), "quote_bad_version_tee"),
    "version-5-sgx": (put(4, "<I", 0, data=V5), "quote_bad_version_tee"),
    "tee-type-of-32-bits": (put(4, "<I", 0x1_0081), "quote_bad_version_tee"),
    "body-type-sgx": (put(48, "<H", 1, data=V5), "quote_bad_body_type"),
    "body-type-4": (put(48, "<H", 4, data=V5), "quote_bad_body_type"),
    "body-size": (put(50, "<I", 647, data=V5), "quote_bad_body_type"),
    "body-cut": (V5[:600], "quote_truncated"),
    "signature-size-cut": (QUOTE[: SIGNATURE_AT - 2], "quote_truncated"),
    "signature-size-over": (put(SIGNATURE_AT - 4, "<I", u32(SIGNATURE_AT - 4) + 1), "quote_truncated"),
    "signature-size-huge": (put(SIGNATURE_AT - 4, "<I", 0xFFFF_FFFF), "quote_truncated"),
    "signature-size-under": (put(SIGNATURE_AT - 4, "<I", u32(SIGNATURE_AT - 4) - 2), "quote_trailing_bytes"),
    "signature-size-zero": (put(SIGNATURE_AT - 4, "<I", 0, data=QUOTE[:SIGNATURE_AT]), "quote_bad_cert_len"),
    "certification-type": (put(CERTIFICATION_AT, "<H", 5), "quote_bad_cert_data"),
    "certification-size": (put(CERTIFICATION_AT + 2, "<I", 7), "quote_bad_cert_data"),
    "auth-size": (put(AUTH_AT, "<H", 0xFFFF), "quote_bad_cert_len"),
    "chain-type": (put(CHAIN_AT, "<H", 3), "quote_no_pck_chain"),
    "chain-size-under": (put(CHAIN_AT + 2, "<I", u32(CHAIN_AT + 2) - 1), "quote_bad_cert_len"),
    "chain-size-over": (put(CHAIN_AT + 2, "<I", u32(CHAIN_AT + 2) + 1), "quote_bad_cert_len"),
    "trailing": (QUOTE + b"\1", "quote_trailing_bytes"),
    "trailing-behind-zeros": (QUOTE + bytes(500) + b"\1", "quote_trailing_bytes"),
    "sgx-cut": (SGX[:-1], "quote_truncated"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_quote(name: str) -> None:
    """A quote that is off by a byte, a length or a type is refused by name."""
    data, reason = REFUSED[name]
    with pytest.raises(FormatError) as caught:
        parse_quote(data)
    assert caught.value.reason == reason


def test_every_truncation_is_refused() -> None:
    """No proper prefix of a quote is a quote."""
    for size in range(len(QUOTE)):
        with pytest.raises(FormatError):
            parse_quote(QUOTE[:size])


@pytest.mark.parametrize("padding", [0, 1, 3000])
def test_zeros_are_padding(padding: int) -> None:
    """A buffer that is zero to its end holds the same quote."""
    parsed = parse_quote(QUOTE + bytes(padding))
    assert (parsed.data, parsed.identity) == (QUOTE, parse_quote(QUOTE).identity)


def test_td_registers_stand_where_the_layout_says() -> None:
    """Each field of the TD report is read from its own place."""
    names = ("mrtd", "mr_config_id", "mr_owner", "mr_owner_config")
    rtmrs = [mark(f"rtmr{place}") for place in range(4)]
    body = td_report(
        **{name: mark(name) for name in names},
        rtmrs=rtmrs,
        mr_signer_seam=mark("signer"),
        seam_attributes=b"s" * 8,
        report_data=b"d" * 64,
        tee_tcb_svn2=b"2" * 16,
        mr_service_td=mark("service"),
    )
    report = parse_quote(W.sign_quote(body, version=5)).body
    assert isinstance(report, TdReport)
    assert [report.mr_td, report.mr_config_id, report.mr_owner, report.mr_owner_config] == [mark(n) for n in names]
    assert [report.rtmr0, report.rtmr1, report.rtmr2, report.rtmr3] == rtmrs
    assert (report.mr_seam, report.mr_signer_seam, report.mr_service_td) == (
        mark("mr_seam"), mark("signer"), mark("service"),
    )  # fmt: skip
    assert (report.seam_attributes, report.report_data, report.tee_tcb_svn2) == (b"s" * 8, b"d" * 64, b"2" * 16)
    assert report.service_td


def test_enclave_fields_stand_where_the_layout_says() -> None:
    """Each field of the enclave report is read from its own place."""
    body = enclave_report(report_data=b"d" * 64, misc_select=7, product=0x1234, svn=0x5678, attributes=2)
    report = parse_quote(W.sign_quote(body, version=3)).body
    assert isinstance(report, EnclaveReport)
    assert (report.mr_enclave, report.mr_signer) == (mark("mr_enclave", 32), mark("mr_signer", 32))
    assert (report.isv_prod_id, report.isv_svn, report.report_data) == (0x1234, 0x5678, b"d" * 64)
    assert (report.misc_select, report.debug, report.raw) == (b"\7\0\0\0", True, body)


@pytest.mark.parametrize(
    ("bit", "names"),
    [
        (0, ["debug"]), (1, ["debug", "unnamed_attributes"]), (4, ["debug", "profiling"]), (6, ["debug", "profiling"]),
        (7, ["debug", "unnamed_attributes"]), (8, ["unnamed_attributes"]), (16, []), (17, ["service_td_ext"]), (27, []),
        (28, ["sept_ve_disable"]), (29, ["migratable"]), (32, ["unnamed_attributes"]), (62, []), (63, []),
    ],
)  # fmt: skip
def test_attribute_bits(bit: int, names: list[str]) -> None:
    """Each attribute is its own bit of the little-endian word, and any of the debug byte is debug."""
    report = parse_quote(W.quote(attributes=1 << bit)).body
    known = ("debug", "profiling", "service_td_ext", "sept_ve_disable", "migratable", "unnamed_attributes")
    assert [one for one in known if getattr(report, one)] == names


def test_authentication_data_of_any_length_is_read() -> None:
    """The field has its own length, and the chain is found behind it."""
    for auth in (b"", b"a" * 100):
        parsed = parse_quote(W.sign_quote(td_report(), auth=auth))
        assert (parsed.qe_auth, parsed.pck_chain[:10]) == (auth, b"-----BEGIN")


def test_the_label_of_what_may_be_no_quote() -> None:
    """The TEE type is a label even for bytes that are no quote."""
    assert [is_sgx(data) for data in (SGX, QUOTE, b"", b"junk")] == [True, False, False, False]
