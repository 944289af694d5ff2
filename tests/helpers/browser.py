"""A headless Chromium, controlled through the pipe of its DevTools protocol.

This needs nothing but Python's standard library.
"""

import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--remote-debugging-pipe", "--window-size=900,700"),
)
# Chromium expects the protocol's pipes at descriptors 3 and 4.
START = """
import os, sys
os.dup2(int(sys.argv[1]), 3), os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
TIMEOUT = 60  # seconds


class Browser:
    """A page of a headless Chromium, with the events that it reports."""

    def __init__(self, folder):
        (theirs, self._out), (self._in, their_out) = os.pipe(), os.pipe()
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (theirs, their_out)]
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder}"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, *map(str, high), *command],
            pass_fds=high,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in (theirs, their_out, *high):
            os.close(fd)
        self._buffer, self._count, self._session = b"", 0, None
        self.events = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = session
        for domain in "Page", "Runtime", "Log", "Network":
            self(f"{domain}.enable")

    def __call__(self, method, **params):
        """Send a command of the protocol and return its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        answer = self._wait(lambda m: m.get("id") == self._count)
        assert "error" not in answer, answer
        return answer["result"]

    def _wait(self, wanted):
        deadline = time.monotonic() + TIMEOUT
        while True:
            while b"\0" in self._buffer:
                message, _, self._buffer = self._buffer.partition(b"\0")
                message = json.loads(message)
                if "method" in message:
                    self.events.append(message)
                if wanted(message):
                    return message
            ready, _, _ = select.select([self._in], [], [], deadline - time.monotonic())
            assert ready, "the browser does not answer"
            data = os.read(self._in, 1 << 20)
            assert data, "the browser has ended"
            self._buffer += data

    def open(self, path, scheme="light"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self("Emulation.setEmulatedMedia", features=[feature])
        self.events.clear()
        self("Page.navigate", url=path.as_uri())
        if not any(e["method"] == "Page.loadEventFired" for e in self.events):
            self._wait(lambda m: m.get("method") == "Page.loadEventFired")

    def value(self, expression):
        """Evaluate a JavaScript expression in the page."""
        result = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def complaints(self):
        """Return the page's log entries, errors, dialogs, and requests but for the page itself."""
        self.value("1")  # its answer follows all earlier events
        loud = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        loud += ("Page.javascriptDialogOpening",)
        requests = [e for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [e for e in self.events if e["method"] in loud] + requests[1:]

    def close(self):
        os.close(self._out)  # this ends the browser
        try:
            self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)
