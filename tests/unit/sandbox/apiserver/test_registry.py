"""Creation, update, patch, apply and deletion of any kind; Services are in test_service."""

from __future__ import annotations

import pytest

from kproxy.sandbox.apiserver.admission import Options
from kproxy.sandbox.apiserver.deletion import DeleteOptions
from kproxy.sandbox.apiserver.patch import JSON_PATCH
from kproxy.sandbox.apiserver.registry import Registry
from kproxy.sandbox.apiserver.resources import BY_KIND, Resource, named
from kproxy.sandbox.apiserver.selectors import Selector
from kproxy.sandbox.apiserver.status import Json, StatusError

_MAP = named("configmaps")
_POD = named("pods")
_KEY = ("default", "x")


def _map(name: str = "x", **more: object) -> Json:
    return {"metadata": {"name": name}, "data": {"a": "1"}, **more}


def _slice(**more: object) -> Json:
    return {
        "metadata": {"name": "x"},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"]}],
        "ports": [{"port": 80}],
    } | more


def _refused(registry: Registry, resource: Resource, document: Json, namespace: str = "default") -> StatusError:
    with pytest.raises(StatusError) as refused:
        registry.create(resource, namespace, document)
    return refused.value


def test_a_created_object_is_stamped(registry: Registry) -> None:
    metadata = registry.create(_MAP, "default", _map()).content["metadata"]
    assert metadata["creationTimestamp"] == "2026-01-02T03:04:05Z"
    assert len(metadata["uid"]) == 36
    assert metadata["resourceVersion"] == str(registry.store.revision)


def test_a_name_can_be_generated(registry: Registry) -> None:
    document = {"metadata": {"generateName": "web-"}}
    names = {registry.create(_MAP, "default", document).content["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("web-") and len(name) == 9 for name in names)


@pytest.mark.parametrize(
    ("document", "namespace", "code", "message"),
    [
        (_map(), "gone", 404, 'namespaces "gone" not found'),
        (_map(kind="Secret"), "default", 400, "must be of type ConfigMap"),
        ({"metadata": {}}, "default", 422, "name or generateName is required"),
        ({"metadata": {"name": "x", "namespace": "other"}}, "default", 400, "does not match the namespace"),
        ({"metadata": {"name": "x", "resourceVersion": "1"}}, "default", 400, "should not be set"),
        ({"metadata": {"name": "x", "labels": {"a": 1}}}, "default", 400, "cannot unmarshal number"),
        ({"metadata": {"name": "x", "labels": {"/": "b"}}}, "default", 422, "prefix part must be non-empty"),
        ({"metadata": {"name": "x_y"}}, "default", 422, "RFC 1123 subdomain"),
        ({"metadata": {"name": "x", "annotations": {"a": "b" * 262144}}}, "default", 422, "Too long"),
        ({"metadata": []}, "default", 400, "metadata is not an object"),
    ],
)
def test_refusals(registry: Registry, document: Json, namespace: str, code: int, message: str) -> None:
    error = _refused(registry, _MAP, document, namespace)
    assert error.code == code
    assert message in error.message


def test_a_second_object_of_the_name_is_refused(registry: Registry) -> None:
    registry.create(named("endpointslices"), "default", _slice())
    error = _refused(registry, named("endpointslices"), _slice())
    assert (error.code, error.reason) == (409, "AlreadyExists")
    assert error.message == 'endpointslices.discovery.k8s.io "x" already exists'


def test_an_update_from_an_old_version_conflicts(registry: Registry) -> None:
    old = registry.create(_MAP, "default", _map()).content
    registry.update(_MAP, _KEY, old | {"data": {"a": "2"}})
    with pytest.raises(StatusError, match="the object has been modified") as refused:
        registry.update(_MAP, _KEY, old | {"data": {"a": "3"}})
    assert (refused.value.code, refused.value.reason) == (409, "Conflict")


def test_an_update_of_another_object_of_the_name_conflicts(registry: Registry) -> None:
    registry.create(_MAP, "default", _map())
    with pytest.raises(StatusError, match="UID in precondition"):
        registry.update(_MAP, _KEY, {"metadata": {"name": "x", "uid": "other"}})


def test_an_update_that_changes_nothing_keeps_the_version(registry: Registry) -> None:
    first = registry.create(_MAP, "default", _map()).content
    assert registry.update(_MAP, _KEY, _map()).content == first
    assert registry.store.revision == int(first["metadata"]["resourceVersion"])


def test_unknown_fields_are_dropped_reported_or_refused(registry: Registry) -> None:
    document = _map(dta={})
    assert "dta" not in registry.create(_MAP, "default", document, Options(dry_run=True)).content
    warned = registry.create(_MAP, "default", document, Options(dry_run=True, field_validation="Warn"))
    assert warned.warnings == ['unknown field "dta"']
    with pytest.raises(StatusError, match='strict decoding error: unknown field "dta"'):
        registry.create(_MAP, "default", document, Options(field_validation="Strict"))


def test_put_creates_what_is_absent(registry: Registry) -> None:
    assert registry.put(_MAP, _KEY, {"data": {"a": "1"}}).created
    assert not registry.put(_MAP, _KEY, {"data": {"a": "2"}}).created


def test_patch_honours_a_resource_version(registry: Registry) -> None:
    registry.create(_MAP, "default", _map())
    with pytest.raises(StatusError, match="the object has been modified"):
        registry.patch(_MAP, _KEY, "application/merge-patch+json", {"metadata": {"resourceVersion": "1"}})
    done = registry.patch(_MAP, _KEY, JSON_PATCH, [{"op": "add", "path": "/data/b", "value": "2"}])
    assert done.content["data"] == {"a": "1", "b": "2"}
    with pytest.raises(StatusError, match="the patch must be an object"):
        registry.patch(_MAP, _KEY, "application/merge-patch+json", [])


def test_apply_creates_then_merges_and_prunes_its_own_fields_only(registry: Registry) -> None:
    ours, theirs = Options(manager="ours"), Options(manager="theirs")
    assert registry.apply(_MAP, _KEY, {"data": {"a": "1", "b": "2"}}, ours).created
    registry.apply(_MAP, _KEY, {"data": {"c": "3"}}, theirs)
    assert registry.apply(_MAP, _KEY, {"data": {"b": "4"}}, ours).content["data"] == {"b": "4", "c": "3"}


def test_generations_count_changes_of_the_specification(registry: Registry) -> None:
    resource = named("deployments")
    registry.create(resource, "default", {"metadata": {"name": "x"}, "spec": {"replicas": 1}})
    labelled = {"metadata": {"labels": {"a": "b"}}}
    kind = "application/merge-patch+json"
    assert registry.patch(resource, _KEY, kind, labelled).content["metadata"]["generation"] == 1
    changed = registry.patch(resource, _KEY, kind, {"spec": {"replicas": 2}}).content
    assert changed["metadata"]["generation"] == 2


def test_events_have_two_faces(registry: Registry) -> None:
    events = named("events")
    document = {
        "metadata": {"name": "e"},
        "involvedObject": {"kind": "Node", "name": "n"},
        "message": "hello",
    }
    registry.create(events, "default", document)

    other = BY_KIND["events.k8s.io/v1", "Event"]
    served = other.served(registry.get(other, ("default", "e")).document())
    assert (served["note"], served["regarding"]["name"]) == ("hello", "n")
    assert "message" not in served
    document["involvedObject"]["namespace"] = "elsewhere"  # type: ignore[index]
    assert "does not match event.namespace" in _refused(registry, events, document | _named("f")).message


def _named(name: str) -> Json:
    return {"metadata": {"name": name}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"addressType": ""}, "addressType: Required value"),
        ({"addressType": "IPv5"}, 'Unsupported value: "IPv5": supported values: "FQDN", "IPv4", "IPv6"'),
        ({"endpoints": [{"addresses": ["fd00::1"]}]}, "must be an IPv4 address"),
        ({"endpoints": [{"addresses": ["169.254.1.1"]}]}, "may not be in the link-local range"),
        ({"endpoints": [{"addresses": []}]}, "must contain at least 1 address"),
        ({"endpoints": [{"addresses": ["10.0.0.1"]}] * 1001}, "Too many: 1001: must have at most 1000"),
        ({"ports": [{"port": 70000}]}, "must be between 1 and 65535"),
        ({"ports": [{"port": 1}, {"port": 2}]}, 'ports[1].name: Duplicate value: ""'),
        ({"ports": [{"port": 1, "protocol": "tcp"}]}, 'Unsupported value: "tcp"'),
        ({"ports": [{"port": "http"}]}, "cannot unmarshal string"),
        ({"endpoints": [{"addresses": ["10.0.0.1"], "nodeName": "N!"}]}, "endpoints[0].nodeName: Invalid value"),
    ],
)
def test_slices_are_validated(registry: Registry, change: Json, message: str) -> None:
    assert message in _refused(registry, named("endpointslices"), _slice(**change)).message


def test_the_address_type_of_a_slice_may_not_change(registry: Registry) -> None:
    registry.create(named("endpointslices"), "default", _slice(endpoints=[]))
    with pytest.raises(StatusError, match='addressType: Invalid value: "IPv6": field is immutable'):
        registry.update(named("endpointslices"), _KEY, _slice(endpoints=[], addressType="IPv6"))


@pytest.mark.parametrize(
    ("subset", "message"),
    [
        ({"ports": [{"port": 80}]}, "must specify `addresses` or `notReadyAddresses`"),
        ({"addresses": [{"ip": "x"}]}, "must be a valid IP address"),
        ({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 1}, {"port": 2}]}, "ports[0].name: Required"),
    ],
)
def test_endpoints_are_validated(registry: Registry, subset: Json, message: str) -> None:
    document = {"metadata": {"name": "x"}, "subsets": [subset]}
    assert message in _refused(registry, named("endpoints"), document).message


@pytest.mark.parametrize(
    ("cidrs", "message"),
    [
        ([], "at least one CIDR required"),
        (["10.0.0.1/24"], "canonical form"),
        (["10.0.0.0"], "must be a valid CIDR value"),
        (["10.0.0.0/24", "fd00::/64", "10.1.0.0/24"], "Too many: 3"),
    ],
)
def test_service_cidrs_are_validated(registry: Registry, cidrs: list[str], message: str) -> None:
    document = {"metadata": {"name": "x"}, "spec": {"cidrs": cidrs}}
    assert message in _refused(registry, named("servicecidrs"), document, "").message


def test_finalizers_delay_deletion(registry: Registry) -> None:
    registry.create(_MAP, "default", {"metadata": {"name": "x", "finalizers": ["a/b"]}})
    content, gone = registry.delete(_MAP, _KEY)
    assert not gone
    assert content["metadata"]["deletionTimestamp"] == "2026-01-02T03:04:05Z"
    registry.patch(_MAP, _KEY, "application/merge-patch+json", {"metadata": {"finalizers": None}})
    assert registry.store.get("configmaps", _KEY) is None


def test_dependents_go_with_their_owner_unless_orphaned(registry: Registry) -> None:
    def family(name: str) -> None:
        uid = registry.create(_MAP, "default", _map(name)).content["metadata"]["uid"]
        child = _map(f"{name}-child")
        child["metadata"]["ownerReferences"] = [{"uid": uid, "name": name, "kind": "ConfigMap"}]
        registry.create(_MAP, "default", child)

    family("a")
    family("b")
    registry.delete(_MAP, ("default", "a"))
    registry.delete(_MAP, ("default", "b"), DeleteOptions(orphan=True))
    left = [stored.document() for stored in registry.store.objects("configmaps")]
    assert [(each["metadata"]["name"], each["metadata"]["ownerReferences"]) for each in left] == [("b-child", [])]


def test_a_namespace_takes_its_contents_along(registry: Registry) -> None:
    registry.create(named("ns"), "", {"metadata": {"name": "n"}})
    registry.create(_MAP, "n", _map())
    registry.delete(named("ns"), ("", "n"))
    assert list(registry.store.objects("configmaps")) == []
    with pytest.raises(StatusError, match="this namespace may not be deleted"):
        registry.delete(named("ns"), ("", "default"))


def test_deletion_honours_preconditions(registry: Registry) -> None:
    registry.create(_MAP, "default", _map())
    with pytest.raises(StatusError, match="UID in precondition: other"):
        registry.delete(_MAP, _KEY, DeleteOptions(uid="other"))
    registry.delete(_MAP, _KEY, DeleteOptions(dry_run=True))
    assert registry.store.get("configmaps", _KEY)


def test_delete_collection_selects(registry: Registry) -> None:
    registry.create(_MAP, "default", _map("a"))
    registry.create(_MAP, "kube-system", _map("b"))
    gone = registry.delete_collection(_MAP, "kube-system", Selector())
    assert [content["metadata"]["name"] for content in gone] == ["b"]


def test_a_pod_on_a_node_terminates_first(graceful: Registry) -> None:
    graceful.create(_POD, "default", {"metadata": {"name": "x"}, "spec": {"nodeName": "n"}})
    content, gone = graceful.delete(_POD, _KEY)
    assert not gone
    assert content["metadata"]["deletionTimestamp"] == "2026-01-02T03:04:35Z"
    assert graceful.delete(_POD, _KEY, DeleteOptions(grace_seconds=0))[1]


def test_loaded_documents_are_stored_unseen(registry: Registry) -> None:
    malformed = {"kind": "Service", "metadata": {"name": "Not valid"}, "spec": {"ports": [{"port": 99999}]}}
    assert registry.load([malformed]) == 1
    assert registry.store.get("services", ("default", "Not valid"))
