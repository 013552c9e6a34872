"""The script for bash, 4.1 or newer (``compopt``). Needs no bash-completion.

Bash splits what was typed at ``=`` and ``:``, too, so the script puts the words together again, with the typed line to
tell where blanks were (``<(a b)`` is one word), and takes off what bash will not replace. Files are readline's own
business (``compopt -o default``), which knows quotes and ``~``; the script lists them only where words may stand beside
them.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from itertools import groupby

from kproxy.cli.vocabulary import ANY, Command, Files, Flag, Operand, Vocabulary

_SCRIPT = r"""# bash completion for kproxy, made by `kproxy completion bash`; bash 4.1 or newer.

# What belongs to a command ($1), to one of its flags ($2), or to the word at a place ($3, behind the first word $4).
__kproxy_about() {
    flags="" takes="" choices="" files="" list=""
    case $1 in
ABOUT
    esac
}

_kproxy() {
    local line=${COMP_LINE:0:COMP_POINT} word rest piece="" glued="" head="" flag="" command=run place=0 first=""
    local flags="" takes="" choices="" files="" list=""
    local -a words=()
    local IFS=$' \t\n'
    for word in "${COMP_WORDS[@]:0:COMP_CWORD+1}"; do
        rest=${line#"${line%%[![:space:]]*}"}
        [[ $rest == "$line" && ${#words[@]} -gt 0 || $glued == [\<\>]\(* && $glued != *\) ]] || glued=""
        piece=$word
        [[ $rest == "$word"* ]] || piece=$rest # the cursor is within the word
        line=${rest#"$piece"}
        if [[ $glued ]]; then words[${#words[@]}-1]+=$piece; else words+=("$piece"); fi
        glued=${words[${#words[@]}-1]} # what the next one may belong to
    done
    [[ $piece == *[!=:]* ]] || piece="" # bash replaces what stands behind these
    local last=$((${#words[@]} - 1))
    local current=${words[last]}
    COMPREPLY=()
    if [[ ${words[last - 1]} == *[\<\>] || $current == [\<\>]* || $current == [0-9][\<\>]* ]]; then
        compopt -o default
        return
    fi

    if [[ $last -eq 1 && $current != -* ]]; then
        choices="COMMANDS"
    else
        local from=1
        if [[ ${words[1]} != -* ]]; then command=${words[1]} from=2; fi
        __kproxy_about "$command" "" "" ""
        for ((; from < last; from++)); do
            word=${words[from]}
            if [[ $flag ]]; then
                flag=""
            elif [[ " $takes " == *" $word "* ]]; then
                flag=$word
            elif [[ $word != -?* ]]; then
                [[ $((place++)) -eq 0 ]] && first=$word
            fi
        done
        if [[ ! $flag && $current == --*=* ]]; then
            flag=${current%%=*} head=${current%%=*}= current=${current#*=}
            __kproxy_about "$command" "$flag" "" ""
        elif [[ $flag ]]; then
            __kproxy_about "$command" "$flag" "" ""
        elif [[ $current == -* ]]; then
            choices=$flags
            [[ $last -eq 1 ]] && choices="$flags INSTEAD"
        else
            __kproxy_about "$command" "" "$place" "$first"
            [[ $choices || $files || $current ]] || choices=$flags
        fi
        if [[ $list && $current == *,* ]]; then head+=${current%,*}, current=${current##*,}; fi
    fi

    local typed=$head$current
    local kept=$((${#typed} - ${#piece})) found
    while IFS= read -r found; do
        [[ $found ]] && found=$head$found && COMPREPLY+=("${found:kept}")
    done < <(compgen -W "$choices" -- "$current")
    case $files:$choices in
        files:) compopt -o default ;;
        directories:) compopt -o dirnames ;;
        files:*)
            compopt -o filenames -o default
            while IFS= read -r found; do COMPREPLY+=("${found:kept}"); done < <(compgen -f -- "$current")
            ;;
        *) [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace ;;
    esac
}

complete -F _kproxy kproxy
"""


def render(vocabulary: Vocabulary) -> str:
    parts = {
        "ABOUT": "\n".join(line for command in vocabulary.commands for line in _about(command)),
        "COMMANDS": " ".join(command.name for command in vocabulary.commands),
        "INSTEAD": " ".join(name for flag in vocabulary.instead for name in flag.names),
    }
    script = _SCRIPT
    for name, text in parts.items():
        script = script.replace(name, text)
    return script


def _about(command: Command) -> Iterator[str]:
    required = [name for flag in command.flags if flag.metavar and not flag.optional for name in flag.names]
    yield f"        {command.name})"
    yield f"            flags={shlex.quote(' '.join(['--help', *_offered(command.flags)]))}"
    yield f"            takes={shlex.quote(' '.join(required))}"
    cases = [*_flag_cases(command.flags), *_place_cases(command)]
    if cases:
        yield "            case $2:$3:$4 in"
        yield from (f"                {each}" for each in cases)
        yield "            esac"
    yield "            ;;"


def _offered(flags: Iterable[Flag]) -> Iterator[str]:
    """As they are written: a value that must follow stands behind ``=``."""
    for flag in flags:
        for name in flag.names:
            wants = flag.metavar and not flag.optional and name.startswith("--")
            yield f"{name}=" if wants else name


def _flag_cases(flags: Iterable[Flag]) -> Iterator[str]:
    """One for all flags with the same values."""
    with_values = [(_values(flag.words, flag.files, listed=flag.listed), flag) for flag in flags]
    named = sorted((values, name) for values, flag in with_values if values for name in flag.names)
    for values, same in groupby(named, key=lambda each: each[0]):
        yield f"{' | '.join(f'{name}:*' for _, name in same)}) {values} ;;"


def _place_cases(command: Command) -> Iterator[str]:
    # The ones with a name come before all others
    for first, operands in sorted(command.operands.items(), reverse=True):
        for place, operand in enumerate(operands):
            if first == ANY or place > 0:
                yield _place_case(place, first, operand)
        if first != ANY:
            yield f":*:{first}) ;;"


def _place_case(place: int, first: str, operand: Operand) -> str:
    return f":{place}:{first or '*'}) {_values(operand.words, operand.files) or 'files=none'} ;;"


def _values(words: tuple[str, ...], files: Files, *, listed: bool = False) -> str:
    assignments = []
    if words:
        assignments.append(f"choices={shlex.quote(' '.join(words))}")
    if files:
        assignments.append(f"files={files}")
    return " ".join([*assignments, *(["list=yes"] if listed else [])])
