"""Running another architecture's programs: QEMU, behind a wall, so that nothing on this machine is registered for it.

Since Linux 6.7 each user namespace may have a register of program formats (binfmt_misc) of its own. So what builds an
image for another architecture runs in a user namespace in which every number means the same as outside, and in a mount
namespace; what it registers ends with it. Rejected: the machine's own register (it would outlive a killed build, and
every program here would see it).

Device files cannot be made in there, so those that debootstrap wants are made before and handed in.

Source of the rules: the kernel's Documentation/admin-guide/binfmt-misc.rst; user_namespaces(7).
"""

# ruff: noqa: INP001 -- scripts, not a package

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from deploy.workshop import OURS, Failed, perform, say
from kproxy.errors import KproxyError
from kproxy.sandbox import namespace

DEVICES = OURS / "devices"
_INSIDE = "KPROXY_EMULATED"
_REGISTER = Path("/proc/sys/fs/binfmt_misc")
_NEW_USER_AND_MOUNTS = namespace.NEW_USER | namespace.NEW_MOUNT
MACHINES = {"amd64": ("x86_64", b"\x3e\x00"), "arm64": ("aarch64", b"\xb7\x00")}  # QEMU's name; e_machine of ELF
_OLDEST = 8  # 7.2, of Debian 12, hangs when it configures Debian 13's libc6
_NODES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0),
          "console": (5, 1), "ptmx": (5, 2)}  # fmt: skip


def is_inside() -> bool:
    return _INSIDE in os.environ


def run(arch: str, command: tuple[str, ...]) -> int:
    """Run ``command`` where programs of ``arch`` can be run; its status. Raises Failed where that cannot be had."""
    qemu = _qemu(arch)
    _make_devices()
    say(f"running programs of {arch} by {qemu}, in a namespace of its own")
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            namespace.unshare(_NEW_USER_AND_MOUNTS)
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            namespace.make_mounts_private()
            _register(arch, qemu)
            inside = {**os.environ, _INSIDE: arch, "container": "lxc"}  # debootstrap then makes no device files
            os.execvpe(command[0], command, inside)  # noqa: S606 -- a shell would only be in the way
        except (OSError, KproxyError, subprocess.SubprocessError, Failed) as failed:
            sys.stderr.write(f"run image: programs of {arch} cannot be run here: {failed}\n")
            os._exit(1)
    os.close(ready[1])
    if os.read(ready[0], 1):  # else it has failed, and said why
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{name}").write_text("0 0 4294967295", encoding="ascii")
        os.write(go[1], b"x")
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _qemu(arch: str) -> str:
    name = MACHINES[arch][0]
    for program in (f"qemu-{name}-static", f"qemu-{name}"):
        if found := shutil.which(program):
            said = perform(found, "--version")
            if (version := re.search(r"version (\d+)", said)) and int(version[1]) >= _OLDEST:
                return found
    raise Failed(
        f"no QEMU {_OLDEST} or newer for programs of {arch}: on Debian 13 `apt-get install qemu-user-static`; or use "
        f"`docker buildx build --platform linux/{arch} .`, or a machine of that kind"
    )


def _make_devices() -> None:
    DEVICES.mkdir(parents=True, exist_ok=True)
    for name, (major, minor) in _NODES.items():
        if not (DEVICES / name).exists():
            os.mknod(DEVICES / name, 0o666 | stat.S_IFCHR, os.makedev(major, minor))
            (DEVICES / name).chmod(0o666)


def _register(arch: str, qemu: str) -> None:
    perform("mount", "-t", "binfmt_misc", "binfmt_misc", str(_REGISTER))
    magic = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00" + MACHINES[arch][1]
    mask = b"\xff" * 7 + b"\x00" + b"\xff" * 8 + b"\xfe\xff\xff\xff"  # any ABI; of e_type both kinds of program
    quoted = ["".join(f"\\x{byte:02x}" for byte in each) for each in (magic, mask)]
    # F: QEMU is opened now, so that chroots need not have it; P: it is told the program's own name.
    (_REGISTER / "register").write_text(f":qemu-{arch}:M::{quoted[0]}:{quoted[1]}:{qemu}:FP", encoding="ascii")
