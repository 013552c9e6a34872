"""Standard output that takes no more: a reader that went away is no error, a full disk is a sentence."""

from __future__ import annotations

import errno
import os
import sys

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EIO}


def unwritable(error: OSError) -> str:
    """What to say of an error of writing to standard output; empty: it is something else."""
    if error.errno not in _FULL or error.filename:
        return ""
    return f"the output cannot be written: {error.strerror}; make room, or write elsewhere"


def stop_writing() -> None:
    """What is still buffered would be tried again at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
