"""Sigstore's trust root by name: the file that the package `sigstore` brings along, without running any of its code.

    trust_root("public-good")           the trusted_root.json of Sigstore's own instance, as of that package's release
    trust_root("path/to/file.json")     the operator's own

The package comes with the extra `veriroute[sigstore]`. It has a TUF client, which renews the file; none is asked here,
since nothing is fetched. A root that is older than a rotation of keys refuses what was signed after it
(docs/decisions/0019-provenance.md).
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from ._appraise_inputs import Usage, read

PUBLIC_GOOD = "public-good"
#: Where releases 4 of the package keep it: the quoted URL of the repository, then the name of the target.
_PACKAGED = "sigstore/_store/https%3A%2F%2Ftuf-repo-cdn.sigstore.dev/trusted_root.json"


def trust_root(name: str) -> bytes:
    """The bytes of the trust root. Raises `Usage`, which says how to get one."""
    if name != PUBLIC_GOOD:
        return read(Path(name))
    try:
        package = metadata.distribution("sigstore")
    except metadata.PackageNotFoundError:
        raise Usage(
            f"--sigstore-root {PUBLIC_GOOD} is a file of the package sigstore, which is not installed: "
            'pip install "veriroute[sigstore]", or give the path of a trusted_root.json'
        ) from None
    path = Path(str(package.locate_file(_PACKAGED)))
    if not path.is_file():
        raise Usage(
            f"sigstore {package.version} has no trusted_root.json where releases 4 keep it; give the path of one"
        )
    return read(path)
