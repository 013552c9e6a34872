"""The server over real HTTP on loopback: lists, writes, refusals, credentials, faults; watches are in test_watch."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from kproxy.sandbox.apiserver import ApiServer, StatusError, TlsFiles
from kproxy.sandbox.apiserver.bootstrap import advertise
from kproxy.sandbox.apiserver.status import Json

_SERVICES = "/api/v1/namespaces/default/services"
_MAPS = "/api/v1/namespaces/default/configmaps"


@pytest.fixture
async def http(server: ApiServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(server.url, headers={"User-Agent": "test/1"}) as session:
        yield session


async def _call(http: aiohttp.ClientSession, method: str, path: str, **more: Any) -> tuple[int, Json]:
    async with http.request(method, path, **more) as answer:
        return answer.status, await answer.json()


def _map(number: int) -> Json:
    return {"kind": "ConfigMap", "metadata": {"name": f"m{number}", "labels": {"odd": str(number % 2)}}}


async def test_a_fresh_cluster_has_the_service_kubernetes(server: ApiServer) -> None:
    service = server.get("svc", "kubernetes")
    assert service["spec"]["clusterIP"] == "10.96.0.1"
    assert [each["metadata"]["name"] for each in server.list("EndpointSlice")] == ["kubernetes"]
    assert server.get("ServiceCIDR", "kubernetes")["spec"]["cidrs"] == ["10.96.0.0/16", "fd00:10:96::/112"]


async def test_an_address_that_others_reach_is_advertised() -> None:
    async with ApiServer() as server:
        server.host = "192.0.2.10"
        advertise(server.registry, server.host, 6443)
        assert server.list("EndpointSlice")[0]["endpoints"][0]["addresses"] == ["192.0.2.10"]


async def test_an_object_lives_over_http(http: aiohttp.ClientSession) -> None:
    code, created = await _call(
        http, "POST", _SERVICES, json={"metadata": {"name": "x"}, "spec": {"ports": [{"port": 1}]}}
    )
    assert (code, created["kind"], created["apiVersion"]) == (201, "Service", "v1")
    created["metadata"]["labels"] = {"a": "b"}
    code, updated = await _call(http, "PUT", f"{_SERVICES}/x", json=created)
    assert (code, updated["metadata"]["labels"]) == (200, {"a": "b"})
    code, conflict = await _call(http, "PUT", f"{_SERVICES}/x", json=created)
    assert (code, conflict["reason"]) == (409, "Conflict")
    status = {"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}}
    merge = {"Content-Type": "application/merge-patch+json"}
    code, patched = await _call(http, "PATCH", f"{_SERVICES}/x/status", json=status, headers=merge)
    assert (code, patched["status"]["loadBalancer"]["ingress"][0]["ipMode"]) == (200, "VIP")
    code, read = await _call(http, "GET", f"{_SERVICES}/x")
    assert (code, read) == (200, patched)
    code, gone = await _call(http, "DELETE", f"{_SERVICES}/x")
    assert (code, gone["status"], gone["details"]["uid"]) == (200, "Success", created["metadata"]["uid"])
    assert (await _call(http, "GET", f"{_SERVICES}/x"))[0] == 404


async def test_bodies_may_be_yaml_and_unknown_fields_are_warned_about(http: aiohttp.ClientSession) -> None:
    body = "metadata: {name: x}\ndta: {}\n"
    async with http.post(_MAPS, data=body, headers={"Content-Type": "application/yaml"}) as answer:
        assert answer.status == 201
        assert answer.headers["Warning"] == '299 - "unknown field \\"dta\\""'


async def test_server_side_apply_over_http(http: aiohttp.ClientSession) -> None:
    headers = {"Content-Type": "application/apply-patch+yaml"}
    for code in (201, 200):
        body = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: '1'}\n"
        assert (await _call(http, "PATCH", f"{_MAPS}/x?fieldManager=me", data=body, headers=headers))[0] == code


@pytest.mark.parametrize(
    ("method", "path", "more", "code"),
    [
        ("GET", "/api/v1/unicorns", {}, 404),
        ("GET", "/apis/none/v1/unicorns", {}, 404),
        ("GET", "/nothing", {}, 404),
        ("GET", f"{_SERVICES}/kubernetes/proxy", {}, 404),
        ("GET", "/api/v1/namespaces/default/nodes", {}, 404),
        ("POST", "/api/v1/services", {"json": {}}, 405),
        ("PUT", _SERVICES, {"json": {}}, 405),
        ("OPTIONS", _SERVICES, {}, 405),
        ("POST", _MAPS, {"data": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ("POST", _MAPS, {"data": b"a: [", "headers": {"Content-Type": "application/yaml"}}, 400),
        ("POST", _MAPS, {"json": []}, 400),
        ("POST", _MAPS, {"data": b"x", "headers": {"Content-Type": "text/html"}}, 415),
        ("POST", f"{_MAPS}?dryRun=Some", {"json": _map(1)}, 400),
        ("PATCH", f"{_MAPS}/x", {"json": {}}, 415),
        ("GET", f"{_MAPS}?fieldSelector=data.a=b", {}, 400),
        ("GET", f"{_MAPS}?labelSelector=a=b=c", {}, 400),
        ("GET", f"{_MAPS}?continue=nonsense", {}, 400),
        ("GET", f"{_MAPS}?resourceVersion=x", {}, 400),
        ("GET", f"{_MAPS}?resourceVersionMatch=Exact", {}, 400),
        ("GET", f"{_MAPS}?watch=1&sendInitialEvents=true", {}, 422),
        ("GET", f"{_MAPS}?watch=1&resourceVersion=999999", {}, 504),
    ],
)
async def test_refusals_are_status_objects(
    http: aiohttp.ClientSession, method: str, path: str, more: Json, code: int
) -> None:
    answered, body = await _call(http, method, path, **more)
    assert answered == code
    assert (body["kind"], body["status"], body["code"]) == ("Status", "Failure", code)


async def test_pages_show_one_moment(server: ApiServer, http: aiohttp.ClientSession) -> None:
    server.load(_map(number) for number in range(10))
    _, first = await _call(http, "GET", f"{_MAPS}?limit=4")
    assert first["metadata"]["remainingItemCount"] == 6
    assert "kind" not in first["items"][0]
    server.delete("ConfigMap", "m5")
    server.create(_map(11))
    names = [item["metadata"]["name"] for item in first["items"]]
    token = first["metadata"]["continue"]
    while token:
        _, page = await _call(http, "GET", _MAPS, params={"limit": "4", "continue": token})
        assert page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        names += [item["metadata"]["name"] for item in page["items"]]
        token = page["metadata"].get("continue")
    assert names == [f"m{number}" for number in range(10)]


async def test_a_page_from_before_a_compaction_is_expired(server: ApiServer, http: aiohttp.ClientSession) -> None:
    server.load(_map(number) for number in range(4))
    _, first = await _call(http, "GET", f"{_MAPS}?limit=2")
    server.create(_map(9))
    server.compact()
    token = first["metadata"]["continue"]
    code, body = await _call(http, "GET", _MAPS, params={"limit": "2", "continue": token})
    assert (code, body["reason"]) == (410, "Expired")


async def test_a_list_from_the_cache_ignores_the_limit(server: ApiServer, http: aiohttp.ClientSession) -> None:
    server.load(_map(number) for number in range(4))
    _, body = await _call(http, "GET", f"{_MAPS}?limit=2&resourceVersion=0")
    assert len(body["items"]) == 4


async def test_an_exact_revision_can_be_listed(server: ApiServer, http: aiohttp.ClientSession) -> None:
    then = server.create(_map(1))["metadata"]["resourceVersion"]
    server.create(_map(2))
    query = {"resourceVersion": then, "resourceVersionMatch": "Exact"}
    _, body = await _call(http, "GET", _MAPS, params=query)
    assert [item["metadata"]["name"] for item in body["items"]] == ["m1"]


async def test_selectors_select(server: ApiServer, http: aiohttp.ClientSession) -> None:
    server.load(_map(number) for number in range(4))
    _, odd = await _call(http, "GET", f"{_MAPS}?labelSelector=odd%3D1&limit=1")
    assert [item["metadata"]["name"] for item in odd["items"]] == ["m1"]
    assert "remainingItemCount" not in odd["metadata"]
    _, one = await _call(http, "GET", f"{_MAPS}?fieldSelector=metadata.name%3Dm2")
    assert [item["metadata"]["name"] for item in one["items"]] == ["m2"]
    _, gone = await _call(http, "DELETE", f"{_MAPS}?labelSelector=odd%3D1")
    assert len(gone["items"]) == 2
    assert len(server.list("ConfigMap")) == 2


async def test_replicas_can_be_scaled(server: ApiServer, http: aiohttp.ClientSession) -> None:
    server.create({"kind": "Deployment", "metadata": {"name": "d"}, "spec": {"replicas": 1}})
    path = "/apis/apps/v1/namespaces/default/deployments/d/scale"
    _, scale = await _call(http, "GET", path)
    scale["spec"]["replicas"] = 3
    assert (await _call(http, "PUT", path, json=scale))[1]["spec"]["replicas"] == 3
    headers = {"Content-Type": "application/merge-patch+json"}
    await _call(http, "PATCH", path, json={"spec": {"replicas": 5}}, headers=headers)
    assert server.get("Deployment", "d")["spec"]["replicas"] == 5


async def test_requests_are_recorded(server: ApiServer, http: aiohttp.ClientSession) -> None:
    await _call(http, "GET", f"{_MAPS}?limit=2")
    await server.wait_for_request(lambda each: each.path == _MAPS)
    last = server.requests[-1]
    assert (last.method, last.query, last.user_agent, last.is_watch) == ("GET", {"limit": "2"}, "test/1", False)


async def test_failures_are_consumed(server: ApiServer, http: aiohttp.ClientSession) -> None:
    server.faults.fail(429, path="configmaps", retry_after=7)
    server.faults.fail(500, method="POST")
    async with http.get(_MAPS) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
        assert (await answer.json())["reason"] == "TooManyRequests"
    assert (await _call(http, "GET", _MAPS))[0] == 200
    assert (await _call(http, "POST", _MAPS, json=_map(1)))[0] == 500
    server.faults.fail(503, times=9)
    server.faults.clear()
    assert (await _call(http, "GET", _MAPS))[0] == 200


async def test_a_restart_keeps_objects_and_port(server: ApiServer) -> None:
    server.create(_map(1))
    url = server.url
    await server.stop()
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientConnectionError):
            await http.get(url + _MAPS)
    await server.start()
    async with aiohttp.ClientSession() as http:
        _, body = await _call(http, "GET", url + _MAPS)
    assert len(body["items"]) == 1


async def test_a_taken_port_is_refused(server: ApiServer) -> None:
    other = ApiServer(port=server.port)
    with pytest.raises(OSError, match="address already in use"):
        await other.start()


async def test_the_token_is_demanded(tmp_path: Path) -> None:
    async with ApiServer(token="secret") as server, aiohttp.ClientSession(server.url) as http:
        assert (await _call(http, "GET", _MAPS))[0] == 401
        async with http.get("/readyz") as answer:
            assert await answer.text() == "ok"
        config = yaml.safe_load(server.kubeconfig(tmp_path / "config").read_text())
        assert (tmp_path / "config").stat().st_mode & 0o077 == 0
        bearer = {"Authorization": f"Bearer {config['users'][0]['user']['token']}"}
        assert (await _call(http, "GET", _MAPS, headers=bearer))[0] == 200
        server.token = "rotated"
        code, body = await _call(http, "GET", _MAPS, headers=bearer)
        assert (code, body["reason"]) == (401, "Unauthorized")


async def test_a_client_certificate_stands_in_for_the_token(tls: TlsFiles, tmp_path: Path) -> None:
    plain = ssl.create_default_context(cafile=tls.ca)
    with_certificate = ssl.create_default_context(cafile=tls.ca)
    with_certificate.load_cert_chain(tmp_path / "client.pem", tmp_path / "client.key")
    async with ApiServer(token="secret", tls=tls) as server, aiohttp.ClientSession(server.url) as http:
        assert server.url.startswith("https://")
        assert (await _call(http, "GET", _MAPS, ssl=plain))[0] == 401
    async with ApiServer(token="secret", tls=tls) as server, aiohttp.ClientSession(server.url) as http:
        assert (await _call(http, "GET", _MAPS, ssl=with_certificate))[0] == 200
        user = yaml.safe_load(server.kubeconfig(tmp_path / "config").read_text())["users"][0]["user"]
        assert user.keys() == {"token", "client-certificate", "client-key"}


async def test_python_meets_the_same_rules(server: ApiServer) -> None:
    with pytest.raises(StatusError, match=r"spec\.ports: Required value"):
        server.create({"kind": "Service", "metadata": {"name": "x"}})
    server.apply({"kind": "Service", "metadata": {"name": "x"}, "spec": {"ports": [{"port": 80}]}})
    server.set_status("svc", "x", {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}})
    document = server.patch("svc", "x", {"spec": {"ports": [{"port": 81}]}})
    assert document["status"]["loadBalancer"]["ingress"][0]["ip"] == "203.0.113.1"
    document["spec"]["ports"][0]["port"] = 82
    assert server.update(document)["spec"]["ports"][0]["port"] == 82
    server.delete("svc", "x")
    assert [each["metadata"]["name"] for each in server.list("svc")] == ["kubernetes"]
    event = {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "e"},
        "regarding": {"kind": "Node", "name": "n"},
        "note": "hello",
    }
    assert server.create(event)["note"] == "hello"
    assert server.get("Event", "e")["message"] == "hello"


async def test_controllers_act_before_settle_returns(server: ApiServer) -> None:
    labels = {"app": "web"}
    server.create({"kind": "Service", "metadata": {"name": "x"}, "spec": {"selector": labels, "ports": [{"port": 80}]}})
    server.create({"kind": "Pod", "metadata": {"name": "p", "labels": labels}, "status": {"podIP": "10.1.0.1"}})
    server.settle()
    (found,) = [each for each in server.list("EndpointSlice") if each["metadata"]["name"] != "kubernetes"]
    assert found["endpoints"][0]["addresses"] == ["10.1.0.1"]
