"""``explain`` as it is typed: every form, and the exit status. What answers say is in unit/explain.

How output looks is test_explain_output.py's, this host is test_explain_live.py's.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Explain
from tests.unit.cli.examples import CLUSTER, TO_WEB

# --- forms and statuses ---------------------------------------------------------------------------------------


def test_a_dump_alone_is_summed_up(explain: Explain, dump: str) -> None:
    said = explain(dump)
    assert said.status == 0
    assert said.startswith("IPv4, 1 service port: ")
    (row,) = (line for line in said.splitlines() if line.startswith("default/web"))
    assert row == "default/web   2          cluster 10.96.0.80:80/tcp, node port *:30080/tcp"


def test_a_packet_that_is_delivered(explain: Explain, dump: str) -> None:
    said = explain(dump, *TO_WEB)
    assert said.status == 0
    first, *_ = said.splitlines()
    assert first == (
        "Delivered: a new flow from 10.244.0.1 to 10.96.0.80:80/tcp goes to one of 2 endpoints of default/web"
    )
    assert " 50%  10.244.0.8:8080" in said
    assert re.search(r"nat +KUBE-SERVICES +-d 10.96.0.80/32 ", said)


def test_a_packet_that_is_refused(explain: Explain, tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_text("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -p tcp -j REJECT\nCOMMIT\n", encoding="utf-8")
    said = explain(str(path), "--from=10.0.0.1", "--to=10.0.0.2:80", "--local=10.0.0.2")
    assert said.status == 1
    assert said.startswith("Refused: ")


def test_a_packet_of_no_service(explain: Explain, dump: str) -> None:
    said = explain(dump, "--from=host", "--to=10.96.0.81:80")
    assert said.status == 2
    assert said.startswith("Not a service packet: a new flow from a process on the node to 10.96.0.81:80/tcp ")


def test_a_packet_of_userspace_mode_goes_to_the_relay(explain: Explain, tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(CLUSTER, encoding="utf-8")
    planned = subprocess.run(
        (sys.executable, "-m", "kproxy", "plan", "-f", str(tmp_path), "--proxy-mode=userspace"),
        capture_output=True,
        check=True,
    )
    (tmp_path / "dump").write_bytes(planned.stdout)
    said = explain(str(tmp_path / "dump"), *TO_WEB)
    assert "goes to kproxy's relay at 169.254.73.80:32768, which chooses an endpoint of default/web" in said


def test_what_is_known_besides_is_taken_from_files(explain: Explain, dump: str, tmp_path: Path) -> None:
    objects, flows = tmp_path / "objects.yaml", tmp_path / "flows"
    node = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nstatus: {addresses: [{type: InternalIP, address: %s}]}"
    objects.write_text(f"{CLUSTER}---\n{node % '192.168.1.10'}\n", encoding="utf-8")
    asked = (dump, "--from=203.0.113.9:4000", "--to=192.168.1.10:30080")
    assert explain(*asked).status == 2
    assert "of 2 endpoints of default/web" in explain(*asked, "--local=192.168.1.10")
    assert "of 2 endpoints of default/web" in explain(*asked, "--node=n1", f"--objects={objects}")
    refused = explain(*asked, "--node=n2", f"--objects={objects}")
    assert "those that are: n1" in refused.err
    flows.write_text(
        "tcp 6 431999 ESTABLISHED src=203.0.113.9 dst=192.168.1.10 sport=4000 dport=30080 "
        "src=10.244.0.8 dst=192.168.1.10 sport=8080 dport=4000 [ASSURED] mark=0 use=1\n",
        encoding="utf-8",
    )
    known = explain(*asked, "--local=192.168.1.10", f"--conntrack={flows}")
    assert "goes to endpoint 10.244.0.8:8080" in known
    assert "\n  flow     " in known


def test_one_thing(explain: Explain, dump: str) -> None:
    assert explain(dump, "service", "default/web").startswith("default/web tcp, IPv4\n  cluster 10.96.0.80:80/tcp")
    assert explain(dump, "endpoint", "10.244.0.7:8080").startswith("10.244.0.7:8080 serves 1 service port")
    said = explain(dump, "chain", "KUBE-SVC-LOLE4ISW44XBNF3G")
    assert said.startswith("KUBE-SVC-LOLE4ISW44XBNF3G of table nat: ")
    assert said.status == 0


def test_flags_may_stand_among_the_words(explain: Explain, dump: str) -> None:
    assert explain("--width=0", dump, "--family=4", "service", "--all", "default/web").status == 0


def test_two_dumps_are_compared_as_diff_does(explain: Explain, dump: str, tmp_path: Path, planned: str) -> None:
    other = tmp_path / "other"
    other.write_text(planned.replace("10.244.0.8", "10.244.0.9"), encoding="utf-8")
    same = explain("diff", dump, dump)
    assert same.status == 0
    assert "1 service port did not change" in same
    changed = explain("diff", dump, str(other))
    assert changed.status == 1
    assert "10.244.0.9:8080" in changed


def test_standard_input_is_a_dump(planned: str, dump: str) -> None:
    command = (sys.executable, "-m", "kproxy", "explain", "-", *TO_WEB)
    done = subprocess.run(command, input=planned, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("Delivered: ")
    assert dump


def test_a_reader_that_stops_early_is_no_error(dump: str) -> None:
    line = f"{sys.executable} -m kproxy explain {dump} --json | head -c 1"
    done = subprocess.run(("sh", "-c", line), capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("{", "")


def test_a_full_disk_is_a_sentence_and_no_verdict(dump: str) -> None:
    line = f"{sys.executable} -m kproxy explain {dump} > /dev/full"
    done = subprocess.run(("sh", "-c", line), capture_output=True, text=True, check=False)
    said = "kproxy explain: the output cannot be written: No space left on device; make room, or write elsewhere\n"
    assert (done.returncode, done.stderr) == (3, said)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((), "which dump? give a file"),
        (("none.txt",), "none.txt"),
        (("diff", "a"), "diff: give two dumps"),
        (("a", "b"), "b: not expected here; behind DUMP may stand"),
        (("a", "servce", "x"), "servce: not expected here; did you mean service?"),
        (("a", "/dev/null"), "one input is read; several dumps of a node may stand in it: `cat a /dev/null | kproxy"),
        (("a", "service"), "service: give one name"),
        (("a", "--to=10.0.0.1:80"), "--to: who asks?"),
        (("a", "--from=10.0.0.1"), "--from: asks for what?"),
        (("a", "service", "x", *TO_WEB), "ask about one packet"),
        (("a", "--mark=1"), "--mark: belongs to a packet"),
        (("a", "--node=n1"), "--node: its addresses are in the API's objects"),
        (("a", "--width=-1"), "--width: give a number of columns"),
        (("a", "--width=x"), "--width=x: give a whole number"),
        (("a", "--family=5"), "--family=5: give 4 or 6"),
        (("a", "--html"), "--html: a value is missing"),
        (("a", "--colour=red"), "--colour=red: give auto, always or never"),
        (("a", "--html=x", "--json"), "give one of them"),
        (("a", "--html=x", *TO_WEB), "--html is a page of the summary"),
        (("-", "--objects=-"), "standard input can be read once"),
        (("a", "--form=10.0.0.1"), "--form: there is no such flag; did you mean --from?"),
    ],
)
def test_what_is_not_understood_is_a_sentence(explain: Explain, words: tuple[str, ...], problem: str) -> None:
    said = explain(*words)
    assert said.status == 3
    assert problem in said.err
    assert said == ""


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--from=x", "--to=y"), "--from=x: give an IP address"),
        (("--from=10.0.0.1", "--to=10.0.0.1:80/icmp"), "--to=10.0.0.1:80/icmp"),
        (("--from=10.0.0.1", "--to=[fd00::1]:80"), "another IP family"),
        (("service", "default/wbe"), "default/web"),
        (("--family=6", "--objects=/none"), "/none"),
    ],
)
def test_what_cannot_be_answered_is_a_sentence(
    explain: Explain, dump: str, words: tuple[str, ...], problem: str
) -> None:
    said = explain(dump, *words)
    assert said.status == 3
    assert problem in said.err


def test_what_is_no_dump_is_told_with_its_line(explain: Explain, tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_text("*nat\n:INPUT ACCEPT [0:0]\nhello\n", encoding="utf-8")
    said = explain(str(path))
    assert said.status == 3
    assert "line 3" in said.err
    assert "Traceback" not in said.err


def test_a_mistake_of_ours_is_a_sentence_with_its_place(
    explain: Explain, dump: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise IndexError("tuple index out of range")

    monkeypatch.setattr("kproxy.explain.services.survey.survey", fail)
    said = explain(dump)
    assert said.status == 3
    assert "IndexError at test_explain.py:" in said.err
    assert "please report it" in said.err


def test_too_little_memory_is_a_sentence(explain: Explain, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: str) -> None:
        raise MemoryError

    monkeypatch.setattr("kproxy.explain.read.dump.read_dumps", refuse)
    said = explain("dump")
    assert said.status == 3
    assert "too large for the memory here" in said.err


def test_a_family_that_is_not_in_the_dump(explain: Explain, tmp_path: Path) -> None:
    (tmp_path / "dump").write_text("*nat\n:INPUT ACCEPT [0:0]\n-A INPUT -s 10.0.0.1/32\nCOMMIT\n", encoding="utf-8")
    said = explain(str(tmp_path / "dump"), "--family=6")
    assert said.status == 3
    assert "--family=6: no rules of IPv6 are in " in said.err


def test_objects_that_cannot_be_used_are_told_and_left_out(explain: Explain, dump: str, tmp_path: Path) -> None:
    (tmp_path / "objects.yaml").write_text(CLUSTER.replace("port: 80,", "port: 80000,"), encoding="utf-8")
    said = explain(dump, f"--objects={tmp_path / 'objects.yaml'}")
    assert said.status == 0
    assert "80000" in said.err
