"""``kproxy check`` where a daemon runs: with its flags, for other ones would make another question of it.

Only where nothing typed says where the cluster is; which daemon may be believed is decided in daemon/processes.py.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable

from kproxy.cli import parser
from kproxy.cli.parser import Command
from kproxy.daemon.processes import find_proxies, find_twins

_WHERE = ("config", "kubeconfig", "manifests", "master")


def take_flags(command: Command, say: Callable[[str], None]) -> list[str]:
    """Put the daemon's flags before those of ``command``, if there is one; sentences about what is wrong with them.

    The working directory becomes the daemon's, so that its relative paths lead to its files and to no others.
    """
    if knows_the_cluster(command) or len(twins := find_twins()) != 1:
        return []
    ((process, arguments, directory),) = twins
    words = "".join(each if each.isprintable() else " " for each in shlex.join(arguments))
    say(f"As kproxy runs here (process {process}): {words or 'no flags'}")
    try:
        os.chdir(directory)
    except OSError as error:
        return [f"{directory}, where kproxy runs: {error.strerror}; give --config or --kubeconfig"]
    found, problems = parser.parse(arguments or ["run"])
    command.given = [*(found.given or ()), *(command.given or ())]
    return problems


def knows_the_cluster(command: Command) -> bool:
    return any(parser.action(command, name) for name in _WHERE)


def other_way() -> str:
    """What is left to do for who was not understood without flags."""
    seen = ", ".join(f"{program} (process {process})" for process, program in find_proxies()) or "none"
    return (
        "Where one kproxy runs, as the same program, of the same user and in the same container, check takes its "
        f"flags. Running here: {seen}. From elsewhere, give check the flags that `kproxy run` has."
    )
