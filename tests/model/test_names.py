"""Names of variables and files are told from the keys that they stand for."""

from __future__ import annotations

from gateway.model.names import is_hex_key, is_variable


def test_names_of_variables_are_told_from_keys() -> None:
    """Capitals, digits and lines make a name; a key put in its place is none, also where it is all capitals."""
    assert all(is_variable(text) for text in ("A", "_", "WALLET_KEY", "A1", "A" * 63, "A" * 128))
    for text in ("", "a", "1A", "A-B", "A B", "A\n", "sk-secret", "gsk_x", "AB" * 32, "A" * 129, "\u0391"):
        assert not is_variable(text)
    assert is_hex_key("0x" + "aB" * 32)
    assert is_hex_key(" " + "aB" * 32 + "\n")
    assert not is_hex_key("ab" * 20)
