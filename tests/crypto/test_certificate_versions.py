"""A certificate of a version that does not exist is malformed, not an accident."""

from __future__ import annotations

import pytest
from tee_worlds.nitro import World, der

from gateway.crypto.certificates import load_certificate
from gateway.errors import FormatError


@pytest.mark.parametrize("version", [3, 6, 127, 255])
def test_a_version_that_does_not_exist_is_refused(version: int) -> None:
    """The library's own exception for it is no ValueError and is converted like the rest."""
    good = der(World().leaf)
    assert good.count(b"\xa0\x03\x02\x01\x02") == 1
    with pytest.raises(FormatError, match="not a certificate"):
        load_certificate(good.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01" + bytes((version,))))
