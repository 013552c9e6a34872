"""Runs a program behind walls that the kernel itself takes down: private mounts, processes, network and users.

The sandbox makes hosts, bridges, rules and files. Cleaning those up by hand would need code that runs at every
exit, and kill -9 runs none. So nothing is cleaned up: the program is started as a child of process 1 of a new pid
namespace, in a new mount and network namespace. When process 1 ends, the kernel kills every process in there, and
with the last of them the namespaces, their links, rules and mounts are gone. Process 1 ends when the program ends,
and by PR_SET_PDEATHSIG when the process that the user sees ends, however that happens.

    the process that the user sees    waits and passes signals on
      └─ process 1 inside             reaps, waits and passes signals on
           └─ the program

Without root a user namespace is added, in which the caller counts as root; some systems forbid that, which is said
in a sentence with its remedy. Rejected: names in /run/netns (they outlive their maker, and everybody sees them) and
unshare(1) (it blocks SIGTERM while it waits).

Source of the rules: pid_namespaces(7), user_namespaces(7), prctl(2).
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from kproxy.errors import KernelError, KproxyError, NotPermitted
from kproxy.sandbox import namespace

OUTER_PID = "KPROXY_SANDBOX_PID"  # how the program inside learns the number under which the outside sees process 1
_WALLS = namespace.NEW_MOUNT | namespace.NEW_NET | namespace.NEW_PID
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_SENT_BY_KERNEL = 0x80  # si_code SI_KERNEL: the terminal, which tells every process of its group by itself
_MAY_NOT = (
    "this system does not let an ordinary user make namespaces ({why}): run the sandbox as root, or allow it with "
    "`sysctl {setting}` (inside a container, start that one with --privileged)"
)
# Each of these exists only on the systems that refuse by it: the value that refuses, and what to write instead.
_REFUSING_SETTINGS = {
    "kernel/unprivileged_userns_clone": ("0", "1"),
    "kernel/apparmor_restrict_unprivileged_userns": ("1", "0"),
    "user/max_user_namespaces": ("0", "10000"),
}


def run(command: Sequence[str]) -> int:
    """Run ``command`` behind the walls and wait; returns its exit status, 128 + n when signal n ended it.

    The calling process moves into the new namespaces too and does nothing but wait, so call this once and last, from
    a process with one thread. Raises NotPermitted where the kernel forbids it.
    """
    _make_walls()
    kept = signal.pthread_sigmask(signal.SIG_BLOCK, (*_PASSED_ON, signal.SIGCHLD))
    reading, writing = os.pipe()  # says which number process 1 has outside, and by its end that this process is gone
    sys.stdout.flush()
    sys.stderr.flush()
    init = os.fork()
    if init == 0:
        os.close(writing)
        _become_init(reading, list(command), kept)
    os.close(reading)
    os.write(writing, str(init).encode())
    return _supervise(init)


def _make_walls() -> None:
    uid, gid = os.geteuid(), os.getegid()
    try:
        namespace.unshare(_WALLS)
    except NotPermitted:
        try:
            namespace.unshare(_WALLS | namespace.NEW_USER)
            namespace.become_root_of_own_users(uid, gid)
        except (KernelError, OSError) as error:
            raise NotPermitted(_MAY_NOT.format(why=error, setting=_blame())) from error
    try:
        namespace.make_mounts_private()
        namespace.mount_run()
        namespace.raise_loopback()
    except KernelError as error:
        raise NotPermitted(_MAY_NOT.format(why=error, setting=_blame())) from error


def _blame() -> str:
    for name, (refusing, allowing) in _REFUSING_SETTINGS.items():
        setting = Path("/proc/sys", name)
        if setting.exists() and setting.read_text(encoding="ascii").strip() == refusing:
            return f"{name.replace('/', '.')}={allowing}"
    return "kernel.unprivileged_userns_clone=1"


def _become_init(reading: int, command: list[str], kept: Iterable[int]) -> None:
    """Turn the forked child into process 1 of the new pid namespace; never returns."""
    status = 1
    try:
        namespace.die_with_parent()
        number = os.read(reading, 32)
        poll = select.poll()
        poll.register(reading, 0)
        # A parent that died before the line above can no longer kill us, but then its end of the pipe is closed.
        if number and not poll.poll(0):
            namespace.mount_proc()
            program = os.fork()
            if program == 0:
                _exec(command, {**os.environ, OUTER_PID: number.decode()}, kept)
            status = _supervise(program)
    except KproxyError as error:
        sys.stderr.write(f"kproxy sandbox: {_MAY_NOT.format(why=error, setting=_blame())}\n")
    finally:
        os._exit(status)


def _exec(command: list[str], environment: dict[str, str], kept: Iterable[int]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, kept)
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606 - the caller's own command, and no shell is wanted
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        os._exit(127)


def _supervise(child: int) -> int:
    """Reap every child and pass signals on until ``child`` ends; returns its exit status."""
    while True:
        received = signal.sigwaitinfo((*_PASSED_ON, signal.SIGCHLD))
        if received.si_signo == signal.SIGCHLD:
            status = _reap(child)
            if status is not None:
                return status
        elif received.si_code != _SENT_BY_KERNEL:
            os.kill(child, received.si_signo)


def _reap(child: int) -> int | None:
    """Collect all who have ended; the exit status of ``child`` if it is among them."""
    result = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return result
        if pid == 0:
            return result
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            result = code if code >= 0 else 128 - code


def main() -> int:
    """``python -m kproxy.sandbox.isolate COMMAND…``: the walls alone, for tests and for the curious."""
    command = sys.argv[1:]
    if not command:
        sys.stderr.write("usage: python -m kproxy.sandbox.isolate COMMAND [ARGUMENT…]\n")
        return 2
    try:
        return run(command)
    except NotPermitted as error:
        sys.stderr.write(f"kproxy sandbox: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
