"""Listeners leave files for programs."""

from __future__ import annotations

import errno
import resource
import socket

import pytest

from kproxy.kernel.files import within_half


@pytest.mark.parametrize(("more", "fits"), [(1, False), (2, True)])
def test_a_socket_of_the_second_half_is_closed(monkeypatch: pytest.MonkeyPatch, more: int, fits: bool) -> None:
    with socket.socket() as sock:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (2 * sock.fileno() + more, resource.RLIM_INFINITY))
        if fits:
            assert within_half(sock) is sock
            assert sock.fileno() >= 0
        else:
            with pytest.raises(OSError, match="Too many open files") as error:
                within_half(sock)
            assert error.value.errno == errno.EMFILE
            assert sock.fileno() == -1


def test_without_a_limit_every_socket_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with socket.socket() as sock:
        assert within_half(sock) is sock
