"""A real shell on a real terminal: what is typed, what TAB makes of it, what is listed.

A key of our own prints the line as it is then and a mark. Keys are served in their order, so when the mark has come,
the TAB before it has done all it does, however slow the machine is; nothing here waits for a time.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self

_MARK = "(that is all)"
_DEADLINE = 120.0  # seconds; a shell that does not answer at all
_CONTROL = re.compile(r"\x1b\[[^A-Za-z]*[A-Za-z]|\x1b[=>]|[\x07\r]")
# Keys of our own: between two lines the terminal itself serves some, such as Ctrl-U
_LINE, _CLEAR = "\x18e", "\x18k"
# How a shell binds the two keys; the mark is written so that it is not seen where its own command line is echoed
KEYS = {
    "bash": 'bind -x \'"\\C-xe": printf "\\n<%s>(that is%s)" "$READLINE_LINE" " all"\'; '
    "bind '\"\\C-xk\": kill-whole-line'; bind 'set page-completions off'; bind 'set completion-query-items 0'",
    "zsh": "fin() { printf '\\n<%s>(that is%s)' \"$BUFFER\" ' all' }; zle -N fin; bindkey '^Xe' fin; "
    "bindkey '^Xk' kill-whole-line; LISTMAX=1000",
}


class Seen(NamedTuple):
    line: str  # as TAB left it
    listed: str  # what was shown meanwhile


class Terminal:
    """A shell that has run ``setup``, until the block ends."""

    def __init__(self, shell: Sequence[str], setup: Sequence[str], where: Path, env: Mapping[str, str]) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", 200, 200, 0, 0))
        basics = {"PATH": os.environ["PATH"], "HOME": str(where), "TERM": "dumb", "LC_ALL": "C.UTF-8"}
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *shell],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=where,
            env={**basics, "HISTFILE": "/dev/null", "INPUTRC": "/dev/null", **env},
        )
        os.close(slave)
        script = where / "setup"
        script.write_text("\n".join([*setup, KEYS[shell[0]], "printf '(that is%s)' ' all'", ""]), encoding="utf-8")
        self._type(f". {script}\n")
        self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def complete(self, line: str) -> Seen:
        """Type ``line`` and TAB."""
        self._type(f"{line}\t{_LINE}")
        shown, _, after = self._read().rpartition("\n<")
        self._type(_CLEAR)
        return Seen(after.rpartition(">")[0], shown)

    def _type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def _read(self) -> str:
        seen = b""
        end = time.monotonic() + _DEADLINE
        while _MARK.encode() not in seen:
            ready, _, _ = select.select([self._master], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"the shell does not answer; so far: {seen!r}"
            seen += os.read(self._master, 65536)
        return _CONTROL.sub("", seen.decode()).partition(_MARK)[0]
