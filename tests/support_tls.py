"""Certificates and server contexts made on the spot, for tests that speak TLS on loopback.

authority = Authority()
certificate = authority.issue("localhost", addresses=["127.0.0.1"])
certificate.spki, certificate.server_context(tmp_path), authority.roots(tmp_path)
"""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import ssl
import warnings
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_PEM, _DER = serialization.Encoding.PEM, serialization.Encoding.DER
DAY = datetime.timedelta(days=1)


class Issued:
    """A certificate and its key. `spki` is the SHA-256 of its SubjectPublicKeyInfo, computed from the key itself."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self.key = key
        public = key.public_key().public_bytes(_DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.spki = hashlib.sha256(public).digest()

    def pem(self) -> bytes:
        private = self.key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return private + self.certificate.public_bytes(_PEM)

    def server_context(self, folder: Path) -> ssl.SSLContext:
        """A TLS 1.2/1.3 server context."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        file = folder / f"{self.spki.hex()}.pem"
        file.write_bytes(self.pem())
        context.load_cert_chain(file)
        return context

    def tls11_context(self, folder: Path) -> ssl.SSLContext:
        """A server context that speaks TLS 1.1 and nothing newer."""
        context = self.server_context(folder)
        dangerous_limit_to_tls11(context)
        return context


class Authority:
    """A certificate authority of this test's own."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
        self.certificate = _sign(self.name, self.name, self.key, self.key, [], ca=True, start=-1, days=2)

    def roots(self, folder: Path) -> str:
        """A PEM file with this authority as the only root."""
        file = folder / "roots.pem"
        file.write_bytes(self.certificate.public_bytes(_PEM))
        return str(file)

    def issue(self, name: str, *, addresses: Sequence[str] = (), start: int = -1, days: int = 2) -> Issued:
        """A leaf for `name` and `addresses`, valid from `start` days from now for `days` days."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        names = [x509.DNSName(name), *(x509.IPAddress(ipaddress.ip_address(a)) for a in addresses)]
        return Issued(_sign(subject, self.name, key, self.key, names, ca=False, start=start, days=days), key)


def self_signed(name: str = "node", *, addresses: Sequence[str] = ()) -> Issued:
    """A leaf that vouches for itself alone, as a TEE's does."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    names = [x509.DNSName(name), *(x509.IPAddress(ipaddress.ip_address(a)) for a in addresses)]
    return Issued(_sign(subject, subject, key, key, names, ca=False, start=-1, days=2), key)


def dangerous_limit_to_tls11(context: ssl.SSLContext) -> None:
    """Make `context` speak TLS 1.1 and nothing else, which OpenSSL has to be talked into."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("DEFAULT:@SECLEVEL=0")


def _sign(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    names: Sequence[x509.GeneralName],
    *,
    ca: bool,
    start: int,
    days: int,
) -> x509.Certificate:
    begin = datetime.datetime.now(datetime.UTC) + start * DAY
    builder = (
        x509.CertificateBuilder(
            issuer, subject, key.public_key(), x509.random_serial_number(), begin, begin + days * DAY
        )
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(_usage(ca=ca), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
