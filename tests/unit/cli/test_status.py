"""What is asked of which address, and what is said where nobody answers, or not as expected. Real sockets."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kproxy import cli
from kproxy.cli import status

PAGES = {
    "/metrics": 'kubernetes_build_info{git_version="v1.36.2+kproxy-9.9"} 1\n',
    "/proxyMode": "iptables",
    "/livez": '{"lastUpdated":"2026-11-22T12:00:00Z"}',
    "/readyz": "ok",
    "/healthz": "{}",
}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else runs on this machine."""
    monkeypatch.setattr(status, "find_proxies", list)


@contextmanager
def answering(*, host: str = "127.0.0.1", say: bytes | None = None) -> Iterator[str]:
    """A server of PAGES, or one that says ``say`` whatever it is asked and keeps the connection; its address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    done = threading.Event()
    with socket.create_server((host, 0), family=family) as listener:

        def serve(client: socket.socket) -> None:
            with client:
                path = client.recv(4096).split(b" ")[1].decode()
                if say is not None:
                    client.sendall(say)
                    done.wait(10)
                    return
                body = PAGES.get(path, "").encode()
                code = 200 if path in PAGES else 404
                client.sendall(b"HTTP/1.1 %d -\r\nContent-Length: %d\r\n\r\n%s" % (code, len(body), body))

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(client,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        try:
            yield f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        finally:
            done.set()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def nobody() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"127.0.0.1:{listener.getsockname()[1]}"


def run(metrics: str, health: str, *more: str) -> int:
    return cli.main(["status", f"--metrics-bind-address={metrics}", f"--healthz-bind-address={health}", *more])


def test_a_daemon_is_asked_where_the_flags_say(capsys: pytest.CaptureFixture[str]) -> None:
    with answering() as at:
        assert run(at, at, "--hostname-override=n1") == 0
        out = capsys.readouterr().out
        assert out.startswith("kproxy 9.9 on n1: healthy\n  mode          iptables\n")
        assert "  health        /livez 200, /readyz 200, /healthz 200\n" in out
        assert run(at, at, "--json") == 0
        assert json.loads(capsys.readouterr().out)["program"] == "kproxy"


def test_only_a_terminal_is_a_screen(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = "is odd, " * 30 + "correct the annotation"
    lines = "".join(f"Problem {nth}: Service default/web-{nth} {sentence}\n" for nth in range(40))
    monkeypatch.setitem(PAGES, "/statusz", lines)
    with answering() as at:
        assert run(at, at) == 0
        piped = capsys.readouterr().out
        monkeypatch.setattr("sys.stdout.isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", "80")
        assert run(at, at) == 0
        seen = capsys.readouterr().out
    assert piped.count(sentence) == 40
    assert len(seen.splitlines()) <= 24 - 1
    assert "more: see --json" in seen
    assert "more: see --json" not in piped


def test_an_address_that_a_file_overrules_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.conf"
    head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nipvs: {strictARP: true}\n"
    with answering() as at:
        file.write_text(f"{head}metricsBindAddress: {at}\nhealthzBindAddress: {at}\n", encoding="utf-8")
        assert cli.main(["status", f"--config={file}"]) == 0
        assert capsys.readouterr().err == ""  # what else the file has is the daemon's to tell
        assert cli.main(["status", f"--config={file}", "--metrics-bind-address=127.0.0.1:1"]) == 0
        assert "--metrics-bind-address" in capsys.readouterr().err


def test_a_wildcard_address_is_asked_on_loopback() -> None:
    with answering() as at:
        port = at.rpartition(":")[2]
        assert mode(f"0.0.0.0:{port}") == "iptables"
    with answering(host="::1") as at:
        assert mode(at.replace("::1", "::")) == "iptables"


def mode(address: str) -> str:
    question = address, "/proxyMode"
    return status.ask([question], time.monotonic() + 3)[question].body


def test_nobody_is_a_sentence_with_a_remedy_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    metrics, health = nobody(), nobody()
    assert run(metrics, health) == 1
    out = capsys.readouterr().out
    assert " ".join(out.split()).startswith(
        f"No kproxy answers here: nobody listens on {metrics}; nobody listens on {health}. Is it running?"
    )
    assert "--metrics-bind-address" in out
    assert len(out.splitlines()) == 3  # no terminal: sentences are whole
    assert run(metrics, health, "--json") == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["healthy"], answer["program"], len(answer["reasons"])) == (False, "", 3)


def test_a_proxy_that_answers_elsewhere_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "find_proxies", lambda: [(4711, "kube-proxy")])
    assert run(nobody(), nobody()) == 1
    assert "Yet kube-proxy (process 4711) runs: give --metrics-bind-address" in capsys.readouterr().out


def test_a_stranger_is_called_one(capsys: pytest.CaptureFixture[str]) -> None:
    page = b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    with answering(say=page) as at:
        assert run(at, at) == 1
        assert f"What answers on {at} is neither kproxy nor kube-proxy." in capsys.readouterr().out
    with answering(say=b"SSH-2.0-OpenSSH_9.2\r\n\r\n") as at:
        assert run(at, nobody()) == 1
        assert f"{at} does not speak HTTP (BadStatusLine)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("say", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nbegins"])
def test_who_is_silent_is_not_waited_for(
    say: bytes, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "DEADLINE", 0.2)
    with answering(say=say) as at:
        assert run(at, at) == 1
    assert f"{at} did not answer within 0.2 s." in " ".join(capsys.readouterr().out.split())


def test_a_proxy_that_hangs_is_called_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "DEADLINE", 0.2)
    monkeypatch.setattr(status, "find_proxies", lambda: [(4711, "kproxy")])
    with answering(say=b"") as at:
        assert run(at, at) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "kproxy (process 4711) runs and does not answer: it hangs" in out
    assert "give --metrics-bind-address" not in out
