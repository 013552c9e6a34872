"""``kproxy plan -f`` of files in which something is wrong: sentences and status 1, never a traceback."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kproxy import cli
from kproxy.model.enums import Kind
from tests.fuzz.hostile import encode, mutated, spoilt
from tests.fuzz.journey import check_rule
from tests.fuzz.objects import Document, good_documents, good_worlds

FILES = settings(max_examples=30, derandomize=True)
_PLAN = ("plan", "--hostname-override", "n1", "--cluster-cidr", "10.244.0.0/16", "--family", "both")


def plan(name: str, content: bytes) -> tuple[int, list[str], list[str]]:
    """Status, what was printed, what was complained about."""
    out, err = io.StringIO(), io.StringIO()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(content)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = cli.main([*_PLAN, "-f", str(path)])
    return status, out.getvalue().splitlines(), err.getvalue().splitlines()


def check(status: int, printed: list[str], complaints: list[str]) -> None:
    assert status == (1 if complaints else 0)
    for line in complaints:
        assert line.isprintable(), ascii(line)
        assert len(line) < 4000, ascii(line[:200])
        assert ";" in line, line  # each says what to do about it
    for line in printed:
        if line.startswith("-A "):
            check_rule(line)


def is_another_version(document: Any) -> bool:
    """One of our kinds, not in a version that we read, and not of somebody else's group."""
    if not isinstance(document, dict) or document.get("kind") not in [kind.value for kind in Kind]:
        return False
    version = document.get("apiVersion")
    ours = {"v1", "discovery.k8s.io/v1", "networking.k8s.io/v1"}
    return version is None or (isinstance(version, str) and "/" not in version and version not in ours)


@st.composite
def files(draw: st.DrawFn) -> tuple[str, list[Any]]:
    world = draw(good_worlds())
    documents = [each.json for each in world if len(str(each.json)) < 10_000]
    for _ in range(draw(st.integers(1, 3))):
        model = draw(good_documents())
        documents.insert(draw(st.integers(0, len(documents))), draw(mutated(model.json, most=2)))
    return draw(st.sampled_from(["yaml", "json", "list"])), documents


@FILES
@given(files())
def test_objects_of_which_something_is_wrong(given_file: tuple[str, list[Any]]) -> None:
    form, documents = given_file
    if form == "yaml":
        plain = json.loads(json.dumps(documents, ensure_ascii=False).encode(errors="replace"))
        text = yaml.dump_all(plain, Dumper=yaml.CSafeDumper)
        status, printed, complaints = plan("a.yaml", text.encode())
    elif form == "json":
        documents = documents[:1]
        status, printed, complaints = plan("a.json", encode(documents[0]))
    else:
        items = [*documents]
        status, printed, complaints = plan("a.json", encode({"apiVersion": "v1", "kind": "List", "items": items}))
    check(status, printed, complaints)
    for each in documents:
        if is_another_version(each) and (form != "list" or each.get("apiVersion")):  # items inherit the list's
            assert complaints, each


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("version", ["", "v2", "V1", "v1 ", "v1/", "discovery.k8s.io", "v1beta1", '"', "\n", "x" * 300])
def test_a_version_that_is_not_read_is_not_overlooked(kind: Kind, version: str) -> None:
    document = {"apiVersion": version, "kind": kind.value, "metadata": {"name": "a"}}
    status, printed, complaints = plan("a.json", encode(document))
    if "/" not in version:  # else it is somebody else's group
        assert complaints
    check(status, printed, complaints)


@FILES
@given(good_documents(), st.data())
def test_bytes_of_which_something_is_wrong(document: Document, data: st.DataObject) -> None:
    text = yaml.safe_dump(document.json).encode()
    check(*plan("a.yaml", data.draw(spoilt(text))))
    check(*plan("a.json", data.draw(spoilt(encode(document.json)))))


@FILES
@given(st.text() | st.binary().map(lambda raw: raw.decode(errors="replace")))
@example("!!python/object/apply:os.system [reboot]")
@example("kind: &a [*a]")
@example("? [a]\n: b\n")
@example("\t- a")
@example('kind: "\\ud800"')
def test_any_text(text: str) -> None:
    check(*plan("a.yaml", text.encode(errors="replace")))
