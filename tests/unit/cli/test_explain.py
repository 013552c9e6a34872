"""``explain`` as it is typed: every form, what goes where, and the exit status. What answers say is in unit/explain."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from kproxy import cli
from kproxy.errors import NotPermitted
from kproxy.explain.read.dump import dumps_of
from kproxy.explain.read.facts import HostFacts
from kproxy.explain.read.flows import Flow
from kproxy.model.enums import Protocol
from tests.unit.cli.examples import CLUSTER

TO_WEB = ("--from=10.244.0.1", "--to=10.96.0.80:80/tcp")


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What ``kproxy plan`` prints of a cluster of one Service, both families."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "web.yaml").write_text(CLUSTER, encoding="utf-8")
    out, kept = io.StringIO(), sys.stdout
    sys.stdout = out
    try:
        cli.main(["plan", "-f", str(folder), "--cluster-cidr=10.244.0.0/16"])
    finally:
        sys.stdout = kept
    return out.getvalue()


@pytest.fixture
def dump(tmp_path: Path, planned: str) -> str:
    path = tmp_path / "dump.txt"
    path.write_text(planned, encoding="utf-8")
    return str(path)


class Said(str):
    """What stands on standard output, with the rest."""

    __slots__ = ("err", "status")
    status: int
    err: str


Explain = Callable[..., Said]


@pytest.fixture
def explain(capsys: pytest.CaptureFixture[str]) -> Explain:
    """Runs it with these words."""

    def run(*words: str) -> Said:
        capsys.readouterr()
        status = cli.main(["explain", *words])
        captured = capsys.readouterr()
        said = Said(captured.out)
        said.status, said.err = status, captured.err
        return said

    return run


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


# --- output ---------------------------------------------------------------------------------------------------


def test_json_says_what_it_is(explain: Explain, dump: str) -> None:
    found = json.loads(explain(dump, "--json"))
    assert (found["kproxy"], found["type"]) == ("explain/v1", "summary")
    assert [each["service"] for each in found["services"]] == ["default/web"]
    asked = json.loads(explain(dump, *TO_WEB, "--json"))
    assert (asked["type"], asked["fate"]) == ("packet", "delivered")


def test_the_schema_needs_no_dump(explain: Explain) -> None:
    assert json.loads(explain("--schema"))["title"] == "kproxy explain/v1"


def test_redacted_output_names_nothing(explain: Explain, dump: str) -> None:
    for words in (("--json",), (), TO_WEB, ("service", "default/web")):
        said = explain(dump, *words, "--redact")
        is_json = "--json" in words
        assert (said.startswith("names, addresses and hashes are invented (--redact)\n\n")) is not is_json
        assert ('"redacted": true' in said) is is_json
        assert said.status == 0
        for name in ("web", "10.96.0.80", "10.244.0.7", "LOLE4ISW44XBNF3G"):
            assert name not in said
        assert "30080" in said or "8080" in said


def test_what_is_not_found_names_nothing_either(explain: Explain, dump: str) -> None:
    said = explain(dump, "service", "default/wep", "--redact")
    assert said.status == 3
    assert "ask without --redact" in said.err
    assert "default/web" not in said.err


def test_a_page_is_written_whole(explain: Explain, dump: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("old", encoding="utf-8")
    assert explain(dump, f"--html={page}") == f"Wrote {page}\n"
    assert "default/web" in page.read_text(encoding="utf-8")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["dump.txt", "report.html"]
    explain(dump, f"--html={page}", "--redact")
    assert "default/web" not in page.read_text(encoding="utf-8")
    assert "dump.txt" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "problem"), [("", "plain file"), ("none/report.html", "folder that can be written")])
def test_a_page_that_cannot_be_written_is_a_sentence(
    explain: Explain, dump: str, tmp_path: Path, name: str, problem: str
) -> None:
    said = explain(dump, f"--html={tmp_path / name}")
    assert said.status == 3
    assert problem in said.err


def test_colour_is_asked_for_or_seen(explain: Explain, dump: str) -> None:
    assert "\x1b[" not in explain(dump)
    assert "\x1b[" in explain(dump, "--colour=always")
    assert "\x1b[" not in explain(dump, "--color=never")


def on_a_terminal(columns: int, *words: str, **environment: str) -> list[str]:
    """What a person would see, line by line."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, columns))
    variables = {"PATH": "/usr/bin:/bin", "TERM": "xterm", **environment}
    command = (sys.executable, "-m", "kproxy", "explain", *words)
    with subprocess.Popen(command, stdout=theirs, env=variables) as process:
        os.close(theirs)
        seen = b""
        with suppress(OSError):  # EIO: the other side is closed
            while piece := os.read(ours, 1 << 16):
                seen += piece
        assert process.wait() == 0
    os.close(ours)
    return seen.decode().replace("\r\n", "\n").split("\n")


def test_a_terminal_gets_what_fits_it(tmp_path: Path) -> None:
    rules = "".join(
        f'-A KUBE-SERVICES -d 10.96.0.{nth}/32 -p tcp -m comment --comment "default/s{nth:02} has no endpoints" '
        "-m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable\n"
        for nth in range(60)
    )
    dump = tmp_path / "dump"
    dump.write_text(
        f"*filter\n:INPUT ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n-A INPUT -j KUBE-SERVICES\n{rules}COMMIT\n",
        encoding="utf-8",
    )
    plain = on_a_terminal(80, str(dump), NO_COLOR="1")
    assert max(map(len, plain)) <= 80
    assert len([line for line in plain if line.startswith("default/s")]) == 40
    assert any(line.startswith("… and 20 more; name one: kproxy explain DUMP service") for line in plain)
    whole = on_a_terminal(80, str(dump), "--all")
    assert len([line for line in whole if line.startswith("\x1b[1mdefault/s")]) == 60
    assert "\x1b[" not in "".join(on_a_terminal(80, str(dump), TERM="dumb"))


def test_a_terminal_that_lacks_a_letter_sees_its_code(dump: str) -> None:
    command = (sys.executable, "-m", "kproxy", "explain", dump, "--from=host", "--to=ü")
    environment = {"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr


# --- this host ------------------------------------------------------------------------------------------------


def test_live_asks_the_host_for_rules_flows_and_clients(
    explain: Explain, planned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = HostFacts(addresses=frozenset({"192.168.1.10"}))
    flow = Flow(Protocol.TCP, "203.0.113.9", 4000, "192.168.1.10", 30080, "10.244.0.8", 8080, "192.168.1.10", 4000)
    asked = []

    def remembered(source: str) -> frozenset[str]:
        asked.append(source)
        return frozenset()

    monkeypatch.setattr("kproxy.explain.read.live.read_host", lambda: (dumps_of(planned.encode()), facts))
    monkeypatch.setattr("kproxy.explain.read.live.remembered", remembered)
    monkeypatch.setattr("kproxy.explain.read.live.flows", lambda *_: (flow,))
    assert explain("live").startswith("IPv4, 1 service port: ")
    said = explain("live", "--from=203.0.113.9:4000", "--to=192.168.1.10:30080")
    assert "goes to endpoint 10.244.0.8:8080 of default/web" in said
    assert asked == ["203.0.113.9"]
    assert "of 2 endpoints of default/web" in explain("live", "--from=host", "--to=10.96.0.80:80")
    assert asked == ["203.0.113.9"]  # a process on the node has no address that a list could hold


def test_live_without_root_is_a_sentence(explain: Explain, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise NotPermitted("reading this host's rules needs root: run `sudo kproxy explain`")

    monkeypatch.setattr("kproxy.explain.read.live.read_host", refuse)
    said = explain("live")
    assert said.status == 3
    assert said.err == "kproxy explain: reading this host's rules needs root: run `sudo kproxy explain`\n"


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
