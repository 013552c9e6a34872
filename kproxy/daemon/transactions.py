"""``/debug/rules``: for each IP family the last transaction that the kernel took, and the last that it did not.

When a node misbehaves the first question is what the daemon wrote, and after a refusal what it tried to write; a log
cannot hold either. So the door is watched: what passes through ``restore`` is copied on its way, compressed, up to a
limit, for a transaction of the legacy variant at 10,000 services has many megabytes. Of a longer one the beginning is
kept, and the answer says where it was cut. What is refused is tried again in halves (backend/iptables/trial.py), so the
last that failed is a small one as a rule.

Rules hold no secrets, but they name every Service of the cluster, which metrics do not. Therefore only who asks from a
loopback address, not through a proxy, is told, wherever the metrics server listens; and not more often than once in a
while, for an answer costs what unpacking costs.

Rejected: reading the kernel for the answer, which ``iptables-save`` does better; keeping every transaction of a round,
which at a first sync are hundreds; a file, which somebody would have to remove.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from math import ceil

import msgspec
from msgspec import Struct

from kproxy.config import IptablesVariant
from kproxy.daemon.server import Page, Question
from kproxy.daemon.status import TEXT, Answer, Instant
from kproxy.errors import KernelError, ProgramFailed, RestoreRefused
from kproxy.kernel.doors import Capabilities, Chunks, Completed, IptablesDoor, Sink
from kproxy.model.enums import IPFamily

LARGEST = 4 * 1024 * 1024  # bytes of one transaction that are kept; compressed, about a sixth of that
PAUSE = 2.0  # seconds between two answers
_PIECE = 64 * 1024  # bytes that are unpacked at once
_NANOSECONDS = 1_000_000_000
_JSON = {"Content-Type": "application/json"}
_REFUSED = (
    b"403: rules name every Service, so they are told on the node alone: "
    b"curl http://127.0.0.1:10249/debug/rules (or whichever port --metrics-bind-address names)\n"
)
_UNKNOWN = b"format: give text or json\n"


class Transaction(Struct, frozen=True):
    """One input of iptables-restore and what became of it."""

    at: int  # when it ended, nanoseconds since the epoch
    program: str
    seconds: float
    lines: int  # as many as the program took, which is all unless it refused one of them
    size: int  # of these, in bytes
    kept: bytes  # their beginning, whole lines, compressed by zlib
    kept_size: int  # before that
    status: int | None = 0  # the program's; None: it did not come to an end of its own
    why: str = ""  # the program's words, or ours; empty: it was applied
    line: int = 0  # that the program named

    def pieces(self) -> Iterator[bytes]:
        """What was kept, in pieces of whole lines."""
        unpacker, packed, rest = zlib.decompressobj(), self.kept, b""
        while piece := unpacker.decompress(packed, _PIECE):
            packed = unpacker.unconsumed_tail
            *whole, rest = (rest + piece).rpartition(b"\n")
            yield b"".join(whole)
        yield rest


class Transactions:
    """The last of each kind, by family."""

    def __init__(self, now: Callable[[], Instant]) -> None:
        self._now = now
        self._last: dict[tuple[IPFamily, str], Transaction] = {}
        self._families: set[IPFamily] = set()
        self._answered = -PAUSE

    def watch(self, door: IptablesDoor, program: str) -> IptablesDoor:
        """The same door, watched. ``program``: what its ``restore`` runs."""
        self._families.add(door.family)
        return _Watched(door, program, self._now, self._note)

    def _note(self, family: IPFamily, transaction: Transaction) -> None:
        self._last[family, "failed" if transaction.why else "applied"] = transaction

    def page(self, question: Question) -> Answer:
        if not question.is_local:
            return Answer(403, _REFUSED, TEXT)
        form = question.query.get("format", "text")
        if form not in {"text", "json"}:
            return Answer(400, _UNKNOWN, TEXT)
        moment = self._now().monotonic
        wait = self._answered + PAUSE - moment
        if wait > 0:
            seconds = ceil(wait)
            return Answer(429, f"429: ask again in {seconds} s\n".encode(), {**TEXT, "Retry-After": str(seconds)})
        self._answered = moment
        told = self._told()
        pieces, headers = (_json(told), _JSON) if form == "json" else (_text(told), TEXT)
        return Answer(200, b"", headers, _sent(pieces))

    def _told(self) -> Told:
        kinds = ("applied", "failed")
        return [(family, kind, self._last.get((family, kind))) for family in sorted(self._families) for kind in kinds]


def pages(transactions: Transactions) -> dict[str, Page]:
    return {"/debug/rules": transactions.page}


# --- the answer -----------------------------------------------------------------------------------------------

Told = Sequence[tuple[IPFamily, str, Transaction | None]]


async def _sent(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Each when the one before is on its way: an answer of megabytes is never in memory as a whole."""
    for piece in pieces:
        yield piece


def _text(told: Told) -> Iterator[bytes]:
    """All but the inputs is comments, so that a part of it can be given to iptables-restore --test."""
    for number, (family, kind, transaction) in enumerate(told):
        name = f"{family}, last {kind}"
        heading = (f"{name}: none since the start",) if transaction is None else _heading(name, transaction)
        yield ("\n" * bool(number) + "".join(f"# {line}\n" for line in heading)).encode()
        if transaction is not None:
            yield from transaction.pieces()
            if transaction.kept_size < transaction.size:
                yield f"# cut here: {transaction.kept_size:,} bytes of it were kept\n".encode()


def _heading(name: str, transaction: Transaction) -> Iterator[str]:
    size = f"{transaction.lines:,} lines, {transaction.size:,} bytes"
    yield f"{name}: {_when(transaction)} by {transaction.program}, {transaction.seconds:.3f} s, {size}"
    if transaction.why:
        ended = "did not end by itself" if transaction.status is None else f"status {transaction.status}"
        yield f"{ended}, line {transaction.line}" if transaction.line else ended
        yield from map(_printable, transaction.why.splitlines())


def _printable(said: str) -> str:
    """For a terminal: a program may repeat bytes that another program wrote."""
    return "".join(each if each.isprintable() else f"\\x{ord(each):02x}" for each in said)


def _json(told: Told) -> Iterator[bytes]:
    before = b"["
    for family, kind, each in told:
        if each is None:
            continue
        facts = {
            "family": family,
            "outcome": kind,
            "at": _when(each),
            "program": each.program,
            "seconds": round(each.seconds, 6),
            "status": each.status,
            "why": each.why,
            "line": each.line,
            "lines": each.lines,
            "bytes": each.size,
            "bytesKept": each.kept_size,
        }
        yield before + msgspec.json.encode(facts)[:-1] + b',"input":"'
        for piece in each.pieces():
            yield msgspec.json.encode(piece.decode(errors="replace"))[1:-1]
        yield b'"}'
        before = b",\n"
    yield b"[]\n" if before == b"[" else b"]\n"


def _when(transaction: Transaction) -> str:
    return f"{datetime.fromtimestamp(transaction.at / _NANOSECONDS, UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


# --- the copy -------------------------------------------------------------------------------------------------


class _Copy:
    """What passes by, counted, and its beginning kept."""

    def __init__(self) -> None:
        self.lines = 0
        self.size = 0
        self.kept_size = 0
        self._packer = zlib.compressobj(1)  # the fastest: five times smaller at 100 MB/s
        self._kept: list[bytes] = []
        self._is_full = False

    def follow(self, chunks: Chunks) -> Chunks:
        if isinstance(chunks, AsyncIterable):
            return self._each_awaited(chunks)
        return self._each((chunks,) if isinstance(chunks, bytes) else chunks)

    def _each(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._take(chunk)
            yield chunk

    async def _each_awaited(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            self._take(chunk)
            yield chunk

    def _take(self, chunk: bytes) -> None:
        if not self._is_full:
            room = LARGEST - self.size
            self._is_full = len(chunk) > room
            part = chunk[: chunk.rfind(b"\n", 0, room) + 1] if self._is_full else chunk
            self._kept.append(self._packer.compress(part))
            self.kept_size += len(part)
        self.size += len(chunk)
        self.lines += chunk.count(b"\n")

    def kept(self) -> bytes:
        return b"".join((*self._kept, self._packer.flush()))


class _Watched:
    """A door that behaves as the one behind it."""

    def __init__(
        self,
        door: IptablesDoor,
        program: str,
        now: Callable[[], Instant],
        note: Callable[[IPFamily, Transaction], None],
    ) -> None:
        self._door = door
        self._program = program
        self._now = now
        self._note = note

    async def restore(self, chunks: Chunks) -> Completed:
        copy, began = _Copy(), self._now().monotonic
        try:
            completed = await self._door.restore(copy.follow(chunks))
        except ProgramFailed as error:
            line = error.line if isinstance(error, RestoreRefused) else 0
            self._end(copy, began, error.status, error.stderr.strip() or str(error), line)
            raise
        except KernelError as error:
            self._end(copy, began, None, str(error))
            raise
        self._end(copy, began)
        return completed

    def _end(self, copy: _Copy, began: float, status: int | None = 0, why: str = "", line: int = 0) -> None:
        at = self._now()
        done = Transaction(
            at=at.wall_ns,
            program=self._program,
            seconds=at.monotonic - began,
            lines=copy.lines,
            size=copy.size,
            kept=copy.kept(),
            kept_size=copy.kept_size,
            status=status,
            why=why,
            line=line,
        )
        self._note(self._door.family, done)

    @property
    def family(self) -> IPFamily:
        return self._door.family

    @property
    def variant(self) -> IptablesVariant:
        return self._door.variant

    async def restore_test(self, chunks: Chunks) -> None:
        await self._door.restore_test(chunks)

    async def save(self, table: str, sink: Sink | None = None) -> bytes:
        return await self._door.save(table, sink)

    async def chains(self, table: str) -> frozenset[str]:
        return await self._door.chains(table)

    async def rules(self, table: str, chains: Sequence[str]) -> dict[str, tuple[str, ...]]:
        return await self._door.rules(table, chains)

    async def has_rule(self, table: str, rule: str) -> bool:
        return await self._door.has_rule(table, rule)

    async def version(self) -> tuple[int, ...]:
        return await self._door.version()

    async def is_present(self) -> bool:
        return await self._door.is_present()

    async def probe(self) -> Capabilities:
        return await self._door.probe()
