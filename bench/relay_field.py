"""Where relay.py measures: client — proxy — backend, each a network namespace, and the load that goes through.

    client 10.77.1.2 ─ veth ─ 10.77.1.1 proxy 10.77.2.1 ─ veth ─ 10.77.2.2, 10.77.2.3 backend

Without a proxy the middle host is a router, so what is compared with "direct" went through the same wires. Both
endpoints are addresses of one server process: the machine, not the server, is what gets scarce.

Cubic is asked for on the routes, because that needs no leave: a namespace may only choose an algorithm that the
machine's own list allows, and that list is not ours to change. The load is made by load.c, compiled at the start.
"""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from host import Host, first_line, wire

CLIENT, PROXY, INSIDE = "10.77.1.2", "10.77.1.1", "10.77.2.1"
ENDPOINTS = ("10.77.2.2", "10.77.2.3")
_PORT = 7001
ECHO, DOWNLOAD, ANSWER, DATAGRAMS, SINK = range(_PORT, _PORT + 5)
TCP_PORTS, UDP_PORTS = (ECHO, DOWNLOAD, ANSWER), (DATAGRAMS, SINK)

_SOURCE = Path(__file__).with_name("load.c")
_CONGESTION = "cubic"
_SETTINGS = {
    "ipv4/ip_local_port_range": "1100 65000",
    "ipv4/tcp_max_syn_backlog": "16384",
    "ipv4/tcp_tw_reuse": "1",
    "ipv4/tcp_fastopen": "3",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/default/rp_filter": "0",
    "core/somaxconn": "16384",
}


def compile_load(folder: Path) -> Path:
    """The load generator, built in ``folder``. CalledProcessError where gcc refuses."""
    program = folder / "load"
    subprocess.run(("gcc", "-O2", "-std=gnu11", "-o", str(program), str(_SOURCE)), check=True, timeout=120)
    return program


class Field:
    """The three hosts, with the servers behind them; everything in them ends with ``stack``."""

    def __init__(self, stack: ExitStack, program: Path) -> None:
        self._program = str(program)
        self.client, self.proxy, self._backend = (
            stack.enter_context(Host(name)) for name in ("client", "proxy", "backend")
        )
        wire(self.client, "eth0", self.proxy, "outside")
        wire(self._backend, "eth0", self.proxy, "inside")
        for host in (self.client, self.proxy, self._backend):
            host.set(_SETTINGS)
        self.proxy.set({"ipv4/ip_forward": "1"})
        self._address(self.client, "eth0", CLIENT, via=PROXY)
        self._address(self.proxy, "outside", PROXY)
        self._address(self.proxy, "inside", INSIDE)
        for ip in ENDPOINTS:
            self._address(self._backend, "eth0", ip, via=INSIDE if ip == ENDPOINTS[0] else "")
        self.server = self._backend.start((self._program, "serve", str(_PORT), *ENDPOINTS))
        first_line(self.server.stdout)

    def load(self, mode: str, *words: object) -> dict[str, Any]:
        """Run a client to its end: what it counted. CalledProcessError if it could not work."""
        counted: dict[str, Any] = json.loads(self.client.read(self._program, mode, *map(str, words)))
        return counted

    def idle(self, address: str, connections: int) -> IdleClient:
        """Open connections, use each once, and keep them."""
        return IdleClient(self.client, (self._program, "idle", address, str(ECHO), str(connections)))

    def sink(self) -> Sink:
        """Begin to count datagrams that arrive at port SINK of any endpoint."""
        return Sink(self._backend, (self._program, "sink", str(SINK)))

    @staticmethod
    def _address(host: Host, link: str, ip: str, via: str = "") -> None:
        """Routes stand beside the address, because the kernel's own would have no algorithm."""
        network = f"{ip.rpartition('.')[0]}.0/24"
        lines = [f"addr add {ip}/24 dev {link} noprefixroute"]
        lines.append(f"route replace {network} dev {link} congctl {_CONGESTION}")
        if via:
            lines.append(f"route add default via {via} congctl {_CONGESTION}")
        host.ip(*lines)


class _Told:
    """A program of load.c that works until it is told to stop, and then says what it counted."""

    def __init__(self, host: Host, command: tuple[str, ...]) -> None:
        self._host = host
        self._process = host.start(command)
        first_line(self._process.stdout)

    def end(self) -> dict[str, Any]:
        if self._process.stdin is None:
            raise RuntimeError("a load generator was started without a pipe")
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        counted: dict[str, Any] = json.loads(first_line(self._process.stdout))
        self._host.stop(self._process)
        return counted


class IdleClient(_Told):
    """When this is made every connection is open and was answered; ``end`` asks each of them again."""


class Sink(_Told):
    """``end`` waits a moment for what is still on its way."""

    def end(self) -> dict[str, Any]:
        time.sleep(0.1)
        return super().end()
