"""Signatures, canonical JSON and the digest that pins a TLS key. Bytes in, bytes out; nothing here reads a file."""
