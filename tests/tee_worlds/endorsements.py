"""Seeds and target for fuzzing what is kept of vendors' answers: the needs, the envelope, the parts.

The first byte of an input says what the rest is.
"""

from __future__ import annotations

import contextlib
import functools
import json
from urllib.parse import quote

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.errors import FormatError
from gateway.verify.tee.endorsements import check_part
from gateway.verify.tee.needs import AmdNeed, IntelNeed, need_of
from gateway.verify.tee.vendor_answers import PcsAnswers, amd_chain_of, envelope_of

from . import amd, intel


def answers_of(envelope: bytes) -> PcsAnswers:
    """The answers of Intel's service that make this envelope."""
    parts = json.loads(envelope)
    return PcsAnswers(
        tcb=f'{{"tcbInfo":{parts["tcb_info"]},"signature":"{parts["tcb_info_signature"]}"}}'.encode(),
        tcb_chain=quote(parts["tcb_info_issuer_chain"]),
        qe=f'{{"enclaveIdentity":{parts["qe_identity"]},"signature":"{parts["qe_identity_signature"]}"}}'.encode(),
        qe_chain=quote(parts["qe_identity_issuer_chain"]),
        pck_crl=bytes.fromhex(parts["pck_crl"]),
        pck_crl_chain=quote(parts["pck_crl_issuer_chain"]),
        root_crl=bytes.fromhex(parts["root_ca_crl"]),
    )


def pem(*ders: bytes) -> bytes:
    return b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ders)


class _Worlds(msgspec.Struct, frozen=True):
    intel: intel.World
    amd: amd.World
    envelope: bytes
    answers: PcsAnswers
    intel_need: IntelNeed
    amd_need: AmdNeed
    chain: dict[str, bytes]
    quote: bytes
    report: bytes


@functools.cache
def worlds() -> _Worlds:
    one, other = intel.World(), amd.World("Genoa", label="endorsements")
    envelope, quoted, report = one.collateral(), one.quote(), other.report()
    needs = need_of("tdx", {"quote": quoted}), need_of("snp", {"report": report})
    assert isinstance(needs[0], IntelNeed)
    assert isinstance(needs[1], AmdNeed)
    chain = {"ask": other.ask, "root:ark": other.ark, "crl": other.crl()}
    return _Worlds(one, other, envelope, answers_of(envelope), needs[0], needs[1], chain, quoted, report)


_MEMBERS = {b"t": "tcb", b"i": "qe", b"p": "pck_crl", b"o": "root_crl"}


def seeds() -> list[bytes]:
    """Inputs for `run` that reach deep."""
    w = worlds()
    members = [first + getattr(w.answers, member) for first, member in _MEMBERS.items()]
    amds = [b"a" + w.chain["ask"], b"c" + w.chain["crl"], b"e" + w.amd.ek, b"m" + pem(w.amd.ask, w.amd.ark)]
    return [b"q" + w.quote, b"r" + w.report, b"v" + w.envelope, *members, *amds]


def run(data: bytes) -> None:
    """Read `data` in the place that its first byte names. Must not raise."""
    with contextlib.suppress(FormatError):
        _run(data[:1], data[1:])


def _run(first: bytes, rest: bytes) -> None:
    w = worlds()
    key = w.amd_need.key("Genoa")
    assert key is not None
    if first in (b"q", b"r"):
        need_of(*(("tdx", {"quote": rest}) if first == b"q" else ("snp", {"report": rest})))
    elif first in _MEMBERS:
        envelope = envelope_of(msgspec.structs.replace(w.answers, **{_MEMBERS[first]: rest}))
        check_part(w.intel_need, {"collateral": envelope}, {}, roots=w.intel.roots, now=intel.NOW)
    elif first == b"m":
        amd_chain_of(rest)
    elif first == b"e":
        check_part(key, {"ek": rest}, w.chain, roots=w.amd.roots, now=amd.NOW)
    elif first in (b"a", b"c"):
        role = "ask" if first == b"a" else "crl"
        check_part(key.chain, {**w.chain, role: rest}, {}, roots=w.amd.roots, now=amd.NOW)
    else:
        check_part(w.intel_need, {"collateral": rest}, {}, roots=w.intel.roots, now=intel.NOW)
