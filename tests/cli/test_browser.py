"""The HTML pages in a real browser: their text, their tips under the mouse, their colors."""

import json
import math
import re

import numpy as np
import pytest
from helpers.browser import CHROMIUM, Browser
from helpers.logits import text_logits

import charrnn
from charrnn.cli.render.characters import escape_character
from charrnn.evaluation.activations import HiddenUnit, values

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>&lt;\n"
    "\x00\x07\x08\x0c\x1b[31mred\x1b]0;title\x07\x7f\x85\x9b\r\n"
    "\u202eright to left\u202c\u2066\u200f\u2028\u2029\ufeff\n"
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 e\u0301 \U0010ffff \U00020000\n"
    "</pre></i>\"'--><!-- ]]> \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \t tab\n\n\n  end"
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found")


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
    """A function (model, data) that writes the page of a text and returns its path."""

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
function covered(i) {  // whether the tip covers everything at the bottom of the window
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
    """How the title of each character must begin."""
    model = charrnn.load(model_file)
    ids = model.vocabulary.encode(text)
    if kind == "inspect":
        return [f"{v:.4f}" for v in values(model.model, ids, HiddenUnit(0, 1, 2))]
    p = np.exp(text_logits(model.model, ids))
    p /= p.sum(axis=1, keepdims=True)
    nats = -np.log(p[np.arange(len(p)), ids])
    names = [escape_character(model.vocabulary.characters[i]) for i in p.argmax(axis=1)]
    return [
        f"{n:.2f} nats ({math.exp(-n):.1%}); expected: \u201c{name}\u201d {top:.1%}"
        for n, name, top in zip(nats, names, p.max(axis=1), strict=True)
    ]


def test_page_shows_the_text_and_copies_it_unchanged(browser, page, model_file, text):
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


def test_page_shows_the_title_of_the_character_under_the_mouse(browser, page, model_file, text):
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
    """The relative luminance that WCAG 2 defines."""
    parts = [int(n) / 255 for n in re.findall(r"\d+", color)]
    assert len(parts) == 3, color
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_has_legible_contrast_in_light_and_dark(browser, page, model_file, text, scheme):
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


def test_page_shows_hostile_text_as_text(browser, page, bytes_model_file):
    browser.open(page(bytes_model_file, HOSTILE.encode()))
    shown = "".join(c if c == "\n" else escape_character(c) for c in HOSTILE)
    assert browser.value(f"{CHARACTERS}.map(i => i.textContent).join('')") == shown
    assert browser.value("document.querySelectorAll('script, img, pre pre, i i').length") == 0
    assert browser.complaints() == []
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066]", shown)


def test_page_wraps_long_lines(browser, page, bytes_model_file):
    line = "Grüße aus 東京, ça va? <b>\u202e" * 2_000 + "Grüße" * 10_000
    assert len(line) >= 100_000
    browser.open(page(bytes_model_file, line.encode()))
    shown = "".join(map(escape_character, line))
    assert browser.value(f"{CHARACTERS}.map(i => i.textContent).join('')") == shown
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    assert browser.complaints() == []


def test_browser_reports_complaints(browser, tmp_path):
    """A test of the tests: pages with a script and a request do cause complaints."""
    policy = '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'">'
    for body in "<script>alert(1)</script>", "<img src=http://localhost:9/x>":
        (tmp_path / "bad.html").write_text(f"<!DOCTYPE html>{policy}{body}")
        browser.open(tmp_path / "bad.html")
        assert browser.complaints()


# --- exported pages


def wait_until(browser, expression):
    script = f"""new Promise(done => {{
      const id = setInterval(() => {{ if ({expression}) {{ clearInterval(id); done(1) }} }}, 20)
    }})"""
    browser("Runtime.evaluate", expression=script, awaitPromise=True)


def complaints(browser):
    """What the page complains of, and its requests, but for its own worker."""
    urls = [e["params"].get("request", {}).get("url", "") for e in browser.complaints()]
    found = zip(browser.complaints(), urls, strict=True)
    return [event for event, url in found if not url.startswith("blob:")]


def write_text(browser, **fields):
    """Fill in the form of the page and press "Write"."""
    for name, value in fields.items():
        browser.value(f"$({json.dumps(name)}).value = {json.dumps(str(value))}")
    browser.value("$('write').click()")


@pytest.fixture
def exported(invoke, model_file, tmp_path):
    """The page of the model, and the model."""
    path = tmp_path / "page.html"
    assert invoke("export", "-m", model_file, "-o", path, "--exact").exit_code == 0
    return path, charrnn.load(model_file)


def test_an_exported_page_writes_what_the_model_does(browser, exported):
    path, model = exported
    browser.open(path)
    write_text(browser, prime="MARA", length=80, temperature=0)
    wait_until(browser, "$('status').textContent === 'Done.'")
    expected = "MARA" + model.sample(80, prime="MARA", temperature=0)
    assert browser.value("$('text').textContent") == expected
    assert complaints(browser) == []


def test_a_seed_gives_the_same_text_again_and_another_none(browser, exported):
    browser.open(exported[0])
    texts = []
    for seed in 7, 7, 8, "":
        write_text(browser, length=60, temperature=1, seed=seed)
        wait_until(browser, "$('status').textContent === 'Done.'")
        texts.append(browser.value("$('text').textContent"))
    assert texts[0] == texts[1] and len(set(texts)) == 3
    assert browser.value("$('used').textContent").isdigit()


def test_a_text_that_is_stopped_grows_no_more(browser, exported):
    browser.open(exported[0])
    write_text(browser, length=1_000_000)
    wait_until(browser, "$('text').textContent.length > 200")
    browser.value("$('stop').click()")
    length = browser.value("$('text').textContent.length")
    wait_until(browser, "!$('write').disabled")
    browser(
        "Runtime.evaluate", expression="new Promise(r => setTimeout(r, 200))", awaitPromise=True
    )
    assert browser.value("$('text').textContent.length") == length < 1_000_000
    write_text(browser, length=20)
    wait_until(browser, "$('status').textContent === 'Done.'")
    assert browser.value("$('text').textContent.length") == 20


def test_surprises_are_shaded_on_demand_in_both_schemes(browser, exported):
    color = "getComputedStyle($('text').querySelector('span')).backgroundColor"
    for scheme in "light", "dark":
        browser.open(exported[0], scheme)
        write_text(browser, length=40, temperature=2, seed=1)
        wait_until(browser, "$('status').textContent === 'Done.'")
        assert browser.value(color) == "rgba(0, 0, 0, 0)"
        browser.value("$('shade').click()")
        assert browser.value(color).startswith("rgba(255, 140, 0")
        white = "getComputedStyle(document.documentElement).colorScheme"
        assert browser.value(white) == "light dark"
        background = browser.value(f"matchMedia('(prefers-color-scheme: {scheme})').matches")
        assert background is True
        assert complaints(browser) == []


def test_a_hostile_model_and_title_stay_text(browser, invoke, evil_model_file, tmp_path):
    path = tmp_path / "page.html"
    words = [
        "--title",
        HOSTILE.replace("\x00", ""),
        "--description",
        "<img src=x onerror=alert(1)>",
    ]
    result = invoke("export", "-m", evil_model_file, "-o", path, *words)
    assert result.exit_code == 0, result.stderr
    browser.open(path)
    write_text(browser, length=300, temperature=2, seed=1)
    wait_until(browser, "$('status').textContent === 'Done.'")
    assert browser.value("document.images.length") == 0
    assert "<script>alert(1)</script>" in browser.value("document.title")
    assert browser.value("$('text').querySelectorAll(':not(span)').length") == 0
    assert complaints(browser) == []


def test_the_page_fits_a_narrow_screen(browser, exported):
    browser(
        "Emulation.setDeviceMetricsOverride",
        width=360,
        height=640,
        deviceScaleFactor=2,
        mobile=True,
    )
    browser.open(exported[0])
    write_text(browser, length=100, seed=1)
    wait_until(browser, "$('status').textContent === 'Done.'")
    assert browser.value("document.documentElement.scrollWidth <= innerWidth")
    browser("Emulation.clearDeviceMetricsOverride")
