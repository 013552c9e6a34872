"""The script for fish, 3.0 or newer: one ``complete`` for each flag, on condition of the command at hand.

``-f`` turns files off for all of kproxy, ``-F`` on again where one is wanted; ``-x`` is a value without files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kproxy.cli.vocabulary import ANY, Command, Files, Flag, Operand, Vocabulary

_SCRIPT = r"""# fish completion for kproxy, made by `kproxy completion fish`; fish 3.0 or newer.

function __kproxy_on --argument-names wanted # this command is being typed; without one: run
    set -l words (commandline -opc)
    set -l command run
    if set -q words[2]; and not string match -q -- '-*' $words[2]
        set command $words[2]
    end
    test "$command" = "$wanted"
end

function __kproxy_without # a command, so far
    test (count (commandline -opc)) -eq 1
end

# So many words stand behind this command, without flags and their values, and the first is this one, if it is special.
function __kproxy_at --argument-names wanted place first
    __kproxy_on $wanted; or return 1
    set -l words (commandline -opc)
    set -e words[1..2]
    set -l operands
    set -l is_value
    for word in $words
        if test -n "$is_value"
            set is_value
        else if contains -- $word TAKES
            set is_value yes
        else if not string match -q -- '-?*' $word
            set -a operands $word
        end
    end
    test (count $operands) -eq $place; or return 1
    if contains -- "$operands[1]" SPECIAL
        test "$operands[1]" = "$first"
    else
        test -z "$first"
    end
end

function __kproxy_list # of words, with what is typed before the last comma
    set -l typed (commandline -ct | string replace -r -- '^--[^=]*=' '' | string match -r -- '^.*,')
    for word in $argv
        string match -q -- "*,$word,*" ",$typed"; or echo "$typed$word"
    end
end

complete -c kproxy -e
complete -c kproxy -f
"""


def render(vocabulary: Vocabulary) -> str:
    placed = [command for command in vocabulary.commands if command.operands]
    takes = sorted({name for command in placed for name in _required(command.flags)})
    special = sorted({first for command in placed for first in command.operands} - {ANY})
    rows = [("__kproxy_without", f"-a {each.name} -d {_quote(each.summary)}") for each in vocabulary.commands]
    rows += [("__kproxy_without", _flag(flag)) for flag in vocabulary.instead]
    rows += [row for command in vocabulary.commands for row in _rows(command)]
    script = _SCRIPT.replace("TAKES", " ".join(takes)).replace("SPECIAL", " ".join(special))
    return script + "".join(f"complete -c kproxy -n {condition} {what}\n" for condition, what in rows)


def _required(flags: Iterable[Flag]) -> Iterator[str]:
    return (name for flag in flags if flag.metavar and not flag.optional for name in flag.names)


def _rows(command: Command) -> Iterator[tuple[str, str]]:
    condition = _quote(f"__kproxy_on {command.name}")
    yield condition, "-s h -l help -d 'show help'"
    for flag in command.flags:
        yield condition, _flag(flag)
    for first, operands in command.operands.items():
        for place, operand in enumerate(operands):
            what = _operand(operand)
            if what and (first == ANY or place > 0):
                yield _quote(f"__kproxy_at {command.name} {place} {first}".rstrip()), what


def _operand(operand: Operand) -> str:
    return " ".join(_files(operand.files) + ([f"-a {_quote(' '.join(operand.words))}"] if operand.words else []))


def _flag(flag: Flag) -> str:
    names = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in flag.names]
    values = [f"-a {_quote(_arguments(flag))}"] if flag.words else []
    if flag.metavar and not flag.optional:
        values += ["-r", *_files(flag.files)] if flag.files else ["-x"]
    return " ".join([*names, *values, f"-d {_quote(flag.help)}"])


def _arguments(flag: Flag) -> str:
    words = " ".join(flag.words)
    return f"(__kproxy_list {words})" if flag.listed else words


def _files(files: Files) -> list[str]:
    if files is Files.DIRECTORIES:
        return ["-f", "-a '(__fish_complete_directories)'"]
    return ["-F"] if files else []


def _quote(text: str) -> str:
    """In fish's single quotes only the quote and the backslash are special."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
