"""How much of a node's flows one process may have, and of what that depends: the files that it may open.

The caps of ``Config`` are the node's, for each family; a worker gets its part of them, rounded up. A relayed connection
is two files, a session one; of eight connections one may have a pipe, which is two more. Both families together may use
eleven sixteenths of a process's files; the rest is for listeners and whatever else the process does.
"""

from __future__ import annotations

import resource
from typing import NamedTuple

from kproxy.config import Config

CONNECTIONS_SHARE, _SESSIONS_SHARE = 8, 16


class Share(NamedTuple):
    """What one process may have at once, for each family."""

    connections: int
    sessions: int
    files: int  # that it may open


def share(config: Config, files: int, workers: int = 1) -> Share:
    return Share(
        connections=min(-(-config.relay_connections // workers), max(1, files // CONNECTIONS_SHARE)),
        sessions=min(-(-config.relay_udp_sessions // workers), max(1, files // _SESSIONS_SHARE)),
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
