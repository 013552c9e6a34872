"""``kproxy status``: is the daemon of this node well? One screen, made of what its own pages say; no privileges.

Pages are asked for all at once, each in a thread, because together they have three seconds: an operator asks when
something is wrong, and a daemon that hangs is one answer. http.client is used where urllib would go through a proxy
that the environment names, and aiohttp costs three times as long to import as the answers take.

Where the daemon answers is taken from the same flags or file that started it; where it answers for its health it says
itself. Rejected: to find it by its process, which is not to be seen from another container, and to read the kernel,
which needs root and is what ``kproxy check`` does.
"""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException

import msgspec
from msgspec.structs import replace

from kproxy.cli.condition import OF_HEALTH, OF_METRICS, Condition, Pages, Reply, health_address, understand
from kproxy.cli.screen import Line, show
from kproxy.config import Config
from kproxy.daemon.processes import find_proxies

Question = tuple[str, str]  # address and path
DEADLINE = 3.0  # seconds for everything
_LEAST = 0.1  # seconds for a question that comes late
_WHERE = "/configz"  # says where the health server is
_LARGEST = 64 << 20  # bytes of a page; metrics of 20,000 service ports have 20 MB
_WILDCARDS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- compared, not bound


def status(config: Config, *, as_json: bool, write: Callable[[str], object]) -> bool:
    """Write the condition of the daemon that answers where ``config`` says; whether it is healthy."""
    condition = look(config)
    if as_json:
        write(json.dumps(msgspec.to_builtins(condition), indent=2))
    elif condition.program:
        _write_screen(show(condition, now=datetime.now(UTC), width=_width()), write)
    else:
        write("\n".join(line for reason in condition.reasons for line in _fold(reason)))
    return condition.healthy


def look(config: Config) -> Condition:
    until = time.monotonic() + DEADLINE
    at = config.metrics_bind_address
    first = ask([(at, _WHERE)], time.monotonic() + DEADLINE / 3)  # it costs nothing to answer; other pages may wait
    health_at = health_address(_of(at, first), config.healthz_bind_address)
    questions = [(at, path) for path in OF_METRICS if path != _WHERE]
    replies = first | ask([*questions, *((health_at, path) for path in OF_HEALTH if health_at)], until)
    condition = understand(_of(at, replies), _of(health_at, replies, OF_HEALTH), config)
    return condition if condition.program else replace(condition, reasons=tuple(_nobody(replies)))


def ask(questions: Iterable[Question], until: float) -> dict[Question, Reply]:
    """All at once. ``until``: by the monotonic clock; what is not there by then is no answer."""
    silence = {question: _late(question[0]) for question in questions}
    heard: dict[Question, Reply] = {}
    left = max(_LEAST, until - time.monotonic())

    def hear(question: Question) -> None:
        heard[question] = _get(*question, left)

    threads = [threading.Thread(target=hear, args=(question,), daemon=True) for question in silence]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    return silence | dict(heard)


def _of(address: str, replies: Mapping[Question, Reply], paths: Iterable[str] = OF_METRICS) -> Pages:
    return {path: replies[address, path] for path in paths if (address, path) in replies}


def _late(address: str) -> Reply:
    return Reply(problem=f"{_reachable(address)} did not answer within {DEADLINE:g} s")


def _get(address: str, path: str, seconds: float) -> Reply:
    host, _, port = _reachable(address).rpartition(":")
    connection = HTTPConnection(host.strip("[]"), int(port), timeout=seconds)
    try:
        connection.request("GET", path, headers={"Accept": "text/plain, */*", "Connection": "close"})
        answer = connection.getresponse()
        return Reply(answer.status, answer.read(_LARGEST).decode(errors="replace"))
    except TimeoutError:
        return _late(address)
    except ConnectionRefusedError:
        return Reply(problem=f"nobody listens on {_reachable(address)}")
    except OSError as error:
        return Reply(problem=f"{_reachable(address)}: {error.strerror or error}")
    except HTTPException as error:
        return Reply(problem=f"{_reachable(address)} does not speak HTTP ({type(error).__name__})")
    finally:
        connection.close()


def _reachable(address: str) -> str:
    """A wildcard address is asked on loopback."""
    host, _, port = address.rpartition(":")
    found = _WILDCARDS.get(host.strip("[]"), host.strip("[]"))
    return f"[{found}]:{port}" if ":" in found else f"{found}:{port}"


def _nobody(replies: Mapping[Question, Reply]) -> list[str]:
    """Sentences with a remedy, for neither kproxy nor kube-proxy answered."""
    problems = dict.fromkeys(reply.problem for reply in replies.values() if reply.problem)
    strangers = dict.fromkeys(_reachable(address) for (address, _), reply in replies.items() if reply.status)
    said = [f"No kproxy answers here: {'; '.join(problems)}." if problems else "No kproxy answers here."]
    if strangers:
        said.append(f"What answers on {' and '.join(strangers)} is neither kproxy nor kube-proxy.")
    seen = ", ".join(f"{program} (process {number})" for number, program in find_proxies())
    if seen and problems.keys() & {_late(address).problem for address, _ in replies}:
        said.append(
            f"{seen} runs and does not answer: it hangs, or the node is overloaded. Its rules serve as they are; the "
            "liveness probe restarts it, or whoever deletes its pod."
        )
    elif seen:
        said.append(f"Yet {seen} runs: give --metrics-bind-address, or --config FILE, as it was started with.")
    else:
        said.append("Is it running? If not, its log says why it ended.")
        said.append(
            "If it answers elsewhere, give --metrics-bind-address and --healthz-bind-address, or --config FILE, as it "
            "was started with; ask in the node's own network namespace."
        )
    return said


def _width() -> int | None:
    """Of the terminal; None where there is none, for nothing is cut there."""
    return min(shutil.get_terminal_size().columns, 120) if sys.stdout.isatty() else None


def _fold(text: str) -> list[str]:
    width = _width()
    return textwrap.wrap(text, width) if width else [text]


def _write_screen(lines: list[Line], write: Callable[[str], object]) -> None:
    if not sys.stdout.isatty():
        write("\n".join(line.text for line in lines))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for line in lines:
        console.print(Text(line.text, style=line.style))
