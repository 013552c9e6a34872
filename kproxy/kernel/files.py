"""How many files listeners may take, which come with Services and so are in a stranger's hands.

A process without a file left can start no program, and without iptables a node follows no change any more: 1,000
Services with a health-check node port would do that to a process that may open 1,024. So sockets that objects ask for
take one half. The kernel gives the lowest number that is free, so the number of a new file says how many there are; it
may say too many where files in between were closed, never too few. Rejected: to count /proc/self/fd, which costs as
much as there are files.
"""

from __future__ import annotations

import errno
import os
import resource
import socket


def within_half(sock: socket.socket) -> socket.socket:
    """The socket itself. Raises OSError (EMFILE) where half of the files are taken, and closes it."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and sock.fileno() >= soft // 2:
        sock.close()
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return sock
