"""Rules as python-iptables decodes them, in iptables-save's words.

Real tables are in tests/netns/test_kernel_libiptc.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from kproxy.kernel.libiptc import render_rule


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
