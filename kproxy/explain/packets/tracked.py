"""Which of the flows that conntrack knows a packet belongs to, and what follows.

A flow's packets are not asked about in the nat table again: they go where the first one went, also where the rules
have changed since. A TCP flow that has ended does not decide, because the kernel lets a new connection take its place
(nf_conntrack_proto_tcp.c, "Attempt to reopen a closed/aborted connection"). Zones other than 0 are for packets that a
rule of raw puts there, so their flows are named and do not decide.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from msgspec import Struct

from kproxy.backend.iptables.trace import Tracked
from kproxy.explain import answer as said
from kproxy.explain.answer import Question, ServicePort, Severity
from kproxy.explain.packets.journey import join_address
from kproxy.explain.read.flows import Flow
from kproxy.model.enums import Protocol
from kproxy.model.packet import Packet

_MOST = 8  # flows that are named
_ENDED = {"TIME_WAIT", "CLOSE"}


class Known(Struct, frozen=True):
    """What conntrack's list says about one packet."""

    deciding: Flow | None = None
    words: str = ""
    flows: tuple[Flow, ...] = ()  # every one that fits the question


def find(flows: Sequence[Flow], question: Question, packet: Packet, addresses: Collection[str]) -> Known:
    """``addresses``: those of the node, from which a process on it may send."""
    senders = {packet.source} if question.source else {packet.source, *addresses}
    fitting = [
        flow
        for flow in flows
        if flow.port == packet.port
        and flow.destination == packet.destination
        and flow.protocol is packet.protocol
        and flow.source in senders
        and question.source_port in {0, flow.source_port}
    ]
    if not fitting:
        return Known(words=_answers(flows, question, packet))
    if not question.source_port:
        return Known(None, _all_of(fitting, question, packet), tuple(fitting))
    for flow in fitting:
        if flow.zone == 0 and flow.state not in _ENDED:
            skipped = f"a known flow {_way_of(flow)}; nat is not asked"
            return Known(flow, skipped, (flow,))
    flow = fitting[0]
    if flow.zone:
        words = f"a flow {_way_of(flow)} is known in zone {flow.zone}, which decides only about packets of that zone"
    else:
        words = f"the flow {_way_of(flow)} has ended; a new connection takes its place, and nat is asked"
    return Known(None, words, tuple(fitting))


def tracked(flow: Flow) -> Tracked:
    """As the evaluator takes it."""
    redirected = (flow.reply_source, flow.reply_port) != (flow.destination, flow.port)
    replaced = (flow.reply_destination, flow.reply_destination_port) != (flow.source, flow.source_port)
    return Tracked(
        destination=flow.reply_source if redirected else "",
        port=flow.reply_port if redirected else 0,
        source=flow.reply_destination if replaced else "",
        states=("ESTABLISHED",) if flow.replied else ("NEW",),
        mark=flow.mark,
    )


def stale(flows: Sequence[Flow], service: ServicePort | None) -> Iterator[said.Warning]:
    """Flows that go on to what no longer serves, or that began before the Service was there.

    A TCP connection that outlives its endpoint's turn is what a graceful end looks like, and is told as a note.
    """
    if service is None or not service.endpoints:
        return
    serving = {(each.ip, each.port) for each in service.endpoints}
    for flow in flows[:_MOST]:
        if (flow.reply_source, flow.reply_port) in serving or flow.state in _ENDED:
            continue
        answering, dialled = join_address(flow.reply_source, flow.reply_port), join_address(flow.destination, flow.port)
        why = (
            f"began before {service.name} was answered there and goes to {dialled} itself"
            if answering == dialled
            else f"goes on to {answering}, which is no endpoint of {service.name} any more"
        )
        lasts = flow.protocol is Protocol.TCP and answering != dialled
        delete = (
            f"`conntrack -D -p {flow.protocol.lower} -s {flow.source} -d {flow.destination} "
            f"--sport {flow.source_port} --dport {flow.port}`"
        )
        yield said.Warning(
            "stale-flow",
            Severity.NOTE if lasts else Severity.ERROR,
            f"the flow from {join_address(flow.source, flow.source_port)} {why}",
            f"it lasts until client or server end it; {delete} cuts it"
            if lasts
            else f"{delete} makes the next packet begin anew",
            service=service.name,
        )


# --- words ----------------------------------------------------------------------------------------------------


def _way_of(flow: Flow) -> str:
    """Whence and where, what became of it, and its state."""
    there = join_address(flow.reply_source, flow.reply_port)
    dialled = join_address(flow.destination, flow.port)
    goes_on = f"to {dialled}" if there == dialled else f"to {dialled} goes on to {there}"
    return f"from {join_address(flow.source, flow.source_port)} {goes_on} ({_state(flow)})"


def _state(flow: Flow) -> str:
    words = [flow.state] if flow.state else []
    if flow.assured:
        words.append("ASSURED")
    if not flow.replied:
        words.append("UNREPLIED")
    return ", ".join(words) or "replied"


def _all_of(flows: Sequence[Flow], question: Question, packet: Packet) -> str:
    sender = question.source or "this node"
    each = [
        f"from port {flow.source_port} to {join_address(flow.reply_source, flow.reply_port)} ({_state(flow)})"
        for flow in flows[:_MOST]
    ]
    if len(flows) > _MOST:
        each.append(f"and {len(flows) - _MOST} more")
    many = "1 flow is known" if len(flows) == 1 else f"{len(flows)} flows are known"
    there = f"{join_address(packet.destination, packet.port)}/{packet.protocol}"
    return (
        f"{many} from {sender} to {there}, for which nat is not asked: {'; '.join(each)}; this answer is for a new one"
    )


def _answers(flows: Sequence[Flow], question: Question, packet: Packet) -> str:
    """Of a packet that is itself an answer within a flow."""
    for flow in flows if question.source_port else ():
        if (
            flow.reply_source == packet.source
            and flow.reply_port == question.source_port
            and flow.reply_destination == packet.destination
            and flow.reply_destination_port == packet.port
            and flow.protocol is packet.protocol
        ):
            client, dialled = join_address(flow.source, flow.source_port), join_address(flow.destination, flow.port)
            return (
                f"this is an answer within the flow {_way_of(flow)}: nat is not asked, it goes back to {client} "
                f"as from {dialled}; what follows is for a new flow of the same addresses"
            )
    return ""
