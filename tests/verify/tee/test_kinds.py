"""The registry of kinds: each leads to a verifier that knows its roles."""

from __future__ import annotations

import pytest
from tee_worlds import nitro

from gateway.errors import FormatError
from gateway.verify.tee.kinds import KINDS, kind_of
from gateway.verify.tee.roots import TrustRoots


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_without_its_inputs_says_so(name: str) -> None:
    """Each kind's module is there, takes the four arguments, and names a role that was not given."""
    with pytest.raises(FormatError) as refused:
        kind_of(name).verify({}, {}, TrustRoots(), 0.0)
    assert refused.value.reason == "input_missing"


def test_a_kind_appraises() -> None:
    """What its verifier says is what comes back."""
    world = nitro.World()
    blobs = {"doc": world.document(), "root:ours": nitro.der(world.root)}
    assert kind_of("nitro").verify(blobs, {}, world.roots, world.now).claims.authentic
    assert not kind_of("nitro").verify(blobs, {}, TrustRoots(), world.now).claims.authentic
