"""Directories of manifests: what counts as a change, what stays in force, who wins. One file: test_manifest.py."""

from __future__ import annotations

import os
from contextlib import aclosing
from pathlib import Path

import pytest

from kproxy.config import Config, EndpointsSource
from kproxy.errors import InvalidConfig
from kproxy.model.change import Change, Listed
from kproxy.model.cluster import Cluster
from kproxy.model.enums import Kind, Protocol
from kproxy.model.keys import ObjectKey
from kproxy.source.files import Directory, read_manifests, watch_manifests


def service(name: str, port: int = 80, namespace: str = "") -> str:
    where = f", namespace: {namespace}" if namespace else ""
    return (
        f"---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}{where}}}\n"
        f"spec: {{clusterIP: 10.96.0.1, ports: [{{port: {port}}}]}}\n"
    )


def endpoint_slice(name: str, service_name: str) -> str:
    return (
        "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n"
        f"metadata: {{name: {name}, labels: {{kubernetes.io/service-name: {service_name}}}}}\n"
        "endpoints: [{addresses: [10.0.0.1]}]\n"
    )


def endpoints(name: str) -> str:
    return (
        f"---\napiVersion: v1\nkind: Endpoints\nmetadata: {{name: {name}}}\n"
        "subsets: [{addresses: [{ip: 10.0.0.2}], ports: [{port: 80}]}]\n"
    )


class Looking:
    """A directory that somebody edits, and the store that it fills."""

    def __init__(self, path: Path, source: EndpointsSource = EndpointsSource.SLICES) -> None:
        self.path = path
        self.directory = Directory(Config(manifests=str(path), endpoints_source=source))
        self.cluster = Cluster("n1")
        self.ticks = 0
        self.problems: list[str] = []

    def write(self, name: str, content: str) -> None:
        path = self.path / name
        path.write_text(content)
        self.ticks += 1  # the clock of some file systems is coarser than a test is fast
        os.utime(path, ns=(self.ticks * 10**9, self.ticks * 10**9))

    def look(self, times: int = 1) -> list[Change]:
        found: list[Change] = []
        for _ in range(times):
            changes = self.directory.look()
            for change in changes:
                assert isinstance(change, Listed)
                self.cluster.apply(change)
                self.problems += [str(each.problem) for each in change.rejected] + list(map(str, change.warnings))
            found += changes
        return found

    def services(self) -> list[str]:
        return sorted(str(key) for key in self.cluster.snapshot().services)


@pytest.fixture
def looking(tmp_path: Path) -> Looking:
    return Looking(tmp_path)


def test_the_first_look_reads_everything_at_once(looking: Looking) -> None:
    looking.write("a.yaml", service("a") + service("b", namespace="other") + endpoint_slice("a-1", "a"))
    looking.write("c.yml", service("c"))
    looking.write(".hidden.yaml", service("hidden"))
    looking.write("README.txt", "no manifest")
    looking.look()
    assert looking.services() == ["default/a", "default/c", "other/b"]
    assert looking.cluster.complete
    assert looking.problems == []


def test_an_empty_directory_is_a_complete_cluster(looking: Looking) -> None:
    looking.look()
    assert looking.cluster.complete
    assert looking.services() == []


def test_nothing_new_is_no_change(looking: Looking) -> None:
    looking.write("a.yaml", service("a"))
    looking.look()
    assert looking.look(3) == []


def test_a_change_counts_when_it_has_stood_still(looking: Looking) -> None:
    looking.look()
    looking.write("a.yaml", service("a"))
    assert looking.look() == []
    looking.write("a.yaml", service("a") + service("b"))
    assert looking.look() == []
    looking.look()
    assert looking.services() == ["default/a", "default/b"]


def test_a_file_that_is_gone_counts_when_it_stays_away(looking: Looking) -> None:
    looking.write("a.yaml", service("a"))
    looking.look()
    (looking.path / "a.yaml").unlink()
    assert looking.look() == []
    looking.look()
    assert looking.services() == []


def test_an_editor_that_moves_the_old_file_aside_changes_nothing(looking: Looking) -> None:
    looking.write("a.yaml", service("a"))
    looking.look()
    (looking.path / "a.yaml").rename(looking.path / "a.yaml~")
    assert looking.look() == []
    looking.write("a.yaml", service("a") + service("b"))
    looking.look(2)
    assert looking.services() == ["default/a", "default/b"]


def test_a_broken_file_keeps_what_it_said(looking: Looking) -> None:
    looking.write("a.yaml", service("a"))
    looking.write("b.yaml", service("b"))
    looking.look()
    looking.write("a.yaml", service("a") + "---\nkind: [\n")
    looking.look(5)
    assert looking.services() == ["default/a", "default/b"]
    assert len(looking.problems) == 1
    assert f"manifest {looking.path}/a.yaml: line" in looking.problems[0]
    looking.write("a.yaml", service("c"))
    looking.look(2)
    assert looking.services() == ["default/b", "default/c"]
    assert len(looking.problems) == 1


def test_a_bad_object_keeps_what_it_was_and_is_named_with_its_place(looking: Looking) -> None:
    looking.write("a.yaml", service("a") + service("b"))
    looking.look()
    looking.write("a.yaml", service("a", port=99999) + service("b", port=81))
    looking.look(2)
    found = looking.cluster.snapshot().services
    assert [found[ObjectKey("default", name)].ports[0].port for name in "ab"] == [80, 81]
    assert f"Service default/a ({looking.path}/a.yaml, line 2): spec.ports[0].port is 99999" in looking.problems[0]


def test_the_same_object_in_two_files_is_the_first_files(looking: Looking) -> None:
    looking.write("a.yaml", service("a", port=1))
    looking.write("b.yaml", service("a", port=2))
    looking.look()
    assert looking.cluster.snapshot().services[ObjectKey("default", "a")].ports[0].port == 1
    (problem,) = looking.problems
    assert problem == (
        f"Service default/a ({looking.path}/b.yaml, line 2): metadata.name is also in {looking.path}/a.yaml, line 2, "
        "which is used; keep one of the two"
    )


def test_endpoints_count_where_no_slice_does(looking: Looking) -> None:
    looking.write("a.yaml", endpoint_slice("a-1", "a") + endpoints("a") + endpoints("b"))
    looking.look()
    found = looking.cluster.snapshot().slices
    assert [[each.ip for each in found[ObjectKey("default", name)][0].endpoints] for name in "ab"] == [
        ["10.0.0.1"],
        ["10.0.0.2"],
    ]
    assert len(found[ObjectKey("default", "a")]) == 1


def test_slices_count_where_no_endpoints_do_when_asked_so(tmp_path: Path) -> None:
    looking = Looking(tmp_path, EndpointsSource.ENDPOINTS)
    looking.write("a.yaml", endpoint_slice("a-1", "a") + endpoints("a") + endpoint_slice("b-1", "b"))
    looking.look()
    found = looking.cluster.snapshot().slices
    assert found[ObjectKey("default", "a")][0].endpoints[0].ip == "10.0.0.2"
    assert found[ObjectKey("default", "b")][0].endpoints[0].ip == "10.0.0.1"


def test_what_an_api_server_would_fill_in_is_filled_in(looking: Looking) -> None:
    bare = endpoint_slice("a-1", "a") + "ports: [{port: 8080}, {name: null, port: 53, protocol: UDP}, {name: x}]\n"
    looking.write("a.yaml", service("a") + bare)
    looking.look()
    snapshot, key = looking.cluster.snapshot(), ObjectKey("default", "a")
    (port,) = snapshot.services[key].ports
    (found,) = snapshot.slices[key]
    assert (port.name, port.protocol) == ("", Protocol.TCP)
    assert [(each.name, each.protocol, each.port) for each in found.ports] == [
        ("", Protocol.TCP, 8080),
        ("", Protocol.UDP, 53),
    ]
    (endpoint,) = found.endpoints
    assert (endpoint.ready, endpoint.serving, endpoint.terminating) == (True, True, False)
    (problem,) = looking.problems
    assert "ports[2].port is missing or 0, and the port is left out" in problem


@pytest.mark.parametrize(
    ("spec", "refused"), [("{}", True), ("{clusterIP: None}", False), ("{type: ExternalName}", False)]
)
def test_a_service_that_nobody_gives_an_address_is_refused(looking: Looking, spec: str, refused: bool) -> None:
    looking.write("a.yaml", f"apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {spec}\n")
    looking.look()
    assert any("manifests have no allocator" in problem for problem in looking.problems) == refused
    assert looking.services() == ([] if refused else ["default/a"])


def test_other_kinds_are_counted_and_left_alone(looking: Looking) -> None:
    looking.write("a.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n")
    looking.look()
    assert looking.directory.ignored == 1
    assert looking.problems == []


def test_a_directory_that_vanishes_keeps_what_it_said_and_comes_back(looking: Looking) -> None:
    looking.write("a.yaml", service("a"))
    looking.look()
    aside = looking.path.with_name("aside")
    looking.path.rename(aside)
    looking.look(3)
    assert looking.services() == ["default/a"]
    assert len(looking.problems) == 1
    aside.rename(looking.path)
    looking.look(2)
    assert looking.services() == ["default/a"]
    assert len(looking.problems) == 1


def test_a_link_to_nowhere_is_no_file(looking: Looking) -> None:
    (looking.path / "a.yaml").symlink_to("nowhere")
    (looking.path / "b.yaml").symlink_to("b.yaml")
    looking.look()
    assert looking.services() == []


def test_what_would_block_is_no_file(looking: Looking) -> None:
    os.mkfifo(looking.path / "a.yaml")
    (looking.path / "b.yaml").symlink_to("/dev/zero")
    looking.look(2)
    assert looking.problems == []


def test_a_file_that_is_a_directory_is_a_problem(looking: Looking) -> None:
    (looking.path / "a.yaml").mkdir()
    looking.write("b.yaml", service("b"))
    looking.look()
    assert looking.services() == ["default/b"]
    assert "cannot be read" in looking.problems[0]


def test_no_more_of_a_file_is_read_than_may_be_in_it(looking: Looking) -> None:
    with (looking.path / "a.yaml").open("wb") as file:
        file.truncate(1 << 40)  # a hole: takes no room on the disk, and would take all of the memory
    looking.write("b.yaml", service("b"))
    looking.look()
    assert looking.services() == ["default/b"]
    assert "a.yaml: (the file) is larger than 64 MB" in looking.problems[0]


def test_a_config_map_mount_swaps_its_directory(looking: Looking) -> None:
    for version in ("v1", "v2"):
        (looking.path / f"..{version}").mkdir()
        (looking.path / f"..{version}" / "a.yaml").write_text(service(version))
    (looking.path / "..data").symlink_to("..v1")
    (looking.path / "a.yaml").symlink_to("..data/a.yaml")
    looking.look()
    (looking.path / "..new").symlink_to("..v2")
    (looking.path / "..new").rename(looking.path / "..data")
    looking.look(2)
    assert looking.services() == ["default/v2"]


def test_no_directory_at_the_start_is_a_wrong_flag(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match=r"--manifests .*missing cannot be read"):
        Directory(Config(manifests=str(tmp_path / "missing"))).look()


async def test_watching_looks_again_after_each_wait(looking: Looking) -> None:
    waits: list[float] = []

    async def edit(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 1:
            looking.write("a.yaml", service("a"))

    changes = watch_manifests(Config(manifests=str(looking.path)), sleep=edit)
    async with aclosing(changes):
        kinds = [(await anext(changes)).kind for _ in Kind]
        assert kinds == list(Kind)
        change = await anext(changes)
    assert isinstance(change, Listed)
    assert [each.key.name for each in change.objects] == ["a"]
    assert waits == [0.5, 0.5]  # one look to see it, one to see it stand still


# --- once -------------------------------------------------------------------------------------------------------------


def test_reading_once_gives_lists_and_problems(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(service("a") + service("bad", port=0) + endpoint_slice("a-1", "a"))
    single = tmp_path / "single"
    single.write_text(service("b"))
    listed, problems = read_manifests([tmp_path, str(single)])
    assert [each.kind for each in listed] == list(Kind)
    assert [each.key.name for each in listed[0].objects] == ["a", "b"]
    assert [each.key.name for each in listed[1].objects] == ["a-1"]
    assert [problem.field for problem in problems] == ["spec.ports[0].port"]


def test_reading_what_is_not_there_is_a_wrong_argument(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="cannot be read"):
        read_manifests([tmp_path / "missing"])


def test_an_object_of_another_version_is_named_and_the_rest_of_the_file_served(looking: Looking) -> None:
    looking.write("a.yaml", service("a") + service("b").replace("apiVersion: v1\n", ""))
    looking.look()
    assert looking.services() == ["default/a"]
    (problem,) = looking.problems
    assert "Service default/b" in problem
    assert "apiVersion is '', a version that kproxy does not read; write v1" in problem
