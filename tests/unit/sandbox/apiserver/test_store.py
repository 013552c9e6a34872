"""Revisions, history and time travel of the store; what a watch makes of them is in test_watch."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.sandbox.apiserver.status import StatusError
from kproxy.sandbox.apiserver.store import Change, ChangeType, Key, Store, field_of


def _store(remembered: int = 100) -> Store:
    return Store({"services": ("metadata.name", "spec.clusterIP"), "pods": ()}, remembered=remembered)


def _thing(name: str, namespace: str = "a", **more: object) -> dict[str, object]:
    return {"kind": "X", "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}"}, **more}


def test_every_write_of_any_collection_gets_the_next_revision() -> None:
    store = _store()
    revisions = [store.put("services", _thing("x")).revision, store.put("pods", _thing("p")).revision]
    revisions.append(store.put("services", _thing("x")).revision)
    revisions.append(store.delete("services", ("a", "x")).revision)
    assert revisions == [1, 2, 3, 4]


def test_an_object_carries_its_revision_and_not_its_kind() -> None:
    stored = _store().put("services", _thing("x", spec={"clusterIP": "10.0.0.1"}))
    assert stored.document()["metadata"]["resourceVersion"] == "1"
    assert "kind" not in stored.document()
    assert stored.fields == {"metadata.name": "x", "spec.clusterIP": "10.0.0.1"}


def test_objects_come_in_the_order_of_their_keys() -> None:
    store = _store()
    for name, namespace in (("b", "z"), ("c", "a"), ("a", "z")):
        store.put("services", _thing(name, namespace))
    assert [each.key for each in store.objects("services")] == [("a", "c"), ("z", "a"), ("z", "b")]
    assert [each.key for each in store.objects("services", "z")] == [("z", "a"), ("z", "b")]


def test_a_deletion_is_told_with_the_last_state_and_its_own_revision() -> None:
    store = _store()
    told: list[Change] = []
    store.put("services", _thing("x", spec={"clusterIP": "10.0.0.1"}))
    stop = store.subscribe(told.append)
    store.delete("services", ("a", "x"))
    stop()
    store.put("services", _thing("y"))
    assert [(change.type, change.revision) for change in told] == [(ChangeType.DELETED, 2)]
    assert told[0].new.document()["spec"] == {"clusterIP": "10.0.0.1"}
    assert told[0].new.document()["metadata"]["resourceVersion"] == "2"


def test_compaction_forgets_changes_but_not_objects() -> None:
    store = _store()
    store.put("services", _thing("x"))
    store.put("services", _thing("y"))
    store.compact()
    assert [each.key[1] for each in store.objects("services")] == ["x", "y"]
    assert list(store.collections["services"].after(2)) == []
    with pytest.raises(StatusError, match="too old resource version: 1") as refused:
        store.collections["services"].after(1)
    assert (refused.value.code, refused.value.reason) == (410, "Expired")


def test_a_full_history_forgets_its_oldest_changes() -> None:
    store = _store(remembered=8)
    for number in range(30):
        store.put("services", _thing(f"x{number}"))
    shelf = store.collections["services"]
    assert 8 <= len(shelf.history) <= 10
    with pytest.raises(StatusError):
        shelf.after(5)


def test_a_revision_from_the_future_is_refused() -> None:
    with pytest.raises(StatusError, match="Too large resource version: 7, current: 0") as refused:
        list(_store().objects("services", at=7))
    assert refused.value.code == 504


def test_dependents_are_found_by_the_uid_of_their_owner() -> None:
    store = _store()
    child = _thing("child")
    child["metadata"]["ownerReferences"] = [{"uid": "uid-x"}]  # type: ignore[index]
    store.put("pods", child)
    assert store.dependents("uid-x") == [("pods", ("a", "child"))]
    store.delete("pods", ("a", "child"))
    assert store.dependents("uid-x") == []


@pytest.mark.parametrize(
    ("path", "text"), [("spec.on", "true"), ("spec.none", ""), ("spec.number", "3"), ("spec.number.deeper", "")]
)
def test_fields_are_compared_as_text(path: str, text: str) -> None:
    assert field_of({"spec": {"on": True, "none": None, "number": 3}}, path) == text


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=30))
def test_the_past_is_what_was_true_then(writes: list[tuple[str, bool]]) -> None:
    store = _store()
    pasts: dict[int, dict[Key, bytes]] = {0: {}}
    for name, remove in writes:
        if remove and store.get("services", ("a", name)):
            store.delete("services", ("a", name))
        else:
            store.put("services", _thing(name))
        pasts[store.revision] = {each.key: each.body for each in store.objects("services")}
    for revision, past in pasts.items():
        assert {each.key: each.body for each in store.objects("services", at=revision)} == past
