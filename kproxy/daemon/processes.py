"""Which service proxies run in this network namespace: whoever removes rules, or finds them changed, wants to know.

Only what /proc shows. A proxy in a container with a pid namespace of its own is not seen from another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath

_PROC = Path("/proc")
_ENDS_SOON = {"-h", "--help", "--version", "--cleanup", "--cleanup=true", "--init-only"}


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
            words = (proc / str(process) / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
            program = _proxy(words)
            if program and (proc / str(process) / "ns/net").readlink() == here:
                found.append((process, program))
        except OSError:  # it has ended, or is somebody else's
            continue
    return found


def _proxy(words: Sequence[str]) -> str:
    """The service proxy that runs with this command line; empty for all other programs."""
    for at, word in enumerate(words[:4]):  # behind the interpreter and its flags
        program, rest = PurePath(word).name, words[at + 1 :]
        if _ENDS_SOON.intersection(rest):
            continue
        # Behind an interpreter it is kproxy under the name that kube-proxy's manifests start.
        if program == "kube-proxy" and (at == 0 or PurePath(words[0]).name.startswith("python")):
            return program
        if program == "kproxy" and rest and (rest[0] == "run" or rest[0].startswith("-")):
            return program
    return ""
