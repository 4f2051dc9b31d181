"""Our log against vectors that other implementations made (Go x/mod, real witnesses), read beside the repository."""

import base64
import functools
import hashlib
import json
import pathlib

import pytest

from gateway.crypto.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    extend,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_at,
    subtree_root,
    verify_consistency,
    verify_inclusion,
)
from gateway.crypto.signatures import Ed25519Signer
from gateway.errors import FormatError, ProofError
from gateway.log.checkpoint import format_checkpoint, open_checkpoint, parse_checkpoint, sign_checkpoint
from gateway.log.cosignature import cosign, ed25519_message, mldsa44_message, open_cosigned
from gateway.log.dsse import pae, parse_envelope, seal, verify_envelope
from gateway.log.note import (
    COSIGNATURE_ED25519,
    ED25519,
    NoteSigner,
    SignatureLine,
    Vkey,
    key_id,
    parse_signature_lines,
    parse_skey,
    parse_vkey,
)
from gateway.log.proof import check_inclusion, format_tlog_proof, parse_tlog_proof
from gateway.log.tiles import (
    ENTRIES,
    Tile,
    decode_bundle,
    decode_tile,
    encode_bundle,
    encode_tile,
    parse_tile_path,
    tile_path,
    tiles_at,
)
from gateway.log.trust import parse_trust, verify_checkpoint

VECTORS = pathlib.Path(__file__).parents[2] / "../shared/vectors/tlog"
pytestmark = pytest.mark.skipif(
    not VECTORS.is_dir(), reason="the vectors of other implementations are not beside this checkout (../shared/vectors)"
)
LARGEST = 70_000


@functools.cache
def load(name: str):
    return json.loads((VECTORS / name).read_text())


def text(name: str) -> str:
    return (VECTORS / name).read_text()


def raw(value: str) -> bytes:
    return base64.b64decode(value, validate=True)


def keys() -> list[dict]:
    return load("keys.json")


def log_key() -> Vkey:
    return parse_vkey(keys()[0]["vkey"])


def witness_keys() -> list[Vkey]:
    return [parse_vkey(key["vkey"]) for key in keys()[2:4]]


def entry(index: int) -> bytes:
    """The vectors' entry at `index`, as their README defines it."""
    if index == 5:
        return b""
    if index == 7:
        return bytes(number % 251 for number in range(65_535))
    return f"{load('roots.json')['label']} entry {index}\n".encode() + b"\xff" * (index % 7)


@functools.cache
def levels() -> tuple[list[bytes], ...]:
    """The complete subtrees of the vectors' log of 70,000 entries, level by level."""
    rows = [[leaf_hash(entry(index)) for index in range(LARGEST)]]
    while len(rows[-1]) > 1:
        row = rows[-1]
        rows.append([node_hash(row[at], row[at + 1]) for at in range(0, len(row) - 1, 2)])
    return tuple(rows)


def read(level: int, index: int) -> bytes:
    return levels()[level][index]


def test_roots():
    """Every listed root comes out of stored subtrees, of growth by one, and of growth by batches."""
    document = load("roots.json")
    assert [raw(value) for value in document["leaf_hashes_0_15"]] == levels()[0][:16]
    batches, single = Frontier(), Frontier()
    for row in document["roots"]:
        size, root = row["size"], raw(row["root"])
        assert root_at(size, read) == root
        leaves = levels()[0][batches.size : size]
        assert extend(batches, leaves, ())[0] == root
        for leaf in leaves:
            single.append(leaf)
        assert (single.root(), single.hashes) == (root, batches.hashes)


def test_inclusion():
    """Every listed inclusion proof is judged as listed, and the good ones are what we would have written."""
    rows = load("inclusion.json")
    for row in rows:
        proof = tuple(map(raw, row["proof"]))
        arguments = (raw(row["leaf_hash"]), row["index"], row["size"], proof, raw(row["root"]))
        if row["valid"]:
            verify_inclusion(*arguments)
            assert inclusion_proof(row["index"], row["size"], read) == proof
        else:
            with pytest.raises(ProofError):
                verify_inclusion(*arguments)
    assert {row["valid"] for row in rows} == {True, False}


def test_consistency():
    """Every listed consistency proof is judged as listed, and the good ones are what we would have written."""
    rows = load("consistency.json")
    for row in rows:
        proof = tuple(map(raw, row["proof"]))
        arguments = (row["old_size"], row["new_size"], proof, raw(row["old_root"]), raw(row["new_root"]))
        if row["valid"]:
            verify_consistency(*arguments)
            assert consistency_proof(row["old_size"], row["new_size"], read) == proof
        else:
            with pytest.raises(ProofError):
                verify_consistency(*arguments)
    assert {row["valid"] for row in rows} == {True, False}


def test_proofs_from_the_batch_are_the_listed_ones():
    """A batch that ends at a listed size carries, from frontier and batch alone, the listed proofs."""
    for row in load("inclusion.json"):
        if not row["valid"]:
            continue
        start = max(0, row["index"] - 3)
        peaks = [read(level, (start >> level) - 1) for level in range(17, -1, -1) if start >> level & 1]
        frontier = Frontier.from_bytes(start, b"".join(peaks))
        root, proofs = extend(frontier, levels()[0][start : row["size"]], [row["index"] - start])
        assert root == raw(row["root"])
        assert proofs[row["index"] - start] == tuple(map(raw, row["proof"]))


def test_tile_paths():
    """Every listed tile has the listed path, and the path names the tile."""
    for row in load("tile_paths.json"):
        tile = Tile(row["level"], row["index"], row["width"])
        assert tile_path(tile.level, tile.index, tile.width) == row["path"]
        assert parse_tile_path(row["path"]) == tile


def tile_bytes(tile: Tile) -> bytes:
    start = tile.index * 256
    if tile.level == ENTRIES:
        return encode_bundle([entry(index) for index in range(start, start + tile.width)])
    return encode_tile(levels()[8 * tile.level][start : start + tile.width])


def test_tiles():
    """A log of each listed size has exactly the listed resources, with the listed bytes."""
    for size, listed in load("tile_sha256.json").items():
        found = {
            tile_path(tile.level, tile.index, tile.width): hashlib.sha256(tile_bytes(tile)).hexdigest()
            for tile in tiles_at(int(size))
        }
        assert found == listed


def test_served_log():
    """The log that the vectors serve holds its entries under its checkpoints, tile upon tile."""
    for path in sorted((VECTORS / "log/tile").rglob("*")):
        if not path.is_file():
            continue
        tile = parse_tile_path(path.relative_to(VECTORS / "log").as_posix())
        data = path.read_bytes()
        assert data == tile_bytes(tile)
        if tile.level == ENTRIES:
            hashes = [leaf_hash(item) for item in decode_bundle(data, tile.width)]
            assert hashes == levels()[0][tile.index * 256 : tile.index * 256 + tile.width]
        elif tile.width == 256:
            assert subtree_root(decode_tile(data, 256)) == read(8 * tile.level + 8, tile.index)
    for path in sorted((VECTORS / "log").glob("checkpoint*")):
        point = open_checkpoint(path.read_bytes(), [log_key()], keys()[0]["name"])
        assert point.root == root_at(point.size, read)


@pytest.mark.parametrize("number", range(5))
def test_keys(number):
    """Each listed seed gives the listed public key, key id, and text forms."""
    row = keys()[number]
    seed, alg = bytes.fromhex(row["ed25519_seed_hex"]), COSIGNATURE_ED25519 if number in (2, 3) else ED25519
    public = Ed25519Signer(seed).public_key
    assert public.hex() == row["public_key_hex"]
    assert key_id(row["name"], alg, public).hex() == row["key_id_hex"]
    assert parse_vkey(row["vkey"]) == Vkey(row["name"], bytes.fromhex(row["key_id_hex"]), alg, public)
    assert str(parse_vkey(row["vkey"])) == row["vkey"]
    if "skey" in row:
        assert NoteSigner(row["name"], seed).skey == row["skey"]
        assert parse_skey(row["skey"]).vkey == row["vkey"]


def test_notes():
    """Each listed note is taken or refused as this project must, where that differs from the Go library too."""
    accepted = 0
    for row in load("notes.json"):
        data = row["note"].encode()
        if row["gateway_must_accept"]:
            assert open_checkpoint(data, [log_key()]).size == 257
            accepted += 1
        else:
            with pytest.raises(FormatError):
                open_checkpoint(data, [log_key()])
    assert 0 < accepted < len(load("notes.json"))


def test_checkpoints():
    """Each listed checkpoint is written, signed, cosigned and opened byte for byte as listed."""
    signers = [NoteSigner(key["name"], bytes.fromhex(key["ed25519_seed_hex"])) for key in keys()[:2]]
    cosigners = {key["name"]: Ed25519Signer(bytes.fromhex(key["ed25519_seed_hex"])) for key in keys()[2:4]}
    for row in load("checkpoints.json"):
        note, body = row["signed_note"], row["note_text"]
        point = parse_checkpoint(body)
        assert format_checkpoint(point) == body
        assert point.size == row["size"]
        assert point.root == root_at(point.size, read)
        by = [signer for signer in signers if signer.sign_line(body) in note]
        assert body + "\n" + "".join(signer.sign_line(body) for signer in by) == note
        assert open_checkpoint(note.encode(), [signer.key for signer in by]) == point
        if len(by) == 1:
            assert sign_checkpoint(point, by[0]) == note.encode()
        if "cosigned_note" not in row:
            continue
        for cosignature in row["cosignatures"]:
            name, time = cosignature["witness"], cosignature["timestamp"]
            assert ed25519_message(time, body).decode() == cosignature["signed_message"]
            assert str(cosign(name, cosigners[name], body, time)).strip() == cosignature["signature_line"].strip()
        found = open_cosigned(row["cosigned_note"].encode(), [log_key()], witness_keys(), keys()[0]["name"])
        expected = [(cosignature["witness"], cosignature["timestamp"]) for cosignature in row["cosignatures"]]
        assert [(cosignature.key.name, cosignature.time) for cosignature in found.cosignatures] == expected
        assert found.checkpoint == point


def test_mldsa44_cosignatures():
    """A real Go witness's ML-DSA-44 lines hold over the checkpoint that they name, and over no other."""
    notes = {row["size"]: row["signed_note"] for row in load("checkpoints.json")[:7]}
    for row in load("cosignature_mldsa44.json"):
        key, note = parse_vkey(row["vkey"]), notes[row["size"]]
        point = open_checkpoint(note.encode(), [log_key()], row["origin"])
        assert point.root == raw(row["root"])
        assert mldsa44_message(key.name, row["timestamp"], point).hex() == row["cosigned_message_hex"]
        line = row["signature_line"].rstrip("\n") + "\n"
        found = open_cosigned((note + line).encode(), [log_key()], [key])
        assert [(cosignature.key, cosignature.time) for cosignature in found.cosignatures] == [(key, row["timestamp"])]
        with pytest.raises(ProofError, match="does not hold"):
            open_cosigned((notes[256] + line).encode(), [log_key()], [key])


def test_add_checkpoint_requests():
    """The listed witness requests hold our consistency proofs and the log's checkpoint."""
    for row in load("add_checkpoint.json"):
        head, _, note = row["body"].partition("\n\n")
        first, *lines = head.split("\n")
        old, new = int(row["old"]), int(row["new"])
        assert first == f"old {old}"
        assert tuple(map(raw, lines)) == consistency_proof(old, new, read)
        assert open_checkpoint(note.encode(), [log_key()]).size == new


def as_cosigner(key: Vkey) -> Vkey:
    """The Go witness prints its Ed25519 key as a note key (0x01) and cosigns under 0x04."""
    alg = COSIGNATURE_ED25519 if key.alg == ED25519 else key.alg
    return Vkey(key.name, key_id(key.name, alg, key.public), alg, key.public)


def test_real_witnesses_answers():
    """Every cosignature line that two real witnesses answered is read, and each of their keys' lines holds."""
    judged = 0
    for witness in load("witness_exchanges.json").values():
        known = [as_cosigner(parse_vkey(value)) for value in witness.get("vkeys", [witness.get("vkey")])]
        for exchange in witness["exchanges"]:
            if exchange["status"] != 200:
                continue
            note = exchange["request"].partition("\n\n")[2]
            answer = exchange.get("response") or exchange.get("body")
            lines = parse_signature_lines(answer)
            assert "".join(map(str, lines)) == answer
            found = open_cosigned((note + answer).encode(), [log_key()], known)
            assert {cosignature.key.keyid for cosignature in found.cosignatures} == {line.keyid for line in lines}
            judged += len(lines)
    assert judged


def test_tlog_proof_under_the_trust_file():
    """The example proof shows its entry under the example trust file, cosigned by both, and reads back as written."""
    trust = parse_trust(text("example.tlog-policy"))
    proof = parse_tlog_proof(text("example.tlog-proof"))
    found = verify_checkpoint(proof.checkpoint, trust, keys()[0]["name"])
    assert [cosignature.key.name for cosignature in found.cosignatures] == ["witness.example/w1", "witness.example/w2"]
    item = (VECTORS / "example.tlog-proof.entry").read_bytes()
    assert item == entry(200)
    check_inclusion(proof, item, found.checkpoint)
    with pytest.raises(ProofError):
        check_inclusion(proof, item + b" ", found.checkpoint)
    assert format_tlog_proof(200, inclusion_proof(200, 257, read), proof.checkpoint) == text("example.tlog-proof")
    alone = SignatureLine(log_key().name, log_key().id, Ed25519Signer(bytes(32)).sign(b""))
    with pytest.raises(ProofError):
        verify_checkpoint(format_checkpoint(found.checkpoint).encode() + b"\n" + str(alone).encode(), trust)


def test_receipt():
    """The example receipt's envelope, PAE, signature and leaf hash are the listed ones."""
    facts = load("receipt/facts.json")
    envelope = parse_envelope((VECTORS / "receipt/receipt.dsse.json").read_bytes())
    payload = (VECTORS / "receipt/statement.json").read_bytes()
    assert envelope.payload == payload
    message = pae(envelope.payload_type, payload)
    assert message.hex() == text("receipt/pae.hex").strip()
    assert verify_envelope(envelope, {facts["keyid"]: bytes.fromhex(facts["public_key_hex"])}) == (facts["keyid"],)
    signer = NoteSigner(keys()[4]["name"], bytes.fromhex(keys()[4]["ed25519_seed_hex"]))
    sealed = seal(payload, envelope.payload_type, signer)
    assert parse_envelope(sealed.envelope) == envelope
    assert sealed.pae_sha256.hex() == facts["pae_sha256"]
    leaf = (VECTORS / "receipt/leaf.txt").read_bytes()
    assert facts["pae_sha256"].encode() in leaf
    assert leaf_hash(leaf).hex() == facts["leaf_hash_hex"]


def test_empty_root():
    """The root of nothing is the listed one."""
    assert raw(load("roots.json")["roots"][0]["root"]) == EMPTY_ROOT
