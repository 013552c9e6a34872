"""What may be typed: subcommands, their flags and their help. No work is done here.

argparse finds the words and prints the help; what the words mean is decided in ``settings/``, so that all mistakes of a
command line are told together. Go's spellings are turned into argparse's first: ``--a_b`` and ``-v=2``.

Rejected: argparse's ``type=``, which ends the program at the first problem and says "invalid value".
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from kproxy.cli import questions, scope
from kproxy.cli.help import Formatter, More, Parser, Usage, statuses_of
from kproxy.settings.kinds import short_duration
from kproxy.settings.resolve import PORTS
from kproxy.settings.table import BY_FLAG, GROUPS, SETTINGS, Setting

_DESCRIPTION = """\
kproxy makes the Services of a Kubernetes cluster reachable from this node, as kube-proxy does. Flags without a command
mean run, so that a kube-proxy command line works as it is.
"""
_AROUND = """\
Beside a configuration file kube-proxy's flags are ignored, as kube-proxy ignores them, except those of the log,
--hostname-override and --master; flags that kube-proxy does not have win. What is ignored is told.

kube-proxy's flags that mean nothing here are accepted: --ipvs-*, --kube-api-*, --config-sync-period and some more.
"""
_AS_THE_DAEMON = """\
Without --config, --kubeconfig, --master and --manifests it takes the flags of the kproxy that runs here, unless that is
another user's, another program or in another container.
"""
_INSTALL = (
    ("source <(kproxy completion bash)", "in this shell"),
    ("echo 'source <(kproxy completion bash)' >> ~/.bashrc", "in every new one"),
    ("kproxy completion bash > /etc/bash_completion.d/kproxy", "for everybody, where bash-completion is installed"),
    ("source <(kproxy completion zsh)", "in zsh; a line of ~/.zshrc, behind compinit, for every new one"),
    ('kproxy completion zsh > "${fpath[1]}/_kproxy"', "or so; new shells read it at the first TAB"),
    ("kproxy completion fish | source", "in fish"),
    ("kproxy completion fish > ~/.config/fish/completions/kproxy.fish", "in every new one"),
)
_READ = (
    ("kproxy man | man -l -", "read it"),
    ("kproxy man > /usr/local/share/man/man1/kproxy.1", "so that `man kproxy` finds it"),
)
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
_OF_FILES = "-f PATH [--family {4,6,both}] [FLAG ...]"
_FILES = "a file of manifests, or a directory of such files; - for standard input"
_WITHOUT_FLAGS = {"completion", "man", "sandbox", "trace", "version"}  # of the configuration
SHELLS = ("bash", "zsh", "fish")
_VERBOSITY = (BY_FLAG["v"],)
_ADDRESSES = (BY_FLAG["metrics-bind-address"], BY_FLAG["healthz-bind-address"])


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
    # completion
    shell: str


def parse(argv: Sequence[str]) -> tuple[Command, list[str]]:
    """The command, and sentences about flags that nobody knows. Raises Usage; ``--help`` ends the program."""
    words = [_spell(word) for word in argv]
    if words and words[0].startswith("-") and words[0] not in {"-h", "--help"}:
        words = _kube_proxy_style(words)
    elif words[:1] == ["run"]:
        words = _kube_proxy_style(words[1:])
    parser, commands = build()
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


def build() -> tuple[Parser, Any]:
    """The whole, and its commands: their parsers by name are ``.choices``."""
    parser = Parser(prog="kproxy", description=_DESCRIPTION, formatter_class=Formatter, allow_abbrev=False)
    after = "Each command's own help tells what else they mean there."
    parser.say_more(More(forms=("COMMAND [FLAG ...]", "[FLAG ...]"), statuses=statuses_of(""), after=after))
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", prog=parser.prog, parser_class=Parser
    )

    _add(commands, "run", "serve this node until told to stop", GROUPS, actions=tuple(ACTIONS), around=_AROUND)

    summary = "print the configuration in force, and where each value comes from; no privileges"
    config = _add(commands, "config", summary, GROUPS, around=_AROUND)
    shape = config.add_mutually_exclusive_group()
    shape.add_argument("--yaml", action="store_true", help="as a configuration file, each origin as a comment")
    shape.add_argument("--json", action="store_true", help="for programs")

    plan = _add(commands, "plan", "print the rules that a node would get; no privileges", _OF_A_PLAN, form=_OF_FILES)
    plan.add_argument("-f", "--files", required=True, metavar="PATH", help=_FILES)
    plan.add_argument("--family", choices=("4", "6", "both"), default="both", help="IP family (both)")

    _add(commands, "check", "compare the kernel with what the cluster implies", _OF_A_PLAN, around=_AS_THE_DAEMON)

    where = {"where the daemon answers": _ADDRESSES}
    status = _add(commands, "status", "how the daemon on this node is, on one screen; no privileges", where)
    status.add_argument("--json", action="store_true", help="for programs")

    for name, words, summary in (
        ("explain", questions, "say what rules do with a packet, and what is wrong; reads a dump, needs no node"),
        ("trace", scope, "watch live packets pass through the rules, with the names of Services"),
    ):
        own = commands.add_parser(
            name, help=summary, description=words.DESCRIPTION, formatter_class=Formatter, allow_abbrev=False
        )
        own.say_more(More(forms=words.FORMS, examples=words.EXAMPLES, statuses=words.STATUSES))
        words.offer(own)
        own.misunderstood = words.MISUNDERSTOOD

    _add(commands, "cleanup", "remove the rules of kproxy and kube-proxy, and nothing else", {"the node": _VERBOSITY})
    _add_small(commands)
    return parser, commands


def _add_small(commands: Any) -> None:
    """Those that no setting concerns."""
    sandbox = _add(commands, "sandbox", "a small cluster in network namespaces; touches nothing outside them", {})
    sandbox.add_argument("--keep", action="store_true", help="stay up for exploring; prints a kubeconfig's path")
    sandbox.add_argument("--demo", action="store_true", help="show the tour")

    summary = "print what makes bash, zsh or fish complete commands, flags and values"
    completion = _add(commands, "completion", summary, {}, form="bash | zsh | fish", examples=_INSTALL)
    completion.add_argument("shell", choices=SHELLS, metavar="|".join(SHELLS), help=argparse.SUPPRESS)

    _add(commands, "man", "print the manual page", {}, form="", examples=_READ)

    version = _add(commands, "version", "print the version", {})
    version.add_argument("--raw", action="store_true", help="and what it is made of, as JSON")
    version.add_argument("--release", action="store_true", help="as `kube-proxy --version` does it")


def _add(
    commands: Any,
    name: str,
    summary: str,
    groups: Mapping[str, tuple[Setting, ...]],
    *,
    actions: tuple[str, ...] = (_CONFIG,),
    around: str = "",
    form: str = "[FLAG ...]",
    examples: tuple[tuple[str, str], ...] = (),
) -> Parser:
    parser: Parser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        formatter_class=Formatter,
        allow_abbrev=False,
    )
    parser.say_more(More(forms=(form,), remarks=around, examples=examples, statuses=statuses_of(name)))
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
