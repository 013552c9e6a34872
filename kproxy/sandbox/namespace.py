"""The few system calls that make the walls: unshare, setns, mount, prctl, an ioctl, and two files in /proc.

Called through ctypes, because ``os.unshare`` and ``os.setns`` come only with Python 3.12 and mount(2) never came.
The programs unshare(1) and mount(8) were rejected where a process must change itself: util-linux 2.38 blocks
SIGTERM while it waits for its child, and a namespace that has no name can be held only by a file descriptor of
the process that made it.

Source of the rules: unshare(2), setns(2), user_namespaces(7), pid_namespaces(7), prctl(2).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from kproxy.errors import KernelError, NotPermitted

NEW_MOUNT = 0x0002_0000
NEW_USER = 0x1000_0000
NEW_PID = 0x2000_0000
NEW_NET = 0x4000_0000

_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND = 2, 4, 8, 4096
_MS_RECURSIVE, _MS_PRIVATE = 1 << 14, 1 << 18
_MNT_DETACH = 2
_PR_SET_PDEATHSIG = 1
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1  # netdevice(7)
_SIGKILL = 9

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)


def unshare(flags: int) -> None:
    """Leave the given namespaces for new ones; raises NotPermitted or KernelError."""
    _check("unshare", _libc.unshare(flags))


def enter(descriptor: int, kind: int) -> None:
    """Move the calling thread into the namespace that ``descriptor`` holds."""
    _check("setns", _libc.setns(descriptor, kind))


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that forked it ends, however it ends."""
    _check("prctl(PR_SET_PDEATHSIG)", _libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0))


def become_root_of_own_users(uid: int, gid: int) -> None:
    """After NEW_USER: call the single user and group that an ordinary caller may map by the number 0."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        Path("/proc/self", name).write_text(text, encoding="ascii")


def make_mounts_private() -> None:
    """Keep every later mount of this mount namespace out of the sight of the one it was copied from.

    Propagation is set on mounts, and in a chroot (debootstrap, a build) the root directory is just a directory of one:
    then root climbs out for a moment and comes back to the same directory made a mount of its own, which is also what
    programs such as ip(8) expect of a root directory.
    """
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    if os.geteuid() != 0 or any(line.split()[4] == "/" for line in mounts.splitlines()):
        _mount(None, "/", None, _MS_RECURSIVE | _MS_PRIVATE)
        return
    root, here = os.open("/", os.O_RDONLY | os.O_CLOEXEC), os.open(".", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.chroot("/proc")  # a working directory above the root has no ceiling
        while not Path().samefile(".."):
            os.chdir("..")
        os.chroot(".")
        _mount(None, "/", None, _MS_RECURSIVE | _MS_PRIVATE)
        top, inside = _path_of(root), _path_of(here)
        _mount(str(top), str(top), None, _MS_BIND | _MS_RECURSIVE)
        os.chroot(top)
        os.chdir("/" / inside.relative_to(top))
    finally:
        os.close(root)
        os.close(here)


def _path_of(directory: int) -> Path:
    os.fchdir(directory)
    return Path.cwd()


def mount_proc() -> None:
    """Show the processes of the present pid namespace, and no others, under /proc."""
    _mount("proc", "/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)


def mount_run() -> None:
    """Cover /run with an empty, writable directory: xtables.lock and namespace names live there."""
    _mount("tmpfs", "/run", "tmpfs", _MS_NOSUID | _MS_NODEV, "mode=0755")


def raise_loopback() -> None:
    """Switch lo on, which is off in every new network namespace: servers on 127.0.0.1 and ::1 need it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def bind(source: str, target: Path) -> None:
    """Make the file ``source`` (such as a namespace held open) visible under the name ``target``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.touch()
    _mount(source, str(target), None, _MS_BIND)


def unbind(target: Path) -> None:
    """Undo ``bind``; a name that is not there is no error."""
    if target.exists():
        _check(f"umount of {target}", _libc.umount2(os.fsencode(target), _MNT_DETACH))
        target.unlink()


def open_current_net() -> int:
    """Open the network namespace of the calling thread; the caller closes the descriptor."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def create_net() -> int:
    """Make a network namespace without a name; it lives as long as this descriptor or a process inside it."""
    here = open_current_net()
    try:
        unshare(NEW_NET)
        try:
            return open_current_net()
        finally:
            enter(here, NEW_NET)
    finally:
        os.close(here)


def release(descriptor: int) -> None:
    """Let go of a namespace; the kernel removes it when no process and no mount holds it either."""
    os.close(descriptor)


@contextlib.contextmanager
def inside_net(descriptor: int) -> Iterator[None]:
    """Be in another network namespace for a while: sockets made meanwhile belong to it for ever.

    It moves the thread, so whatever else the thread runs meanwhile is moved too: hold no await inside.
    """
    here = open_current_net()
    try:
        enter(descriptor, NEW_NET)
        try:
            yield
        finally:
            enter(here, NEW_NET)
    finally:
        os.close(here)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    _check(f"mount on {target}", _libc.mount(encoded[0], encoded[1], encoded[2], flags, encoded[3]))


def _check(what: str, status: int) -> None:
    if status != 0:
        code = ctypes.get_errno()
        refusal = NotPermitted if code in {errno.EPERM, errno.EACCES} else KernelError
        raise refusal(f"{what}: {os.strerror(code)}")
