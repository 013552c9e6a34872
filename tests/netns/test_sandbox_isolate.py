"""The walls of the sandbox: what is behind them, and that nothing is left when they fall."""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

ROOT = Path(__file__).parents[2]
WALLS = (sys.executable, "-m", "kproxy.sandbox.isolate")
NOBODY = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
WORLD = """
import asyncio, sys
from kproxy.sandbox import probe
from kproxy.sandbox.workload import Ports, Workload
from kproxy.sandbox.world import World

async def main():
    async with World() as world:
        pod = await world.add_pod("pod", "node-1")
        async with Workload("pod", pod, Ports(tcp=[80])):
            translate = f"-A PREROUTING -d 10.96.0.1/32 -p tcp -j DNAT --to-destination {pod.ip()}:80"
            node = world.node("node-1")
            (await node.run(["iptables-restore"], stdin=f"*nat\\n{translate}\\nCOMMIT\\n")).check()
            outcome = (await probe.tcp(world.host("client"), "10.96.0.1", 80)).outcome
            if "stay" not in sys.argv:
                print(outcome)
                return
            staying = await node.popen(["sh", "-c", f"echo {outcome}; exec sleep 1000"], stdout=1)
            await staying.wait()
asyncio.run(main())
"""


async def start(*command: str, python_path: Sequence[str] = ()) -> asyncio.subprocess.Process:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *python_path])}
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=environment)


async def finish(*command: str, python_path: Sequence[str] = ()) -> tuple[int, str, str]:
    process = await start(*command, python_path=python_path)
    out, err = await process.communicate()
    return process.returncode or 0, out.decode(), err.decode()


def network_namespace(pid: int | str) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def network_namespaces() -> set[str]:
    """The network namespaces of all processes that this machine shows."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.add(network_namespace(process.name))
        except OSError:
            continue  # it ended meanwhile
    return found


async def test_the_program_sees_its_own_processes_mounts_and_network_only() -> None:
    script = 'echo $$; ls /run; ls /sys/fs/cgroup >/dev/null; ip -brief link; echo "$KPROXY_SANDBOX_PID"'
    status, out, _ = await finish(*WALLS, "sh", "-c", script)
    lines = out.split("\n")
    assert status == 0
    assert lines[0] == "2"
    assert lines[1].startswith("lo")
    assert int(lines[2]) > 2


async def test_the_exit_status_comes_out() -> None:
    assert (await finish(*WALLS, "sh", "-c", "exit 7"))[0] == 7
    assert (await finish(*WALLS, "sh", "-c", "kill -9 $$"))[0] == 128 + 9
    assert (await finish(*WALLS, "no-such-program"))[0] == 127


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_signals_go_in(signum: signal.Signals) -> None:
    script = f"trap 'echo got; exit 5' {signum.name[3:]}; echo ready; while :; do sleep 0.02; done"
    # A shell cannot trap what was ignored when it started, as SIGINT is in whatever a script puts in the background.
    process = await start("env", "--default-signal=INT", *WALLS, "sh", "-c", script)
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    process.send_signal(signum)
    assert await process.stdout.readline() == b"got\n"
    assert await process.wait() == 5


@pytest.mark.parametrize("walls", [True, False])
async def test_nothing_is_left_after_kill_9(walls: bool) -> None:
    process = await start(*(WALLS if walls else ()), sys.executable, "-c", WORLD, "stay")
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"ok\n"
        below = descendants(process.pid)
        inside = {network_namespace(pid) for pid in below} - {network_namespace("self")}
        assert inside
        handles = [os.pidfd_open(pid) for pid in below]
    finally:
        process.kill()
        await process.communicate()
    for handle in handles:
        assert select.select([handle], [], [], 20)[0], "a descendant lives on"
        os.close(handle)
    assert not inside & network_namespaces()


def descendants(pid: int) -> list[int]:
    """The processes below a process, children first."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        children.setdefault(int(fields[1]), []).append(int(status.parent.name))
    found = list(children.get(pid, []))
    for child in found:  # grows while it is walked
        found += children.get(child, [])
    return found


async def test_an_ordinary_user_needs_no_root() -> None:
    python = readable_python()
    if python is None:
        pytest.skip("no Python on this machine is open to other users")
    allowed, _, why = await finish(*NOBODY, "unshare", "--user", "--map-root-user", "--mount", "true")
    status, out, err = await finish(*NOBODY, python, "-m", "kproxy.sandbox.isolate", python, "-c", WORLD)
    if allowed != 0:
        assert status == 1
        assert "does not let an ordinary user make namespaces" in err, why
        return
    assert (status, out, err) == (0, "ok\n", "")


def readable_python() -> str | None:
    """A Python that user nobody may start; a virtual environment below /root is not."""
    for candidate in (sys.executable, "/usr/bin/python3"):
        found = shutil.which(candidate)
        if found and all(parent.stat().st_mode & 0o001 for parent in Path(found).resolve().parents):
            return found
    return None
