"""Where bytes come from, and what is refused before it fills the memory. What they are is for test_dump.py."""

from __future__ import annotations

import io
import os
import sys
import threading
from pathlib import Path

import pytest

from kproxy.errors import UnreadableDump
from kproxy.explain.read.intake import LARGEST, read_input


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    path.write_bytes(b"*nat\n\xff")
    assert read_input(str(path)) == b"*nat\n\xff"


def test_a_hyphen_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_input("-", io.BytesIO(b"given")) == b"given"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"piped")))
    assert read_input("-") == b"piped"


def test_a_closed_standard_input_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UnreadableDump, match=r"^standard input is closed; give a file"):
        read_input("-")
    closed = io.BytesIO()
    closed.close()
    with pytest.raises(UnreadableDump, match="standard input cannot be read: I/O operation on closed file"):
        read_input("-", closed)


def test_what_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    with path.open("wb") as file:
        file.truncate(1 << 30)  # without a block on the disk
    with pytest.raises(UnreadableDump, match=r"huge has more than 128 MiB; .*; give the output of iptables-save alone"):
        read_input(str(path))


def test_a_stream_without_end_is_cut_off() -> None:
    with pytest.raises(UnreadableDump, match="zero has more than 1 MiB"):
        read_input("/dev/zero", largest=1 << 20)
    with pytest.raises(UnreadableDump, match="standard input has more than 0 MiB"):
        read_input("-", io.BytesIO(b"four"), largest=3)
    assert read_input("-", io.BytesIO(b"four"), largest=4) == b"four"
    assert LARGEST == 128 << 20


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "is a directory; give a file in it"),
        ("missing", "missing cannot be read: No such file or directory; give a file"),
        ("a\0b", "cannot be read: embedded null byte"),
    ],
)
def test_what_cannot_be_opened_is_named(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(UnreadableDump, match=said) as caught:
        read_input(f"{tmp_path}/{name}")
    assert caught.value.line == 0
    assert str(caught.value).isprintable()


def test_a_file_without_permission_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read any file, so the kernel's answer is made up."""

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UnreadableDump, match="secret cannot be read: Permission denied; give a file that can be read"):
        read_input(str(tmp_path / "secret"))


def test_a_fifo_is_read_to_its_end(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = threading.Thread(target=fifo.write_bytes, args=(b"x" * 200_000,))
    writer.start()
    assert read_input(str(fifo)) == b"x" * 200_000
    writer.join()


def test_a_fifo_that_nobody_writes_to_is_not_waited_for_in_vain(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(UnreadableDump, match=r"nothing was written into .*fifo for 0\.01 s; start what writes"):
        read_input(str(fifo), patience=0.01)
