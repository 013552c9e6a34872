"""A headless Chromium that a test drives over the DevTools protocol, through two pipes: no port, no dependency.

Chromium reads commands from descriptor 3 and writes answers and events to 4, JSON each, with a NUL behind it. Every
event of the page is kept, so that a test can tell what was asked of the network and what went wrong.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

PROGRAM = "chromium-headless-shell"
_DEADLINE = 60.0  # seconds; only a browser that hangs needs them
_FIRST_FREE = 10  # descriptors below are the browser's
_FLAGS = (
    "--no-sandbox",  # of its own, which root cannot have; tests run behind walls already
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--remote-debugging-pipe",
)
Json = dict[str, Any]


class Browser:
    """One browser with one tab. ``events`` holds what the tab told, oldest first."""

    def __init__(self, home: Path) -> None:
        program = shutil.which(PROGRAM)
        if program is None:
            pytest.skip(f"{PROGRAM} is not installed")
        theirs_in, self._writing = _pipe()
        self._reading, theirs_out = _pipe()
        log = os.open(home / "chromium.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        doors = [(log, 1), (log, 2), (theirs_in, 3), (theirs_out, 4)]
        self._pid = os.posix_spawn(
            program,
            [PROGRAM, *_FLAGS, f"--user-data-dir={home / 'profile'}", "about:blank"],
            {"HOME": str(home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
            file_actions=[(os.POSIX_SPAWN_DUP2, ours, theirs) for ours, theirs in doors],
            setpgroup=0,
        )
        for each in (theirs_in, theirs_out, log):
            os.close(each)
        self._rest = b""
        self._number = 0
        self.events: list[Json] = []
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self) -> None:
        targets = self._call("Target.getTargets")["targetInfos"]
        target = next(each["targetId"] for each in targets if each["type"] == "page")
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.setLifecycleEventsEnabled", enabled=True)

    def close(self) -> None:
        os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._writing)
        os.close(self._reading)

    def call(self, method: str, **parameters: object) -> Json:
        """Ask the tab; its answer."""
        return self._call(method, self._session, **parameters)

    def open(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Load the page anew, and wait until it stands."""
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.load(url)
        self.settle()

    def load(self, url: str) -> None:
        """From nowhere: the same address with another fragment would not load anew."""
        for each in ("about:blank", url):
            self.events.clear()
            loader = self.call("Page.navigate", url=each)["loaderId"]
            self._wait({"name": "load", "loaderId": loader})

    def evaluate(self, expression: str) -> Any:
        """Its value; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def settle(self) -> None:
        """Wait until what was asked for is drawn: two frames."""
        self.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done())))")

    def press(self, *keys: str) -> None:
        for key in keys:
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            code = {"Enter": 13, "Escape": 27, "ArrowUp": 38, "ArrowDown": 40, "Tab": 9}.get(key, 0)
            event = {"key": key, "windowsVirtualKeyCode": code}
            self.call("Input.dispatchKeyEvent", type="keyDown", **event, **({"text": text} if text else {}))
            self.call("Input.dispatchKeyEvent", type="keyUp", **event)
        self.settle()

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)
        self.settle()

    def screenshot(self, path: Path, *, full: bool = False) -> None:
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=full)["data"]
        path.write_bytes(base64.b64decode(data))

    @property
    def requests(self) -> list[str]:
        """Every address that was asked for since the page was opened."""
        sent = (each["params"] for each in self.events if each["method"] == "Network.requestWillBeSent")
        return [str(each["request"]["url"]) for each in sent]

    @property
    def problems(self) -> list[Json]:
        """What the console would show in red or yellow: errors, refusals of the policy, exceptions."""
        told = {"Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"}
        return [each["params"] for each in self.events if each["method"] in told]

    def _call(self, method: str, session: str = "", **parameters: object) -> Json:
        self._number += 1
        wanted = self._number
        message: Json = {"id": wanted, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != wanted:
            self.events.append(answer)
        assert "error" not in answer, (method, answer["error"])
        return dict(answer["result"])

    def _wait(self, moment: Json) -> None:
        """For a moment in the life of a page."""
        while not any(moment.items() <= each.get("params", {}).items() for each in self.events):
            self.events.append(self._next())

    def _next(self) -> Json:
        deadline = time.monotonic() + _DEADLINE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._reading], [], [], max(deadline - time.monotonic(), 0))
            assert ready, "the browser is silent"
            piece = os.read(self._reading, 1 << 20)
            assert piece, "the browser ended"
            self._rest += piece
        first, _, self._rest = self._rest.partition(b"\0")
        message: Json = json.loads(first)
        return message


def _pipe() -> tuple[int, int]:
    """Both ends above those that the browser is given, so that giving one cannot close another."""
    ends = os.pipe()
    reading, writing = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE) for end in ends)
    for end in ends:
        os.close(end)
    return reading, writing
