"""The real programs and the real kernel, asked about restore inputs inside a network namespace.

``--test`` alone would be a weak judge: it asks the parser and not the kernel. So every input is also committed, the
next ones on top of it, and what iptables-save prints at the end must leave nothing to repair. The first input of an
example flushes the tables, so that no example sees another's.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache

from kproxy.backend.iptables.dialect import Abilities
from kproxy.backend.iptables.diff import read_save, repair
from kproxy.config import IptablesVariant
from kproxy.kernel.iptables import program_prefix
from kproxy.model.enums import IPFamily
from kproxy.sandbox import namespace
from tests.fuzz.journey import Round

_DEADLINE = 120.0  # seconds: a huge example on a busy machine
_WAITING = 40  # inputs that are tested by one program, for on nft a test costs a tenth of a second
_PROBES = {
    "random_fully": "-A KUBE-PROBE -j MASQUERADE --random-fully",
    "recent": "-A KUBE-PROBE -m recent --name KUBE-PROBE --rcheck --seconds 1 --reap -j RETURN",
    "sctp": "-A KUBE-PROBE -p sctp -m sctp --dport 1 -j RETURN",
}


class Refused(AssertionError):
    """A program said no to an input, or the kernel holds something else afterwards."""


@contextmanager
def private_network() -> Iterator[None]:
    """A network namespace for this thread, with a lock file of its own, so that nobody waits for anybody."""
    descriptor = namespace.create_net()
    before = os.environ.get("XTABLES_LOCKFILE")
    try:
        with tempfile.NamedTemporaryFile(prefix="kproxy-fuzz-") as lock, namespace.inside_net(descriptor):
            os.environ["XTABLES_LOCKFILE"] = lock.name
            yield
    finally:
        os.environ.pop("XTABLES_LOCKFILE", None)
        if before is not None:
            os.environ["XTABLES_LOCKFILE"] = before
        namespace.release(descriptor)


class Programs:
    """The programs of one variant and family; the calling thread is inside a private network."""

    def __init__(self, variant: IptablesVariant, family: IPFamily) -> None:
        self.name = program_prefix(family, variant)
        self.committed = self.tested = self.rules = 0
        self._waiting: list[bytes] = []

    def check(self, rounds: Sequence[Round]) -> None:
        """Raises ``Refused``."""
        texts = [each.text for each in rounds if each.text]
        self._waiting.append(texts[0])
        if len(self._waiting) >= _WAITING:
            self.test()
        for number, text in enumerate(texts):
            self._restore(text, *(("--noflush",) if number else ()))
            self.committed += 1
            self.rules += text.count(b"\n-A ")
        saved = self._run(f"{self.name}-save").stdout.decode()
        delta = repair(read_save(saved.splitlines(keepends=True)), rounds[-1].rules)
        if not delta.is_empty:
            raise Refused(f"{self.name}-save prints other rules than were written: {delta}\n{saved}")

    def test(self) -> None:
        """Let ``--test`` read what waits for it, all of it at once; each alone where it refuses."""
        waiting, self._waiting = self._waiting, []
        self.tested += len(waiting)
        try:
            self._restore(_merged(waiting), "--noflush", "--test")
        except Refused:
            for text in waiting:
                self._restore(text, "--noflush", "--test")
            raise

    def _restore(self, text: bytes, *options: str) -> None:
        done = self._run(f"{self.name}-restore", "-w", "5", "--counters", *options, given=text)
        if done.returncode:
            said = done.stderr.decode(errors="replace")
            raise Refused(f"{self.name}-restore {' '.join(options)}: {said}\n{text[:20_000].decode()}")

    @staticmethod
    def _run(*command: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(command, input=given, capture_output=True, check=False, timeout=_DEADLINE)


def _merged(texts: Sequence[bytes]) -> bytes:
    """One input that says the same, one after the other, with one COMMIT for each table: on nft those cost."""
    tables: dict[bytes, list[bytes]] = {}
    for text in texts:
        for part in text.split(b"COMMIT\n")[:-1]:
            head, body = part.split(b"\n", 1)
            tables.setdefault(head, []).append(body)
    return b"".join(b"%s\n%sCOMMIT\n" % (head, b"".join(bodies)) for head, bodies in tables.items())


@cache
def abilities(variant: IptablesVariant) -> Abilities:
    """What this kernel has, tried in a namespace of its own."""
    found: dict[str, bool] = {}
    with private_network():
        programs = Programs(variant, IPFamily.IPV4)
        for name, rule in _PROBES.items():
            found[name] = False
            with suppress(Refused):
                programs._restore(f"*nat\n:KUBE-PROBE - [0:0]\n{rule}\nCOMMIT\n".encode())
                found[name] = True
    return Abilities(**found)
