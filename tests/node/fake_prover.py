"""A proving process that is none: what it does follows from its folder's name and the first number it is given."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def say(message: object) -> None:
    print(json.dumps(message), flush=True)


def main() -> None:
    folder = Path(sys.argv[1]).name
    if folder == "silent":
        return
    if folder == "failing":
        say({"event": "failed", "message": "no keys today"})
        return
    if folder == "mute":
        time.sleep(3600)
    say({"event": "progress", "text": "keys"})
    say([] if folder == "talking" else {"event": "ready", "circuit": "sha256:" + "0" * 64})
    for line in sys.stdin:
        kind = json.loads(line)["values"][0]
        if kind == 1:
            os.abort()
        if kind == 2:
            time.sleep(3600)
        if kind == 3:
            say({"error": "no witness"})
        elif kind == 4:
            print("x" * (2 << 20), flush=True)
        else:
            secrets = [name for name in os.environ if name.startswith("VERIROUTE")]
            say({"proof": {"pid": os.getpid(), "secrets": secrets, "work": os.environ["HOME"], "kind": kind}})


if __name__ == "__main__":
    main()
