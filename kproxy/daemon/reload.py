"""The configuration file: read once, then watched, because whoever changes it expects the change to count.

As in kube-proxy a change ends the process with status 1 and the supervisor starts it with the new file; rules stay
meanwhile (spec: runtime.md 2). Settings reach everything that was built from them, so taking over a few of them while
running would be a second way to be configured, and the less tried one.

The file is looked at every second (``Config.config_poll``). Writing changes its time or size; a file moved in its
place, and the symbolic link that a ConfigMap's mount swaps, change its identity; chmod changes neither. A missing file
is only an event if it was moved away: as long as it is open here, a removed one has no name left and a moved one has.
The first look is at what was read, so nothing can slip in between.

kube-proxy does not notice the swap of a mount, so an edited ConfigMap waits for somebody to restart the pods. Here it
counts, and reaches every node within a minute: therefore a new file that could not be started from is refused, with an
error in the log, and the process goes on with what it has. One mistyped line must not stop every proxy of a cluster.

Rejected: inotify, which the standard library has not, which loses the file when a mount swaps it (kube-proxy's watch
does), and which tells a second earlier what the kubelet took a minute to write.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Self

from kproxy.daemon.log import Log
from kproxy.errors import InvalidConfig, KproxyError

_log = Log(__name__)


class ConfigFile:
    """A file that is kept open; ``content`` is what it said when it was opened."""

    def __init__(self, path: str, descriptor: int, largest: int, check: Callable[[bytes], object]) -> None:
        self.path = path
        self.content = b""
        self._descriptor, self._largest, self._check = descriptor, largest, check
        self._seen = _identity(os.fstat(descriptor))
        self._target = os.path.realpath(path)

    @classmethod
    def open(cls, path: str, largest: int, check: Callable[[bytes], object] = len) -> Self:
        """Reads at most ``largest`` bytes and one more. Raises InvalidConfig.

        ``check``: raises InvalidConfig for content that kproxy could not be started with.
        """
        with ExitStack() as held:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                held.callback(os.close, descriptor)
                file = cls(path, descriptor, largest, check)
                while len(file.content) <= largest and (more := os.read(descriptor, largest + 1)):
                    file.content += more
            except OSError as error:
                why = error.strerror or type(error).__name__
                raise InvalidConfig(f"--config={path}: {why}; give a readable file") from error
            held.pop_all()
        return file

    def close(self) -> None:
        os.close(self._descriptor)

    def change(self) -> str:
        """What happened to the file since it was read; empty: nothing that counts."""
        try:
            now = Path(self.path).stat()
        except OSError:
            is_moved = os.fstat(self._descriptor).st_nlink and os.path.realpath(self.path) == self._target
            return "was moved away" if is_moved else ""
        if _identity(now) == self._seen:
            return ""
        return "was written" if _place(now) == self._seen[:2] else "was replaced"

    def refusal(self) -> tuple[str, ...]:
        """If a link was swapped so that it leads to a file that cannot be used: why, and the swap is forgotten."""
        target = os.path.realpath(self.path)
        if target == self._target:
            return ()
        try:
            seen = _identity(Path(self.path).stat())
            with closing(self.open(self.path, self._largest)) as new:
                self._check(new.content)
        except OSError:  # it is gone again; there will be another look
            return ()
        except InvalidConfig as invalid:
            self._seen, self._target = seen, target
            return invalid.problems
        return ()


async def watch(file: ConfigFile, *, poll: float) -> None:
    """For ever, or until the file changes. Raises KproxyError, which says so."""
    while True:
        await asyncio.sleep(poll)
        what = file.change()
        if not what:
            continue
        # In a thread, because a big file takes YAML a while in which health would not be answered.
        if problems := await asyncio.to_thread(file.refusal):
            why = "; ".join(problems)
            _log.error(
                "The new configuration file cannot be used; the earlier one stays in force", file=file.path, why=why
            )
            continue
        raise KproxyError(f"the configuration file {file.path} {what}; kproxy ends to be started with its new content")


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return (*_place(status), status.st_mtime_ns, status.st_size)


def _place(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
