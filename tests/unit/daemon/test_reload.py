"""What counts as a change of the configuration file, on a real file system."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kproxy.daemon import reload
from kproxy.daemon.reload import ConfigFile, watch
from kproxy.errors import InvalidConfig, KproxyError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "config.conf"
    path.write_text("mode: iptables\n", encoding="utf-8")
    os.utime(path, (1, 1))  # a write that follows within the clock's grain changes the time all the same
    return path


@pytest.fixture
def file(path: Path) -> Iterator[ConfigFile]:
    file = ConfigFile.open(str(path), 1000)
    yield file
    file.close()


def test_it_is_read_once(file: ConfigFile, path: Path) -> None:
    path.write_text("mode: ipvs\n", encoding="utf-8")
    assert file.content == b"mode: iptables\n"


def test_no_more_is_read_than_is_wanted(path: Path) -> None:
    path.write_bytes(b"x" * 5000)
    file = ConfigFile.open(str(path), 1000)
    assert len(file.content) == 1001
    file.close()


def test_without_events_nothing_has_changed(file: ConfigFile) -> None:
    assert file.change() == ""


def test_chmod_does_not_count(file: ConfigFile, path: Path) -> None:
    path.chmod(0o600)
    assert file.change() == ""


def test_removal_does_not_count(file: ConfigFile, path: Path) -> None:
    path.unlink()
    assert file.change() == ""


@pytest.mark.parametrize("text", ["mode: iptables\n", "mode: iptables\n#"])
def test_a_write_counts_also_of_the_same_text(file: ConfigFile, path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    assert file.change() == "was written"


def test_touch_counts(file: ConfigFile, path: Path) -> None:
    path.touch()
    assert file.change() == "was written"


def test_another_file_in_its_place_counts(file: ConfigFile, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("mode: iptables\n", encoding="utf-8")
    os.utime(other, (1, 1))
    other.rename(path)
    assert file.change() == "was replaced"


def test_moving_it_away_counts(file: ConfigFile, path: Path, tmp_path: Path) -> None:
    path.rename(tmp_path / "elsewhere")
    assert file.change() == "was moved away"


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    """As the kubelet mounts a ConfigMap: the file is a link into ``..data``, a link to a directory with a date."""
    for name, text in (("good", "same"), ("bad", "wrong"), ("better", "same")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.conf").write_text(text, encoding="utf-8")
    (tmp_path / "..data").symlink_to("good")
    (tmp_path / "config.conf").symlink_to("..data/config.conf")
    return tmp_path


def swap(mount: Path, name: str) -> None:
    (mount / "..data_tmp").symlink_to(name)
    (mount / "..data_tmp").rename(mount / "..data")


def refuse(content: bytes) -> None:
    if content == b"wrong":
        raise InvalidConfig("mode: it is wrong", "and more")


def test_the_swap_of_a_config_map_counts(mount: Path) -> None:
    file = ConfigFile.open(str(mount / "config.conf"), 1000, refuse)
    swap(mount, "better")
    assert (file.change(), file.refusal()) == ("was replaced", ())
    file.close()


def test_a_swap_to_a_file_that_cannot_be_used_is_refused_once(mount: Path) -> None:
    file = ConfigFile.open(str(mount / "config.conf"), 1000, refuse)
    swap(mount, "bad")
    assert (file.change(), file.refusal()) == ("was replaced", ("mode: it is wrong", "and more"))
    assert file.change() == ""
    swap(mount, "better")
    assert (file.change(), file.refusal()) == ("was replaced", ())
    file.close()


def test_a_swap_to_nothing_is_as_a_removal(mount: Path) -> None:
    file = ConfigFile.open(str(mount / "config.conf"), 1000, refuse)
    swap(mount, "none")
    assert (file.change(), file.refusal()) == ("", ())
    file.close()


async def test_the_watch_tells_of_a_refused_file_and_goes_on(mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: asyncio.Queue[str] = asyncio.Queue()
    monkeypatch.setattr(reload._log, "error", lambda _message, *, file, why: said.put_nowait(f"{file} {why}"))
    file = ConfigFile.open(str(mount / "config.conf"), 1000, refuse)
    watching = asyncio.create_task(watch(file, poll=0.001))
    swap(mount, "bad")
    assert await asyncio.wait_for(said.get(), 10) == f"{file.path} mode: it is wrong; and more"
    assert not watching.done()
    swap(mount, "better")
    with pytest.raises(KproxyError, match="was replaced"):
        await asyncio.wait_for(watching, 10)
    assert said.empty()
    file.close()


def test_a_file_that_cannot_be_read_names_flag_and_remedy(tmp_path: Path) -> None:
    for bad, why in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(InvalidConfig, match=rf"--config={bad}: {why}.*; give a readable file"):
            ConfigFile.open(str(bad), 1000)


def test_a_file_that_cannot_be_read_is_not_kept_open(tmp_path: Path) -> None:
    before = len([*Path("/proc/self/fd").iterdir()])
    with pytest.raises(InvalidConfig):
        ConfigFile.open(str(tmp_path), 1000)
    assert len([*Path("/proc/self/fd").iterdir()]) == before


async def test_the_watch_ends_with_the_sentence(file: ConfigFile, path: Path) -> None:
    watching = asyncio.create_task(watch(file, poll=0.001))
    os.utime(path, (2, 2))
    with pytest.raises(KproxyError, match=r"the configuration file .* was written; kproxy ends to be started"):
        await asyncio.wait_for(watching, 10)
