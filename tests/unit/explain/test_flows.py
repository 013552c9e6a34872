"""Conntrack entries as programs and the kernel print them. What follows from one is test_tracked.py's."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.errors import InvalidConfig
from kproxy.explain.read.flows import Flow, flows_of, read_flow, read_flows
from kproxy.model.enums import Protocol

TCP = (
    "tcp      6 431999 ESTABLISHED src=10.244.1.7 dst=10.96.0.10 sport=41234 dport=80 "
    "src=10.244.2.9 dst=10.244.1.7 sport=8080 dport=41234 [ASSURED] mark=0 use=1"
)
ICMP = "icmp     1 29 src=10.0.0.1 dst=10.0.0.2 type=8 code=0 id=1 src=10.0.0.2 dst=10.0.0.1 type=0 code=0 id=1 use=1"
SUMMARY = "conntrack v1.4.7 (conntrack-tools): 2 flow entries have been shown."


def flow(**rest: object) -> Flow:
    fields: dict[str, object] = {
        "protocol": Protocol.TCP, "source": "10.244.1.7", "source_port": 41234, "destination": "10.96.0.10",
        "port": 80, "reply_source": "10.244.2.9", "reply_port": 8080, "reply_destination": "10.244.1.7",
        "reply_destination_port": 41234, "state": "ESTABLISHED", "seconds": 431999, "assured": True,
    }  # fmt: skip
    return Flow(**{**fields, **rest})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (TCP, flow()),
        (f"ipv4     2 {TCP}", flow()),  # -o extended, /proc/net/nf_conntrack
        (TCP.replace("mark=0", "mark=33 zone=5"), flow(mark=33, zone=5)),
        (TCP.replace("[ASSURED] mark=0", "[OFFLOAD] mark=0"), flow(assured=False)),
        (TCP.replace("431999 ", ""), flow(seconds=-1)),  # offloaded entries have none
        (
            TCP.replace("dport=80 ", "dport=80 packets=3 bytes=180 ").replace("[ASS", "packets=2 bytes=120 [ASS"),
            flow(),
        ),
        (
            ("tcp      6 119 SYN_SENT src=10.244.1.7 dst=10.96.0.10 sport=41234 dport=80 [UNREPLIED] "
             "src=10.244.2.9 dst=10.244.1.7 sport=8080 dport=41234 mark=0 use=1"),
            flow(state="SYN_SENT", seconds=119, assured=False, replied=False),
        ),
        (
            ("udp      17 29 src=10.244.1.7 dst=10.96.0.10 sport=5353 dport=53 [UNREPLIED] "
             "src=10.244.2.9 dst=192.168.0.2 sport=53 dport=1025 mark=0 secctx=null use=1"),
            flow(
                protocol=Protocol.UDP, source_port=5353, port=53, reply_port=53, reply_destination="192.168.0.2",
                reply_destination_port=1025, state="", seconds=29, assured=False, replied=False,
            ),
        ),
        (
            ("ipv6     10 sctp     132 9 ESTABLISHED src=fd00::0:7 dst=fd00:96::10 sport=1 dport=2 "
             "src=fd00::9 dst=fd00::7 sport=3 dport=1 [ASSURED] mark=0 use=1"),
            flow(
                protocol=Protocol.SCTP, source="fd00::7", source_port=1, destination="fd00:96::10", port=2,
                reply_source="fd00::9", reply_port=3, reply_destination="fd00::7", reply_destination_port=1, seconds=9,
            ),
        ),
    ],
)  # fmt: skip
def test_an_entry_is_read_in_every_form(line: str, expected: Flow) -> None:
    assert read_flow(line) == expected


@pytest.mark.parametrize(
    "line",
    [ICMP, "hello", "", TCP.replace("10.244.2.9", "10.244.2.999"), TCP[:90], TCP.replace("10.244.2.9", "fe80::1%eth0")],
)
def test_what_is_no_entry_of_ours_is_none(line: str) -> None:
    assert read_flow(line) is None


def test_lines_around_the_entries_are_told_once_and_others_protocols_never(tmp_path: Path) -> None:
    path = tmp_path / "flows"
    path.write_bytes(f"\nroot@n1:~# conntrack -L\n{TCP}\n{ICMP}\n\x1b[31m$ \n{TCP}\n{SUMMARY}".encode())
    said: list[str] = []
    assert [each.line for each in read_flows(str(path), said.append)] == [3, 6]
    assert said == [
        f"{path}: 2 lines are no conntrack entry and not considered, the first is line 2: 'root@n1:~# conntrack -L'"
    ]
    said.clear()
    assert len(flows_of([TCP, "?"], "x", said.append)) == 1
    assert said == ["x: 1 line is no conntrack entry and not considered, the first is line 2: '?'"]


@pytest.mark.parametrize("text", ["", SUMMARY, ICMP])
def test_no_flows_are_no_mistake(text: str) -> None:
    assert flows_of([text], "x") == ()


@pytest.mark.parametrize("data", [b"*nat\nCOMMIT\n", b"\x00\xff" * 9000, b"x\n" * 1000, b'<?xml version="1.0"?>\n'])
def test_what_is_no_list_of_flows_is_a_sentence(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "flows"
    path.write_bytes(data)
    with pytest.raises(
        InvalidConfig, match=r"line 1: .* is no conntrack entry; give the output of `conntrack -L`"
    ) as caught:
        read_flows(str(path))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["none", "."])
def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidConfig, match=r"cannot be read: .*; give the output of `conntrack -L`"):
        read_flows(str(tmp_path / name))


@given(st.lists(st.text()))
def test_any_text_is_flows_or_a_sentence(lines: list[str]) -> None:
    said: list[str] = []
    try:
        assert flows_of([*lines, TCP], "x", said.append)
    except InvalidConfig as invalid:
        said.append(str(invalid))
    assert all(map(str.isprintable, said))
