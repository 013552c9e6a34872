"""Which sockets are ready, and the shortest way for what most of them have to say.

One private edge-triggered epoll, in which each socket is registered once, and whose own descriptor the event loop
watches: the data plane runs beside the control plane in one process at nearly the price of a bare epoll. Rejected:
callbacks of the loop itself (half as much processor time again for each connection) and its streams (four times).

Most events are a message that fits the buffer and goes out at once. That case is written out in ``_serve``, without a
call: it is what a request costs. Everything else goes to the socket's handler. The buffer is shared by all sockets,
so whoever waits for nothing holds no memory. A message with which its sender's end of stream has come, as servers say
it that answer and close, is held back for the moment that it takes to read that end, too: both go out as one segment.

Two rules make readiness safe to rely on. Sockets are closed only after a whole batch, so that an event cannot meet
another socket of the same number; and an event is a hint, after which the socket itself is asked: a program that is
just being started may hold a closed socket, and then events of it arrive for its successor. Whoever stops before a
socket is exhausted asks for another turn, ``again``, for an edge is told once.

The epoll is made with the first registration: a process may fork before that, and each child has its own.
"""

from __future__ import annotations

import _socket
import asyncio
import select

Socket = _socket.socket  # the class behind socket.socket: half its memory, and nothing in between
IN, OUT, URGENT, FAULT = select.EPOLLIN, select.EPOLLOUT, select.EPOLLPRI, select.EPOLLERR
READS = IN | URGENT | FAULT | select.EPOLLRDHUP | select.EPOLLHUP
INPUT = IN | URGENT | select.EPOLLRDHUP | select.EPOLLET
INPUT_AND_OUTPUT = INPUT | OUT
_USUAL = IN | OUT
_DECISIVE = IN | URGENT | FAULT
_MORE = int(_socket.MSG_MORE)
_EVENTS = 256  # of one batch
_FEW = 8  # a smaller batch was all, most probably
_BATCHES = 16  # before the loop's other callbacks have their turn


class Handler:
    """Whoever owns a registered socket."""

    __slots__ = ("is_plain", "moved", "out", "sock")
    sock: Socket
    out: Socket
    is_plain: bool  # what can be read is to be sent to ``out``, and that is all
    moved: int  # bytes that were read from ``sock`` to be sent to ``out``

    def handle(self, mask: int) -> None:
        """Something happened to the socket, or ``again`` was asked for; nothing to do once it was closed."""
        raise NotImplementedError

    def carry(self, size: int, sent: int) -> None:
        """``size`` bytes were read into the buffer, of which ``sent`` were sent; 0 of 0 is the end of input."""
        raise NotImplementedError

    def expect_end(self) -> None:
        """What was read last is held back, to go out with the end of input, which has come."""
        raise NotImplementedError

    def fail(self) -> None:
        """Reading met an error, or we made a mistake: end this, and nothing else."""
        raise NotImplementedError


class Reactor:
    """``buffer``: how many bytes are read at once."""

    def __init__(self, buffer: int) -> None:
        self.view = memoryview(bytearray(buffer))
        self.big = max(1, buffer // 2)  # bytes; less is a message, more may be a part of something long
        self.handlers: list[Handler | None] = []  # by file descriptor
        self._epoll: select.epoll | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._again: list[Handler] = []
        self._closing: list[Socket] = []
        self._is_due = False  # a turn is taken or will be, without an event

    def register(self, handler: Handler, sock: Socket, mask: int) -> None:
        """Call ``handler`` whenever something happens to ``sock``. Raises OSError."""
        if self._epoll is None:
            self._epoll = select.epoll()
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._epoll.fileno(), self._turn)
        fd = sock.fileno()
        self._epoll.register(fd, mask)
        if fd >= len(self.handlers):
            self.handlers.extend([None] * (fd + 1 - len(self.handlers)))
        self.handlers[fd] = handler

    def modify(self, sock: Socket, mask: int) -> None:
        """Ask for other events; those that are due already are reported. Raises OSError."""
        if self._epoll is not None:
            self._epoll.modify(sock.fileno(), mask)

    def unregister(self, sock: Socket) -> None:
        """For a socket that stays open."""
        fd = sock.fileno()
        if self._epoll is not None and self.handlers[fd] is not None:
            self.handlers[fd] = None
            self._epoll.unregister(fd)

    def close(self, *socks: Socket) -> None:
        """Call nobody about them any more, and close them after this batch."""
        for sock in socks:
            fd = sock.fileno()
            if fd < len(self.handlers):
                self.handlers[fd] = None
        self._closing += socks
        if not self._is_due:
            self._call()

    def again(self, handler: Handler) -> None:
        """Call ``handler`` once more, after the others."""
        self._again.append(handler)
        self._call()

    def stop(self) -> None:
        """Close what is to be closed, and watch nothing."""
        self._bury()
        self._again.clear()
        self.handlers.clear()
        if self._epoll is not None and self._loop is not None:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
        self._epoll = self._loop = None

    def _call(self) -> None:
        if not self._is_due and self._loop is not None:
            self._is_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Serve what is ready, for a while."""
        if self._epoll is None:  # a call that was due when we were stopped
            return
        self._is_due = True  # whoever asks for a turn meanwhile is in it
        try:
            for _ in range(_BATCHES):
                again, self._again = self._again, []
                events = self._epoll.poll(0, _EVENTS)
                self._serve(events)
                for handler in again:
                    self._handle(handler, READS)
                self._bury()
                if len(events) < _FEW and not self._again:
                    break
        finally:
            self._is_due = False
        if self._again:
            self._call()

    def _serve(self, events: list[tuple[int, int]]) -> None:  # noqa: C901 -- each call would cost what it says
        """One batch. Its length is its purpose: no call is made for what fits and goes out."""
        handlers, view, big = self.handlers, self.view, self.big
        for fd, mask in events:
            handler = handlers[fd]
            if handler is None:
                continue
            try:
                if not handler.is_plain or mask & _DECISIVE != IN:
                    handler.handle(mask)
                    continue
                try:
                    size = handler.sock.recv_into(view)
                except BlockingIOError:
                    continue
                except OSError:
                    handler.fail()
                    continue
                sent, is_last = 0, mask > _USUAL
                if 0 < size < big:
                    try:
                        sent = handler.out.send(view[:size], _MORE) if is_last else handler.out.send(view[:size])
                    except OSError:  # carry meets it again
                        sent = 0
                    if sent == size:
                        handler.moved += size
                        if is_last:
                            handler.expect_end()
                        continue
                handler.carry(size, sent)
                if size == len(view):
                    self._again.append(handler)
                elif size and is_last:
                    handler.handle(mask)
            except Exception as error:  # noqa: BLE001 -- a mistake of ours in one flow must not end all of them
                self._mistake(handler, error)

    def _handle(self, handler: Handler, mask: int) -> None:
        try:
            handler.handle(mask)
        except Exception as error:  # noqa: BLE001 -- as in _serve
            self._mistake(handler, error)

    def _mistake(self, handler: Handler, error: Exception) -> None:
        if self._loop is not None:
            self._loop.call_exception_handler(
                {"message": "A connection failed by a mistake of ours", "exception": error}
            )
        handler.fail()

    def _bury(self) -> None:
        closing, self._closing = self._closing, []
        for sock in closing:
            try:  # noqa: SIM105 -- suppress() is three calls, for each connection twice
                sock.close()
            except OSError:
                pass
