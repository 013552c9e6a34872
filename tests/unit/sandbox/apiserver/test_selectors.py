"""The grammar of selectors; which fields a resource indexes is in test_routes."""

from __future__ import annotations

import pytest

from kproxy.sandbox.apiserver.selectors import Selector, parse_fields, parse_labels
from kproxy.sandbox.apiserver.status import StatusError
from kproxy.sandbox.apiserver.store import Stored

_LABELS = {"app": "web", "tier": "", "example.com/zone": "a"}


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("", True),
        ("app=web", True),
        ("app==web,tier=", True),
        ("app!=web", False),
        ("other!=web", True),
        ("app in (web, db),!missing", True),
        ("app notin (web,db)", False),
        ("missing notin (x)", True),
        ("tier", True),
        ("!tier", False),
        ("!service.kubernetes.io/service-proxy-name", True),
        ("example.com/zone=a", True),
    ],
)
def test_labels(text: str, *, selected: bool) -> None:
    stored = Stored(("a", "x"), 1, b"{}", "", _LABELS, {}, ())
    assert Selector(labels=parse_labels(text)).accepts(stored) is selected


@pytest.mark.parametrize("text", ["a b", "=x", "a in web", "a in (x", "a=b=c"])
def test_what_is_no_requirement_is_refused(text: str) -> None:
    with pytest.raises(StatusError, match="unable to parse requirement"):
        parse_labels(text)


@pytest.mark.parametrize(
    ("text", "selected"), [("spec.clusterIP!=None", True), ("spec.clusterIP=None", False), ("", True)]
)
def test_fields(text: str, *, selected: bool) -> None:
    stored = Stored(("a", "x"), 1, b"{}", "", {}, {"spec.clusterIP": "10.0.0.1"}, ())
    assert Selector(fields=parse_fields(text, ("spec.clusterIP",))).accepts(stored) is selected


def test_a_field_that_is_not_indexed_is_refused() -> None:
    with pytest.raises(StatusError, match=r"field label not supported: spec\.ports"):
        parse_fields("spec.ports=1", ("metadata.name",))
