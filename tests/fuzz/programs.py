"""The real programs and the real kernel, asked about restore inputs inside a network namespace.

``--test`` alone would be a weak judge: it asks the parser and not the kernel. So every input is also committed, the
next ones on top of it, and what iptables-save prints at the end must leave nothing to repair. The first input of an
example flushes the tables, so that no example sees another's.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Self

from kproxy.backend.iptables.dialect import Abilities
from kproxy.backend.iptables.diff import read_save, repair
from kproxy.backend.iptables.rules import Chain
from kproxy.backend.iptables.text import digest_chain, restore_text
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


class Programs:
    """The programs of one variant and family, in a network namespace that lives until the ``with`` ends."""

    def __init__(self, variant: IptablesVariant, family: IPFamily) -> None:
        self.name = program_prefix(family, variant)
        self.committed = self.tested = self.rules = 0
        self._waiting: list[bytes] = []
        self._network = namespace.create_net()
        self._lock = tempfile.NamedTemporaryFile(prefix="kproxy-fuzz-")  # noqa: SIM115 -- lives as long as this

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.close()
        namespace.release(self._network)

    def check(self, rounds: Sequence[Round]) -> None:
        """Raises ``Refused``."""
        texts = [each.text for each in rounds if each.text]
        self._waiting.append(texts[0])
        if len(self._waiting) >= _WAITING:
            self.test()
        for number, text in enumerate(texts):
            self.restore(text, *(("--noflush",) if number else ()))
            self.committed += 1
            self.rules += text.count(b"\n-A ")
        delta = repair(read_save(self._save()), rounds[-1].rules)
        if not delta.is_empty:
            raise Refused(f"{self.name}-save prints other rules than were written: {delta}")

    def check_chain(self, chain: Chain) -> None:
        """Alone in its table, it comes back as the one chain that it was. Raises ``Refused``."""
        self.restore("".join(restore_text(chain.table, write=[chain])).encode())
        saved = read_save(self._save())
        ours = {name: digest for (table, name), digest in saved.digests.items() if table is chain.table and "-" in name}
        if ours != {chain.name: digest_chain(chain)}:
            raise Refused(f"{self.name}-save prints another chain than {chain}: {[*self._save()]}")

    def _save(self) -> list[str]:
        # A comment may hold what Python, and no iptables program, takes for the end of a line.
        saved = self._run(f"{self.name}-save").stdout.decode(errors="replace")
        return [f"{line}\n" for line in saved.split("\n")[:-1]]

    def test(self) -> None:
        """Let ``--test`` read what waits for it, all of it at once; each alone where it refuses."""
        waiting, self._waiting = self._waiting, []
        self.tested += len(waiting)
        try:
            self.restore(_merged(waiting), "--noflush", "--test")
        except Refused:
            for text in waiting:
                self.restore(text, "--noflush", "--test")
            raise

    def restore(self, text: bytes, *options: str) -> None:
        """Without ``--noflush`` the tables hold nothing else afterwards. Raises ``Refused``."""
        done = self._run(f"{self.name}-restore", "-w", "5", "--counters", *options, given=text)
        if done.returncode:
            said = done.stderr.decode(errors="replace")
            raise Refused(f"{self.name}-restore {' '.join(options)}: {said}\n{text[:20_000].decode()}")

    def _run(self, *command: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        environment = {**os.environ, "XTABLES_LOCKFILE": self._lock.name}  # nobody waits for anybody
        with namespace.inside_net(self._network):
            return subprocess.run(
                command, input=given, capture_output=True, check=False, timeout=_DEADLINE, env=environment
            )


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
    with Programs(variant, IPFamily.IPV4) as programs:
        for name, rule in _PROBES.items():
            found[name] = False
            with suppress(Refused):
                programs.restore(f"*nat\n:KUBE-PROBE - [0:0]\n{rule}\nCOMMIT\n".encode())
                found[name] = True
    return Abilities(**found)
