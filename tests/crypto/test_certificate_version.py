"""A certificate of a version that X.509 does not have is refused like any other bytes."""

from __future__ import annotations

import pytest
from tee_worlds import sigstore as world

from gateway.crypto.certificates import load_certificate
from gateway.errors import FormatError

VERSION_3 = b"\xa0\x03\x02\x01\x02"


@pytest.mark.parametrize("version", [1, 3, 28, 127])
def test_a_version_that_does_not_exist(version: int) -> None:
    """The library's own error for it is no ValueError; what comes out here is a FormatError."""
    der = world.der(world.root_certificate())
    assert der.count(VERSION_3) == 1
    with pytest.raises(FormatError):
        load_certificate(der.replace(VERSION_3, VERSION_3[:4] + bytes([version])))
