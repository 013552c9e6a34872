"""Named packet counters (-m nfacct): made and read by netlink, because the nfacct program is seldom installed.

kube-proxy's two counters feed metrics; a rule that names a counter which does not exist is refused with its whole
transaction, so a counter is ensured before the rule is written.
Source: spec iptables.md 11, linux/netfilter/nfnetlink_acct.h.
"""

from __future__ import annotations

import errno

from kproxy.kernel.netlink import ACK, BODY, CREATE, EXCL, NetfilterSocket, NetlinkError, attribute, find

_ACCT = 7 << 8
_NEW, _GET, _DELETE = _ACCT | 0, _ACCT | 1, _ACCT | 3
_NAME, _PACKETS, _BYTES = 1, 2, 3


class Nfacct:
    def ensure(self, name: str) -> None:
        self._ask(_NEW, CREATE | EXCL | ACK, name, f"make the counter {name}", forgive=errno.EEXIST)

    def read(self, name: str) -> tuple[int, int] | None:
        parts = self._ask(_GET, 0, name, f"read the counter {name}", forgive=errno.ENOENT)
        if not parts:
            return None
        packets, size = (find(parts[0], BODY, len(parts[0]), number) or b"" for number in (_PACKETS, _BYTES))
        return int.from_bytes(packets, "big"), int.from_bytes(size, "big")

    def delete(self, name: str) -> None:
        self._ask(_DELETE, ACK, name, f"remove the counter {name}", forgive=errno.ENOENT)

    @staticmethod
    def _ask(kind: int, flags: int, name: str, purpose: str, *, forgive: int) -> list[bytes]:
        with NetfilterSocket() as door:
            try:
                return door.ask(kind, flags, 0, attribute(_NAME, name.encode() + b"\0"), purpose)
            except NetlinkError as refusal:
                if refusal.errno == forgive:
                    return []
                raise
