"""``kproxy explain``: read, ask one question, print, and say by the exit status what came out.

Everything that reads is imported where it is used: a summary needs no tracer, ``--schema`` needs no reader, and no
question needs what a daemon does.

Whoever reads a broken dump has trouble enough: whatever goes wrong here is a sentence, and the status is 3. That
includes mistakes of ours, which are told with the place in the code, because a traceback of a tool that was to explain
something is only read by those who wrote it.

Output depends on where it goes. On a terminal it fits the width, has colours and is cut where nobody reads on. In a
pipe it is whole, one line for each service port, so that grep, wc and diff work.
"""

from __future__ import annotations

import os
import shutil
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from kproxy.cli.output import stop_writing, unwritable
from kproxy.cli.parser import Command
from kproxy.cli.questions import DIFF, LIVE, STDIN, THINGS
from kproxy.errors import InvalidConfig, KproxyError
from kproxy.explain.answer import Answer, Changes, Fate, PacketAnswer, Summary
from kproxy.explain.show.paper import printable

if TYPE_CHECKING:
    from kproxy.explain.read.dump import Dump
    from kproxy.explain.read.facts import HostFacts
    from kproxy.explain.read.objects import Objects
    from kproxy.explain.services.survey import Survey

DELIVERED, FAILED, NOT_A_SERVICE, UNREADABLE = range(4)
_INVENTED = "names, addresses and hashes are invented (--redact)"
_FAMILIES = {"4": "IPv4", "6": "IPv6", None: ""}


class Asked(Struct, frozen=True):
    """What the words of the command line mean."""

    dumps: tuple[str, ...]  # two for diff, else one
    thing: str = ""  # "service", "chain", "endpoint"; empty: the whole dump, or one packet
    name: str = ""


def explain(command: Command) -> int:
    """The exit status; what is printed is whole when this returns."""
    if hasattr(sys.stdout, "reconfigure"):  # a terminal whose encoding lacks a letter shows its code
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _explain(command)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except InvalidConfig as invalid:
        _complain("kproxy explain: ", *invalid.problems)
    except KproxyError as error:
        _complain("kproxy explain: ", str(error))
    except OSError as error:
        _complain("kproxy explain: ", unwritable(error) or _own_fault(error))
        stop_writing()
    except MemoryError:
        _complain("kproxy explain: ", "this is too large for the memory here; give the dump of one family or one table")
    except Exception as mistake:  # noqa: BLE001 -- see above: a sentence, whatever happens
        _complain("kproxy explain: ", _own_fault(mistake))
    else:
        return status
    return UNREADABLE


def _explain(command: Command) -> int:
    if command.schema:
        from kproxy.explain.show.document import schema

        sys.stdout.write(schema())
        return DELIVERED
    asked = read_words(command)
    try:
        answer = _answer(command, asked)
    except InvalidConfig as invalid:
        if not command.redact:
            raise
        raise InvalidConfig(
            "no answer; ask without --redact to see why, for the reason names what is there"
        ) from invalid
    if command.redact:
        from secrets import token_bytes

        from kproxy.explain.show.redact import redact

        answer = redact(answer, token_bytes(16))
    if command.html:
        _write_page(command, answer)
    elif command.json:
        from kproxy.explain.show.document import encode

        sys.stdout.write(encode(answer, redacted=command.redact))
    else:
        from kproxy.explain.show.text import ROWS, WAYS, render

        width, colour, is_terminal = _paper(command)
        rows = ROWS if is_terminal and not command.all else 0
        if command.redact:
            sys.stdout.write(f"{_INVENTED}\n\n")
        sys.stdout.write(render(answer, width=width, colour=colour, rows=rows, ways=0 if command.all else WAYS))
    return status_of(answer)


def status_of(answer: Answer) -> int:
    match answer:
        case PacketAnswer(fate=fate, ways=ways):
            fates = {fate, *(way.fate for way in ways)}
            if fates & {Fate.DROPPED, Fate.REFUSED}:
                return FAILED
            return NOT_A_SERVICE if fate is Fate.UNTOUCHED else DELIVERED
        case Changes(changes=changes):
            return FAILED if changes else DELIVERED
        case _:
            return DELIVERED


# --- the question ---------------------------------------------------------------------------------------------


def read_words(command: Command) -> Asked:
    """Raises InvalidConfig with everything that does not fit together."""
    words = command.words
    if not words:
        raise InvalidConfig(
            "which dump? give a file that iptables-save wrote, - for standard input, or live for this host; "
            "see `kproxy explain --help`"
        )
    problems = list(_contradictions(command))
    asked = Asked((words[0],))
    if words[0] == DIFF:
        if len(words) != 3:
            problems.append("diff: give two dumps, such as `kproxy explain diff before.txt after.txt`")
        asked = Asked(tuple(words[1:]))
    elif len(words) > 1:
        thing, *rest = words[1:]
        if thing not in THINGS:
            problems.append(_unexpected(words[0], thing))
        elif len(rest) != 1:
            problems.append(f"{thing}: give one name, such as `kproxy explain {words[0]} {thing} {THINGS[thing]}`")
        asked = Asked((words[0],), thing, rest[0] if rest else "")
    inputs = [*asked.dumps, *command.objects, *([command.conntrack] if command.conntrack else [])]
    if inputs.count(STDIN) > 1:
        problems.append("-: standard input can be read once; give files for the others")
    if problems:
        raise InvalidConfig(*problems)
    return asked


def _unexpected(dump: str, word: str) -> str:
    """What a second word was meant to be that is none of those that may stand there."""
    if close := get_close_matches(word, THINGS, n=1):
        return f"{word}: not expected here; did you mean {close[0]}?"
    if Path(word).exists():
        return (
            f"{word}: one input is read; several dumps of a node may stand in it: `cat {dump} {word} | kproxy explain "
            f"-`; to compare them: `kproxy explain diff {dump} {word}`"
        )
    return f"{word}: not expected here; behind DUMP may stand service, chain or endpoint and a name"


def _contradictions(command: Command) -> list[str]:
    """Flags that do not go together."""
    problems = []
    asks, whole = bool(command.source or command.destination), len(command.words) == 1
    if command.destination and not command.source:
        problems.append("--to: who asks? add --from with an IP address, or --from host for a process on the node")
    if command.source and not command.destination:
        problems.append("--from: asks for what? add --to with IP:PORT/PROTO")
    if asks and not whole:
        problems.append("--from and --to ask about one packet; they do not go with service, chain, endpoint or diff")
    if command.html and (asks or not whole):
        problems.append("--html is a page of the summary; it cannot be given with another question")
    if command.html and command.json:
        problems.append("--html and --json: give one of them")
    given = {"--in": command.interface, "--mark": command.mark, "--conntrack": command.conntrack}
    if not asks:
        problems += [f"{flag}: belongs to a packet; add --from and --to" for flag, value in given.items() if value]
    if command.node and not command.objects:
        problems.append("--node: its addresses are in the API's objects; add --objects")
    if command.width is not None and command.width < 0:
        problems.append("--width: give a number of columns; 0: no limit")
    return problems


def _answer(command: Command, asked: Asked) -> Answer:
    objects = _read_objects(command)
    sources = [_read(path, command, objects) for path in asked.dumps]
    if len(sources) == 2:
        from kproxy.explain.views.changes import compare

        (before, _), (after, _) = sources
        return compare(before, after)
    ((surveys, facts),) = sources
    if asked.thing:
        from kproxy.explain.views import things

        find: Mapping[str, Callable[[Sequence[Survey], str], Answer]] = {
            "service": things.service,
            "chain": things.chain,
            "endpoint": things.endpoint,
        }
        return find[asked.thing](surveys, asked.name)
    if command.source and command.destination:
        return _ask(command, surveys, facts, objects)
    from kproxy.explain.health.warnings import warn

    services = tuple(service for survey in surveys for service in survey.services)
    return Summary(tuple(survey.dump.facts for survey in surveys), services, warn(surveys, objects, facts))


def _ask(command: Command, surveys: Sequence[Survey], facts: HostFacts, objects: Objects) -> Answer:
    from msgspec.structs import replace

    from kproxy.explain.packets.packet import answer, read_question
    from kproxy.explain.packets.question import resolve
    from kproxy.explain.read.flows import read_flows

    question = read_question(
        command.source or "", command.destination or "", command.interface or "", command.mark or 0, facts.addresses
    )
    flows = read_flows(command.conntrack, _remark) if command.conntrack else ()
    if command.words[0] == LIVE:
        from kproxy.explain.read import live

        if question.source:
            facts = replace(facts, remembered=live.remembered(question.source, [each.dump for each in surveys]))
        if not command.conntrack:
            # A Service's name says neither the address nor the protocol by which the kernel is asked
            flows = live.flows(resolve(surveys, question), facts.addresses)
    return answer(surveys, question, facts, flows, objects)


# --- reading --------------------------------------------------------------------------------------------------


def _read_objects(command: Command) -> Objects:
    from kproxy.explain.read.objects import NOTHING, read_objects

    if not command.objects:
        return NOTHING
    objects = read_objects(command.objects)
    for problem in objects.problems:
        _remark(problem)
    return objects


def _read(path: str, command: Command, objects: Objects) -> tuple[tuple[Survey, ...], HostFacts]:
    from kproxy.explain.services.survey import survey

    dumps, facts = _read_dumps(path)
    if wanted := _FAMILIES[command.family]:
        dumps = tuple(dump for dump in dumps if dump.facts.family == wanted)
        if not dumps:
            raise InvalidConfig(f"--family={command.family}: no rules of {wanted} are in {_name_of(path)}")
    return tuple(survey(dump, objects) for dump in dumps), _with_addresses(facts, command, objects)


def _read_dumps(path: str) -> tuple[tuple[Dump, ...], HostFacts]:
    from kproxy.explain.read.facts import HostFacts

    if path == LIVE:
        from kproxy.explain.read.live import read_host

        return read_host()
    from kproxy.explain.read.dump import read_dumps

    return read_dumps(path), HostFacts()


def _with_addresses(facts: HostFacts, command: Command, objects: Objects) -> HostFacts:
    from msgspec.structs import replace

    found = frozenset(command.local)
    if command.node:
        found |= node_addresses(objects, command.node)
    return replace(facts, addresses=facts.addresses | found) if found else facts


def node_addresses(objects: Objects, name: str) -> frozenset[str]:
    """Raises InvalidConfig where no such node is among the objects."""
    if not (addresses := objects.addresses(name)):
        some = ", ".join(sorted(objects.nodes)[:5]) or "none"
        raise InvalidConfig(f"--node={name}: no such node is in --objects; those that are: {some}")
    return frozenset(addresses)


# --- output ---------------------------------------------------------------------------------------------------


def _paper(command: Command) -> tuple[int, bool, bool]:
    """Columns (0: no limit), whether with colour, whether a person is looking."""
    is_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if is_terminal else 0
    allowed = is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    colour = command.colour == "always" or (command.colour == "auto" and allowed)
    return width if command.width is None else command.width, colour, is_terminal


def _write_page(command: Command, answer: Answer) -> None:
    """Either the whole page or nothing; what is not a plain file is left as it is."""
    from kproxy.explain.show.page import render

    if not isinstance(answer, Summary):
        raise InvalidConfig("--html is a page of the summary; it cannot be given with another question")
    target = Path(command.html or "")
    if target.exists() and not target.is_file():
        raise KproxyError(f"--html={target}: is not a plain file; give the name of one")
    title = f"Services of a dump ({_INVENTED})" if command.redact else f"Services in {_name_of(command.words[0])}"
    page = render(answer, title=title)
    fresh = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        fresh.write_text(page, encoding="utf-8")
        fresh.replace(target)
    except OSError as error:
        raise KproxyError(f"--html={target}: {error.strerror}; give a file in a folder that can be written") from error
    finally:
        fresh.unlink(missing_ok=True)
    sys.stdout.write(f"Wrote {printable(str(target.absolute()))}\n")


def _name_of(path: str) -> str:
    return {STDIN: "standard input", LIVE: "this host's rules"}.get(path, path)


def _remark(problem: str) -> None:
    _complain("", problem)


def _complain(before: str, *problems: str) -> None:
    for problem in problems:
        sys.stderr.write(f"{before}{printable(problem)}\n")


def _own_fault(mistake: Exception) -> str:
    place = traceback.extract_tb(mistake.__traceback__)[-1]
    return (
        f"{type(mistake).__name__} at {Path(place.filename).name}:{place.lineno}: {mistake}; "
        "this is a mistake in kproxy: please report it, with the line of the dump if one comes to mind"
    )
