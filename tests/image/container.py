"""The image as a node runs it: by crun, a real OCI runtime, under what containerd gives a pod of the host's network.

No new privileges, a read-only root file system, /proc/sys read-only, masked files, the default seccomp filter, every
capability dropped but those that are asked for. Rejected: making those walls with setpriv and mount, which would test
our idea of a container.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Json = dict[str, Any]
FILTER = Path("/usr/share/containers/seccomp.json")  # what Docker, containerd and Podman call RuntimeDefault
NEEDED = ("CAP_NET_ADMIN", "CAP_NET_RAW")
OOM_SCORE = 0  # the kubelet gives -997 to system-node-critical pods; a test machine may not be allowed to
_ARCH = {"x86_64": ("amd64", "SCMP_ARCH_X86_64"), "aarch64": ("arm64", "SCMP_ARCH_AARCH64")}
_QUIET = ("nosuid", "noexec", "nodev")
_MOUNTS = (
    ("/proc", "proc", _QUIET),
    ("/dev", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    ("/dev/shm", "tmpfs", (*_QUIET, "mode=1777", "size=65536k")),  # noqa: S108 -- inside the container
    ("/sys", "sysfs", (*_QUIET, "ro")),
)
_MASKED = ("acpi", "asound", "kcore", "keys", "latency_stats", "scsi", "sched_debug", "timer_list", "timer_stats")
_READ_ONLY = ("bus", "fs", "irq", "sys", "sysrq-trigger")


def write_bundle(
    bundle: Path,
    rootfs: Path,
    command: Sequence[str],
    *,
    mounts: Mapping[str, Path],
    writable: Sequence[str] = (),
    capabilities: Sequence[str] = NEEDED,
    environment: Mapping[str, str] | None = None,
    user: int = 0,
) -> Path:
    """The directory that a runtime starts a container from; ``mounts`` are files and directories by their place."""
    bundle.mkdir()
    given = {
        "ociVersion": "1.0.2",
        "root": {"path": str(rootfs), "readonly": True},
        "process": {
            "user": {"uid": user, "gid": user},
            "args": [*command],
            "env": [f"{name}={value}" for name, value in (environment or {}).items()],
            "cwd": "/",
            "noNewPrivileges": True,
            "oomScoreAdj": OOM_SCORE,
            "capabilities": {kind: [*capabilities] for kind in ("bounding", "effective", "permitted")},
        },
        "mounts": [
            *({"destination": at, "type": kind, "source": kind, "options": [*how]} for at, kind, how in _MOUNTS),
            *(_bound(at, source, at in writable) for at, source in mounts.items()),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")],  # hostNetwork: true
            "maskedPaths": [*(f"/proc/{name}" for name in _MASKED), "/sys/firmware"],
            "readonlyPaths": [f"/proc/{name}" for name in _READ_ONLY],
            "seccomp": _filter(capabilities),
        },
    }
    (bundle / "config.json").write_text(json.dumps(given), encoding="utf-8")
    return bundle


def runtime(bundle: Path, *, verb: str = "run") -> tuple[str, ...]:
    """How to run it; the container is called as its bundle."""
    where = ("--bundle", str(bundle)) if verb == "run" else ()
    return ("crun", "--cgroup-manager=disabled", "--root=/run/crun", verb, *where, bundle.name)


def _bound(place: str, source: Path, is_writable: bool) -> Json:
    options = ["bind", "nosuid", "nodev", "rw" if is_writable else "ro"]
    return {"destination": place, "type": "bind", "source": str(source), "options": options}


def _filter(capabilities: Sequence[str]) -> Json:
    """The profile as it stands, with what holds on this machine and for these capabilities."""
    profile = json.loads(FILTER.read_text(encoding="utf-8"))
    arch, name = _ARCH[platform.machine()]

    def holds(rule: Json) -> bool:
        wanted, unwanted = rule.get("includes") or {}, rule.get("excludes") or {}
        return (
            (not wanted.get("arches") or arch in wanted["arches"])
            and set(wanted.get("caps") or ()) <= set(capabilities)
            and arch not in (unwanted.get("arches") or ())
            and not set(unwanted.get("caps") or ()) & set(capabilities)
        )

    kept = ("names", "action", "args", "errnoRet")
    rules = [{key: rule[key] for key in kept if rule.get(key)} for rule in profile["syscalls"] if holds(rule)]
    return {"defaultAction": profile["defaultAction"], "architectures": [name], "syscalls": rules}
