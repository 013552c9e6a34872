"""One line when contact is lost, one when it is back."""

from __future__ import annotations

import pytest

from kproxy.daemon.contact import Contact
from kproxy.errors import ApiError, ApiRefused, ApiUnreachable, KproxyError, ResourceExpired
from kproxy.model.enums import Kind

LOST = "No news from the API server, trying again; rules in the kernel stay"
BACK = "The API server answers again"


def said(caplog: pytest.LogCaptureFixture, *reports: tuple[Kind, KproxyError | None]) -> list[str]:
    contact = Contact()
    with caplog.at_level("INFO", logger="kproxy"):
        for kind, problem in reports:
            contact.report(kind, problem)
    return [record.message for record in caplog.records]


def test_one_outage_of_all_kinds_is_one_line_and_its_end_another(caplog: pytest.LogCaptureFixture) -> None:
    away = ApiUnreachable("refused")
    reports = [(kind, away) for kind in Kind] * 3
    assert said(caplog, *reports, (Kind.NODE, None), (Kind.SERVICE, None)) == [LOST, BACK]


def test_an_expired_token_is_one_line_for_all_kinds(caplog: pytest.LogCaptureFixture) -> None:
    expired = ApiRefused("renew", status=401)
    assert said(caplog, (Kind.NODE, expired), (Kind.SERVICE, expired)) == [LOST]


def test_a_kind_that_alone_is_refused_is_told_beside_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    forbidden = ApiRefused("grant it", status=403)
    reports = [(Kind.NODE, forbidden), (Kind.NODE, forbidden), (Kind.SERVICE, ApiError("oops", status=500))]
    assert said(caplog, *reports, (Kind.SERVICE, None)) == [LOST, LOST]
    assert said(caplog, (Kind.NODE, forbidden), (Kind.NODE, None))[-1] == BACK


def test_the_end_of_an_outage_is_told_where_one_kind_stays_refused(caplog: pytest.LogCaptureFixture) -> None:
    absent, away = ApiError("no such resource", status=404), ApiUnreachable("refused")
    reports = [(Kind.SERVICE_CIDR, absent), (Kind.SERVICE, away), (Kind.SERVICE, None), (Kind.SERVICE, None)]
    assert said(caplog, *reports) == [LOST, LOST, BACK]


def test_an_expired_version_is_part_of_the_protocol(caplog: pytest.LogCaptureFixture) -> None:
    assert said(caplog, (Kind.SERVICE, ResourceExpired("410")), (Kind.SERVICE, None)) == []


def test_the_present_state_is_one_line() -> None:
    now = [100.0]
    contact = Contact(lambda: now[0])
    assert contact.show() == "not heard yet"
    contact.report(Kind.SERVICE, None)
    now[0] = 141.4
    assert contact.show() == "answers, heard 41 s ago"
    for kind in Kind:
        contact.report(kind, ApiUnreachable("connection refused"))
    assert contact.show() == "no news, heard 41 s ago: connection refused"
    contact.report(Kind.NODE, ApiRefused("grant it", status=403))
    assert contact.show() == "no news, heard 41 s ago: connection refused; grant it"
    contact.report(Kind.SERVICE, None)
    assert contact.show() == "no news, heard 0 s ago: grant it"


def test_what_a_watch_brings_was_heard_and_ends_no_outage(caplog: pytest.LogCaptureFixture) -> None:
    now = [100.0]
    contact = Contact(lambda: now[0])
    contact.report(Kind.SERVICE, None)
    now[0] = 184.0
    contact.hear()
    now[0] = 187.0
    assert contact.show() == "answers, heard 3 s ago"
    with caplog.at_level("INFO", logger="kproxy"):
        contact.report(Kind.NODE, ApiRefused("renew", status=401))
        contact.hear()
        contact.report(Kind.NODE, ApiRefused("renew", status=401))
    assert [record.message for record in caplog.records] == [LOST]
    assert contact.show() == "no news, heard 0 s ago: renew"
