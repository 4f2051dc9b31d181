"""Oblivious HTTP against RFC 9458's example and an independent enclave; every cut and every flipped bit."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ohttp_kit import EPHEMERAL, PRIVATE, SMALL_ORDER, Enclave, key_config, length, raw_public
from pyhpke.exceptions import OpenError

from gateway.crypto.hpke import Aead
from gateway.crypto.ohttp import (
    MAX_REQUEST,
    Exchange,
    decapsulate,
    encapsulate,
)
from gateway.crypto.ohttp_chunks import ChunkOpener, encode_length
from gateway.crypto.ohttp_keys import (
    MAX_LIST,
    KeyConfig,
    encode_key_config,
    parse_key_config,
    parse_key_configs,
)
from gateway.errors import FormatError

TEXT = b'{"model":"m","messages":[]}'
KEY = parse_key_config(key_config())
EVENTS = (b"data: one\n\n", b"data: two\n\n", b"data: [DONE]\n\n")
NONCE = b"n" * 32


def fails(call: Callable[[], object]) -> str | None:
    """The reason with which `call` fails."""
    with pytest.raises(FormatError) as caught:
        call()
    return caught.value.reason


def asked(text: bytes = TEXT) -> tuple[Exchange, Enclave]:
    """A request, sealed here and opened by the independent enclave."""
    sealed = encapsulate(KEY, text, EPHEMERAL)
    enclave = Enclave(sealed.wire)
    assert enclave.plaintext == text
    return sealed.exchange, enclave


EXCHANGE, ENCLAVE = asked()
STREAM = b"".join(ENCLAVE.chunked(*EVENTS))


def opened(data: bytes, cut: int = 1 << 20, opener: ChunkOpener | None = None) -> list[bytes]:
    """All the plaintexts of a chunked response that comes `cut` bytes at a time."""
    opener = opener or EXCHANGE.opener()
    found: list[bytes] = []
    for at in range(0, len(data), cut):
        found += opener.feed(data[at : at + cut])
    return [*found, opener.finish()]


# ---------------------------------------------------------------------------------------------------- whole messages


def test_the_example_of_rfc_9458() -> None:
    """Key configuration, request and response of appendix A come out as printed."""
    config = parse_key_config(
        bytes.fromhex("01002031e1f05a740102115220e9af918f738674aec95f54db6e04eb705aae8e79815500080001000100010003")
    )
    private = bytes.fromhex("3c168975674b2fa8e465970b79c8dcf09f1c741626480bd4c6162fc5b6a98e1a")
    ephemeral = bytes.fromhex("bc51d5e930bda26589890ac7032f70ad12e4ecb37abb1b65b1256c9c48999c73")
    request = bytes.fromhex("00034745540568747470730b6578616d706c652e636f6d012f")
    sealed = encapsulate(config, request, ephemeral, Aead.AES_128_GCM)
    assert sealed.wire.hex() == (
        "010020000100014b28f881333e7c164ffc499ad9796f877f4e1051ee6d31bad19dec96c208b4726374e469135906992e"
        "1268c594d2a10c695d858c40a026e7965e7d86b83dd440b2c0185204b4d63525"
    )
    answer = bytes.fromhex("c789e7151fcba46158ca84b04464910d86f9013e404feea014e7be4a441f234f857fbd")
    assert sealed.exchange.open(answer).hex() == "0140c8"
    there = decapsulate(sealed.wire, 1, private, Aead.AES_128_GCM)
    assert there.plaintext == request
    assert there.exchange.seal(bytes.fromhex("0140c8"), answer[:16]) == answer


@pytest.mark.parametrize("aead", list(Aead))
@given(text=st.binary(max_size=300), pieces=st.lists(st.binary(max_size=100), max_size=6), cut=st.integers(1, 90))
@settings(max_examples=25, deadline=None)
def test_both_directions_with_an_independent_enclave(aead: Aead, text: bytes, pieces: list[bytes], cut: int) -> None:
    """Requests, whole answers and chunked ones agree with pyhpke's side, whichever side seals, however they are cut."""
    config = KeyConfig(9, raw_public(PRIVATE), ((1, aead),))
    sealed = encapsulate(config, text, EPHEMERAL, aead)
    enclave, ours = Enclave(sealed.wire), decapsulate(sealed.wire, 9, PRIVATE, aead)
    assert enclave.plaintext == ours.plaintext == text
    whole = enclave.whole(text)
    assert sealed.exchange.open(whole) == text
    size = ours.exchange.nonce_size
    assert ours.exchange.seal(text, whole[:size]) == whole
    last = pieces.pop() if pieces else b""
    stream = enclave.chunked(*pieces, last)
    assert opened(b"".join(stream), cut, sealed.exchange.opener()) == [*pieces, last]
    sealer = ours.exchange.sealer(stream[0])
    assert [sealer.head, *map(sealer.seal, pieces), sealer.final(last)] == stream


def test_a_request_that_is_changed_anywhere_is_refused() -> None:
    """No request opens with a bit flipped or a byte missing; the reason says what can be said."""
    wire = encapsulate(KEY, TEXT, EPHEMERAL).wire
    for n in range(8 * len(wire)):
        bad = bytearray(wire)
        bad[n // 8] ^= 1 << n % 8
        expected = "ohttp_key_unknown" if n < 8 else "ohttp_suite" if n < 56 else "ohttp_decrypt"
        assert fails(lambda bad=bad: decapsulate(bytes(bad), 1, PRIVATE)) == expected, n
    for size in range(len(wire)):
        expected = "ohttp_malformed" if size < 55 else "ohttp_decrypt"
        assert fails(lambda size=size: decapsulate(wire[:size], 1, PRIVATE)) == expected
    assert fails(lambda: decapsulate(wire + b"x", 1, PRIVATE)) == "ohttp_decrypt"
    assert decapsulate(wire, 1, PRIVATE).plaintext == TEXT


def test_a_request_to_a_weak_encapsulation_says_no_more_than_any_other() -> None:
    """An `enc` of small order is one more request that doesn't open."""
    wire = encapsulate(KEY, TEXT, EPHEMERAL).wire
    for point in SMALL_ORDER:
        assert fails(lambda point=point: decapsulate(wire[:7] + point + wire[39:], 1, PRIVATE)) == "ohttp_decrypt"


def test_sizes_are_capped_before_anything_is_done() -> None:
    """Requests beyond 20 MiB are neither sealed nor opened, answers beyond the caller's cap not opened."""
    big = bytes(MAX_REQUEST + 1)
    assert fails(lambda: encapsulate(KEY, big, EPHEMERAL)) == "ohttp_too_large"
    assert fails(lambda: decapsulate(bytes(MAX_REQUEST + 56), 1, PRIVATE)) == "ohttp_too_large"
    sealed = encapsulate(KEY, big[1:], EPHEMERAL).wire
    assert decapsulate(sealed, 1, PRIVATE).plaintext == big[1:]
    whole = ENCLAVE.whole(b"x" * 100)
    assert EXCHANGE.open(whole, max_bytes=len(whole)) == b"x" * 100
    assert fails(lambda: EXCHANGE.open(whole, max_bytes=len(whole) - 1)) == "ohttp_too_large"


def test_an_answer_that_is_changed_anywhere_is_refused() -> None:
    """No whole answer opens with a bit flipped or a byte more or less."""
    whole = ENCLAVE.whole(b"{}")
    for n in range(8 * len(whole)):
        bad = bytearray(whole)
        bad[n // 8] ^= 1 << n % 8
        assert fails(lambda bad=bad: EXCHANGE.open(bytes(bad))) == "ohttp_decrypt"
    for size in range(len(whole)):
        assert fails(lambda size=size: EXCHANGE.open(whole[:size])) == (
            "ohttp_malformed" if size < 48 else "ohttp_decrypt"
        )
    assert fails(lambda: EXCHANGE.open(whole + b"\0")) == "ohttp_decrypt"
    assert EXCHANGE.open(whole) == b"{}"


def test_an_answer_belongs_to_one_request_and_one_form() -> None:
    """The answer to another request does not open, nor a whole answer as chunks, nor a chunk as a whole answer."""
    other = encapsulate(KEY, TEXT, bytes(range(50, 82)))
    assert fails(lambda: other.exchange.open(ENCLAVE.whole(b"{}"))) == "ohttp_decrypt"
    assert fails(lambda: opened(STREAM, opener=other.exchange.opener())) == "ohttp_decrypt"
    final_alone = b"".join(ENCLAVE.chunked(b"{}"))
    assert fails(lambda: EXCHANGE.open(final_alone[:32] + final_alone[33:])) == "ohttp_decrypt"
    whole = ENCLAVE.whole(b"{}")
    assert fails(lambda: opened(whole[:32] + b"\0" + whole[32:])) == "ohttp_decrypt"


def test_a_response_nonce_has_its_length() -> None:
    """The enclave's side refuses to seal under a nonce of another length."""
    exchange = decapsulate(encapsulate(KEY, TEXT, EPHEMERAL).wire, 1, PRIVATE).exchange
    for seal in (lambda: exchange.seal(b"", b"short"), lambda: exchange.sealer(b"short")):
        with pytest.raises(ValueError, match="32 bytes"):
            seal()


def test_only_what_the_key_offers_is_sealed() -> None:
    """An AEAD that the configuration does not list is not used, and a weak key not sealed to."""
    assert fails(lambda: encapsulate(KEY, TEXT, EPHEMERAL, Aead.AES_256_GCM)) == "ohttp_suite"
    weak = KeyConfig(1, SMALL_ORDER[0], ((1, 3),))
    assert fails(lambda: encapsulate(weak, TEXT, EPHEMERAL)) == "hpke_weak_key"


# -------------------------------------------------------------------------------------------------- key configurations


def test_key_configurations_keep_their_bytes() -> None:
    """A configuration reads back as it was written, with all its pairs."""
    pairs = b"\0\1\0\1" + b"\0\1\0\3" + b"\0\x02\0\x09"
    data = key_config(key_id=255, pairs=pairs)
    config = parse_key_config(data)
    assert config == KeyConfig(255, raw_public(PRIVATE), ((1, 1), (1, 3), (2, 9)))
    assert encode_key_config(config) == data
    assert [config.offers(aead) for aead in Aead] == [True, False, True]


GOOD = key_config()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        *((GOOD[:n], "ohttp_malformed") for n in range(len(GOOD))),
        (GOOD + b"\0", "ohttp_malformed"),
        (GOOD + b"\0\1\0\1", "ohttp_malformed"),
        (key_config(pairs=b""), "ohttp_malformed"),
        (key_config(pairs=b"\0\1\0\3\0"), "ohttp_malformed"),
        (key_config(pairs=b"\0\1\0\3" * 65), "ohttp_malformed"),
        (key_config(pairs=b"\0\2\0\3"), "ohttp_suite"),
        (key_config(pairs=b"\0\1\0\4"), "ohttp_suite"),
        (b"\1\0\x10" + GOOD[3:], "ohttp_suite"),
        (b"\1\1\x20" + GOOD[3:], "ohttp_suite"),
        (b"\1\0\x10", "ohttp_suite"),
        (GOOD[:3] + bytes(32) + GOOD[35:], "hpke_weak_key"),
    ],
)
def test_key_configurations_that_are_not(data: bytes, expected: str) -> None:
    """Cut, padded, empty, foreign and weak configurations are refused, each with its reason."""
    assert fails(lambda: parse_key_config(data)) == expected


def listed(*configs: bytes) -> bytes:
    return b"".join(len(c).to_bytes(2, "big") + c for c in configs)


def test_lists_of_key_configurations() -> None:
    """A list gives its usable configurations in order; those of other suites are passed over."""
    foreign, other = b"\7\x64\x7a" + bytes(1222), key_config(EPHEMERAL, 4)  # as long as a post-quantum one
    assert parse_key_configs(listed(GOOD)) == (KEY,)
    assert [c.key_id for c in parse_key_configs(listed(foreign, other, GOOD, foreign))] == [4, 1]


def test_sizes_of_key_configurations() -> None:
    """64 pairs and a list of 16 KiB are read; a pair or a byte more is not."""
    assert len(parse_key_config(key_config(pairs=b"\0\1\0\3" * 64)).pairs) == 64
    assert fails(lambda: parse_key_config(key_config(pairs=b"\0\1\0\3" * 65))) == "ohttp_malformed"
    rest = 16 * 1024 - len(listed(GOOD))
    assert parse_key_configs(listed(GOOD, b"\7\0\x10" + bytes(rest - 5))) == (KEY,)
    assert fails(lambda: parse_key_configs(listed(GOOD, b"\7\0\x10" + bytes(rest - 4)))) == "ohttp_malformed"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "ohttp_malformed"),
        (b"\0", "ohttp_malformed"),
        (b"\0\0", "ohttp_malformed"),
        *((listed(GOOD, GOOD)[: len(GOOD) + 2 + n], "ohttp_malformed") for n in range(1, len(GOOD) + 2)),
        (listed(GOOD, GOOD + b"x"), "ohttp_malformed"),
        *((listed(GOOD, b"\7\0\x10" + bytes(70))[:-n], "ohttp_malformed") for n in (1, 70, 73, 74)),
        (listed(b"\7\0\x10" + bytes(70)), "ohttp_suite"),
        (listed(GOOD[:3] + bytes(32) + GOOD[35:]), "hpke_weak_key"),
        (bytes(MAX_LIST + 1), "ohttp_malformed"),
    ],
)
def test_lists_that_are_not(data: bytes, expected: str) -> None:
    """A list that is cut, padded, too long or without a usable key is refused."""
    assert fails(lambda: parse_key_configs(data)) == expected


# ------------------------------------------------------------------------------------------------------ chunked answers


@pytest.mark.parametrize("cut", [1, 2, 3, 31, 32, 33, 50, 1 << 20])
def test_chunks_open_however_they_are_cut(cut: int) -> None:
    """The events come out whole and in order for every size of the pieces that the network makes."""
    assert tuple(opened(STREAM, cut)) == EVENTS


def test_chunks_are_given_out_as_soon_as_they_are_complete() -> None:
    """Each event leaves with its last byte; the final one only at the end."""
    pieces = ENCLAVE.chunked(*EVENTS)
    opener = EXCHANGE.opener()
    assert opener.feed(pieces[0] + pieces[1][:-1]) == []
    assert opener.feed(pieces[1][-1:]) == [EVENTS[0]]
    assert opener.feed(pieces[2] + pieces[3]) == [EVENTS[1]]
    assert opener.feed(b"") == []
    assert opener.finish() == EVENTS[2]


def test_every_truncation_is_seen() -> None:
    """No prefix of a chunked answer ends well: it is cut, or, inside the last chunk, does not open."""
    last = len(STREAM) - len(ENCLAVE.chunked(*EVENTS)[-1]) + 1 + 16
    for size in range(len(STREAM)):
        expected = "ohttp_truncated" if size < last else "ohttp_decrypt"
        assert fails(lambda size=size: opened(STREAM[:size])) == expected, size
    assert fails(lambda: opened(b"".join(ENCLAVE.chunked(*EVENTS, final=False)))) == "ohttp_truncated"


def test_every_flipped_bit_is_seen() -> None:
    """No bit of a chunked answer can change without its being refused."""
    for n in range(8 * len(STREAM)):
        bad = bytearray(STREAM)
        bad[n // 8] ^= 1 << n % 8
        assert fails(lambda bad=bad: opened(bytes(bad))) in {
            "ohttp_decrypt", "ohttp_truncated", "ohttp_malformed", "ohttp_too_large",
        }, n  # fmt: skip


def _chunks() -> list[bytes]:
    return ENCLAVE.chunked(*EVENTS)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([0, 2, 1, 3], "ohttp_decrypt"),  # reordered
        ([0, 1, 1, 2, 3], "ohttp_decrypt"),  # repeated
        ([0, 2, 3], "ohttp_decrypt"),  # left out
        ([0, 1, 3], "ohttp_decrypt"),
        ([0, 3], "ohttp_decrypt"),
        ([0, 1, 2, 3, 3], "ohttp_decrypt"),  # something behind the last chunk
        ([0, 0, 1, 2, 3], "ohttp_malformed"),  # a nonce where a length should be
        ([0], "ohttp_truncated"),
        ([], "ohttp_truncated"),
    ],
)
def test_chunks_keep_their_order(pieces: list[int], expected: str) -> None:
    """A chunk opens in its own place and nowhere else."""
    chunks = _chunks()
    assert fails(lambda: opened(b"".join(chunks[n] for n in pieces))) == expected


def test_a_chunk_is_final_or_not() -> None:
    """A middle chunk does not pass for the last one, nor the last one for a middle one."""
    head, first, second, last = _chunks()
    assert fails(lambda: opened(head + first + b"\0" + second[1:])) == "ohttp_decrypt"
    assert fails(lambda: opened(head + first + second + length(len(last) - 1) + last[1:])) == "ohttp_decrypt"


@pytest.mark.parametrize("size", [2, 4, 8])
def test_lengths_have_one_spelling(size: int) -> None:
    """A length in more bytes than it needs is refused, the end mark too; in its shortest form it is not."""
    head, *chunks = ENCLAVE.chunked(b"a" * 10, b"b")
    sealed = chunks[0][1:]
    assert fails(lambda: opened(head + length(len(sealed), size) + sealed + chunks[1])) == "ohttp_malformed"
    assert fails(lambda: opened(head + chunks[0] + length(0, size) + chunks[1][1:])) == "ohttp_malformed"
    assert opened(head + length(len(sealed)) + sealed + chunks[1]) == [b"a" * 10, b"b"]


@pytest.mark.parametrize("value", [0, 63, 64, 16383, 16384, 2**30 - 1, 2**30, 2**62 - 1])
def test_lengths_are_encoded_shortest(value: int) -> None:
    """Lengths are written as RFC 9000 says."""
    assert encode_length(value) == length(value)
    with pytest.raises(ValueError, match="variable-length"):
        encode_length(value + 2**62)


@pytest.mark.parametrize("size", [1, 15])
def test_a_chunk_has_room_for_its_tag(size: int) -> None:
    """A chunk shorter than an AEAD tag is malformed, and said to be before its bytes come."""
    opener = EXCHANGE.opener()
    assert fails(lambda: opener.feed(NONCE + length(size))) == "ohttp_malformed"


@pytest.mark.parametrize(
    ("announced", "caps"),
    [
        (1025, {"max_chunk": 1024}),
        (1025, {"max_total": 1024}),
        (16 * 1024 * 1024 + 1, {}),
        (2**62 - 1, {}),
    ],
)
def test_an_announced_size_is_refused_before_it_comes(announced: int, caps: dict[str, int]) -> None:
    """A chunk over the cap is refused by its length alone: nothing of it is buffered."""
    opener = EXCHANGE.opener(**caps)
    assert fails(lambda: opener.feed(NONCE + length(announced))) == "ohttp_too_large"


def test_the_total_is_capped() -> None:
    """Chunks add up to the cap, the last one included, and not beyond it; empty chunks count with their tags."""
    stream = b"".join(ENCLAVE.chunked(b"x" * 84, b"", b"y" * 84))  # 100 + 16 + 100 sealed bytes
    assert opened(stream, opener=EXCHANGE.opener(max_total=216)) == [b"x" * 84, b"", b"y" * 84]
    for caps in ({"max_total": 215}, {"max_chunk": 99}):
        assert fails(lambda caps=caps: opened(stream, opener=EXCHANGE.opener(**caps))) == "ohttp_too_large"
    opener = EXCHANGE.opener(max_chunk=100)
    opener.feed(b"".join(ENCLAVE.chunked(b"y" * 84)))
    assert fails(lambda: opener.feed(b"z")) == "ohttp_too_large"


def test_an_opener_that_failed_stays_failed() -> None:
    """After a failure, or after the end, nothing more is opened."""
    opener = EXCHANGE.opener()
    assert fails(lambda: opener.feed(NONCE + length(1))) == "ohttp_malformed"
    assert fails(lambda: opener.feed(STREAM)) == "ohttp_malformed"
    assert fails(opener.finish) == "ohttp_malformed"
    ended = EXCHANGE.opener()
    ended.feed(STREAM)
    assert ended.finish() == EVENTS[-1]
    assert fails(ended.finish) == "ohttp_malformed"
    assert fails(lambda: ended.feed(b"x")) == "ohttp_malformed"
    cut = EXCHANGE.opener()
    assert fails(cut.finish) == "ohttp_truncated"
    assert fails(lambda: cut.feed(STREAM)) == "ohttp_truncated"


# ---------------------------------------------------------------------------------------------------------------- fuzz


def _mutated(draw: st.DrawFn) -> bytes:
    """A stream that was cut, spliced, repeated and scribbled on."""
    chunks = [*_chunks(), length(40), length(0), length(17, 4), b"\xff" * 8, bytes(16)]
    picked = draw(st.lists(st.sampled_from(chunks) | st.binary(max_size=40), max_size=8))
    data = bytearray(chunks[0] * draw(st.booleans()) + b"".join(picked))
    for at in draw(st.lists(st.integers(0, max(0, len(data) - 1)), max_size=3)):
        if data:
            data[at] ^= draw(st.integers(1, 255))
    return bytes(data)


@given(data=st.composite(_mutated)(), cut=st.integers(1, 70))
@settings(max_examples=300, deadline=None)
def test_fuzzed_streams(data: bytes, cut: int) -> None:
    """Any bytes give the sealed events, or a `FormatError` with one of the reasons; the cut changes nothing."""
    found = []
    for size in (cut, 1 << 20):
        try:
            found.append((None, opened(data, size)))
        except FormatError as error:
            found.append((error.reason, []))
    assert found[0] == found[1]
    reason, events = found[0]
    assert tuple(events) == EVENTS if reason is None else reason in REASONS


REASONS = {"ohttp_decrypt", "ohttp_truncated", "ohttp_malformed", "ohttp_too_large", "ohttp_suite", "ohttp_key_unknown"}


@given(data=st.binary(max_size=120) | st.binary(max_size=60).map(lambda tail: b"\1\0\x20\0\1\0\3" + tail))
@settings(max_examples=300, deadline=None)
def test_fuzzed_messages(data: bytes) -> None:
    """Arbitrary bytes are no request, no answer and hardly ever a key configuration, and never another exception."""
    assert fails(lambda: decapsulate(data, 1, PRIVATE)) in REASONS
    assert fails(lambda: EXCHANGE.open(data)) in REASONS
    for parse in (parse_key_config, parse_key_configs):
        with suppress(FormatError):
            found = parse(data)
            assert isinstance(found, tuple) or encode_key_config(found) == data


def test_the_judge_refuses_too() -> None:
    """The independent enclave opens only what is sealed to it, so that its agreement means something."""
    wire = bytearray(encapsulate(KEY, TEXT, EPHEMERAL).wire)
    wire[-1] ^= 1
    with pytest.raises(OpenError):
        Enclave(bytes(wire))
