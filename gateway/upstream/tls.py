"""TLS for the two ways of trusting a peer: by its key (attested channel) or by the web's certificate authorities.

Both: TLS 1.2 or newer, HTTP/1.1 only, no session resumption, no renegotiation, no compression. Contexts are built from
nothing, never by `ssl.create_default_context`: that one writes the keys of every connection to the file that
`SSLKEYLOGFILE` names, and takes its roots from wherever `SSL_CERT_FILE` points (E21).
"""

from __future__ import annotations

import ssl
from pathlib import Path

from gateway.crypto.x509 import spki_sha256
from gateway.errors import ConfigError, FormatError

from .errors import TlsFailed

#: Where systems keep their roots, beside the place that OpenSSL was built with.
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


def pinned_context() -> ssl.SSLContext:
    """For peers known by their key: the handshake proves the key, `Connection` compares its digest with the pins.

    The chain and the name are not looked at, since the attested session names the key itself (ACI: SPKI binding).
    """
    context = _bare()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def web_context(roots: str | None = None) -> ssl.SSLContext:
    """For peers known by their name. `roots`: a PEM file to use instead of the system's. Raises `ConfigError`."""
    context = _bare()
    context.check_hostname = True
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    cafile, capath = (roots, None) if roots else _system_roots()
    try:
        context.load_verify_locations(cafile=cafile, capath=capath)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"cannot load the TLS root certificates from {cafile or capath}: {error}") from None
    return context


def peer_key(certificate: bytes | None) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo of the peer's leaf certificate (DER). Raises `TlsFailed`."""
    if certificate is None:
        raise TlsFailed(detail="the peer showed no certificate")
    try:
        return spki_sha256(certificate)
    except FormatError:
        raise TlsFailed(detail="the peer's certificate is malformed") from None


def _bare() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    return context


def _system_roots() -> tuple[str | None, str | None]:
    built_in = ssl.get_default_verify_paths()  # its openssl_* members are compiled in; the environment has no say
    for file in (built_in.openssl_cafile, *_BUNDLES):
        if Path(file).is_file():
            return file, None
    if Path(built_in.openssl_capath).is_dir():
        return None, built_in.openssl_capath
    raise ConfigError("no TLS root certificates found on this system; install ca-certificates or name a PEM file")
