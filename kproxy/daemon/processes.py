"""Which service proxies run in this network namespace: whoever removes rules, or finds them changed, wants to know.

Only what /proc shows. A proxy in a container with a pid namespace of its own is not seen from another one.

A command line says what its process likes, so one is believed only if its process has our user, program, process ids
and root directory: who can start such a one could start us. A container differs in two of them; mounts may differ, for
systemd and ip(8) change some. To ask a page of the daemon was rejected: while the daemon is down any process of the
node may answer at its address, and name a kubeconfig whose plugin we would run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

_PROC = Path("/proc")
_ENDS_SOON = {"-h", "--help", "--version", "--cleanup", "--cleanup=true", "--init-only"}


class Twin(NamedTuple):
    """A daemon that we may believe. ``directory``: where its relative paths begin."""

    process: int
    arguments: tuple[str, ...]
    directory: str


def find_proxies(proc: Path = _PROC) -> list[tuple[int, str]]:
    """Process id and program of each service proxy in this network namespace; what cannot be read is passed over."""
    found = []
    try:
        here = (proc / "self/ns/net").readlink()
        processes = sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdecimal())
    except OSError:
        return []
    for process in processes:
        try:
            program, _ = _proxy(_words(proc / str(process)))
            if program and (proc / str(process) / "ns/net").readlink() == here:
                found.append((process, program))
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


def find_twins(proc: Path = _PROC) -> list[Twin]:
    """Those among the proxies here that are this very program, as we are started."""
    found = []
    for process, _ in find_proxies(proc):
        at = proc / str(process)
        try:
            if _identity(at) == _identity(proc / "self"):
                arguments = _proxy(_words(at))[1]
                found.append(Twin(process, tuple(arguments), str((at / "cwd").readlink())))
        except OSError:
            continue
    return found


def _identity(at: Path) -> tuple[object, ...]:
    """Users are four: of a setuid program only one is its caller, and its words are all its caller's."""
    status = (at / "status").read_text(encoding="utf-8", errors="replace")
    users = [line for line in status.splitlines() if line.startswith("Uid:")]
    files = [(found.st_dev, found.st_ino) for found in ((at / "exe").stat(), (at / "root").stat())]
    return users, (at / "ns/pid").readlink(), files


def _words(at: Path) -> list[str]:
    return (at / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]


def _proxy(words: Sequence[str]) -> tuple[str, Sequence[str]]:
    """The service proxy that runs with this command line, and its arguments; empty for all other programs."""
    for at, word in enumerate(words[:4]):  # behind the interpreter and its flags
        program, rest = PurePath(word).name, words[at + 1 :]
        if _ENDS_SOON.intersection(rest):
            continue
        # Behind an interpreter it is kproxy under the name that kube-proxy's manifests start.
        if program == "kube-proxy" and (at == 0 or PurePath(words[0]).name.startswith("python")):
            return program, rest
        if program == "kproxy" and rest and (rest[0] == "run" or rest[0].startswith("-")):
            return program, rest
    return "", ()
