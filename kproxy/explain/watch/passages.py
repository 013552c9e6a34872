"""Sightings strung together: which of them are one packet's, and when its way is over.

nf_tables numbers its packets, and tells what a packet looks like once for each built-in chain. The number is made of
the packet's place in memory, its hash and the device that received it, so it changes on the way where the device does:
at a bridge whose frames netfilter sees (br_netfilter; every bridge of pods), and at lo, through which a node sends to
itself. The legacy tables give no number at all. Then the packet itself tells whose sighting it is, for nobody rewrites
its sender and its identification before its last rule.
Rejected: to go by addresses and time alone, because a resolver asks twice in the same moment.
No sighting says that it is the last, so a packet that was silent for a moment is through: the kernel tells all of its
way within microseconds. Whether its end was told as well is arrival.py's question.

Only packets that the trace rule marked begin a passage; whatever else is traced on the node is somebody else's.
Source: net/netfilter/nf_tables_trace.c, nft_trace_init; net/core/dev.c, where skb_iif is set anew.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct
from msgspec.structs import replace

from kproxy.model.sighting import Header, Sighting

SILENCE = 0.25  # seconds after which a packet is taken to be through
PATIENCE = 10.0  # seconds of a full rate that may come at once, when this program was held up
_LOOPBACK = "lo"
_MOST_TOLD = 1000  # headers of packets that others trace and that may prove to be ours


class Passage(Struct):
    """One packet's way through the rules, as far as it was told; every sighting has the header of its moment."""

    header: Header
    in_interface: str  # empty: a process of the node sent it
    sightings: list[Sighting]
    last: float  # when it was last heard of

    @property
    def now(self) -> Header:
        """What it looked like when it was last told."""
        return (self.sightings[-1].header if self.sightings else None) or self.header

    def was_at(self, sighting: Sighting) -> bool:
        """Whether it was seen at this rule, or this end of a chain, already."""
        return any(
            (each.rule, each.chain, each.table, each.kind, each.variant)
            == (sighting.rule, sighting.chain, sighting.table, sighting.kind, sighting.variant)
            for each in self.sightings
        )

    @property
    def flow(self) -> tuple[str, str, int, str, int]:
        head = self.header
        return (head.protocol, head.source, head.source_port, head.destination, head.port)


class Passages:
    """Those that are not over; times are any clock's, in seconds."""

    def __init__(self, own_table: str, *, rate: float, now: float) -> None:
        """``own_table``: of the trace rule, whose own sightings are nobody's news.

        ``rate``: packets a second, which the kernel keeps to as well; the second limit is for when it does not.
        """
        self._own_table = own_table
        self._rate = rate
        self._allowed = rate * PATIENCE
        self._at = now
        self._open: list[Passage] = []
        self._by_number: dict[int, Passage] = {}
        self._by_sender: dict[tuple[object, ...], list[Passage]] = {}  # several: one packet was sent twice
        self._told: dict[int, Sighting] = {}

    def __len__(self) -> int:
        return len(self._open)

    def add(self, sighting: Sighting, now: float) -> None:
        passage = self._passage(sighting, now)
        if passage is None:
            return
        passage.last = now
        if sighting.table == self._own_table:
            return
        if sighting.header is None:
            sighting = replace(sighting, header=passage.now)
        passage.sightings.append(sighting)

    def _passage(self, sighting: Sighting, now: float) -> Passage | None:
        if sighting.is_mark and sighting.header is None:  # traced by somebody else too: its header was told before
            sighting = self._told.pop(sighting.packet, sighting)
            is_mark = True
        else:
            is_mark = sighting.is_mark
        header = sighting.header
        known = self._by_number.get(sighting.packet) if sighting.packet else None
        if header is None:
            return known
        again = sighting.in_interface == _LOOPBACK
        if is_mark:
            known = (self._find(sighting, header) if again else None) or self._begin(sighting, header, now)
        elif known is None and (again or sighting.table != self._own_table):
            known = self._find(sighting, header)
        if known is not None and sighting.packet:
            self._by_number[sighting.packet] = known
        elif sighting.table == self._own_table:
            if len(self._told) >= _MOST_TOLD:
                self._told.clear()
            self._told[sighting.packet] = sighting
        return known

    def _find(self, sighting: Sighting, header: Header) -> Passage | None:
        """Whose sighting this is, by what the packet looks like.

        Of twins the oldest that was not seen there yet. What a node sends to itself may have got another source
        before it comes in again; then its destination tells.
        """
        twins = self._by_sender.get(header.sender, [])
        if not twins and sighting.in_interface == _LOOPBACK:
            twins = [each for each in self._open if each.now.receiver == header.receiver]
        return next((each for each in twins if not each.was_at(sighting)), twins[-1] if twins else None)

    def _begin(self, sighting: Sighting, header: Header, now: float) -> Passage | None:
        self._allowed = min(self._allowed + (now - self._at) * self._rate, self._rate * PATIENCE)
        self._at = now
        if self._allowed < 1:
            return None
        self._allowed -= 1
        passage = Passage(header, sighting.in_interface, [], now)
        self._open.append(passage)
        self._by_sender.setdefault(header.sender, []).append(passage)
        return passage

    def over(self, now: float) -> Iterator[Passage]:
        """Those that have been silent, oldest first; they are forgotten here."""
        done = [passage for passage in self._open if now - passage.last >= SILENCE]
        if done:
            self._open = [passage for passage in self._open if now - passage.last < SILENCE]
            kept = {id(passage) for passage in self._open}
            self._by_number = {number: each for number, each in self._by_number.items() if id(each) in kept}
            self._by_sender = {}
            for passage in self._open:
                self._by_sender.setdefault(passage.header.sender, []).append(passage)
        yield from done
