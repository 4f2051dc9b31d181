"""Docker Compose text: which images it runs, and whether each is one exact digest.

A compose hash fixes the text, and the text fixes the code only as far as it names images by digest: behind a tag,
whoever publishes decides (docs/verification.md; Phala and 0G run several by tag in production). So every service is
listed, pinned or with the reason why not. What this reader does not know counts as not pinned:

    image_by_tag        a name, with or without a tag, and no sha256 digest
    image_interpolated  a `$` in the reference: the value comes from an environment that nothing measures
    image_built         `build`: made on the spot, from sources that are not named
    image_elsewhere     `extends` or `provider`: defined by something outside this text
    image_missing       a service that names no image at all

Top-level elements that bring in more (`include`, `models`, anything unknown) are `unresolved`, and then the list of
images is not the whole list. What a container does once it runs (downloads, mounts of the host) is not looked at.
Compose specification: compose-spec 05-services.md, 12-interpolation.md; digests: distribution reference grammar.
"""

from __future__ import annotations

import re

import msgspec

from gateway.errors import FormatError

from .yaml_tree import Mapping, Merger, Node, Scalar, Sequence, read_yaml

MAX_SERVICES = 256
MAX_IMAGES = 512
MAX_MOUNTS = 8192
MAX_VARIABLES = 512
_PINNED = re.compile(
    r"(?:[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{1,5})?/)?"  # registry
    r"[a-z0-9]+(?:[._/-]+[a-z0-9]+)*"  # repository
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"  # tag, which a digest overrides
    r"@sha256:[0-9a-f]{64}"
)
_LONGEST_REFERENCE = 512
_VARIABLE = re.compile(r"\$(?:\$|\{?([A-Za-z_][A-Za-z0-9_]*))")
_KNOWN = frozenset(("version", "name", "services", "networks", "volumes", "configs", "secrets"))
_ELSEWHERE = ("extends", "provider")


class Image(msgspec.Struct, frozen=True):
    """One image of one service. `reason` is None exactly when it is pinned; `reference` None when there is none."""

    service: str
    reference: str | None
    reason: str | None

    @property
    def pinned(self) -> bool:
        return self.reason is None


class Compose(msgspec.Struct, frozen=True):
    """What a compose text runs. `variables` are the names that it takes from the environment, sorted."""

    images: tuple[Image, ...]
    unresolved: tuple[str, ...]
    variables: tuple[str, ...]

    @property
    def pinned(self) -> bool:
        """Whether every image is one exact digest, and there is at least one, and none can be missing here."""
        return bool(self.images) and not self.unresolved and all(i.pinned for i in self.images)


def read_compose(text: str) -> Compose:
    """Read a compose file. Raises `FormatError` for anything that is not one."""
    root = read_yaml(text)
    if not isinstance(root, Mapping):
        raise FormatError("a compose file is a mapping")
    merger = Merger()
    top = merger.pairs(root)
    services = top.get("services")
    if not isinstance(services, Mapping):
        raise FormatError("a compose file has a mapping of services")
    named = merger.pairs(services)
    if len(named) > MAX_SERVICES:
        raise FormatError(f"a compose file with more than {MAX_SERVICES} services")
    images: list[Image] = []
    mounts = 0
    for name, node in named.items():
        found, looked_at = _service(name, node, merger)
        images += found
        # Many services may name one long list by an alias, so what is looked at is bounded and not only what is kept.
        mounts += looked_at
        if len(images) > MAX_IMAGES or mounts > MAX_MOUNTS:
            raise FormatError(f"a compose file with more than {MAX_IMAGES} images or {MAX_MOUNTS} volumes")
    # read from the text, comments included: a name too many is harmless, one too few is not
    variables = {m[1] for m in _VARIABLE.finditer(text) if m[1]}
    if len(variables) > MAX_VARIABLES:
        raise FormatError(f"a compose file with more than {MAX_VARIABLES} variables")
    unresolved = tuple(sorted(key for key in top if key not in _KNOWN and not key.startswith("x-")))
    return Compose(tuple(images), unresolved, tuple(sorted(variables)))


def _service(name: str, node: Node, merger: Merger) -> tuple[list[Image], int]:
    """The images of one service, and how many volumes were looked at."""
    if not isinstance(node, Mapping):
        raise FormatError("a service of a compose file is a mapping")
    members = merger.pairs(node)
    image = members.get("image")
    reference = image.value if isinstance(image, Scalar) else None
    volumes = members.get("volumes")
    mounts = volumes.items[: MAX_MOUNTS + 1] if isinstance(volumes, Sequence) else []
    own = Image(name, reference, _reason(members, reference))
    return [own, *_image_volumes(name, mounts, merger)], len(mounts)


def _reason(members: dict[str, Node], reference: str | None) -> str | None:
    if "build" in members:  # with both, compose builds and only tags the result with the name
        return "image_built"
    if any(key in members for key in _ELSEWHERE):
        return "image_elsewhere"
    return _reference_reason(reference)


def _reference_reason(reference: str | None) -> str | None:
    if not reference:
        return "image_missing"
    if "$" in reference:
        return "image_interpolated"
    if len(reference) > _LONGEST_REFERENCE or _PINNED.fullmatch(reference) is None:
        return "image_by_tag"
    return None


def _image_volumes(name: str, mounts: list[Node], merger: Merger) -> list[Image]:
    """Images that are mounted as volumes (`type: image`), which are code as much as the service's own."""
    found = []
    for item in mounts:
        mount = merger.pairs(item) if isinstance(item, Mapping) else {}
        kind, source = mount.get("type"), mount.get("source")
        if isinstance(kind, Scalar) and (kind.value == "image" or "$" in kind.value):
            reference = source.value if isinstance(source, Scalar) else None
            found.append(Image(name, reference, _reference_reason(reference)))
    return found
