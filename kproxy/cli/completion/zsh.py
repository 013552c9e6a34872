"""The script for zsh, by its own ``_arguments``, which shows descriptions and leaves out what was given already.

One text serves both ways to load it: sourced, it registers itself; as the file ``_kproxy`` in ``$fpath``, zsh takes all
of it for the body of the function, so its last lines call the function that the others defined.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from kproxy.cli.vocabulary import ANY, Command, Files, Flag, Operand, Vocabulary

_SCRIPT = r"""#compdef kproxy
# zsh completion for kproxy, made by `kproxy completion zsh`.

_kproxy() {
    local command=run state line
    local -a instead commands
    if [[ $words[2] != -* ]]; then
        if (( CURRENT == 2 )); then
            commands=(
COMMANDS
            )
            _describe -t commands command commands
            return
        fi
        command=$words[2]
        shift words
        (( CURRENT-- ))
    elif (( CURRENT == 2 )); then
        instead=(
INSTEAD
        )
    fi
    case $command in
CASES
    esac
}

if [[ $funcstack[1] == _kproxy ]]; then
    _kproxy "$@"
else
    (( $+functions[compdef] )) || { autoload -Uz compinit && compinit }
    compdef _kproxy kproxy
fi
"""


def render(vocabulary: Vocabulary) -> str:
    parts = {
        "COMMANDS": (f"                {shlex.quote(f'{each.name}:{each.summary}')}" for each in vocabulary.commands),
        "INSTEAD": (f"            {spec}" for flag in vocabulary.instead for spec in _specs(flag)),
        "CASES": (line for command in vocabulary.commands for line in _case(command)),
    }
    script = _SCRIPT
    for name, lines in parts.items():
        script = script.replace(f"\n{name}\n", "\n" + "\n".join(lines) + "\n")
    return script


def _case(command: Command) -> Iterator[str]:
    specs = ["'(- *)'{-h,--help}'[show help]'", *(spec for flag in command.flags for spec in _specs(flag))]
    places = max(map(len, command.operands.values()), default=0)
    specs += [f"'{place}: :->{place}'" for place in range(1, places + 1)]
    yield f"        {command.name})"
    yield '            _arguments "$instead[@]" \\'
    yield from (f"                {spec} \\" for spec in specs[:-1])
    yield f"                {specs[-1]}" + (" && return" if places else "")
    if places:
        yield "            case $line[1]:$state in"
        yield from (f"                {each}" for each in _places(command))
        yield "            esac"
    yield "            ;;"


def _places(command: Command) -> Iterator[str]:
    # The ones with a name come before all others
    for first, operands in sorted(command.operands.items(), reverse=True):
        for place, operand in enumerate(operands, start=1):
            if first == ANY or place > 1:
                yield f"{first or '*'}:{place}) {_operand(operand)} ;;"
        if first != ANY:
            yield f"{first}:<2->) ;;"


def _operand(operand: Operand) -> str:
    words = f"'words:word:({' '.join(operand.words)})'"
    if operand.files:
        return f"_alternative {words} 'files:file:_files'"
    return f"_alternative {words}" if operand.words else ""


def _specs(flag: Flag) -> Iterator[str]:
    """One for each spelling; each leaves out the others."""
    others = "*" if flag.repeats else f"({' '.join(flag.names)})" if len(flag.names) > 1 else ""
    described = f"[{_escape(flag.help, chr(92) + '[]:')}]"
    value = f":{_escape(flag.metavar, chr(92) + ':')}:{_action(flag)}" if flag.metavar else ""
    for name in flag.names:
        if flag.optional:
            yield shlex.quote(f"{others}{name}=-{described}:{value}")
        elif flag.metavar:
            yield shlex.quote(f"{others}{name}{'=' if name.startswith('--') else '+'}{described}{value}")
        else:
            yield shlex.quote(f"{others}{name}{described}")


def _action(flag: Flag) -> str:
    words = " ".join(flag.words)
    if flag.listed:
        return f"_sequence compadd - {words}"
    if words:
        return f"({words})"
    return {Files.ANY: "_files", Files.DIRECTORIES: "_files -/", Files.NONE: " "}[flag.files]


def _escape(text: str, special: str) -> str:
    return "".join(f"\\{letter}" if letter in special else letter for letter in text)
