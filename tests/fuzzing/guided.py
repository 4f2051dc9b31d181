"""One world under atheris, which follows coverage: `make fuzz-atheris WORLD=nitro FUZZ_SECONDS=600`, once atheris is installed.

    PYTHONPATH=tests python -m fuzzing.guided nitro -max_total_time=600

Atheris instruments our code as it is imported, keeps what reaches new lines, and stops at the first exception with the
input in a `crash-…` file. `python -m fuzzing.guided nitro crash-…` runs that one again. What else stands on the command
line is libFuzzer's. Atheris is no dependency of this project: its wheels exist for few versions of Python.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path


def main() -> None:
    try:
        import atheris
    except ImportError:
        raise SystemExit("atheris is not installed; `pip install atheris` where it has a wheel") from None
    if len(sys.argv) < 2:
        raise SystemExit("which world? python -m fuzzing.guided WORLD [libFuzzer's options]")
    with atheris.instrument_imports(include=["gateway"]):
        from fuzzing.discover import world

        target = world(sys.argv[1])
    corpus = tempfile.mkdtemp(prefix="veriroute-corpus-")
    for number, seed in enumerate(target.seeds):
        (Path(corpus) / f"{number}").write_bytes(seed)

    def run(data: bytes) -> None:
        target.run(data)

    one_again = [argument for argument in sys.argv[2:] if Path(argument).is_file()]
    places = [] if one_again else [corpus, "-max_len=65536"]
    atheris.Setup([sys.argv[0], *sys.argv[2:], *places], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
