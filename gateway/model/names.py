"""Names that stand in settings for a secret, told from the secret itself.

A setting that ends in `_env` names an environment variable, `wallet_file` a file. What somebody put there by mistake
may be the key, so what is no name is refused and shown to nobody.
"""

from __future__ import annotations

import re

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,127}")
_HEX_KEY = re.compile(r"(?:0[xX])?[0-9a-fA-F]{64}")


def is_variable(text: str) -> bool:
    """Whether `text` can be the name of an environment variable, in capitals."""
    return _VARIABLE.fullmatch(text) is not None and not is_hex_key(text)


def is_hex_key(text: str) -> bool:
    """Whether `text` is 32 bytes in hex, as wallets' keys are, with or without space and an end of line around them."""
    return _HEX_KEY.fullmatch(text.strip()) is not None
