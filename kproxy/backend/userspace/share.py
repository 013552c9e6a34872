"""How many of a node's flows one worker may have, and on what that depends: the files that it may open.

The caps of ``Config`` are the node's, for each family; a worker gets its part of them, rounded up. Where files are
scarce a family may have so many connections that three quarters of them are in use (two for each), or sessions for a
quarter. Two families that are both full want more than there is, pipes and listeners, too; then clients wait until
others have gone (``relay_accept_pause``). Giving each family a half for itself would be safe from that and refuse
clients on every node that speaks one family, which most do.
"""

from __future__ import annotations

import resource
from typing import NamedTuple

from kproxy.config import Config


class Share(NamedTuple):
    """What one worker may have at once, for each family."""

    connections: int
    sessions: int
    files: int  # that it may open


def share(config: Config, files: int, workers: int = 1) -> Share:
    return Share(
        connections=min(-(-config.relay_connections // workers), max(1, files * 3 // 8)),
        sessions=min(-(-config.relay_udp_sessions // workers), max(1, files // 4)),
        files=files,
    )


def raise_files() -> int:
    """Let this process open as many files as it may (RLIMIT_NOFILE); how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # "unlimited" where fs.nr_open is lower
            return soft
    return hard
