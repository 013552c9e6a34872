"""Log lines in klog's formats, text and JSON, by the standard library's logging.

``I1122 13:04:05.123456   4711 main.py:88] "Rules are in the kernel" family="IPv4" rules=120`` is what kube-proxy
writes, so every collector that parses kube-proxy's lines parses ours (spec: runtime.md 15). The message is constant
and what varies goes into fields: lines can be counted by message, and a hostile name cannot forge a second line,
because values are quoted. With ``--logging-format=json`` a line is an object of ``ts`` (milliseconds), ``caller``,
``msg``, ``v`` and the fields, as component-base writes it; an error has no ``v``. JSON there knows no warnings, here
they have a ``severity``.

``-v N`` shows a line of level N: level N is the standard library's ``INFO - N``. ``--vmodule`` sets another level for
modules whose file, or path with a slash, fits a pattern; it can be changed while we run (``/debug/flags/v``).

Rejected: one logger a module with %-style messages, in which the object's name is somewhere in a sentence.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import IO

from kproxy.model.keys import ObjectKey, ServicePortKey

_LETTERS = ((logging.ERROR, "E"), (logging.WARNING, "W"))
_ROOT = logging.getLogger("kproxy")
_modules: list[tuple[str, int]] = []  # patterns and their verbosity; one process has one log


class Log:
    """Write lines as the module ``name``; every keyword becomes a field."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)
        _apply_modules(self._logger)

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


class JSONFormatter(logging.Formatter):
    """One object a line, in the order in which component-base writes its keys."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "ts": round(record.created * 1000, 4),
            "caller": f"{'/'.join(record.pathname.rsplit('/', 2)[-2:])}:{record.lineno}",
            "msg": record.getMessage(),
        }
        if record.levelno < logging.ERROR:
            line["v"] = max(0, logging.INFO - record.levelno)
        if record.levelno == logging.WARNING:
            line["severity"] = "warning"
        fields: dict[str, object] = getattr(record, "fields", {})
        line |= {name if name not in line else f"{name}_": _plain(value) for name, value in fields.items()}
        if record.exc_info:
            line["err"] = str(record.exc_info[1])
            line["stacktrace"] = self.formatException(record.exc_info)
        return quote(line)


def quote(what: object) -> str:
    """As JSON: a text is a double-quoted string in which nothing can end the line."""
    text = json.dumps(what, default=str, ensure_ascii=False, separators=(",", ":"))
    return text.replace("\x85", "\\u0085").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def configure(level: int, stream: IO[str], *, form: str = "text", modules: Iterable[tuple[str, int]] = ()) -> None:
    """Send everything that the program logs to ``stream``; libraries speak from warnings up.

    ``form``: text or json. ``modules``: patterns of modules with a verbosity of their own.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JSONFormatter() if form == "json" else Formatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    _modules[:] = modules
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("kproxy.")]:
        _apply_modules(logging.getLogger(name))
    set_verbosity(level)


def verbosity() -> int:
    return logging.INFO - _ROOT.level


def set_verbosity(level: int) -> None:
    _ROOT.setLevel(max(logging.INFO - level, 1))


def _apply_modules(logger: logging.Logger) -> None:
    """The first pattern that fits decides; a module that fits none follows ``-v``."""
    path = logger.name.replace(".", "/")
    for pattern, level in _modules:
        if fnmatchcase(path if "/" in pattern else path.rpartition("/")[2], pattern):
            logger.setLevel(max(logging.INFO - level, 1))
            return
    logger.setLevel(logging.NOTSET)


def _plain(value: object) -> object:
    """A key is its name in both formats; JSON would make a list of it."""
    return str(value) if isinstance(value, (ObjectKey, ServicePortKey)) else value


def _show(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:.6g}"
        case int():
            return str(value)
        case dict():
            return quote(quote(value))
        case _:
            return quote(str(value))
