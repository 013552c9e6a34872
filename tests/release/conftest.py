"""The sdist and the wheel of this tree, made once."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from deploy import release, workshop

ROOT = Path(__file__).parents[2]


class Built(NamedTuple):
    """What was made, and of which files."""

    sdist: Path
    wheel: Path
    names: list[str]
    moment: str  # seconds since 1970


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    commit, moment = workshop.commit(ROOT)
    if commit == "unknown":
        pytest.skip("needs git, and a checkout that it trusts: releases are made of what git lists")
    names = release.sources(ROOT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", moment)  # somebody may commit while tests run
        return Built(*release.build(ROOT, tmp_path_factory.mktemp("dist"), names), names, moment)
