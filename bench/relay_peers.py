"""Who is compared in relay.py, and how each is run: its programs, its settings, its processor time and its memory.

Every peer runs as an administrator would run it: HAProxy and nginx with what Debian's packages bring, limits raised so
that they serve the connections that are asked of them. Each measurement gets a peer of its own, started for it, so
nobody inherits another's pools, and nobody answers for one that should have ended (HAProxy binds with SO_REUSEPORT
beside whoever is left over, in silence).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from relay_field import DATAGRAMS, ENDPOINTS, PROXY, TCP_PORTS, UDP_PORTS, Field

NGINX_STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
_CONNECTIONS = 6000  # two files each, and HAProxy counts pipes for splicing, too: below 20,000 files
_TICK = os.sysconf("SC_CLK_TCK")
_START, _LOOK = 15.0, 0.02  # seconds
_DIALLED, _GRACE = 2.0, 3.0

Command = tuple[str, ...]


class DoesNotServe(RuntimeError):
    """A peer ended, or did not answer in time; the text is what it said."""


@dataclass(frozen=True)
class Peer:
    """``commands`` gets a folder for its files; ``rules`` are nft's, in a table named bench."""

    name: str
    what: str
    commands: Callable[[Path], list[Command]] = lambda _: []
    rules: str = ""
    address: str = PROXY  # where clients find it
    speaks_udp: bool = True
    idle: int = 5000  # connections when memory is measured; 0: it has no process
    says: str = ""  # what it prints when all of its processes serve; a first answer proves only one


class Running:
    """``with Running(peer, field, folder):`` it serves; nothing of it is left afterwards."""

    def __init__(self, peer: Peer, field: Field, folder: Path) -> None:
        self.peer = peer
        self._field = field
        self._folder = folder
        self._log = folder / "said"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._has_rules = False

    def __enter__(self) -> Self:
        try:
            with self._log.open("wb") as said, self._field.proxy.inside():
                for command in self.peer.commands(self._folder):
                    self._processes.append(_start(command, said))
            if self.peer.rules:
                self._nft(self.peer.rules)
                self._has_rules = True
            self._wait()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def cpu(self) -> float:
        """Processor seconds of all its processes, and of those of their children that have ended."""
        return sum(cpu_of(pid) for pid in self._pids())

    def memory(self) -> float:
        """KiB of all its processes; pages that several share count once (PSS)."""
        return sum(_pss(pid) for pid in self._pids())

    def _pids(self) -> Iterator[int]:
        for process in self._processes:
            yield from _family(process.pid)

    def _wait(self) -> None:
        """Until it says so, if it does, and a client gets an answer from every port."""
        limit = time.monotonic() + _START
        for port in (*TCP_PORTS, *((DATAGRAMS,) if self.peer.speaks_udp else ())):
            while self.peer.says not in self._said() or not self._answers(port):
                ended = [process for process in self._processes if process.poll() is not None]
                if ended or time.monotonic() > limit:
                    raise DoesNotServe(self._said().strip()[:600] or f"port {port} does not answer")
                time.sleep(_LOOK)

    def _said(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def _answers(self, port: int) -> bool:
        is_tcp = port in TCP_PORTS
        with self._field.client.inside():
            door = socket.socket(socket.AF_INET, socket.SOCK_STREAM if is_tcp else socket.SOCK_DGRAM)
        with door, contextlib.suppress(OSError):
            door.settimeout(_DIALLED if is_tcp else 5 * _LOOK)
            door.connect((self.peer.address, port))
            door.send(b"k" * 100)  # what makes every server answer
            return bool(door.recv(1))
        return False

    def _nft(self, rules: str) -> None:
        with self._field.proxy.inside():
            subprocess.run(("nft", "-f", "-"), input=rules, text=True, check=True, timeout=30)

    def _end(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE)
            with contextlib.suppress(ProcessLookupError):  # socat's children outlive their parent
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if self._has_rules:
            self._nft("delete table ip bench")


def _start(command: Command, said: IO[bytes]) -> subprocess.Popen[bytes]:
    """In a process group, to end its children with it, but not in a session: the kernel shares processors out by
    sessions (autogroup), and a proxy must not get more than the load has.
    """
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, process_group=0)


def cpu_of(pid: int) -> float:
    """Seconds, own and of ended children; 0 once it is gone. The kernel counts in hundredths."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(field) for field in fields[11:15]) / _TICK


def _family(pid: int) -> Iterator[int]:
    yield pid
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text(encoding="ascii").split():
                yield from _family(int(child))


def _pss(pid: int) -> float:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return float(line.split()[1])
    return 0.0


# --- the peers ----------------------------------------------------------------------------------------------------


def _kproxy(workers: int) -> Callable[[Path], list[Command]]:
    def commands(_: Path) -> list[Command]:
        program = str(Path(__file__).with_name("relay_kproxy.py"))
        return [
            (
                *(sys.executable, program, "--workers", str(workers), "--listen", PROXY),
                *("--tcp", *map(str, TCP_PORTS), "--udp", *map(str, UDP_PORTS), "--to", *ENDPOINTS),
            )
        ]

    return commands


def _haproxy(threads: int, *options: str) -> Callable[[Path], list[Command]]:
    def commands(folder: Path) -> list[Command]:
        lines = ["global", f" nbthread {threads}", f" maxconn {_CONNECTIONS}", "defaults", " mode tcp"]
        lines += [f" maxconn {_CONNECTIONS}", " timeout connect 5s", " timeout client 1h", " timeout server 1h"]
        lines += [f" option {option}" for option in options]
        for port in TCP_PORTS:
            lines += [f"listen port-{port}", f" bind {PROXY}:{port}", " balance roundrobin"]
            lines += [f" server s{number} {ip}:{port}" for number, ip in enumerate(ENDPOINTS)]
        settings = folder / "haproxy.cfg"
        settings.write_text("\n".join(lines) + "\n", encoding="ascii")
        return [("haproxy", "-db", "-f", str(settings))]

    return commands


def _nginx(workers: int) -> Callable[[Path], list[Command]]:
    def commands(folder: Path) -> list[Command]:
        lines = [f"load_module {NGINX_STREAM};", "daemon off;", "user root;", f"worker_processes {workers};"]
        lines += ["error_log stderr crit;", f"pid {folder}/nginx.pid;"]
        lines += [f"events {{ worker_connections {3 * _CONNECTIONS}; }}", "stream {", "proxy_timeout 1h;"]
        shared = " reuseport" if workers > 1 else ""  # else one worker would get most; datagrams need it for sessions
        for port in (*TCP_PORTS, *UDP_PORTS):
            servers = " ".join(f"server {ip}:{port};" for ip in ENDPOINTS)
            kind = " udp" if port in UDP_PORTS else ""
            lines += [f"upstream port-{port} {{ {servers} }}"]
            lines += [f"server {{ listen {PROXY}:{port}{kind}{shared}; proxy_pass port-{port}; }}"]
        settings = folder / "nginx.conf"
        settings.write_text("\n".join([*lines, "}"]) + "\n", encoding="ascii")
        return [("nginx", "-e", "stderr", "-c", str(settings))]

    return commands


def _socat(_: Path) -> list[Command]:
    """One process for each port, which forks one for each connection; it knows one endpoint and does not balance."""
    to = ENDPOINTS[0]
    return [
        ("socat", f"{kind}4-LISTEN:{port},bind={PROXY},fork,reuseaddr{more}", f"{kind}4:{to}:{port}")
        for kind, ports, more in (("TCP", TCP_PORTS, ",backlog=4096"), ("UDP", UDP_PORTS, ""))
        for port in ports
    ]


def _dnat() -> str:
    endpoints = ", ".join(f"{number} : {ip}" for number, ip in enumerate(ENDPOINTS))
    choice = f"dnat to numgen inc mod {len(ENDPOINTS)} map {{ {endpoints} }}"
    return f"""table ip bench {{
        chain pre {{
            type nat hook prerouting priority dstnat
            ip daddr {PROXY} meta l4proto {{ tcp, udp }} {choice}
        }}
    }}"""


PEERS = {
    peer.name: peer
    for peer in (
        Peer("direct", "no proxy: the host in the middle only forwards", address=ENDPOINTS[0], idle=0),
        Peer("dnat", "the kernel's NAT: one nftables rule, connection tracking", rules=_dnat(), idle=0),
        Peer("kproxy", "the relay of kproxy, one worker", _kproxy(1), says="ready"),
        Peer("kproxy-2", "the same, two workers", _kproxy(2), says="ready"),
        Peer("haproxy", "HAProxy in TCP mode, one thread", _haproxy(1), speaks_udp=False),
        Peer(
            "haproxy-splice",
            "the same, made to splice",
            _haproxy(1, "splice-request", "splice-response"),
            speaks_udp=False,
        ),
        Peer("haproxy-2", "HAProxy, two threads", _haproxy(2), speaks_udp=False),
        Peer("nginx", "nginx's stream module, one worker", _nginx(1)),
        Peer("nginx-2", "the same, two workers, SO_REUSEPORT", _nginx(2)),
        Peer("socat", "socat, a process for each connection", _socat, idle=200),
    )
}
