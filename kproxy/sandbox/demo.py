"""The tour that a newcomer sees: each example applied, asked from a pod, a node and outside, and shown to answer.

Two processes: ``run_sandbox`` is called by the command line, makes the walls (isolate.py) and starts this module
again behind them. What is printed is meant to be read: one line a question, aligned, coloured on a terminal only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import kproxy
from kproxy.errors import KproxyError
from kproxy.sandbox import isolate, tour
from kproxy.sandbox.client import ApiAnswer
from kproxy.sandbox.cluster import Cluster, proxy_command, read_manifests, running_cluster
from kproxy.sandbox.workload import Ports, Workload

CHECKOUT = Path(kproxy.__file__).parents[1]
EXAMPLES = CHECKOUT / "deploy" / "examples"
_DIRECTORY = Path("/run/kproxy")  # on the private /run: it goes when the sandbox goes
_NAMES = Path("/run/netns")
_INTERRUPTED = 130  # 128 + SIGINT, as shells say it
_REFUSED_EXAMPLE = "07"
_WIDTHS = (8, 41, 32)  # characters: who asks, whom, who answered
_NARROW_WIDTHS = (8, 22, 31)
_WIDE = 120  # columns that a terminal needs for the former
_PIPE_WIDTH = 160
_CHAINS = ("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-EXT", "KUBE-SVC", "KUBE-SVL", "KUBE-SEP")  # as a packet meets them
_NEEDED = {  # program → Debian's package
    "ip": "iproute2",
    "iptables-restore": "iptables",
    "nginx": "nginx-light",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
}
_SHELL_POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": tour.SHELL, "labels": {"app": tour.SHELL}},
    "spec": {"nodeName": "node-1", "containers": [{"name": "shell", "image": "kproxy/echo"}]},
}


def run_sandbox(*, keep: bool, demo: bool) -> int:
    """Make a sandbox, show the tour if ``demo``, stay up if ``keep`` or without a tour; returns the exit status.

    Call it last: the process waits behind the walls from then on.
    """
    flags = [*(["--demo"] if demo else []), *(["--keep"] if keep or not demo else [])]
    # An ordinary user's PATH lacks the directory in which iptables and nginx are, and becomes root's behind the walls.
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    missing = sorted({package for program, package in _NEEDED.items() if shutil.which(program) is None})
    if missing:
        sys.stderr.write(f"kproxy sandbox: programs are missing; install the packages {' '.join(missing)}\n")
        return 1
    paths = [str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    try:
        return isolate.run([sys.executable, "-m", "kproxy.sandbox.demo", *flags])
    except KproxyError as error:
        sys.stderr.write(f"kproxy sandbox: {error}\n")
        return 1


class Demo:
    """One showing: counts what was asked and what went wrong."""

    def __init__(self, cluster: Cluster, console: Console) -> None:
        self._cluster = cluster
        self._console = console
        self._tour = tour.Tour(cluster)
        self._narrow = console.width < _WIDE
        self._kubectl = shutil.which("kubectl") is not None
        self.asked = 0
        self.wrong = 0

    async def show(self) -> None:
        """All examples in their order, then the rules of one Service."""
        heading = self._table()
        heading.add_row("", *(f"[dim]{text}[/]" for text in ("asked by", "whom", "who answered", "and saw the asker")))
        self._console.print(f"  [dim]{tour.SHELL} is a pod on node-1, client is outside the cluster[/]")
        self._console.print()
        self._console.print(heading)
        async with Workload("database", self._cluster.world.host("client"), Ports(tcp=[tour.DATABASE_PORT])):
            for path in sorted(EXAMPLES.glob("*.yaml")):
                await self._example(path)
            await self._expose()
            await self._rules("nginx-service")

    async def _example(self, path: Path) -> None:
        number = path.name.partition("-")[0]
        self._console.print()
        self._console.print(f"[bold]{path.stem}[/]  [dim]{escape(_summary(path))}[/]")
        refusal = await self._apply(path)
        if number == _REFUSED_EXAMPLE:
            self._judge_refusal(refusal)
            return
        if refusal:
            self._fail(refusal)
            return
        with self._console.status("waiting for pods"):
            await self._cluster.settle()
        await self._ask(list(self._tour.questions(number)))

    async def _apply(self, path: Path) -> str:
        """Apply a file as a user would; what the API server refused, empty if nothing."""
        if self._kubectl:
            return await self._kube("apply", "-f", str(path))
        try:
            await self._cluster.apply(read_manifests(path))
        except ApiAnswer as answer:
            return answer.message
        return ""

    async def _kube(self, *words: str) -> str:
        """Run kubectl on the host cp; its complaint, empty if it had none."""
        command = ("kubectl", f"--kubeconfig={self._cluster.kubeconfig}", *words)
        environment = {**os.environ, "HOME": str(self._cluster.directory)}  # kubectl keeps a cache there
        finished = await self._cluster.world.host("cp").run(command, env=environment, deadline=60)
        return (finished.stderr.strip() or "kubectl failed") if finished.status else ""

    async def _ask(self, questions: Sequence[tour.Question]) -> None:
        if not questions:
            self._console.print("  [dim]applied[/]")
            return
        with self._console.status("asking"):
            results = [await tour.go(self._cluster.world, question) for question in questions]
        table = self._table()
        for result in results:
            question = result.question
            self.asked += 1
            self.wrong += bool(result.problem)
            table.add_row(
                "[green]✓[/]" if not result.problem else "[red]✗[/]",
                question.asker,
                escape(question.target),
                _tally(result),
                f"[red]{escape(result.problem)}[/]" if result.problem else _sources(result, brief=self._narrow),
            )
        self._console.print(table)

    def _judge_refusal(self, refusal: str) -> None:
        self.asked += 1
        if "already allocated" in refusal:
            said = re.sub(r"^.*?(spec\.ports)", r"\1", refusal, flags=re.DOTALL)
            self._console.print(f"  [green]✓[/] refused by the API server: {escape(said)}")
        else:
            self.wrong += 1
            self._console.print(f"  [red]✗[/] a second Service got the same node port ({escape(refusal)})")

    async def _expose(self) -> None:
        words = ("expose", "deployment", "hello", "--name=hello-exposed", "--port=8000", "--target-port=8080")
        self._console.print()
        self._console.print(f"[bold]kubectl {' '.join(words)}[/]")
        if not self._kubectl:
            self._console.print("  [dim]skipped: kubectl is not installed[/]")
            return
        if refusal := await self._kube(*words):
            self._fail(refusal)
            return
        known = self._cluster.known
        await known.when(lambda: known.find("Service", "default", "hello-exposed") is not None, tour.PATIENCE)
        await self._ask([self._tour.exposed()])

    async def _rules(self, service: str) -> None:
        """The part of node-1's nat table that belongs to one Service."""
        rules: list[str] = []
        for program in ("iptables-save", "iptables-legacy-save"):  # whichever variant kproxy chose
            if not rules and shutil.which(program):
                finished = await self._cluster.world.node("node-1").run((program, "-t", "nat"))
                rules = _rules_of(f"default/{service}", finished.check().stdout.splitlines())
        self._console.print()
        self._console.print(f"[bold]iptables-save -t nat[/]  [dim]what node-1 has for {service}[/]")
        for rule in rules:
            self._console.print(f"  {escape(rule)}", highlight=False, soft_wrap=True)
        if not rules:
            self._fail(f"no rule of node-1 mentions default/{service}")

    def _fail(self, why: str) -> None:
        self.asked += 1
        self.wrong += 1
        self._console.print(f"  [red]✗ {escape(why)}[/]")

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 1, 0, 0))
        table.add_column(width=3, justify="right")
        for width in _NARROW_WIDTHS if self._narrow else _WIDTHS:
            table.add_column(min_width=width, max_width=width, overflow="fold")
        table.add_column(overflow="fold")  # whom the servers saw, or what went wrong
        return table


def _tally(result: tour.Result) -> str:
    return escape("  ".join(f"{count} {name}" for name, count in sorted(result.servers.items())))


def _sources(result: tour.Result, *, brief: bool) -> str:
    """``as itself, 10.244.1.2`` or ``as node-1, 10.244.1.1 192.168.100.11``; without the addresses if brief."""
    whom: dict[str, list[str]] = {}
    for address, owner in sorted(result.sources.items()):
        whom.setdefault("itself" if owner == result.question.asker else owner, []).append(address)
    return escape("; ".join(f"as {owner}" + (f", {' '.join(ips)}" * (not brief)) for owner, ips in whom.items()))


def _rules_of(service: str, lines: Sequence[str]) -> list[str]:
    """The rules that mention a Service, and all others of chains that are its own, as a packet meets them."""
    mentioned = [line for line in lines if service in line]
    own = {chain for line in mentioned if (chain := line.split()[1]).count("-") > 1}
    found = [line for line in lines if line in mentioned or (line.startswith("-A ") and line.split()[1] in own)]
    return sorted(found, key=_in_order_of_passage)


def _in_order_of_passage(rule: str) -> int:
    chain = rule.split()[1]
    return next((place for place, start in enumerate(_CHAINS) if chain.startswith(start)), len(_CHAINS))


def _summary(path: Path) -> str:
    return path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ").rstrip(".")


@contextlib.asynccontextmanager
async def _started(console: Console, flags: Sequence[str]) -> AsyncIterator[Cluster]:
    begun = time.monotonic()
    await asyncio.to_thread(_DIRECTORY.mkdir, parents=True, exist_ok=True)
    async with contextlib.AsyncExitStack() as stack:
        with console.status("making hosts, API server and one kproxy a node"):
            cluster = await stack.enter_async_context(running_cluster(_DIRECTORY, names=_NAMES, flags=flags))
            await cluster.client.apply(_SHELL_POD)
            await cluster.settle()
            await cluster.wait_for_proxies()
        hosts = "  ".join(f"{node.name} {' '.join(node.ips)}" for node in cluster.world.nodes)
        console.print(f"[bold]kproxy sandbox[/]  {hosts}  [dim]up in {time.monotonic() - begun:.1f} s[/]")
        yield cluster


def _explain_entering(console: Console, cluster: Cluster, flags: Sequence[str]) -> None:
    """Say how to get in from another terminal; the script spares people the long command."""
    script = cluster.directory / "in"
    programs = Path(sys.executable).parent  # where kproxy is, in the environment that it was installed into
    text = SCRIPT.format(kubeconfig=cluster.kubeconfig, programs=programs, names=_NAMES)
    script.write_text(text, encoding="utf-8")
    script.chmod(0o755)
    outside = os.environ.get(isolate.OUTER_PID, "?")
    own_users = not Path("/proc/self/uid_map").read_text(encoding="ascii").split()[2].startswith("4294967295")
    enter = f"nsenter -t {outside} {'-U --preserve-credentials ' if own_users else ''}-m -n -p -r {script}"
    names = " ".join(host for host in cluster.world.hosts if host != "lan")
    console.print()
    console.print(f"[bold]The sandbox stays up until Ctrl-C.[/]  [dim]kubeconfig inside: {cluster.kubeconfig}[/]")
    console.print(f"  hosts: {names}", soft_wrap=True, highlight=False)
    refused = f"(the first ends with status 1: file {_REFUSED_EXAMPLE} is refused, to show that it is)"
    console.print(f"  from another terminal: [dim]{refused}[/]", highlight=False)
    node = cluster.world.nodes[0]
    daemons = proxy_command(node, cluster.kubeconfig, cluster.world.families, flags)
    for command in (
        f"cp kubectl apply -f {EXAMPLES}",
        "cp kubectl get services -A",
        "node-1 iptables-save -t nat",
        "node-1 kproxy status",
        f"{node.name} kproxy check {shlex.join(daemons[daemons.index('run') + 1 :])}",
        "node-1 kproxy explain live",
        "node-1 kproxy trace --service default/nginx-service",
        "client curl -s http://192.168.100.11:30123",
        f"{tour.SHELL} {os.environ.get('SHELL', 'sh')}",
    ):
        console.print(f"    {enter} {command}", soft_wrap=True, highlight=False)


SCRIPT = """#!/bin/sh
# in HOST [COMMAND...]: run a command, or a shell, on a host of the sandbox.
export KUBECONFIG={kubeconfig} PATH="$PATH:{programs}"
host=${{1:-}}
if [ -z "$host" ] || [ ! -e "{names}/$host" ]; then
    hosts=$(ls --ignore lan {names} | tr '\\n' ' ')
    printf '%s\\n' "in HOST [COMMAND...]: ${{host:+no host is called $host; }}hosts: ${{hosts% }}" >&2
    exit 2
fi
shift
[ $# -gt 0 ] || set -- sh
exec ip netns exec "$host" "$@"
"""


async def _run(console: Console, *, keep: bool, demo: bool, flags: Sequence[str]) -> int:
    begun = time.monotonic()
    status = 0
    async with _started(console, flags) as cluster:
        if demo:
            showing = Demo(cluster, console)
            await showing.show()
            right = showing.asked - showing.wrong
            colour = "red" if showing.wrong else "green"
            took = f"{time.monotonic() - begun:.1f} s"
            console.print()
            console.print(f"[bold {colour}]{right} of {showing.asked} as expected[/]  [dim]{took}[/]")
            status = 1 if showing.wrong else 0
        if keep:
            cluster.proxies_may_end = True
            _explain_entering(console, cluster, flags)
            await asyncio.Event().wait()
    return status


def _run_or_say_why(console: Console, *, keep: bool, demo: bool, flags: Sequence[str]) -> int:
    try:
        return asyncio.run(_run(console, keep=keep, demo=demo, flags=flags))
    except* KproxyError as group:
        for text in _messages(group):
            sys.stderr.write(f"kproxy sandbox: {text}\n")
    return 1


def _messages(error: BaseException) -> list[str]:
    """The sentences of an error, or of all in a group."""
    if isinstance(error, BaseExceptionGroup):
        return [text for part in error.exceptions for text in _messages(part)]
    return [str(error)]


def main() -> int:
    """What runs behind the walls."""
    parser = argparse.ArgumentParser(prog="python -m kproxy.sandbox.demo")
    parser.add_argument("--demo", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--proxy-flag", action="append", default=[], help="a further flag for every kproxy; repeat")
    arguments = parser.parse_args()
    # A pipe has no width: the lines are then as long as they are.
    console = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    try:
        return _run_or_say_why(console, keep=arguments.keep, demo=arguments.demo, flags=arguments.proxy_flag)
    except KeyboardInterrupt:
        console.print("\nstopped; nothing is left behind")
        return 0 if arguments.keep else _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
