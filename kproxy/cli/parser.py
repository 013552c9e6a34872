"""What may be typed: subcommands, their flags and their help. No work is done here.

argparse finds the words and prints the help; what the words mean is decided in ``settings/``, so that all mistakes of a
command line are told together. Go's spellings are turned into argparse's first: ``--a_b`` and ``-v=2``.

Rejected: argparse's ``type=``, which ends the program at the first problem and says "invalid value".
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Never

from kproxy.cli import questions, scope
from kproxy.settings.kinds import short_duration
from kproxy.settings.resolve import PORTS
from kproxy.settings.table import BY_FLAG, GROUPS, SETTINGS, Setting

_DONE, _FAILED, _MISUNDERSTOOD = range(3)
_MEANS = {
    _DONE: "done",
    _FAILED: "could not be done, and why is on standard error",
    _MISUNDERSTOOD: "the command line, or the configuration file, is not understood",
}
# What a command's own exit statuses mean, where that is more; the words and flags of explain and trace have their own
_STATUSES: Mapping[str, Mapping[int, str]] = {
    "run": {
        _DONE: "ended by SIGTERM or SIGINT; rules stay",
        _FAILED: "could not start, or not go on, and why is on standard error; or its file changed",
        _MISUNDERSTOOD: "the words of the command line are not understood",
    },
    "cleanup": {
        _FAILED: "something is left, and why is on standard error",
        _MISUNDERSTOOD: "the words of the command line are not understood",
    },
    "plan": {
        _DONE: "all is printed",
        _FAILED: "something was left out, and why is on standard error; all else is printed",
    },
    "check": {
        _DONE: "the kernel agrees with the cluster",
        _FAILED: "something differs",
        _MISUNDERSTOOD: "no answer: the command line is not understood, or the cluster or the kernel cannot be read",
    },
    "status": {_DONE: "the daemon is healthy", _FAILED: "it is not healthy, or does not run"},
}

_DESCRIPTION = """\
kproxy makes the Services of a Kubernetes cluster reachable from this node, as kube-proxy does.
Flags without a command mean run, so that a kube-proxy command line works as it is.
"""


_AROUND = """\
Beside a configuration file kube-proxy's flags are ignored, as kube-proxy ignores them, except those
of the log, --hostname-override and --master; flags that kube-proxy does not have win. What is
ignored is told.
kube-proxy's flags that mean nothing here are accepted: --ipvs-*, --kube-api-*, --config-sync-period
and some more.

"""
_CONFIG, _WRITE, _INIT = "config", "write-config-to", "init-only"
ACTIONS = {  # kube-proxy's flags that are no settings: whether they are boolean
    _CONFIG: False,
    _WRITE: False,
    _INIT: True,
}
_HELP = {
    _CONFIG: ("FILE", "a KubeProxyConfiguration, as kube-proxy reads it; ours stand under the key kproxy"),
    _WRITE: ("FILE", "write what is in force as such a file, and end"),
    _INIT: ("", "set the node's sysctls and end; needs full root"),
}
_OF_A_PLAN = {title: group for title, group in GROUPS.items() if title in {"the cluster", "which traffic"}}
_OF_FILES = "%(prog)s -f PATH [--family {4,6,both}] [FLAG ...]"
_FILES = "a file of manifests, or a directory of such files; - for standard input"
_WITHOUT_FLAGS = {"sandbox", "trace", "version"}  # of the configuration
_VERBOSITY = (BY_FLAG["v"],)
_ADDRESSES = (BY_FLAG["metrics-bind-address"], BY_FLAG["healthz-bind-address"])


class Usage(Exception):
    """The command line has no meaning; the text is what to print. ``status``: the exit status."""

    def __init__(self, text: str, status: int = 2) -> None:
        self.status = status
        super().__init__(text)


class _Parser(argparse.ArgumentParser):
    misunderstood = _MISUNDERSTOOD

    def error(self, message: str) -> Never:
        for pattern, said in _SENTENCES:
            if found := pattern.fullmatch(message):
                message = _said(said, found)
                break
        raise Usage(f"{self.prog}: {message}\nTry `{self.prog} --help`.", self.misunderstood)

    def flags(self) -> list[str]:
        """The names of those it shows."""
        shown = (action for action in self._actions if action.help != argparse.SUPPRESS)
        return [name.lstrip("-") for action in shown for name in action.option_strings if name.startswith("--")]


# What argparse says, and what we say
_SENTENCES = tuple(
    (re.compile(pattern, re.DOTALL), said)
    for pattern, said in (
        (r"argument (?P<flag>\S+): expected (?:one|at least one) argument", "{flag}: a value is missing"),
        (
            r"argument (?P<flag>\S+): invalid choice: '(?P<value>.*)' \(choose from (?P<choices>.*)\)",
            "{flag}={value}: give {choices}",
        ),
        (r"argument (?P<flag>\S+): invalid int value: '(?P<value>.*)'", "{flag}={value}: give a whole number"),
        (r"argument (?P<flag>\S+): ignored explicit argument '(?P<value>.*)'", "{flag}={value}: takes no value"),
        (r"argument (?P<flag>\S+): not allowed with argument (?P<value>\S+)", "{flag} and {value}: give one of them"),
        (r"the following arguments are required: (?P<flag>.*)", "{flag}: is missing"),
    )
)


def _said(said: str, found: re.Match[str]) -> str:
    parts = found.groupdict()
    *some, last = parts.get("choices", "").replace("'", "").split(", ")
    choices = f"{', '.join(some)} or {last}" if some else last
    flag = max(parts["flag"].split("/"), key=len)  # of several spellings
    return said.format(flag=flag, value=parts.get("value", ""), choices=choices)


class _Collect(argparse.Action):
    """Keep (flag, value) in the order in which they were given."""

    def __call__(
        self,
        _parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        _option: str | None = None,
    ) -> None:
        given = [*(getattr(namespace, "given", None) or []), (self.dest, str(values))]
        namespace.given = given


class Command(argparse.Namespace):
    """What was typed. ``given``: flags of the configuration; the rest belongs to one command each."""

    command: str
    given: list[tuple[str, str]] | None = None
    # config, status
    json: bool = False
    yaml: bool = False
    # version
    raw: bool = False
    release: bool = False
    # plan
    files: str
    family: str
    # explain
    words: list[str]
    source: str | None
    destination: str | None
    interface: str | None
    mark: str | None
    local: list[str]
    node: str | None
    objects: list[str]
    conntrack: str | None
    schema: bool
    html: str | None
    redact: bool
    all: bool
    width: int | None
    colour: str
    # trace
    service: str | None
    limit: str
    rate: str
    time: str
    # sandbox
    keep: bool
    demo: bool


def parse(argv: Sequence[str]) -> tuple[Command, list[str]]:
    """The command, and sentences about flags that nobody knows. Raises Usage; ``--help`` ends the program."""
    words = [_spell(word) for word in argv]
    if words and words[0].startswith("-") and words[0] not in {"-h", "--help"}:
        words = _kube_proxy_style(words)
    elif words[:1] == ["run"]:
        words = _kube_proxy_style(words[1:])
    parser, commands = _build()
    if words and not words[0].startswith("-") and words[0] not in commands.choices:
        close = difflib.get_close_matches(words[0], commands.choices, n=1, cutoff=0.7)
        hint = f"did you mean `kproxy {close[0]}`?" if close else f"there are {', '.join(commands.choices)}"
        raise Usage(f"kproxy: {words[0]}: there is no such command; {hint}\nTry `kproxy --help`.")
    if words[:1] == ["explain"]:
        return _parse_question(commands.choices["explain"], words[1:]), []
    found, unknown = parser.parse_known_args(words, Command())
    if not getattr(found, "command", None):
        raise Usage(parser.format_help())
    known = [] if found.command in _WITHOUT_FLAGS else [*BY_FLAG, *ACTIONS]
    return found, _unknown(unknown, found.command, [*commands.choices[found.command].flags(), *known])


def _parse_question(parser: argparse.ArgumentParser, words: list[str]) -> Command:
    """Of explain, the only command with words that may stand among its flags."""
    found, unknown = parser.parse_known_intermixed_args(words, Command(command="explain"))
    if problems := _unknown(unknown, "explain", questions.FLAGS):
        raise Usage("\n".join(f"kproxy explain: {problem}" for problem in problems), questions.MISUNDERSTOOD)
    return found


def settings_of(command: Command) -> list[tuple[str, str]]:
    """The flags that are settings, in the order given."""
    return [(name, value) for name, value in command.given or () if name not in ACTIONS]


def action(command: Command, name: str) -> str:
    """The value of the last flag of this name; empty: not given."""
    return next((value for given, value in reversed(command.given or ()) if given == name), "")


def _spell(word: str) -> str:
    """``--a_b=c_d`` → ``--a-b=c_d``; ``-v=2`` → ``--v=2``. Values stay as they are."""
    if not word.startswith("-") or word == "-":
        return word
    name, separator, value = word.partition("=")
    name = name.replace("_", "-")
    if separator and not name.startswith("--"):
        name = f"-{name}"
    return name + separator + value


def _kube_proxy_style(words: list[str]) -> list[str]:
    """Flags for ``run``, unless one of kube-proxy's flags asks for something else."""
    left = []
    cleanup = False
    for word in words:
        name, _, value = word.partition("=")
        if name == "--version" and value != "false":
            return ["version", "--raw" if value == "raw" else "--release"]
        if name == "--cleanup":
            cleanup = value != "false"
        elif name != "--version":
            left.append(word)
    return ["cleanup" if cleanup else "run", *left]


def _unknown(words: Sequence[str], command: str, known: Sequence[str]) -> list[str]:
    """One sentence for each flag that nobody knows; a word behind it is taken for its value."""
    problems = []
    behind_a_flag = False
    for word in words:
        if word.startswith("-"):
            name = word.lstrip("-").partition("=")[0]
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean --{close[0]}?" if close else f"see `kproxy {command} --help`"
            problems.append(f"{word.partition('=')[0]}: there is no such flag; {hint}")
        elif not behind_a_flag:
            problems.append(f"{word}: not expected here; flags begin with --")
        behind_a_flag = word.startswith("-") and "=" not in word
    return problems


def _build() -> tuple[argparse.ArgumentParser, Any]:
    parser = _Parser(
        prog="kproxy",
        description=_DESCRIPTION,
        epilog=_statuses("") + "each command's own help tells what else they mean there\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    _add(commands, "run", "serve this node until told to stop", GROUPS, actions=tuple(ACTIONS), around=_AROUND)

    config = _add(
        commands,
        "config",
        "print the configuration in force, and where each value comes from; no privileges",
        GROUPS,
        actions=(_CONFIG,),
        around=_AROUND,
    )
    shape = config.add_mutually_exclusive_group()
    shape.add_argument("--yaml", action="store_true", help="as a configuration file, each origin as a comment")
    shape.add_argument("--json", action="store_true", help="for programs")

    plan = _add(commands, "plan", "print the rules that a node would get; no privileges", _OF_A_PLAN, usage=_OF_FILES)
    plan.add_argument("-f", "--files", required=True, metavar="PATH", help=_FILES)
    plan.add_argument("--family", choices=("4", "6", "both"), default="both", help="IP family (both)")

    _add(commands, "check", "compare the kernel with what the cluster implies", _OF_A_PLAN)

    where = {"where the daemon answers": _ADDRESSES}
    status = _add(commands, "status", "how the daemon on this node is, on one screen; no privileges", where)
    status.add_argument("--json", action="store_true", help="for programs")

    for name, words, summary in (
        ("explain", questions, "say what rules do with a packet, and what is wrong; reads a dump, needs no node"),
        ("trace", scope, "watch live packets pass through the rules, with the names of Services"),
    ):
        own = commands.add_parser(
            name,
            usage=words.USAGE,
            help=summary,
            description=words.DESCRIPTION,
            epilog=words.EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        words.offer(own)
        own.misunderstood = words.MISUNDERSTOOD

    _add(commands, "cleanup", "remove the rules of kproxy and kube-proxy, and nothing else", {"the node": _VERBOSITY})

    sandbox = _add(commands, "sandbox", "a small cluster in network namespaces; touches nothing outside them", {})
    sandbox.add_argument("--keep", action="store_true", help="stay up for exploring; prints a kubeconfig's path")
    sandbox.add_argument("--demo", action="store_true", help="show the tour")

    version = _add(commands, "version", "print the version", {})
    version.add_argument("--raw", action="store_true", help="and what it is made of, as JSON")
    version.add_argument("--release", action="store_true", help="as `kube-proxy --version` does it")
    return parser, commands


def _add(
    commands: Any,
    name: str,
    summary: str,
    groups: Mapping[str, tuple[Setting, ...]],
    *,
    actions: tuple[str, ...] = (_CONFIG,),
    around: str = "",
    usage: str = "%(prog)s [FLAG ...]",
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        usage=usage if groups else None,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=around + _statuses(name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if not groups:
        return parser
    section = parser.add_argument_group("the configuration")
    for flag in actions:
        _add_flag(section, flag, _HELP[flag][1], metavar=_HELP[flag][0], boolean=ACTIONS[flag])
    for title, group in groups.items():
        times = any(setting.metavar == "TIME" for setting in group)
        section = parser.add_argument_group(title, "TIME: such as 30s or 1m30s" if times else None)
        for setting in group:
            if setting.flag:
                _add_flag(section, setting.flag, explain(setting), metavar=setting.metavar, boolean=setting.boolean)
    # Whoever copies the arguments of a DaemonSet must not have to pick out the fitting ones
    offered = {setting.flag for group in groups.values() for setting in group} | set(actions)
    boolean = {setting.flag: setting.boolean for setting in SETTINGS} | ACTIONS | dict.fromkeys(PORTS, False)
    for hidden in sorted(boolean.keys() - offered - {""}):
        _add_flag(parser, hidden, argparse.SUPPRESS, metavar="", boolean=boolean[hidden])
    return parser


def _statuses(command: str) -> str:
    """``command``: empty: what holds for all."""
    means = {**_MEANS, **_STATUSES.get(command, {})}
    return "exit status:\n" + "".join(f"  {status}  {text}\n" for status, text in means.items())


def explain(setting: Setting) -> str:
    """The help of a flag, with its default where there is one to show."""
    default = setting.default
    if default in ("", ()):
        return setting.help
    if setting.metavar == "TIME":
        return f"{setting.help} ({short_duration(default)})"
    return f"{setting.help} ({str(default).lower() if setting.boolean else default})"


def _add_flag(where: argparse._ActionsContainer, name: str, text: str, *, metavar: str, boolean: bool) -> None:
    names = ["-v", "--v"] if name == "v" else [f"--{name}"]
    optional: dict[str, Any] = {"nargs": "?", "const": "true"} if boolean else {}
    where.add_argument(
        *names,
        dest=name,
        action=_Collect,
        metavar="BOOL" if boolean else metavar,
        default=argparse.SUPPRESS,
        help=text,
        **optional,
    )
