"""Who runs a command, for the entry that its act has in the log."""

from __future__ import annotations

import os
import pwd

from gateway.text import plain


def actor() -> str:
    """The user that this process runs as: the account's name, or `uid N` of one that has none.

    By the user id, and not by `LOGNAME` or `USER`, in which everybody is whoever they say.
    """
    uid = os.getuid()
    try:
        return plain(pwd.getpwuid(uid).pw_name, 100)
    except KeyError:
        return f"uid {uid}"
