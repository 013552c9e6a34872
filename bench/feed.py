"""The cluster as the daemon sees it: the embedded API server in a process and a namespace of its own making.

    python bench/feed.py --size 1000x5 --kubeconfig FILE     the server; reads commands, one a line
    Feed(host, cluster size)                                 starts that, and writes the commands

Being a process of its own, its processor time is not the daemon's; but it is in the wall time, as a real API server's
answers would be. Objects are stored unseen at the start (`load`), and created, updated and deleted as any client would
do it afterwards.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

from cluster import SERVICE_CIDR, Service, make_cluster, moved, parse_size, service_document, slice_documents
from host import Host, first_line

from kproxy.sandbox.apiserver import ApiServer

_DONE = "done"


class Feed:
    """The bench's side. Every method returns when the API server has stored the change."""

    def __init__(self, host: Host, size: str, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        command = (sys.executable, __file__, "--size", size, "--kubeconfig", str(kubeconfig))
        self._process = host.start(command)
        self._host = host
        first_line(self._process.stdout)

    def close(self) -> None:
        """End the server."""
        self._host.stop(self._process)

    def shrink(self, number: int) -> None:
        """Take the last endpoint of a service out of its slice."""
        self._tell(f"shrink {number}")

    def grow(self, number: int, times: int) -> None:
        """Put an endpoint back, with another address for another ``times``."""
        self._tell(f"grow {number} {times}")

    def add(self, first: int, count: int) -> None:
        """Create services and their slices."""
        self._tell(f"add {first} {count}")

    def delete(self, first: int, count: int) -> None:
        self._tell(f"delete {first} {count}")

    def _tell(self, line: str) -> None:
        if self._process.stdin is None:
            raise RuntimeError("the API server was started without a pipe")
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        first_line(self._process.stdout)


class _Server:
    def __init__(self, server: ApiServer, size: str) -> None:
        self._server = server
        self._endpoints = parse_size(size)[1]
        self._cluster = make_cluster(*parse_size(size))

    def load(self) -> None:
        self._server.load(self._cluster.documents())

    def shrink(self, number: int) -> None:
        self._write(self._cluster.services[number].without_last())

    def grow(self, number: int, times: int) -> None:
        self._write(moved(self._cluster.services[number], times))

    def add(self, first: int, count: int) -> None:
        for service in make_cluster(count, self._endpoints, first=first).services:
            self._server.create(service_document(service))
            for document in slice_documents(service):
                self._server.create(document)

    def delete(self, first: int, count: int) -> None:
        for service in make_cluster(count, self._endpoints, first=first).services:
            for document in slice_documents(service):
                self._server.delete("EndpointSlice", document["metadata"]["name"], service.namespace)
            self._server.delete("Service", service.name, service.namespace)

    def _write(self, service: Service) -> None:
        for document in slice_documents(service):
            self._server.update(document)


async def serve(size: str, kubeconfig: Path) -> None:
    """Serve one cluster until standard input ends."""
    server = ApiServer(controllers=False, service_cidrs=(SERVICE_CIDR,), remembered=100_000)
    handler = _Server(server, size)
    async with server:
        for number in range(50):
            server.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"team-{number}"}})
        handler.load()
        server.kubeconfig(kubeconfig)
        print(_DONE, flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            word, *numbers = line.split()
            action: Callable[..., None] = getattr(handler, word)
            action(*map(int, numbers))
            print(_DONE, flush=True)


def main() -> int:
    """Run the server."""
    parser = argparse.ArgumentParser(description="Serve a synthetic cluster; commands come on standard input.")
    parser.add_argument("--size", required=True, metavar="SERVICESxENDPOINTS")
    parser.add_argument("--kubeconfig", required=True, type=Path, metavar="FILE", help="written when it listens")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.size, arguments.kubeconfig))
    return 0


if __name__ == "__main__":
    sys.exit(main())
