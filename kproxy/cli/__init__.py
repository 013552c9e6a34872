"""The command line: understand it, call one function, turn errors into sentences and exit statuses.

Every command is one function below; what it needs is imported inside it, because ``kproxy run`` is a daemon that
should not carry what only ``kproxy sandbox`` uses, and ``kproxy version`` should not wait for either.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence

from kproxy import __version__
from kproxy.cli import parser
from kproxy.cli.flags import to_config
from kproxy.cli.parser import Command, Usage
from kproxy.config import Config
from kproxy.errors import InvalidConfig, KproxyError

DONE, FAILED, MISUNDERSTOOD = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the result is the exit status."""
    name = "kproxy"
    try:
        command, problems = parser.parse(sys.argv[1:] if argv is None else argv)
        name = "kproxy" if command.command == "run" else f"kproxy {command.command}"
        return _dispatch(command, problems)
    except Usage as usage:
        _complain(str(usage))
        return MISUNDERSTOOD
    except InvalidConfig as invalid:
        _complain(f"{name} cannot start with these flags:", *(f"  {problem}" for problem in invalid.problems))
        return FAILED
    except KproxyError as error:
        _complain(f"kproxy: {error}")
        return FAILED
    except BrokenPipeError:  # `kproxy plan | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        return 130


def _dispatch(command: Command, problems: Sequence[str]) -> int:
    if command.command in _WITHOUT_CONFIG:
        if problems:
            raise InvalidConfig(*problems)
        return _WITHOUT_CONFIG[command.command](command)
    config = to_config(parser.wanted(command), host=socket.gethostname(), problems=problems)
    return _WITH_CONFIG[command.command](command, config)


def _version(_command: Command) -> int:
    print(f"kproxy {__version__}")
    return DONE


def _sandbox(command: Command) -> int:
    from kproxy.sandbox import run_sandbox

    return run_sandbox(keep=command.keep, demo=command.demo)


def _run(command: Command, config: Config) -> int:
    from kproxy.daemon import main as daemon

    return daemon.run(config, ignored=parser.ignored(command), init_only=command.init_only)


def _plan(command: Command, config: Config) -> int:
    from kproxy.cli.plan import FAMILIES, render_plan

    left_out: list[str] = []
    try:
        for line in render_plan(command.files, config, FAMILIES[command.family], warn=left_out.append):
            print(line)
    except InvalidConfig as invalid:
        _complain(*(f"kproxy plan: {problem}" for problem in invalid.problems))
        return FAILED
    finally:
        _complain(*dict.fromkeys(left_out))  # both families may say the same
    return FAILED if left_out else DONE


def _check(_command: Command, config: Config) -> int:
    from kproxy.cli.check import check

    try:
        differences, summary = check(config, warn=_complain)
    except KproxyError as error:
        _complain(f"kproxy: {error}")
        return MISUNDERSTOOD
    for line in (*differences, summary):
        print(line)
    return FAILED if differences else DONE


def _explain(command: Command) -> int:
    from kproxy.explain.packet import explain

    try:
        for line in explain(command.dump, command.source, command.destination, command.from_interface, command.local):
            print(line)
    except KproxyError as error:
        _complain(f"kproxy: {error}")
        return MISUNDERSTOOD
    return DONE


def _cleanup(_command: Command, config: Config) -> int:
    from kproxy.daemon.cleanup import clean_up, find_proxies

    for process, program in find_proxies():
        _complain(f"{program} is running on this node (pid {process}) and will write its rules again; stop it first")
    said, problems = clean_up(config)
    for line in said:
        print(line)
    _complain(*problems)
    return FAILED if problems else DONE


def _complain(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr)


_WITHOUT_CONFIG: Mapping[str, Callable[[Command], int]] = {
    "explain": _explain,
    "sandbox": _sandbox,
    "version": _version,
}
_WITH_CONFIG: Mapping[str, Callable[[Command, Config], int]] = {
    "check": _check,
    "cleanup": _cleanup,
    "plan": _plan,
    "run": _run,
}
