"""The command line: understand it, call one function, turn errors into sentences and exit statuses.

Every command is one function below; what it needs is imported inside it, because ``kproxy run`` is a daemon that
should not carry what only ``kproxy sandbox`` uses, and ``kproxy version`` should not wait for either.
"""

from __future__ import annotations

import json
import platform
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kproxy import __version__
from kproxy.cli import parser
from kproxy.cli.help import Usage
from kproxy.cli.output import stop_writing, unwritable
from kproxy.cli.parser import Command
from kproxy.config import KUBERNETES, RELEASE
from kproxy.errors import BadCredentials, InvalidConfig, KproxyError
from kproxy.settings.document import LARGEST, read_document
from kproxy.settings.kinds import BOOLEAN
from kproxy.settings.resolve import Remark, Settings, resolve
from kproxy.settings.v1alpha1 import render, to_yaml

if TYPE_CHECKING:
    from kproxy.daemon.reload import ConfigFile

DONE, FAILED, MISUNDERSTOOD = 0, 1, 2
_AS_KUBE_PROXY = {"kproxy", "kproxy cleanup"}  # which ends with 1 where flags or its file cannot be used


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the result is the exit status."""
    name, means = "kproxy", "these flags"
    try:
        command, problems = parser.parse(sys.argv[1:] if argv is None else argv)
        name = "kproxy" if command.command == "run" else f"kproxy {command.command}"
        if file := parser.action(command, "config"):
            means = f"{means} and {file}" if parser.settings_of(command) or problems else file
        return _perform(name, command, problems)
    except Usage as usage:
        _complain(str(usage))
        return usage.status
    except InvalidConfig as invalid:
        _complain(f"{name} cannot start with {means}:", *(f"  {problem}" for problem in invalid.problems))
        _complain(*getattr(invalid, "__notes__", ()))
        return FAILED if name in _AS_KUBE_PROXY else MISUNDERSTOOD
    except KproxyError as error:
        _complain(f"kproxy: {error}")
        return FAILED
    except KeyboardInterrupt:
        return 130


def _perform(name: str, command: Command, problems: Sequence[str]) -> int:
    try:
        status = _dispatch(command, problems)
        sys.stdout.flush()
    except BrokenPipeError:  # `kproxy plan | head`
        stop_writing()
        return DONE
    except OSError as error:
        if not (problem := unwritable(error)):
            raise
        stop_writing()
        _complain(f"{name}: {problem}")
        return FAILED
    return status


def _dispatch(command: Command, problems: Sequence[str]) -> int:
    if command.command in _WITHOUT_SETTINGS:
        if problems:
            raise InvalidConfig(*problems)
        return _WITHOUT_SETTINGS[command.command](command)
    if command.command == "cleanup":  # must work whatever a file says
        settings = resolve(parser.settings_of(command), host=socket.gethostname(), problems=problems)
        return _cleanup(settings)
    if command.command == "check":
        problems = [*problems, *_take_flags(command)]
    with _read_settings(command, problems) as (settings, file):
        return _WITH_SETTINGS[command.command](command, settings, file)


@contextmanager
def _read_settings(command: Command, problems: Sequence[str]) -> Iterator[tuple[Settings, ConfigFile | None]]:
    """What flags and file come to; the file stays open meanwhile. Raises InvalidConfig."""
    flags, path, host = parser.settings_of(command), parser.action(command, "config"), socket.gethostname()
    if not path:
        yield resolve(flags, host=host, problems=problems), None
        return

    def understand(content: bytes) -> Settings:
        return resolve(flags, read_document(content), host=host, file=path, problems=problems)

    from kproxy.daemon.reload import ConfigFile

    with closing(ConfigFile.open(path, LARGEST, understand)) as file:
        yield understand(file.content), file


def _version(command: Command) -> int:
    made_of = {"kproxy": __version__, "kubernetes": KUBERNETES, "python": platform.python_version()}
    if command.release:
        print(f"Kubernetes {RELEASE}")
    else:
        print(json.dumps(made_of) if command.raw else f"kproxy {__version__}")
    return DONE


def _sandbox(command: Command) -> int:
    from kproxy.sandbox import run_sandbox

    return run_sandbox(keep=command.keep, demo=command.demo)


def _run(command: Command, settings: Settings, file: ConfigFile | None) -> int:
    from kproxy.daemon import main as daemon

    if target := parser.action(command, "write-config-to"):
        return _write(settings, target)
    init_only = _is_on(command, "init-only")
    return daemon.run(settings.config, remarks=settings.remarks, init_only=init_only, file=file)


def _write(settings: Settings, target: str) -> int:
    _remark(settings.remarks)
    try:
        Path(target).write_text(to_yaml(render(settings.config)), encoding="utf-8")
    except OSError as error:
        raise KproxyError(f"--write-config-to={target}: {error.strerror}; give a file that can be written") from error
    print(f"Wrote the configuration to {target}", file=sys.stderr)
    return DONE


def _config(command: Command, settings: Settings, _file: ConfigFile | None) -> int:
    from kproxy.cli.config import as_json, as_yaml, print_table

    if command.json:
        print(as_json(settings))
    elif command.yaml:
        _remark(settings.remarks)
        print(as_yaml(settings), end="")
    else:
        print_table(settings)
    return DONE


def _plan(command: Command, settings: Settings, _file: ConfigFile | None) -> int:
    from kproxy.cli.plan import FAMILIES, render_plan

    _remark(settings.remarks)
    left_out: list[str] = []
    remarks: list[str] = []
    families = FAMILIES[command.family]
    try:
        for line in render_plan(command.files, settings.config, families, left_out.append, remarks.append):
            print(line)
    except InvalidConfig as invalid:
        _complain(*(f"kproxy plan: {problem}" for problem in invalid.problems))
        return FAILED
    finally:
        _complain(*dict.fromkeys([*remarks, *left_out]))  # both families may say the same
    return FAILED if left_out else DONE


def _take_flags(command: Command) -> list[str]:
    """The daemon's, for ``check``."""
    from kproxy.cli.twin import take_flags

    return take_flags(command, _complain)


def _check(command: Command, settings: Settings, _file: ConfigFile | None) -> int:
    from kproxy.cli.check import check
    from kproxy.cli.twin import knows_the_cluster, other_way

    _remark(settings.remarks)
    try:
        differences, summary = check(settings.config, warn=_complain)
    except KproxyError as error:
        _complain(f"kproxy: {error}")
        if isinstance(error, BadCredentials) and not knows_the_cluster(command):
            _complain(other_way())
        return MISUNDERSTOOD
    for line in (*differences, summary):
        print(line)
    return FAILED if differences else DONE


def _status(command: Command, settings: Settings, _file: ConfigFile | None) -> int:
    from kproxy.cli.status import status

    _remark([remark for remark in settings.remarks if "flags" in remark.fields])  # an address may be among them
    return DONE if status(settings.config, as_json=command.json, write=print) else FAILED


def _explain(command: Command) -> int:
    from kproxy.cli.explain import explain

    return explain(command)


def _trace(command: Command) -> int:
    from kproxy.cli.trace import trace

    return trace(command)


def _completion(command: Command) -> int:
    from kproxy.cli.completion import RENDER
    from kproxy.cli.vocabulary import read_vocabulary

    print(RENDER[command.shell](read_vocabulary()), end="")
    return DONE


def _man(_command: Command) -> int:
    from kproxy.cli.man import render
    from kproxy.cli.vocabulary import read_vocabulary

    print(render(read_vocabulary(), __version__), end="")
    return DONE


def _cleanup(settings: Settings) -> int:
    from kproxy.daemon.cleanup import clean_up
    from kproxy.daemon.processes import find_proxies

    for process, program in find_proxies():
        _complain(f"{program} is running on this node (pid {process}) and will write its rules again; stop it first")
    said, problems = clean_up(settings.config)
    for line in said:
        print(line)
    _complain(*problems)
    return FAILED if problems else DONE


def _is_on(command: Command, name: str) -> bool:
    """Of kube-proxy's boolean flags that ask for something to be done. Raises InvalidConfig."""
    value = parser.action(command, name)
    try:
        return bool(value) and BOOLEAN.parse(value)
    except ValueError:
        raise InvalidConfig(f"--{name}={value}: give {BOOLEAN.accepted}") from None


def _remark(remarks: Sequence[Remark]) -> None:
    _complain(*map(str, remarks))


def _complain(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr)


_WITHOUT_SETTINGS: Mapping[str, Callable[[Command], int]] = {
    "completion": _completion,
    "explain": _explain,
    "man": _man,
    "sandbox": _sandbox,
    "trace": _trace,
    "version": _version,
}
_WITH_SETTINGS: Mapping[str, Callable[[Command, Settings, ConfigFile | None], int]] = {
    "check": _check,
    "config": _config,
    "plan": _plan,
    "run": _run,
    "status": _status,
}
