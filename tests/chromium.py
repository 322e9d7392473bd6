"""A real browser for tests: Chromium without a window, spoken to over pipes (DevTools protocol).

Needs no driver and no package. Host names do not resolve in it, so that a page which asks for
anything from elsewhere fails; what it asked for is recorded.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

ANSWER_WITHIN_S: Final = 20.0
PROGRAM: Final = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS: Final = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--mute-audio"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-default-apps", "--disable-extensions", "--disable-dev-shm-usage"),
    *("--hide-scrollbars", "--force-device-scale-factor=1", "--remote-debugging-pipe"),
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
BECOME: Final = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(each), fcntl.F_DUPFD, 10) for each in sys.argv[1:3]]
for end, wanted in zip(ends, (3, 4)):
    os.dup2(end, wanted)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Becomes a program that reads from descriptor 3 and writes to 4, as the browser does."""


class Tab:
    """One page in the browser."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.requests: list[str] = []
        """Every address that was asked for, the page's own included."""
        self.complaints: list[str] = []
        """What the page said on its console, and what it threw."""
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._buffer = b""
        self._count = 0
        self._session: str | None = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Network", "Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write_fd, json.dumps(message).encode() + b"\0")
        while True:
            heard = self._hear()
            if heard.get("id") == self._count:
                assert "error" not in heard, heard["error"]
                result: dict[str, Any] = heard["result"]
                return result

    def open(self, path: Path, *, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        """Show a file; return when it is loaded."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **screen)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.absolute().as_uri())
        self.wait_for("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        said = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def wait_for(self, script: str) -> None:
        """Return when an expression has become true."""
        deadline = time.monotonic() + ANSWER_WITHIN_S
        while not self.run(script):
            assert time.monotonic() < deadline, f"never: {script}; {self.complaints}"
            time.sleep(0.02)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Move, press or release the mouse."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def drag(self, x_from: float, x_to: float, y: float) -> None:
        """Drag the mouse from left to right, or back."""
        self.mouse("mouseMoved", x_from, y)
        self.mouse("mousePressed", x_from, y, button="left", buttons=1, clickCount=1)
        self.mouse("mouseMoved", (x_from + x_to) / 2, y, button="left", buttons=1)
        self.mouse("mouseMoved", x_to, y, button="left", buttons=1)
        self.mouse("mouseReleased", x_to, y, button="left", clickCount=1)

    def double_click(self, x: float, y: float) -> None:
        """Click twice."""
        for count in (1, 2):
            self.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=count)
            self.mouse("mouseReleased", x, y, button="left", clickCount=count)

    def screenshot(self, path: Path, height_max: int = 1_000_000) -> None:
        """Write a picture of the whole page, or of its top, as a PNG."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        height = min(size["height"], height_max)
        clip = {"x": 0, "y": 0, "width": size["width"], "height": height, "scale": 1}
        taken = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def _hear(self) -> dict[str, Any]:
        deadline = time.monotonic() + ANSWER_WITHIN_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read_fd], [], [], deadline - time.monotonic())
            assert ready, "the browser does not answer"
            chunk = os.read(self._read_fd, 1 << 16)
            assert chunk, "the browser is gone"
            self._buffer += chunk
        text, _, self._buffer = self._buffer.partition(b"\0")
        heard: dict[str, Any] = json.loads(text)
        match heard.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(heard["params"]["request"]["url"])
            case "Runtime.exceptionThrown" | "Runtime.consoleAPICalled" | "Log.entryAdded":
                self.complaints.append(json.dumps(heard["params"])[:500])
        return heard


@contextlib.contextmanager
def browsing(folder: Path) -> Iterator[Tab]:
    """Start the browser with an empty profile in a folder; end it afterwards."""
    assert PROGRAM is not None
    their_read, our_write = os.pipe()
    our_read, their_write = os.pipe()
    command = [PROGRAM, *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
    process = subprocess.Popen(
        [sys.executable, "-ISc", BECOME, str(their_read), str(their_write), *command],
        pass_fds=(their_read, their_write),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(their_read)
    os.close(their_write)
    try:
        yield Tab(our_read, our_write)
    finally:
        os.close(our_write)
        os.close(our_read)
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
