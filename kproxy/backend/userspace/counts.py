"""What the relay counts, of one protocol in one family."""

from __future__ import annotations

import errno
from collections import Counter

from msgspec import Struct, field

ENDPOINTS = "endpoints"  # none could be reached
LIMIT = "limit"  # there are as many flows as may be
FILES = "files"  # this process may open no more
SHORT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def reason(error: OSError) -> str:
    """Why a flow that met this error on its way to an endpoint was refused."""
    return FILES if error.errno in SHORT_OF_FILES else ENDPOINTS


class Counts(Struct):
    """Since the start. ``refused`` by reason, of the three above."""

    flows: int = 0  # that reached an endpoint
    active: int = 0  # at present
    refused: Counter[str] = field(default_factory=Counter)
    evicted: int = 0  # sessions that ended because there were too many
    dropped: int = 0  # datagrams that found a queue full
