"""Hostile bundles and trust roots: nothing but a result comes back, and no changed byte that counts is accepted."""

from __future__ import annotations

import base64
import copy
import json

from hypothesis import given, settings
from hypothesis import strategies as st
from tee_worlds import sigstore as world

SEEDS = world.seeds()


@given(st.binary(max_size=4096))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_result(data: bytes) -> None:
    """Random bytes, as a bundle and as a trust root, are judged and raise nothing."""
    assert not world.verify(data).claims.authentic
    world.run(data)


@given(st.sampled_from(SEEDS), st.data())
@settings(max_examples=300, deadline=None)
def test_mutated_seeds_give_a_result(seed: bytes, data: st.DataObject) -> None:
    """Flips, cuts and splices of genuine items raise nothing, and what is accepted says what was signed."""
    at = data.draw(st.integers(0, len(seed) - 1))
    other = data.draw(st.sampled_from(SEEDS))
    kind = data.draw(st.sampled_from(["flip", "cut", "splice"]))
    if kind == "flip":
        changed = seed[:at] + bytes([seed[at] ^ 1 << data.draw(st.integers(0, 7))]) + seed[at + 1 :]
    elif kind == "cut":
        changed = seed[:at] + seed[at + data.draw(st.integers(1, 64)) :]
    else:
        changed = seed[:at] + other[at:]
    world.run(changed)


PLACES = {
    "payload": ("dsseEnvelope", "payload"),
    "signature": ("dsseEnvelope", "signatures", 0, "sig"),
    "certificate": ("verificationMaterial", "certificate", "rawBytes"),
    "body": ("verificationMaterial", "tlogEntries", 0, "canonicalizedBody"),
    "log id": ("verificationMaterial", "tlogEntries", 0, "logId", "keyId"),
    "root": ("verificationMaterial", "tlogEntries", 0, "inclusionProof", "rootHash"),
    "proof": ("verificationMaterial", "tlogEntries", 0, "inclusionProof", "hashes", 1),
}


@given(st.sampled_from(sorted(PLACES)), st.integers(0, 2**16), st.integers(0, 7))
@settings(max_examples=300, deadline=None)
def test_no_changed_bit_of_what_is_signed_is_accepted(place: str, at: int, bit: int) -> None:
    """One flipped bit in the payload, signature, certificate, logged entry or proof is never authentic."""
    bundle = copy.deepcopy(json.loads(SEEDS[0]))
    holder = bundle
    *path, last = PLACES[place]
    for step in path:
        holder = holder[step]
    raw = bytearray(base64.b64decode(holder[last]))
    raw[at % len(raw)] ^= 1 << bit
    holder[last] = base64.b64encode(raw).decode()
    assert not world.verify(bundle).claims.authentic
