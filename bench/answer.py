"""A server that accepts and hangs up: the far end of a measured connection, which must cost next to nothing.

python bench/answer.py PORT
"""

from __future__ import annotations

import gc
import socket
import sys


def main() -> None:
    """Serve for ever."""
    gc.disable()
    with socket.create_server(("0.0.0.0", int(sys.argv[1])), backlog=4096) as server:  # noqa: S104 -- in a private namespace
        print("listening", flush=True)
        while True:
            server.accept()[0].close()


if __name__ == "__main__":
    main()
