"""What the tests of commands share: a dump of a small cluster, and ``explain`` as it is typed."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kproxy import cli
from tests.unit.cli.examples import CLUSTER


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What ``kproxy plan`` prints of a cluster of one Service, both families."""
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "web.yaml").write_text(CLUSTER, encoding="utf-8")
    out, kept = io.StringIO(), sys.stdout
    sys.stdout = out
    try:
        cli.main(["plan", "-f", str(folder), "--cluster-cidr=10.244.0.0/16"])
    finally:
        sys.stdout = kept
    return out.getvalue()


@pytest.fixture
def dump(tmp_path: Path, planned: str) -> str:
    path = tmp_path / "dump.txt"
    path.write_text(planned, encoding="utf-8")
    return str(path)


class Said(str):
    """What stands on standard output, with the rest."""

    __slots__ = ("err", "status")
    status: int
    err: str


Explain = Callable[..., Said]


@pytest.fixture
def explain(capsys: pytest.CaptureFixture[str]) -> Explain:
    """Runs it with these words."""

    def run(*words: str) -> Said:
        capsys.readouterr()
        status = cli.main(["explain", *words])
        captured = capsys.readouterr()
        said = Said(captured.out)
        said.status, said.err = status, captured.err
        return said

    return run
