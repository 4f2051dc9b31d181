"""A circuit manifest says everything about a circuit, or is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import zk_kit
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import FormatError, PolicyError
from gateway.verify.proofs import pointer, zk_settings
from gateway.verify.proofs.zk_circuit import MAX_FILE, hold_files
from gateway.verify.proofs.zk_manifest import MAX_BYTES, OnRelease, parse_manifest

INPUT = {"pointer": "/a", "offset": 0, "count": 4, "scale": 7, "visibility": "public"}
OUTPUT = {"pointer": "/b", "offset": 4, "count": 3, "scale": 7, "tolerance": 0.0, "on_release": "compare"}
FILES = {"vk.key": zk_kit.VK, "settings.json": zk_kit.SETTINGS, "verifier.srs": zk_kit.SRS}


def test_a_manifest_reads_back() -> None:
    """A manifest that covers every instance once is what it says."""
    found = zk_kit.manifest(
        n_instances=9,
        fixed=[{"offset": 7, "value": "01" + "00" * 31}, {"offset": 8, "value": "00" * 32}],
    )
    assert (found.proof_len, found.n_instances, found.inputs[0].width) == (16, 9, 4)
    assert found.outputs[0].on_release is OnRelease.COMPARE
    assert found.fixed[0].value.startswith("01")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "id of another key": ({"id": "sha256:" + "0" * 64}, "id must be"),
    "no settings hash": ({"settings_sha256": None}, "needs settings_sha256"),
    "no srs": ({"srs": None}, "needs srs"),
    "no version": ({"ezkl_version": None}, "needs ezkl_version"),
    "other version": ({"ezkl_version": "22.0.1"}, "need a [migration]"),
    "idle migration": ({"migration": {"ezkl_version": "23.0.5", "settings_sha256": "0" * 64}}, "need no migration"),
    "migration elsewhere": ({"ezkl_version": "22.0.1", "migration": {"ezkl_version": "24.0.0", "settings_sha256": "0" * 64}}, "23.0.5"),
    "srs name": ({"srs": "public-kzg-k2"}, "srs"),
    "unknown key": ({"thresholds": 1}, "thresholds"),
    "unknown system": ({"system": "jolt"}, "jolt"),
    "upper-case hash": ({"vk_sha256": "A" * 64}, "vk_sha256"),
    "long proof": ({"proof_len": 8193}, "proof_len"),
    "bool for int": ({"proof_len": True}, "proof_len"),
    "no instances": ({"n_instances": 0}, "n_instances"),
    "instance not covered": ({"n_instances": 8}, "instance 7 is covered 0 times"),
    "instance covered twice": ({"outputs": [{**OUTPUT, "offset": 3, "count": 4}]}, "instance 3 is covered 2 times"),
    "output past the end": ({"outputs": [{**OUTPUT, "count": 4}]}, "past the last"),
    "no outputs": ({"outputs": []}, "outputs"),
    "unknown visibility": ({"inputs": [{**INPUT, "visibility": "private"}]}, "private"),
    "scale too large": ({"inputs": [{**INPUT, "scale": 31}]}, "scale"),
    "negative tolerance": ({"outputs": [{**OUTPUT, "tolerance": -0.1}]}, "tolerance"),
    "infinite tolerance": ({"outputs": [{**OUTPUT, "tolerance": float("inf")}]}, "tolerance"),
    "tolerance not a number": ({"outputs": [{**OUTPUT, "tolerance": float("nan")}]}, "tolerance"),
    "pointer without slash": ({"inputs": [{**INPUT, "pointer": "a"}]}, "pointer"),
    "pointer with a bad escape": ({"outputs": [{**OUTPUT, "pointer": "/~2"}]}, "pointer"),
    "pointer too long": ({"outputs": [{**OUTPUT, "pointer": "/" + "a" * 256}]}, "256"),
    "pointer too deep": ({"outputs": [{**OUTPUT, "pointer": "/a" * 17}]}, "16 parts"),
    "outputs share a place": (
        {"outputs": [{**OUTPUT, "count": 2}, {**OUTPUT, "pointer": "/b/0", "offset": 6, "count": 1}]},
        "share a place",
    ),
    "fixed value not hex": ({"n_instances": 8, "fixed": [{"offset": 7, "value": "x"}]}, "64 lower-case"),
    "fixed value not canonical": ({"n_instances": 8, "fixed": [{"offset": 7, "value": "ff" * 32}]}, "order"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_manifest_that_leaves_something_open_is_refused(case: str) -> None:
    """Whatever would leave a value to a node, or to a default, is an error that names the file."""
    changes, message = REFUSED[case]
    with pytest.raises(PolicyError) as caught:
        zk_kit.manifest(**changes)
    assert message in str(caught.value)
    assert str(caught.value).startswith("circuit.toml: ")


@pytest.mark.parametrize(
    "data",
    [b"\xff", b"id = ", b"id = 2020-13-45", b"a = " + b"9" * 5000, b"a = " + b"[" * 5000, b" " * (MAX_BYTES + 1)],
    ids=["not UTF-8", "not TOML", "no such day", "endless integer", "endless nesting", "too long"],
)
def test_bytes_that_are_no_manifest_are_refused(data: bytes) -> None:
    """Bytes that the TOML reader chokes on in one way or another are one kind of error."""
    with pytest.raises(PolicyError):
        parse_manifest("circuit.toml", data)


@given(st.binary(max_size=200) | st.text(alphabet="[]=\"'\n.{}, ai0truenf-", max_size=200).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_manifest_or_refused(data: bytes) -> None:
    """A manifest parser raises `PolicyError` and nothing else."""
    with pytest.raises(PolicyError):
        parse_manifest("fuzz", data)


def test_groth16_has_nothing_of_ezkl() -> None:
    """A Groth16 circuit has a proof of 256 bytes, no settings and no hashed inputs."""
    text = zk_kit.groth16_toml(b"{}")
    assert parse_manifest("m", text.encode()).proof_len == 256
    for changes in (
        {"settings_sha256": "0" * 64},
        {"proof_len": 255},
        {"n_instances": 2, "inputs": [{**INPUT, "offset": 1, "visibility": "hashed"}]},
    ):
        with pytest.raises(PolicyError):
            parse_manifest("m", zk_kit.groth16_toml(b"{}", **changes).encode())


def test_files_are_held_to_their_hashes() -> None:
    """A circuit has the bytes that its manifest pins, all of them."""
    found = hold_files(zk_kit.manifest(), FILES)
    assert (found.vk, found.settings, found.srs) == (zk_kit.VK, zk_kit.SETTINGS, zk_kit.SRS)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["absent", "changed", "large"])
def test_a_file_that_is_not_the_pinned_one_is_refused(name: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is missing, larger than its limit or different in one byte is named in the error."""
    files = dict(FILES)
    if how == "absent":
        del files[name]
    elif how == "changed":
        files[name] += b" "  # which no reader of JSON would mind
    else:
        monkeypatch.setitem(MAX_FILE, name, 3)
    with pytest.raises(PolicyError) as caught:
        hold_files(zk_kit.manifest(), files)
    assert caught.value.key == name
    assert {"absent": "missing", "changed": "SHA-256", "large": "more than 3 bytes"}[how] in str(caught.value)


def test_the_public_ceremony_is_known_by_its_name() -> None:
    """With srs = "public-kzg-k1", other powers than the public ones are refused."""
    with pytest.raises(PolicyError, match="cafb2aa72c20"):
        hold_files(zk_kit.manifest(srs="public-kzg-k1"), FILES)


@pytest.mark.parametrize(
    "changes",
    [{"model_input_scales": [8]}, {"model_output_scales": []}, {"input_types": ["Int"]}, {"input_types": "F32"}],
    ids=str,
)
def test_settings_that_contradict_the_manifest_are_refused(changes: dict[str, Any]) -> None:
    """Another scale or number type in the pinned settings is a mistake of whoever wrote the manifest."""
    other = json.dumps({**json.loads(zk_kit.SETTINGS), **changes}).encode()
    with pytest.raises(PolicyError, match="do not have the manifest's"):
        hold_files(zk_kit.manifest(settings=other), {**FILES, "settings.json": other})


@pytest.mark.parametrize("other", [b"[]", b"{"])
def test_settings_that_are_no_object_are_refused(other: bytes) -> None:
    """Settings are one JSON object."""
    with pytest.raises(PolicyError):
        hold_files(zk_kit.manifest(settings=other), {**FILES, "settings.json": other})


OLD = {"run_args": {"logrows": 9}, "model_input_scales": [7], "model_output_scales": [7], "input_types": ["F32"], "version": "22.0.1"}  # fmt: skip


def test_settings_of_22_are_migrated_and_pinned_twice() -> None:
    """The verifier is given what 23 reads; the manifest pins the hash before and after."""
    old = json.dumps(OLD).encode()
    new = zk_settings.migrate(old)
    document = json.loads(new)
    assert document.pop("einsum_params") == {"equations": [], "total_einsum_col_size": 0}
    assert document["run_args"].pop("disable_freivalds") is True
    assert document == OLD
    pinned = {"ezkl_version": "23.0.5", "settings_sha256": zk_kit.sha(new)}
    found = hold_files(
        zk_kit.manifest(settings=old, ezkl_version="22.0.1", migration=pinned), {**FILES, "settings.json": old}
    )
    assert found.settings == new
    wrong = {**pinned, "settings_sha256": "0" * 64}
    with pytest.raises(PolicyError, match="the migrated settings"):
        hold_files(
            zk_kit.manifest(settings=old, ezkl_version="22.0.1", migration=wrong), {**FILES, "settings.json": old}
        )


@pytest.mark.parametrize(
    "document",
    [
        [],
        {**OLD, "version": "21.0.0"},
        {**OLD, "version": 22},
        {**OLD, "run_args": 1},
        {**OLD, "run_args": {"disable_freivalds": False}},
        {**OLD, "einsum_params": {}},
    ],
    ids=str,
)
def test_other_settings_are_not_migrated(document: object) -> None:
    """Settings of another version, or changed by hand, are not touched."""
    with pytest.raises(FormatError):
        zk_settings.migrate(json.dumps(document).encode())


DOCUMENT = {"a": [1, {"b/c": 2, "~": 3}], "": 4}


@pytest.mark.parametrize(("path", "value"), [("", DOCUMENT), ("/a/0", 1), ("/a/1/b~1c", 2), ("/a/1/~0", 3), ("/", 4)])
def test_a_pointer_finds_and_replaces(path: str, value: object) -> None:
    """RFC 6901's escapes are read, and a replacement leaves the document that it was given."""
    before = json.dumps(DOCUMENT)
    assert pointer.resolve(DOCUMENT, path) == value
    assert pointer.resolve(pointer.replaced(DOCUMENT, path, "new"), path) == "new"
    assert json.dumps(DOCUMENT) == before


@pytest.mark.parametrize("path", ["/b", "/a/2", "/a/01", "/a/-", "/a/-1", "/a/+0", "/a/٠", "/a/0/x", "x", "/~"])
def test_a_pointer_to_nothing_is_refused(path: str) -> None:
    """A place that the document does not have is an error, for reading and for replacing."""
    with pytest.raises(FormatError):
        pointer.resolve(DOCUMENT, path)
    with pytest.raises(FormatError):
        pointer.replaced(DOCUMENT, path, None)
