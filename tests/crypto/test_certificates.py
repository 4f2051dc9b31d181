"""The limits of certificates and chains, and how a chain is held together."""

from __future__ import annotations

import pytest
from tee_worlds.nvidia import NOW, der_of, device_chain, pem_of

from gateway.crypto.certificates import (
    MAX_CERTIFICATE_BYTES,
    MAX_CHAIN,
    MAX_PEM_BYTES,
    ChainError,
    check_chain,
    load_certificate,
    load_pem_chain,
)
from gateway.errors import FormatError

CHAIN = device_chain()


def test_a_certificate_over_the_limit_is_not_parsed() -> None:
    """Size comes first: one byte over is refused by its length, what is within by its form."""
    assert load_certificate(der_of(CHAIN[0])) == CHAIN[0]
    with pytest.raises(FormatError, match=f"{MAX_CERTIFICATE_BYTES + 1} bytes; at most"):
        load_certificate(bytes(MAX_CERTIFICATE_BYTES + 1))
    with pytest.raises(FormatError, match="not a certificate"):
        load_certificate(bytes(MAX_CERTIFICATE_BYTES))


def test_a_chain_over_the_limits_is_not_read() -> None:
    """The text's length and the number of its blocks are bounded."""
    assert load_pem_chain(pem_of(CHAIN)) == tuple(CHAIN)
    with pytest.raises(FormatError, match=f"{MAX_PEM_BYTES + 1} bytes; at most"):
        load_pem_chain(bytes(MAX_PEM_BYTES + 1))
    block = pem_of(CHAIN[:1])
    assert len(load_pem_chain(block * MAX_CHAIN)) == MAX_CHAIN
    with pytest.raises(FormatError, match=f"more than {MAX_CHAIN} certificates"):
        load_pem_chain(block * (MAX_CHAIN + 1))


def test_a_chain_has_one_certificate_at_least_and_not_too_many() -> None:
    """No certificate, or more than any vendor's chain has, holds nothing together."""
    check_chain(CHAIN, NOW)
    for chain, reason in (((), "chain_empty"), (CHAIN[-1:] * (MAX_CHAIN + 1), "chain_broken")):
        with pytest.raises(ChainError) as refused:
            check_chain(chain, NOW)
        assert refused.value.reason == reason
    check_chain(CHAIN[-1:] * MAX_CHAIN, NOW)
