"""One end of what connects the parent with a worker: frames and files over a pair of sockets, without waiting.

Files go by SCM_RIGHTS, with the first byte of their frame. The kernel never hands out the files of two frames at once,
so they are kept in the order in which they came, and each frame takes its own. Where the receiver may open no more
files the kernel drops them: the frame arrives without, and its receiver must do without.

A stream transport of asyncio's is no use here: it reads without asking for files.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from kproxy.backend.userspace.counts import SHORT_OF_FILES
from kproxy.backend.userspace.messages import MOST_FILES, BadMessage, Frames

_PIECE = 1 << 18  # bytes that are read at once
_RIGHTS = socket.CMSG_SPACE(MOST_FILES * array.array("i").itemsize)
_CROWDED = SHORT_OF_FILES | {errno.ETOOMANYREFS}  # too many files are on their way


class Channel:
    """``received`` gets each message with its files, which are then its own; it may raise BadMessage.

    ``lost`` is called once, when there will be nothing more, with the reason; it is empty when the other side closed.
    ``room`` is called whenever all that was sent has left. Everything belongs to the running loop.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        received: Callable[[bytes, Sequence[int]], None],
        lost: Callable[[str], None],
        room: Callable[[], None] = lambda: None,
        pause: float = 0.05,
    ) -> None:
        """``pause``: seconds until files are sent again that the kernel did not take."""
        self._socket = sock
        sock.setblocking(False)
        self._received = received
        self._lost = lost
        self._room = room
        self._pause = pause
        self._frames = Frames()
        self._files: deque[list[int]] = deque()
        self._leaving: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._waits: asyncio.TimerHandle | None = None
        self._is_writing = False
        self._is_open = True
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self._read)

    @property
    def is_full(self) -> bool:
        """Whether something has not left yet."""
        return bool(self._leaving)

    def send(self, framed: bytes, files: Sequence[int] = ()) -> None:
        """The files must stay open until ``room``. Into a lost channel nothing is sent."""
        if self._is_open:
            self._leaving.append((memoryview(framed), files))
            if len(self._leaving) == 1:
                self._write()

    def finish(self, deadline: float) -> None:
        """Send what has not left, for at most ``deadline`` seconds: who sends this will not be there to wait."""
        if not self._is_open:
            return
        self._socket.settimeout(deadline)
        with contextlib.suppress(OSError):
            for data, _ in self._leaving:
                self._socket.sendall(data)
        self.close()

    def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._loop.remove_reader(self._socket.fileno())
        self._stop_writing()
        if self._waits is not None:
            self._waits.cancel()
        self._leaving.clear()
        for files in self._files:
            _close(files)
        self._files.clear()
        self._socket.close()

    def _end(self, why: str) -> None:
        self.close()
        self._lost(why)

    def _write(self) -> None:
        self._waits = None
        try:
            while self._leaving:
                data, files = self._leaving[0]
                rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
                sent = self._socket.sendmsg([data], rights)
                if sent < len(data):
                    self._leaving[0] = (data[sent:], ())
                else:
                    self._leaving.popleft()
        except BlockingIOError:
            if not self._is_writing:
                self._is_writing = True
                self._loop.add_writer(self._socket.fileno(), self._write)
            return
        except OSError as error:
            if error.errno in _CROWDED:
                self._stop_writing()
                self._waits = self._loop.call_later(self._pause, self._write)
            elif error.errno in {errno.EPIPE, errno.ECONNRESET}:
                self._stop_writing()  # what the other side said before it went is still to be read
                self._leaving.clear()
            else:
                self._end(f"cannot be written to: {error.strerror}")
            return
        self._stop_writing()
        self._room()

    def _stop_writing(self) -> None:
        if self._is_writing:
            self._is_writing = False
            self._loop.remove_writer(self._socket.fileno())

    def _read(self) -> None:
        try:
            data, rights, flags, _ = self._socket.recvmsg(_PIECE, _RIGHTS, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError as error:
            self._end("" if error.errno == errno.ECONNRESET else f"cannot be read from: {error.strerror}")
            return
        if rights or flags & socket.MSG_CTRUNC:
            self._keep(rights, are_all=not flags & socket.MSG_CTRUNC)
        if not data:
            self._end("")
            return
        try:
            for said, count in self._frames.feed(data):
                self._received(said, self._take(count))
                if not self._is_open:
                    return
        except BadMessage as error:
            self._end(str(error))
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is about what the other side said
            self._end(f"not to be done: {error!r}")

    def _keep(self, rights: Iterable[tuple[int, int, bytes]], *, are_all: bool) -> None:
        files = array.array("i")
        for _, _, cells in rights:
            files.frombytes(cells[: len(cells) - len(cells) % files.itemsize])
        if not are_all:
            _close(files)
            del files[:]
        self._files.append(list(files))

    def _take(self, count: int) -> Sequence[int]:
        """The files of the frame at hand; none if not all of them came. Raises BadMessage."""
        if not count:
            return ()
        if not self._files:
            raise BadMessage(f"a frame without its {count} files")
        files = self._files.popleft()
        if len(files) == count:
            return files
        _close(files)
        return ()


def _close(files: Sequence[int]) -> None:
    for each in files:
        os.close(each)
