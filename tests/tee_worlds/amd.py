"""The synthetic AMD of `gateway.testing.tee.amd`, its certificates read twice, and what the long fuzz target calls."""

from __future__ import annotations

import functools
import warnings

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.model.tee import TeeResult
from gateway.testing.tee.amd import *  # noqa: F403
from gateway.testing.tee.amd import AMD, NOW, World
from gateway.verify.tee.amd_certificates import parse_certificate
from gateway.verify.tee.snp import from_inputs


def agree(der: bytes) -> None:
    """Our reading of one certificate is the X.509 library's."""
    ours = parse_certificate(der)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # serial number 0
        theirs = x509.load_der_x509_certificate(der)
        assert ours.serial == theirs.serial_number
    assert ours.tbs == theirs.tbs_certificate_bytes
    assert ours.signature == theirs.signature
    assert ours.spki == theirs.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert (ours.issuer, ours.subject) == (theirs.issuer.public_bytes(), theirs.subject.public_bytes())
    assert ours.common_name == theirs.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
    assert ours.not_before == theirs.not_valid_before_utc.timestamp()
    assert ours.not_after == theirs.not_valid_after_utc.timestamp()
    assert ours.sha256 == theirs.fingerprint(hashes.SHA256()).hex()
    unread = {
        e.oid.dotted_string: e.value.value for e in theirs.extensions if isinstance(e.value, x509.UnrecognizedExtension)
    }
    assert {k: v for k, v in ours.extensions.items() if k.startswith(bytes.fromhex("2b060104019c78"))} == {
        bytes.fromhex("2b060104019c7801") + bytes(map(int, oid.removeprefix(AMD).split("."))): v
        for oid, v in unread.items()
    }


@functools.cache
def _fuzz_world() -> tuple[World, bytes, bytes]:
    world = World("Genoa", label="fuzz")
    return world, world.report(report_data=b"fuzz"), world.crl([99])


def seeds() -> list[bytes]:
    """A report, an endorsement key's certificate and a revocation list, each behind the byte that `run` looks at."""
    world, report, crl = _fuzz_world()
    return [b"r" + report, b"e" + world.ek, b"c" + crl, b"a" + world.ask]


def run(data: bytes) -> TeeResult:
    """Appraise `data` in the place that its first byte names; raises when something altered is authentic."""
    world, report, crl = _fuzz_world()
    kind, rest = data[:1], data[1:]
    changes = {b"e": {"ek": rest}, b"a": {"ask": rest}, b"c": {"crl": rest}}.get(kind, {})
    blobs = world.inputs(report if changes else rest, **({"crl": crl} | changes))
    result = from_inputs(blobs, {}, world.roots, NOW)
    if result.claims.authentic:  # a report ends with its signature, and DER has one spelling
        assert rest == {b"e": world.ek, b"a": world.ask, b"c": crl}.get(kind, report), "authentic, and nobody signed it"
    return result
