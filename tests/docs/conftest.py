"""The copy of the checkout, once for all who type there."""

from __future__ import annotations

import pytest

from tests.docs.machine import Copy


@pytest.fixture(scope="session")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    return Copy(tmp_path_factory.mktemp("documents") / "kproxy")
