"""The journal knows what was signed before, whatever its signature bytes look like."""

from __future__ import annotations

from gateway.fleet.journal import Journal
from gateway.verify.aci import Event, Receipt, SignedReceipt

NOW = 1_800_000_000.0


def shown(journal: Journal, network: str, statement: bytes, now: float) -> bool:
    """Whether a statement whose signature holds was seen before; it is remembered from then on."""
    first = journal.seen(network, statement)
    journal.remember(network, statement, now)
    return first is not None


def sealed(
    signed: bytes = b"one answer",
    *,
    signature: bytes = bytes(64),
    key_id: str = "k1",
    keyset: str = "sha256:" + "0" * 64,
) -> bytes:
    receipt = Receipt(
        api_version="aci/1",
        receipt_id="r1",
        chat_id=None,
        model="m",
        workload_keyset_digest=keyset,
        endpoint="/v1/chat/completions",
        method="POST",
        served_at=int(NOW),
        event_log=(Event("request.received"),),
        key_id=key_id,
    )
    return SignedReceipt(receipt, signed, signature).statement


def test_a_message_is_new_once() -> None:
    """The first showing of a signed message is new, each further one is a replay."""
    journal = Journal()
    assert [shown(journal, "aci", sealed(), NOW) for _ in range(3)] == [False, True, True]
    assert not shown(journal, "aci", sealed(b"another answer"), NOW)


def test_another_signature_over_the_same_message_is_a_replay() -> None:
    """Signatures have twins, so what counts is the message and its signer."""
    journal = Journal()
    assert not shown(journal, "aci", sealed(signature=b"\1" * 64), NOW)
    assert shown(journal, "aci", sealed(signature=b"\2" * 64), NOW)


def test_networks_keys_and_keysets_are_told_apart() -> None:
    """The same bytes, signed elsewhere or by somebody else, are another message."""
    journal = Journal()
    assert not shown(journal, "aci", sealed(), NOW)
    assert not shown(journal, "other", sealed(), NOW)
    assert not shown(journal, "aci", sealed(key_id="k2"), NOW)
    assert not shown(journal, "aci", sealed(keyset="sha256:" + "1" * 64), NOW)


def test_the_memory_is_bounded_in_time() -> None:
    """What is older than the window is forgotten as soon as something newer comes, and not before."""
    journal = Journal(window_s=100.0)
    shown(journal, "aci", sealed(b"old"), NOW)
    assert shown(journal, "aci", sealed(b"old"), NOW + 99)
    assert not shown(journal, "aci", sealed(b"new"), NOW + 101)
    assert not shown(journal, "aci", sealed(b"old"), NOW + 101)


def test_the_memory_is_bounded_in_number() -> None:
    """Beyond the limit the oldest goes first."""
    journal = Journal(most=3)
    for text in (b"1", b"2", b"3", b"4"):
        assert not shown(journal, "aci", sealed(text), NOW)
    assert [shown(journal, "aci", sealed(text), NOW) for text in (b"4", b"3", b"2")] == [True, True, True]
    assert not shown(journal, "aci", sealed(b"1"), NOW)


def test_it_knows_when_and_asking_teaches_it_nothing() -> None:
    """A look leaves no trace: what nobody was shown to have signed is as new as before. The first time counts."""
    journal = Journal()
    assert [journal.seen("aci", sealed()) for _ in range(2)] == [None, None]
    for now in (NOW, NOW + 5):
        journal.remember("aci", sealed(), now)
    assert journal.seen("aci", sealed()) == NOW
