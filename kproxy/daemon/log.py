"""Log lines in klog's text format, by the standard library's logging.

``I1122 13:04:05.123456   4711 main.py:88] "Rules are in the kernel" family="IPv4" rules=120`` is what kube-proxy
writes, so every collector that parses kube-proxy's lines parses ours (spec: runtime.md 15). The message is constant
and what varies goes into fields: lines can be counted by message, and a hostile name cannot forge a second line,
because values are quoted. ``-v N`` shows a line of level N: level N is the standard library's ``INFO - N``.

Rejected: klog's JSON format (nobody asked; ``--logging-format`` is accepted and said to be ignored), and one logger a
module with %-style messages, in which the object's name is somewhere in a sentence.
"""

from __future__ import annotations

import json
import logging
import os
import time
from typing import IO

_LETTERS = ((logging.ERROR, "E"), (logging.WARNING, "W"))
_ROOT = logging.getLogger("kproxy")


class Log:
    """Write lines as the module ``name``; every keyword becomes a field."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def error(self, message: str, **fields: object) -> None:
        self._write(logging.ERROR, message, fields)

    def warning(self, message: str, **fields: object) -> None:
        self._write(logging.WARNING, message, fields)

    def info(self, message: str, **fields: object) -> None:
        self._write(logging.INFO, message, fields)

    def verbose(self, level: int, message: str, **fields: object) -> None:
        """A line that is shown from ``-v <level>`` on."""
        self._write(logging.INFO - level, message, fields)

    def crash(self, message: str, error: BaseException, **fields: object) -> None:
        """The message, and the error's traceback below it."""
        self._logger.error(message, exc_info=error, stacklevel=2, extra={"fields": fields})

    def _write(self, level: int, message: str, fields: dict[str, object]) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, message, stacklevel=3, extra={"fields": fields})


class Formatter(logging.Formatter):
    """klog's header, the quoted message, and the fields in the order in which they were given."""

    def format(self, record: logging.LogRecord) -> str:
        letter = next((letter for level, letter in _LETTERS if record.levelno >= level), "I")
        moment = time.strftime("%m%d %H:%M:%S", time.localtime(record.created))
        micros = int(record.created % 1 * 1_000_000)
        line = (
            f"{letter}{moment}.{micros:06d} {os.getpid():7d} {record.filename}:{record.lineno}] "
            f"{quote(record.getMessage())}"
        )
        fields: dict[str, object] = getattr(record, "fields", {})
        for name, value in fields.items():
            line += f" {name}={_show(value)}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def quote(text: str) -> str:
    """A double-quoted string in which nothing can end the line."""
    return json.dumps(text, ensure_ascii=False).replace("\x85", "\\u0085").replace("\u2028", "\\u2028")


def configure(verbosity: int, stream: IO[str]) -> None:
    """Send everything that the program logs to ``stream``; libraries speak from warnings up."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(Formatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    _ROOT.setLevel(max(logging.INFO - verbosity, 1))


def _show(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:.6g}"
        case int():
            return str(value)
        case dict():
            return quote(json.dumps(value, default=str, ensure_ascii=False))
        case _:
            return quote(str(value))
