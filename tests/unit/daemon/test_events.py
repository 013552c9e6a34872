"""What is posted, how often, and that nobody waits for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kproxy.config import Config
from kproxy.daemon import events
from kproxy.daemon.events import Event, Recorder, invalid, starting, unopened, unserved
from kproxy.errors import ApiError, ApiRefused, ApiUnreachable, InvalidObject
from kproxy.model.keys import ObjectKey
from kproxy.plan.plan import HealthCheck
from kproxy.sandbox.apiserver import ApiServer
from kproxy.source.client import Client

Jump = Callable[[Any], Any]
EVENT = Event("Service", ObjectKey("ns1", "web"), "InvalidObject", "spec is wrong")


class Posts:
    """An API server; ``failing`` posts it does not take, and patches it answers with the errors of ``patching``."""

    def __init__(self, failing: int = 0, patching: Sequence[ApiError] = ()) -> None:
        self.failing, self.patching = failing, list(patching)
        self.patches: list[Any] = []
        self.bodies: list[Any] = []
        self.times: list[float] = []

    async def post(self, path: str, body: bytes, *, what: str) -> None:
        assert what == "create events"
        if self.failing:
            self.failing -= 1
            raise ApiUnreachable("away")
        self.bodies.append((path, json.loads(body)))
        self.times.append(asyncio.get_running_loop().time())

    async def patch(self, path: str, body: bytes, *, what: str) -> None:
        assert what == "patch events"
        if self.patching:
            raise self.patching.pop(0)
        self.patches.append((path, json.loads(body), asyncio.get_running_loop().time() - 1000.0))


async def play(posts: Posts | None, *steps: Event | float) -> None:
    recorder = Recorder(posts, "n1", wall=lambda: 1_700_000_000.25)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(recorder.run())
        for step in steps:
            if isinstance(step, Event):
                recorder.record(step)
            else:
                await asyncio.sleep(step)
        task.cancel()


def test_an_event_names_the_object_the_reason_and_us(jump: Jump) -> None:
    posts = Posts()
    jump(play(posts, EVENT, 1))
    ((path, body),) = posts.bodies
    assert path == "/apis/events.k8s.io/v1/namespaces/ns1/events"
    assert body.pop("metadata")["namespace"] == "ns1"
    assert body == {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "eventTime": "2023-11-14T22:13:20.250000Z",
        "reportingController": "kube-proxy",
        "reportingInstance": "kube-proxy-n1",
        "action": "Sync",
        "reason": "InvalidObject",
        "regarding": {"kind": "Service", "name": "web", "namespace": "ns1", "apiVersion": "v1"},
        "note": "spec is wrong",
        "type": "Warning",
    }


def test_a_hostile_namespace_leads_nowhere(jump: Jump) -> None:
    posts = Posts()
    jump(play(posts, Event("Service", ObjectKey("a/../../b?c#d", "web"), "InvalidObject", "no namespace"), 1))
    ((path, _),) = posts.bodies
    assert path == "/apis/events.k8s.io/v1/namespaces/a%2F..%2F..%2Fb%3Fc%23d/events"


def test_the_same_event_again_is_counted_and_told_as_a_series(jump: Jump) -> None:
    posts = Posts()
    jump(play(posts, EVENT, 1, EVENT, EVENT, 1, EVENT, 700, EVENT, 1200))
    ((path, body),) = posts.bodies
    series = {"lastObservedTime": "2023-11-14T22:13:20.250000Z"}
    assert "series" not in body
    assert posts.patches == [
        (f"{path}/{body['metadata']['name']}", {"series": {"count": 4, **series}}, 600.0),
        (f"{path}/{body['metadata']['name']}", {"series": {"count": 5, **series}}, 1200.0),
    ]


def test_an_event_that_has_expired_is_posted_anew(jump: Jump) -> None:
    posts = Posts(patching=[ApiError("gone", status=404)])
    jump(play(posts, EVENT, 4000, EVENT, 1, EVENT, 1200))
    assert len({body["metadata"]["name"] for _, body in posts.bodies}) == 2
    assert ["series" in body for _, body in posts.bodies] == [False, False]
    ((path, body, _),) = posts.patches
    assert path.endswith(posts.bodies[1][1]["metadata"]["name"])
    assert body["series"]["count"] == 2


def test_who_may_not_patch_does_not(jump: Jump) -> None:
    posts = Posts(patching=[ApiRefused("no", status=403)])
    jump(play(posts, EVENT, 1, EVENT, 1200))
    assert (len(posts.bodies), posts.patches) == (1, [])


def test_an_event_that_was_lost_is_posted_when_it_happens_again(jump: Jump) -> None:
    posts = Posts(failing=1)
    jump(play(posts, EVENT, 1, EVENT, 1200))
    ((_, body),) = posts.bodies
    assert body["series"]["count"] == 2


async def test_an_api_server_shows_the_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_QUIET", 0.0)
    async with ApiServer() as api:
        api.kubeconfig(tmp_path / "kubeconfig")
        async with Client(Config(kubeconfig=str(tmp_path / "kubeconfig"))) as client:
            recorder = Recorder(client, "n1")
            for _ in range(3):
                await recorder.tell(starting("n1"))
                recorder.record(starting("n1"))
        (event,) = api.list("Event")
    assert (event["reason"], event["series"]["count"]) == ("Starting", 3)


def test_who_is_about_to_end_tells_at_once(jump: Jump) -> None:
    posts = Posts()
    jump(Recorder(posts, "n1").tell(unserved("n1", "FailedToStartMetricServer", "taken")))
    ((_, body),) = posts.bodies
    assert (body["reason"], body["action"], body["type"]) == ("FailedToStartMetricServer", "StartKubeProxy", "Warning")
    assert body["regarding"] == {"kind": "Node", "name": "n1", "apiVersion": "v1", "uid": "n1"}


def test_a_burst_passes_and_then_one_each_second(jump: Jump) -> None:
    posts = Posts()
    events = [Event("Service", ObjectKey("a", f"s{number}"), "R", "n") for number in range(30)]
    jump(play(posts, *events, 100))
    assert len(posts.times) == 30
    assert posts.times[24] == posts.times[0]
    assert posts.times[29] - posts.times[0] > 4.9


def test_a_flood_is_cut_off_and_counted(jump: Jump, caplog: Any) -> None:
    posts = Posts()
    events = [Event("Service", ObjectKey("a", f"s{number}"), "R", "n") for number in range(1500)]
    jump(play(posts, *events, 2000))
    assert len(posts.bodies) == 1000
    assert [record.__dict__["fields"] for record in caplog.records] == [{"dropped": 500}]


def test_an_api_server_that_is_away_costs_an_event_and_nothing_else(jump: Jump) -> None:
    posts = Posts(failing=1)
    other = Event("Service", ObjectKey("ns1", "other"), "R", "n")
    jump(play(posts, EVENT, other, 5))
    assert [body["regarding"]["name"] for _, body in posts.bodies] == ["other"]


def test_without_an_api_server_nothing_is_kept(jump: Jump) -> None:
    jump(play(None, EVENT, 5))


def test_the_events_that_there_are() -> None:
    assert starting("n1").regarding == ObjectKey("", "n1")
    problem = InvalidObject("Service", "a/b", field="spec.x", why="is odd", remedy="change it")
    assert invalid(problem, uid="u").note == "spec.x is odd; change it"
    check = HealthCheck(ObjectKey("a", "b"), 31000, 0, uid="u")
    assert unopened(check, "0.0.0.0", "Address already in use").reason == "FailedToStartServiceHealthcheck"


def test_a_long_note_is_cut(jump: Jump) -> None:
    posts = Posts()
    jump(play(posts, Event("Node", ObjectKey("", "n1"), "R", "ä" * 2000), 1))
    ((path, body),) = posts.bodies
    assert path.endswith("/namespaces/default/events")
    assert len(body["note"].encode()) <= 1024
