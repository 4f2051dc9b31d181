"""Compose files and app-compose documents: which images run, and what counts as pinned."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tee_worlds.dstack import COMPOSE, DIGEST, app_compose

from gateway.crypto.canonical import jcs
from gateway.errors import FormatError
from gateway.verify.tee import compose, yaml_tree
from gateway.verify.tee.app_compose import MAX_ENVS, MAX_SCRIPTS, Script, compose_hash, parse_app_compose
from gateway.verify.tee.compose import read_compose
from gateway.verify.tee.yaml_tree import read_yaml


def service(*lines: str) -> str:
    return "services:\n  a:\n" + "".join(f"    {line}\n" for line in lines)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (service(f"image: vllm/vllm-openai@{DIGEST}"), None),
        (service(f"image: vllm/vllm-openai:v0.10.2@{DIGEST}"), None),
        (service(f"image: Registry.example:5000/a/b_c/d--e@{DIGEST}"), None),
        (service(f"image: 'redis@{DIGEST}'"), None),
        (service("image: vllm/vllm-openai:v0.10.2"), "image_by_tag"),
        (service("image: alpine:latest"), "image_by_tag"),
        (service("image: alpine"), "image_by_tag"),
        (service(f"image: alpine@{DIGEST.upper()}"), "image_by_tag"),
        (service(f"image: alpine@{DIGEST[:-1]}"), "image_by_tag"),
        (service(f"image: alpine@{DIGEST}0"), "image_by_tag"),
        (service(f"image: alpine@sha512:{'ab' * 64}"), "image_by_tag"),
        (service(f"image: {DIGEST}"), "image_by_tag"),
        (service(f"image: '@{DIGEST}'"), "image_by_tag"),
        (service(f"image: 'a b@{DIGEST}'"), "image_by_tag"),
        (service(f"image: '{'a/' * 300}a@{DIGEST}'"), "image_by_tag"),
        (service(f'image: "alpine@{DIGEST}\\n"'), "image_by_tag"),
        (service("image: ${IMAGE}"), "image_interpolated"),
        (service("image: $IMAGE"), "image_interpolated"),
        (service(f"image: ${{IMAGE:-alpine@{DIGEST}}}"), "image_interpolated"),
        (service(f"image: ${{REGISTRY}}/alpine@{DIGEST}"), "image_interpolated"),
        (service(f"image: alpine:$TAG@{DIGEST}"), "image_interpolated"),
        (service("build: ."), "image_built"),
        (service("build: {context: .}", f"image: alpine@{DIGEST}"), "image_built"),
        (service("extends: {file: other.yaml, service: b}", f"image: alpine@{DIGEST}"), "image_elsewhere"),
        (service("provider: {type: model}"), "image_elsewhere"),
        (service("command: sleep"), "image_missing"),
        (service("image:"), "image_missing"),
        (service("image: [a]"), "image_missing"),
        (service("command: |", f"  image: alpine@{DIGEST}"), "image_missing"),
    ],
)
def test_one_service(text: str, reason: str | None) -> None:
    """A service is pinned by a sha256 digest that stands in the text, and by nothing else."""
    read = read_compose(text)
    assert [i.reason for i in read.images] == [reason]
    assert read.images[0].pinned == read.pinned == (reason is None)


def test_pitfall_text_that_looks_like_a_key() -> None:
    """An `image:` line inside a script is no image, and does not hide the one that is."""
    read = read_compose(service(f"command: |\n      image: alpine@{DIGEST}", "image: alpine:latest"))
    assert [(i.reference, i.reason) for i in read.images] == [("alpine:latest", "image_by_tag")]


def test_merges_and_aliases() -> None:
    """Anchors and merge keys are followed as compose follows them: the mapping's own keys win, then the first source."""
    text = f"""
x-common: &common
  image: alpine:latest
x-pinned: &pinned {{image: "redis@{DIGEST}"}}
x-name: &name redis@{DIGEST}
services:
  own: {{<<: *common, image: *name}}
  merged:
    <<: *common
  first: {{<<: [*pinned, *common]}}
  second: {{<<: [*common, *pinned]}}
  twice: {{<<: [{{<<: *pinned}}, *common]}}
"""
    read = read_compose(text)
    assert {i.service: i.pinned for i in read.images} == {
        "own": True, "merged": False, "first": True, "second": False, "twice": True,
    }  # fmt: skip
    assert read.unresolved == ()
    assert not read.pinned


def test_services_may_be_merged_too() -> None:
    """Services that come from a merge key are listed like the others."""
    read = read_compose(f"x-a: &a {{one: {{image: 'a@{DIGEST}'}}}}\nservices:\n  <<: *a\n  two: {{image: b}}\n")
    assert {i.service: i.reason for i in read.images} == {"one": None, "two": "image_by_tag"}


@pytest.mark.parametrize(
    "element", ["include: [other.yaml]", "models: {m: {model: ai/x}}", "Services: {}", "whatever: 1"]
)
def test_what_brings_in_more_is_unresolved(element: str) -> None:
    """A top-level element that is not known to bring in no image keeps the file from counting as pinned."""
    read = read_compose(COMPOSE + element + "\n")
    assert read.unresolved == (element.split(":")[0],)
    assert not read.pinned
    assert all(i.pinned for i in read.images)


def test_known_elements_are_resolved() -> None:
    """Networks, volumes and extensions bring in no image."""
    assert read_compose(
        COMPOSE + "version: '3'\nname: n\nnetworks: {}\nvolumes: {}\nconfigs: {}\nsecrets: {}\nx-y: 1\n"
    ).pinned


def test_no_services_is_not_pinned() -> None:
    """A file that runs nothing shows nothing pinned."""
    assert not read_compose("services: {}").pinned


@pytest.mark.parametrize(
    ("volume", "reason"),
    [
        (f"{{type: image, source: 'a@{DIGEST}', target: /m}}", None),
        ("{type: image, source: 'a:1', target: /m}", "image_by_tag"),
        ("{type: image, target: /m}", "image_missing"),
        (f"{{type: '${{T}}', source: 'a@{DIGEST}'}}", None),
        ("{type: '$T', source: b}", "image_by_tag"),
    ],
)
def test_images_mounted_as_volumes(volume: str, reason: str | None) -> None:
    """An image that is mounted is listed like one that runs."""
    read = read_compose(COMPOSE + f"    volumes: [{volume}, 'data:/d', {{type: bind}}, {{source: x}}]\n")
    assert [i.reason for i in read.images] == [None, reason]


def test_variables() -> None:
    """Every name that compose would take from the environment is listed; `$$` is a dollar sign."""
    read = read_compose(service("command: sh -c '${A} $B ${C:-x} $$D $${E} ${A} $1'", "image: x"))
    assert read.variables == ("A", "B", "C")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no document"),
        ("a", "is a mapping"),
        ("[]", "is a mapping"),
        ("a: 1", "mapping of services"),
        ("services: []", "mapping of services"),
        ("services: {a: 1}", "a service of a compose file"),
        ("services: {a: }", "a service of a compose file"),
        ("services: {a: {image: x}}\nservices: {b: {image: y}}", "services twice"),
        ("services: {a: {image: x, image: y}}", "image twice"),
        ("services: {a: {image: x, 'image': y}}", "image twice"),
        ("services: {a: {<<: {}, <<: {}}}", "<< twice"),
        ("services: {a: {'<<': {image: x}}}", "quoted merge key"),
        ("services: {a: {<<: x}}", "no mapping"),
        ("services: {a: {<<: [x]}}", "no mapping"),
        ("services: {a: !reset {image: x}}", "a tag"),
        ("services: {a: {image: !!str x}}", "a tag"),
        ("? [a]\n: b", "no text"),
        ("? {a: b}\n: b", "no text"),
        ("%YAML 1.1\n---\nservices: {}", "directive"),
        ("%TAG ! tag:x,2000:\n---\nservices: {}", "directive"),
        ("services: {}\n---\nservices: {}", "several"),
        ("services: {a: &n {image: x}, b: &n {image: y}, c: *n}", "two nodes alike"),
        ("services: {a: &n {image: &n x}, c: *n}", "two nodes alike"),
        ("services: {? : {image: x}}", "no text"),
        ("services: &s {a: *s}", "alias to nothing"),
        ("services: *s", "alias to nothing"),
        ("services: {a: {image: x}} # \u2028services: {}", "line break"),
        ("services: {a: {image: x}} # \x85", "line break"),
        ("\ufeffservices: {}", "byte order mark"),
        ("a: b: c", "malformed"),
        ("a: \x01", "malformed"),
        ("\ud800", "malformed|surrogate"),
        ("[" * (yaml_tree.MAX_DEPTH + 1), "nested deeper"),
        ("[" * 100_000, "nested deeper"),
        ("[" + "a," * (yaml_tree.MAX_NODES + 1) + "]", "nodes"),
        ("#" * (yaml_tree.MAX_BYTES + 1), "over the limit"),
        ("é" * (yaml_tree.MAX_BYTES // 2 + 1), "over the limit"),
        ("services:\n" + "".join(f"  s{i}: {{image: x}}\n" for i in range(compose.MAX_SERVICES + 1)), "more than 256"),
        (service("image: " + " ".join(f"$V{i}" for i in range(compose.MAX_VARIABLES + 1))), "more than 512 variables"),
        (service("volumes: [" + "{type: image}, " * compose.MAX_IMAGES + "]"), "more than 512 images"),
    ],
)
def test_refused(text: str, message: str) -> None:
    """What is no compose file, what two readers could read differently, and what is too large is malformed."""
    with pytest.raises(FormatError, match=message) as caught:
        read_compose(text)
    assert caught.value.reason is None
    assert caught.value.message.isprintable()


def test_pitfall_billion_laughs() -> None:
    """Aliases of aliases cost what they are written with, not what they would expand to."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    root = read_yaml("\n".join(lines))
    assert isinstance(root, yaml_tree.Mapping)
    assert len(root.pairs) == 30


def test_pitfall_merge_bombs() -> None:
    """Merging is counted: many merges of a large mapping, and merges of merges, are refused or cost nothing."""
    large = "x-l: &l {" + ", ".join(f"k{i}: v" for i in range(1000)) + "}\nservices:\n"
    with pytest.raises(FormatError, match="merges more than"):
        read_compose(large + "".join(f"  s{i}: {{<<: *l}}\n" for i in range(100)))
    wide = "x-0: &m0 {image: a}\n" + "".join(f"x-{i}: &m{i} {{<<: [*m{i - 1}, *m{i - 1}]}}\n" for i in range(1, 30))
    assert len(read_compose(wide + "services: {a: *m29}\n").images) == 1


def test_merges_are_not_followed_for_ever() -> None:
    """A chain of merges that is longer than the nesting limit is refused."""
    chain = "x-0: &m0 {image: a}\n" + "".join(f"x-{i}: &m{i} {{<<: *m{i - 1}}}\n" for i in range(1, 40))
    with pytest.raises(FormatError, match="too deep"):
        read_compose(chain + "services: {a: *m39}\n")


def test_the_other_parser_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without libyaml the same file reads the same."""
    there = read_compose(COMPOSE)
    monkeypatch.setattr(yaml_tree, "_LOADER", yaml.SafeLoader)
    assert read_compose(COMPOSE) == there


def test_compose_hash_is_of_the_verbatim_text() -> None:
    """The hash covers the text as it was given: one space more is another document."""
    text = app_compose()
    assert parse_app_compose(text).sha256 == compose_hash(text) == hashlib.sha256(text).hexdigest()
    assert compose_hash(text + b" ") != compose_hash(text)
    assert compose_hash(json.dumps(json.loads(text)).encode()) != compose_hash(text)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("members", "field", "value"),
    [
        ({}, "runner", "docker-compose"),
        ({"runner": None}, "runner", ""),
        ({}, "docker_compose", COMPOSE),
        ({"docker_compose_file": None}, "docker_compose", None),
        ({}, "scripts", ()),
        ({"pre_launch_script": "x"}, "scripts", (Script("pre_launch_script", digest("x")),)),
        ({"pre_launch_script": ""}, "scripts", ()),
        ({"bash_script": "b", "init_script": ["i", "j"]}, "scripts",
         (Script("init_script", digest("i")), Script("init_script", digest("j")), Script("bash_script", digest("b")))),
        ({"allowed_envs": ["A", "B"]}, "allowed_envs", ("A", "B")),
        ({"allowed_envs": None}, "allowed_envs", ()),
        ({}, "public_logs", False),
        ({"public_logs": True}, "public_logs", True),
        ({"public_logs": None}, "public_logs", True),
        ({}, "gpu_policy", digest("{}")),
        ({"requirements": {}}, "gpu_policy", digest("{}")),
        ({"requirements": {"gpu_policy": {"b": 1, "a": 2}}}, "gpu_policy", digest('{"a":2,"b":1}')),
    ],
)  # fmt: skip
def test_app_compose(members: dict[str, Any], field: str, value: Any) -> None:
    """The members that an appraisal reads, with what stands for one that is missing."""
    assert getattr(parse_app_compose(app_compose(**members)), field) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "JSON"),
        (b"[]", "JSON object"),
        (b'{"runner": "a", "runner": "b"}', "twice"),
        (app_compose(runner=1), "runner is not a text"),
        (app_compose(docker_compose_file={}), "docker_compose_file is not a text"),
        (app_compose(pre_launch_script=1), "neither a text"),
        (app_compose(init_script=["a", 1]), "neither a text"),
        (app_compose(init_script=["a"] * (MAX_SCRIPTS + 1)), "more than 512 scripts"),
        (app_compose(allowed_envs="A"), "allowed_envs"),
        (app_compose(allowed_envs=[1]), "allowed_envs"),
        (app_compose(allowed_envs=["A"] * (MAX_ENVS + 1)), "allowed_envs"),
        (app_compose(requirements=[]), "requirements"),
        (app_compose(requirements={"gpu_policy": 2**60}), "canonical JSON"),
        (app_compose("x" * 600_000), "over the limit"),
    ],
)
def test_app_compose_refused(text: bytes, message: str) -> None:
    """A document that is not what dstack writes is malformed."""
    with pytest.raises(FormatError, match=message):
        parse_app_compose(text)


def test_gpu_policy_is_canonical() -> None:
    """The policy's hash is over its RFC 8785 form, not over how it was written."""
    policy = {"z": [1, 2], "a": {"c": "é", "b": True}}
    read = parse_app_compose(app_compose(requirements={"gpu_policy": policy}))
    assert read.gpu_policy == hashlib.sha256(jcs(policy)).hexdigest()


PIECES = [
    "services:",
    "\n",
    "  ",
    "a:",
    "image:",
    " x",
    f" a@{DIGEST}",
    " &a",
    " *a",
    "<<: ",
    "{",
    "}",
    "[",
    "]",
    "- ",
    "'",
    '"',
    "|",
    "$",
    "build: .",
    "?",
    "!t",
    "---",
    "#",
]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.lists(st.sampled_from(PIECES), max_size=25).map("".join), st.text(max_size=60)))
def test_no_text_is_anything_but_read_or_refused(text: str) -> None:
    """Whatever the text, it is read or malformed, and nothing without a digest in it counts as pinned."""
    try:
        read = read_compose(text)
    except FormatError:
        return
    assert not read.pinned or DIGEST in text


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_images_agree_with_a_plain_loader(text: str) -> None:
    """What is read here is what PyYAML's own loader reads in the same text, where it reads services at all."""
    try:
        read = read_compose(text)
    except FormatError:
        return
    loaded = yaml.safe_load(text)["services"]
    names = {str(name): value.get("image") for name, value in loaded.items()}
    assert {i.service: i.reference or None for i in read.images} == {
        n: v or None for n, v in names.items() if not isinstance(v, list | dict)
    } | {n: None for n, v in names.items() if isinstance(v, list | dict)}


@pytest.mark.parametrize(
    ("item", "count", "message"),
    [("{type: image}", 300, "more than 512 images"), ("a:/b", 9000, "8192 volumes"), ("a:/b", 40, "8192 volumes")],
)
def test_pitfall_one_long_list_under_many_services(item: str, count: int, message: str) -> None:
    """A list that many services name by an alias is looked at once for each of them, so that is what is bounded."""
    services = "".join(f"  s{i}: {{volumes: *v}}\n" for i in range(250))
    text = f"x-a: &a {item}\nx-v: &v [{'*a, ' * count}]\nservices:\n{services}"
    with pytest.raises(FormatError, match=message):
        read_compose(text)
