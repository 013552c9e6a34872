"""Rules as python-iptables decodes them, in iptables-save's words.

Real tables are in tests/netns/test_kernel_libiptc.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from kproxy.kernel import libiptc
from kproxy.kernel.libiptc import Answer, Request, render_rule
from kproxy.model.enums import IPFamily


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({"target": "KUBE-A"}, "-A X -j KUBE-A"),
        ({"target": {"goto": "KUBE-A"}}, "-A X -g KUBE-A"),
        ({"counters": (0, 0)}, "-A X"),
        ({"src": "!10.0.0.0/8", "protocol": "tcp", "tcp": {}}, "-A X ! -s 10.0.0.0/8 -p tcp -m tcp"),
        ({"tcp": {"dport": "!80"}}, "-A X -m tcp ! --dport 80"),
        ({"mark": {"mark": ["!", "0x1/0x1"]}}, "-A X -m mark ! --mark 0x1/0x1"),
        ({"comment": {"comment": 'a "b" \\'}}, r'-A X -m comment --comment "a \"b\" \\"'),
        ({"comment": [{"comment": "a"}, {"comment": "b"}]}, "-A X -m comment --comment a -m comment --comment b"),
        ({"target": {"MASQUERADE": {"random-fully": ""}}}, "-A X -j MASQUERADE --random-fully"),
    ],
)
def test_a_rule_in_words(rule: dict[str, Any], text: str) -> None:
    assert render_rule("X", rule) == text


IPTC = """
import fcntl, os
with open(os.environ["XTABLES_LOCKFILE"], "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
class Table:
    chains = ()
    def __init__(self, name, autocommit):
        with open(os.environ["XTABLES_LOCKFILE"], "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            raise AssertionError("opened without the lock")
"""


def test_the_package_is_imported_before_the_lock_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "iptc.py").write_text(IPTC)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "iptc", raising=False)
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    monkeypatch.setattr(libiptc, "legacy_tables", lambda _: frozenset({"nat"}))
    try:
        assert libiptc._serve(Request(IPFamily.IPV4, 0, {"nat": (), "raw": ()})) == Answer({"nat": {}})
    finally:
        sys.modules.pop("iptc", None)
