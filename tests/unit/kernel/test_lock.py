"""The xtables lock, on a file of the test's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from kproxy.errors import KernelError, XtablesLocked
from kproxy.kernel.lock import lock_path, xtables_lock


def test_one_holder_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "lock"))
    with xtables_lock(0), pytest.raises(XtablesLocked, match="fuser"), xtables_lock(0.06):
        pass
    with xtables_lock(0):
        pass


def test_a_missing_folder_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XTABLES_LOCKFILE", str(tmp_path / "no/lock"))
    with pytest.raises(KernelError, match="mount the host"), xtables_lock(0):
        pass


def test_the_usual_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XTABLES_LOCKFILE", raising=False)
    assert lock_path() == "/run/xtables.lock"
