"""The HTML pages in a real browser: what they show, say under the mouse, and whether they complain.

Chromium is driven over the pipe of its DevTools protocol, which needs nothing but Python's library.
"""

import fcntl
import json
import math
import os
import re
import select
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest

import charrnn
from charrnn.cli.render import color as shades
from charrnn.evaluation.activations import HiddenUnit, values
from charrnn.network.stack import forward

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--remote-debugging-pipe", "--window-size=900,700"),
)
# The protocol's pipes are to be descriptors 3 and 4.
START = """
import os, sys
os.dup2(int(sys.argv[1]), 3), os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
PATIENCE = 60  # seconds

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>&lt;\n"
    "\x00\x07\x08\x0c\x1b[31mred\x1b]0;title\x07\x7f\x85\x9b\r\n"
    "\u202eright to left\u202c\u2066\u200f\u2028\u2029\ufeff\n"
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 e\u0301 \U0010ffff \U00020000\n"
    "</pre></i>\"'--><!-- ]]> \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \t tab\n\n\n  end"
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found")


class Browser:
    """A page of a headless Chromium, and all that it complained about."""

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
        """The result of a command."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        answer = self._wait(lambda m: m.get("id") == self._count)
        assert "error" not in answer, answer
        return answer["result"]

    def _wait(self, wanted):
        deadline = time.monotonic() + PATIENCE
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
        """What a JavaScript expression is in the page."""
        result = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def complaints(self):
        """What the page has logged, asked the user or fetched, but for itself."""
        self.value("1")  # by now what came before has been told
        loud = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        loud += ("Page.javascriptDialogOpening",)
        requests = [e for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [e for e in self.events if e["method"] in loud] + requests[1:]

    def close(self):
        os.close(self._out)  # upon which it ends
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


UNIT = "1.3c"
PAGES = {"score": ["score"], "inspect": ["inspect", "--unit", UNIT]}
CHARACTERS = "[...document.querySelectorAll('pre i')]"


@pytest.fixture(params=PAGES)
def page(request, invoke, tmp_path):
    """A function that writes a page about a text with a model and returns its path."""

    def write(model, data):
        (tmp_path / "text").write_bytes(data)
        path = tmp_path / f"{request.param}.html"
        arguments = [*PAGES[request.param], "-m", model, "--html", path, tmp_path / "text"]
        result = invoke(*arguments)
        assert (result.exit_code, result.output) == (0, "")
        return path

    write.kind = request.param
    return write


SCRIPT = """
function middle(i) {
  i.scrollIntoView({block: 'center'})
  const r = i.getClientRects()[0]
  return [r.x + r.width / 2, r.y + r.height / 2]
}
function tip(i) {
  const style = getComputedStyle(i, '::after')
  return [style.content, style.position, style.bottom, style.visibility]
}
function covered(i) {  // whether the tip is above all that stands at the bottom
  const rule = 'pre i:hover::after { pointer-events: auto !important }'
  document.styleSheets[0].insertRule(rule)
  let tops = []
  for (let x = 5; x < document.body.clientWidth; x += 3)
    for (let y = innerHeight - 30; y < innerHeight; y += 3)
      tops.push(document.elementFromPoint(x, y))
  document.styleSheets[0].deleteRule(0)
  return tops.every(top => top === i)
}
"""


def titles(kind, model_file, text):
    """What the beginning of each character's title must be."""
    model = charrnn.load(model_file)
    ids = model.vocabulary.encode(text)
    if kind == "inspect":
        return [f"{v:.4f}" for v in values(model.model, ids, HiddenUnit(0, 1, 2))]
    logits, _ = forward(model.model, ids[:-1, None], model.model.zero_state(1))
    p = np.exp(logits[:, 0] - logits.max(axis=2))
    p /= p.sum(axis=1, keepdims=True)
    nats = -np.log(p[np.arange(len(p)), ids[1:]])
    names = [shades.escape_character(model.vocabulary.characters[i]) for i in p.argmax(axis=1)]
    return ["not predicted"] + [
        f"{n:.2f} nats ({math.exp(-n):.1%}); expected: \u201c{name}\u201d {top:.1%}"
        for n, name, top in zip(nats, names, p.max(axis=1), strict=True)
    ]


def test_the_text_is_shown_and_copied_as_it_is(browser, page, model_file, text):
    browser.open(page(model_file, text.encode()))
    assert browser.complaints() == []
    assert browser.value(f"{CHARACTERS}.map(i => i.textContent).join('')") == text
    assert browser.value("document.scripts.length + document.images.length") == 0
    assert browser.value("document.characterSet") == "UTF-8"
    assert browser.value("document.compatMode") == "CSS1Compat"
    copied = browser.value(
        "getSelection().selectAllChildren(document.querySelector('pre')), getSelection().toString()"
    )
    assert copied.strip("\n") == text.strip("\n")


def test_under_the_mouse_a_character_tells_what_is_known_of_it(browser, page, model_file, text):
    browser.open(page(model_file, text.encode()))
    browser.value(SCRIPT)
    expected = titles(page.kind, model_file, text)
    for k in 0, 1, 14, 37, 38, 120, 3000:
        x, y = browser.value(f"middle({CHARACTERS}[{k}])")
        browser("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        assert browser.value(f"{CHARACTERS}.findIndex(i => i.matches(':hover'))") == k
        content, *place = browser.value(f"tip({CHARACTERS}[{k}])")
        assert json.loads(content).startswith(expected[k])
        assert place == ["fixed", "0px", "visible"]
        assert browser.value(f"covered({CHARACTERS}[{k}])") is True
        assert browser.value(f"tip({CHARACTERS}[{k ^ 2}])")[0] == "none"


COLORS = """
(() => {
  const probe = document.createElement('p');
  probe.style.background = 'Canvas';
  document.body.append(probe);
  const canvas = getComputedStyle(probe).backgroundColor;
  const colors = e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor];
  const found = [...document.querySelectorAll('h1, p, pre, i')].map(colors);
  return found.map(([a, b]) => [a, b == 'rgba(0, 0, 0, 0)' ? canvas : b]);
})()
"""


def luminance(color):
    """Relative luminance as of WCAG 2."""
    parts = [int(n) / 255 for n in re.findall(r"\d+", color)]
    assert len(parts) == 3, color
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_is_legible_in_light_and_dark(browser, page, model_file, text, scheme):
    browser.open(page(model_file, text.encode()), scheme)
    colors = set(map(tuple, browser.value(COLORS)))
    assert len(colors) >= (6 if page.kind == "score" else 10)
    plain = browser.value("getComputedStyle(document.body).color")
    assert luminance(plain) == (0 if scheme == "light" else 1)
    backgrounds = [luminance(background) for _, background in colors]
    assert max(backgrounds) < 0.2 if scheme == "dark" else min(backgrounds) > 0.2
    for pair in colors:
        dark, light = sorted(map(luminance, pair))
        assert (light + 0.05) / (dark + 0.05) >= 4.5, pair


def test_a_hostile_text_is_text(browser, page, bytes_model_file):
    browser.open(page(bytes_model_file, HOSTILE.encode()))
    shown = "".join(c if c == "\n" else shades.escape_character(c) for c in HOSTILE)
    assert browser.value(f"{CHARACTERS}.map(i => i.textContent).join('')") == shown
    assert browser.value("document.querySelectorAll('script, img, pre pre, i i').length") == 0
    assert browser.complaints() == []
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066]", shown)


def test_a_long_line_stays_within_the_window(browser, page, bytes_model_file):
    line = "Grüße aus 東京, ça va? <b>\u202e" * 2_000 + "Grüße" * 10_000
    assert len(line) >= 100_000
    browser.open(page(bytes_model_file, line.encode()))
    shown = "".join(map(shades.escape_character, line))
    assert browser.value(f"{CHARACTERS}.map(i => i.textContent).join('')") == shown
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    assert browser.complaints() == []


def test_the_browser_does_complain(browser, tmp_path):
    """What the other tests rely on: complaints are heard."""
    policy = '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'">'
    for body in "<script>alert(1)</script>", "<img src=http://localhost:9/x>":
        (tmp_path / "bad.html").write_text(f"<!DOCTYPE html>{policy}{body}")
        browser.open(tmp_path / "bad.html")
        assert browser.complaints()
