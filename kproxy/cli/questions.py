"""What may be asked of ``kproxy explain``: its words, its flags, its help. No work is done here.

DUMP comes first and the thing asked about second, because that is the order in which people find out: first what is
in the dump, then, with the same line called back, one thing of it. ``live`` and ``diff`` stand where a file would
stand; a file that is called so is reached as ``./live``.

Exit statuses are explain's own: a script asks "does my packet arrive?", so 1 and 2 are answers, and whatever kept us
from answering, a wrong command line among it, is 3. ``diff`` keeps to diff(1): 1 where something changed.
"""

from __future__ import annotations

import argparse

MISUNDERSTOOD = 3
FLAGS = (
    *("from", "to", "in", "from-interface", "mark", "local", "node", "objects", "conntrack"),
    *("json", "schema", "html", "redact", "family", "all", "width", "colour", "color"),
)

LIVE, STDIN, DIFF = "live", "-", "diff"
THINGS = {"service": "NAMESPACE/NAME", "chain": "NAME", "endpoint": "IP:PORT"}
FORMS = (
    "DUMP [FLAG ...]",
    "DUMP --from IP|host --to IP:PORT[/PROTO] [FLAG ...]",
    "DUMP service NAMESPACE/NAME",
    "DUMP chain NAME",
    "DUMP endpoint IP[:PORT]",
    "diff BEFORE AFTER [FLAG ...]",
)
DESCRIPTION = """\
Read rules that kproxy or any kube-proxy wrote, and say what they do. Needs no cluster, no node and no privileges.

DUMP is a file that iptables-save or ip6tables-save wrote (with -c: odds that were observed, rules that never matched),
- for standard input, or live for this host's rules (needs root). A file of that name is ./live. Both families may stand
in one input, one behind the other.
"""
EXAMPLES = (
    ("iptables-save -c > dump.txt", "on the node; all else may happen elsewhere"),
    ("kproxy explain dump.txt", "its Services, and what is wrong"),
    ("kproxy explain dump.txt --from 10.244.1.7 --to 10.96.0.10:53/udp", "where this packet goes, and why"),
    (
        "kproxy explain dump.txt --from host --to kube-system/kube-dns:dns",
        "a process on the node asks, by a Service's name",
    ),
    (
        "kproxy explain dump.txt --from 192.0.2.9 --to 10.0.0.1:30080 --local 10.0.0.1",
        "a node port, and which address is the node's",
    ),
    ("kproxy explain dump.txt service kube-system/kube-dns", "everything about one Service"),
    ("kproxy explain dump.txt chain KUBE-SEP-QZ4MJSUJGUVIUKHD", "what is this chain?"),
    ("kproxy explain dump.txt endpoint 10.244.1.7:8080", "whom does this pod serve?"),
    ("kproxy explain diff before.txt after.txt", "what became of the Services"),
    ("kproxy explain dump.txt --html report.html", "one page, to search and to send"),
    ("kproxy explain dump.txt --redact --json", "for a ticket"),
    ("(iptables-save -c; ip6tables-save -c) | kproxy explain -", "both families"),
)
STATUSES = {
    0: "delivered; or what was asked for is printed; for diff: nothing changed",
    1: "dropped or refused, on some way at least; for diff: something changed",
    2: "not a service packet: no Service answers there",
    MISUNDERSTOOD: "no answer: the dump, another file or the command line cannot be understood",
}
_QUESTION = "one packet"
_MORE = "what a dump cannot tell"
_OUTPUT = "output"


def offer(parser: argparse.ArgumentParser) -> None:
    """Add the words and flags of explain."""
    parser.add_argument("words", nargs="*", metavar="DUMP", help=argparse.SUPPRESS)

    packet = parser.add_argument_group(_QUESTION)
    packet.add_argument("--from", dest="source", metavar="IP|host", help="who sends; host: a process on the node")
    packet.add_argument(
        "--to", dest="destination", metavar="IP:PORT[/PROTO]", help="what is dialled (tcp), or NAMESPACE/NAME:PORT"
    )
    packet.add_argument(
        "--in", "--from-interface", dest="interface", metavar="NAME", help="the interface where it comes in"
    )
    packet.add_argument("--mark", metavar="NUMBER", help="a firewall mark that it carries, such as 0x200")

    more = parser.add_argument_group(_MORE)
    more.add_argument("--local", action="append", default=[], metavar="IP", help="an address of the node; repeat")
    more.add_argument("--node", metavar="NAME", help="the node, whose addresses are taken from --objects")
    more.add_argument(
        "--objects",
        action="append",
        default=[],
        metavar="FILE",
        help="output of `kubectl get svc,endpointslices,nodes,pods -A -o json`: names, pods, states; repeat",
    )
    more.add_argument("--conntrack", metavar="FILE", help="output of `conntrack -L`: flows that rules no longer decide")

    output = parser.add_argument_group(_OUTPUT)
    output.add_argument("--json", action="store_true", help="for programs")
    output.add_argument("--schema", action="store_true", help="print the JSON schema of --json, and end")
    output.add_argument("--html", metavar="FILE", help="write the summary as one page that needs no network")
    output.add_argument("--redact", action="store_true", help="put other names, addresses and hashes in place")
    output.add_argument("--family", choices=("4", "6"), help="read only the rules of this IP family")
    output.add_argument("--all", action="store_true", help="every service port, endpoint and way, however many")
    output.add_argument("--width", type=int, metavar="N", help="columns (the terminal's; no limit in a pipe)")
    output.add_argument(
        "--colour", "--color", choices=("auto", "always", "never"), default="auto", help="auto minds NO_COLOR (auto)"
    )
