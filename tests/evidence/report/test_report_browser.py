"""The report in a real browser: a probe page looks into a frame of it, served from this machine, and writes what it
sees into its own text. The report itself holds no script."""

import functools
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ntkrun.evidence.figures.draw import draw_all
from ntkrun.evidence.figures.saving import saved
from ntkrun.evidence.regression.check import CAPTION
from ntkrun.evidence.report.html import html
from ntkrun.evidence.report.page import Page
from tests.evidence.report.pages import HOSTILE, claim, section
from tests.evidence.synthetic import tables

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]
THEMES = {"light": (), "dark": ("--blink-settings=preferredColorScheme=0", "--force-dark-mode")}
PROBE = """<!DOCTYPE html><title>probe</title>
<iframe style="width: WIDTHpx; height: 800px; border: 0" src="report.html">
</iframe><pre></pre><script>
const channels = text => text.match(/[\\d.]+/g).map(Number);
const linear = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
const ground = (view, e) => {  // the first opaque colour behind an element
  for (; e; e = e.parentElement) {
    const found = channels(view.getComputedStyle(e).backgroundColor);
    if (found.length === 3 || found[3] === 1) return found;
  }
};
const contrast = (view, e) => {
  const [a, b] = [channels(view.getComputedStyle(e).color), ground(view, e)].map(luminance).sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
};
addEventListener("load", () => {
  const view = document.querySelector("iframe").contentWindow, page = view.document;
  const all = [...page.body.querySelectorAll("*")], words = all.filter(e => !e.closest("svg") &&
    [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()));
  page.querySelectorAll("details").forEach(e => e.open = true);
  const figures = [...page.querySelectorAll("figure svg")];
  document.querySelector("pre").textContent = "<<<" + JSON.stringify({
    ground: ground(view, page.body),
    width: page.documentElement.clientWidth,
    scroll: page.documentElement.scrollWidth,
    loaded: view.performance.getEntriesByType("resource").map(e => e.name),
    broken: [...page.querySelectorAll("a")].map(a => a.hash).filter(hash => !page.getElementById(hash.slice(1))),
    figures: figures.map(e => e.getBoundingClientRect()).map(r => [r.width, r.height]),
    drawn: figures.map(e => [...e.querySelectorAll("path, use")].filter(p => p.getBBox().width > 0).length),
    alts: figures.map(e => e.getAttribute("aria-label")),
    faint: words.filter(e => contrast(view, e) < 4.5).map(e => e.className + e.textContent.slice(0, 40)),
    words: words.length,
    shown: page.body.innerText,
  }) + ">>>";
});
</script>"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no browser here: install Chromium to look at the report with it"),
]


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of two sections with real figures, a control, something open, and hostile names."""
    made = tmp_path_factory.mktemp("page")
    captions = {}
    for stem, figure, caption in draw_all(*tables({64: 3, 128: 3, 256: 3}), lambda run_id: None):
        if stem in ("kernel_drift", "loss_time"):
            (made / f"{stem}.svg").write_bytes(saved(figure, ("svg",))["svg"])
            captions[stem] = caption
    svg = (made / "kernel_drift.svg").read_text()
    undecided = claim(verdict="inconclusive", as_expected=False, why="needs 40 seeds", settings={"network.x": HOSTILE})
    control = claim(verdict="refuted", expect="refuted")
    config = {"network": {"activation": HOSTILE, "depth": 4}, "expect": "diverged", "long": "x" * 400}
    sections = (
        section(config, svg=svg, figures=captions, claims=[claim(), undecided]),
        section(config, svg=svg, name=HOSTILE, statement=CAPTION, claims=[control, claim(as_expected=False)]),
    )
    (made / "report.html").write_text(html(Page(sections)))
    return made


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _browser(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)


def _seen(folder: Path, address: str, tmp_path: Path, width: int, theme: str = "light") -> dict[str, Any]:
    name = f"probe-{width}.html"
    (folder / name).write_text(PROBE.replace("WIDTH", str(width)))
    window = f"--window-size={max(width + 20, 600)},900"
    done = _browser(tmp_path, *THEMES[theme], window, "--virtual-time-budget=20000", "--dump-dom", f"{address}/{name}")
    text = re.search(r"&lt;&lt;&lt;(.*)&gt;&gt;&gt;", done.stdout, re.S)
    assert text, done.stdout[-2000:] + done.stderr[-2000:]
    return dict(json.loads(text.group(1).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")))


@pytest.mark.parametrize("width", [1280, 375])
def test_the_page_stands_by_itself_at_every_width(folder: Path, address: str, tmp_path: Path, width: int) -> None:
    seen = _seen(folder, address, tmp_path, width)
    assert (seen["width"], seen["scroll"]) == (width, width)  # no horizontal scrolling of the page
    assert seen["loaded"] == []  # the data: icon is no request
    assert seen["broken"] == []
    assert len(seen["figures"]) == 3
    for across, down in seen["figures"]:
        assert min(across, down) > 150, seen["figures"]
    assert min(seen["drawn"]) > 30
    assert all(": " in alt and len(alt) > 30 for alt in seen["alts"])
    assert HOSTILE in seen["shown"]  # as text
    assert "refuted, as expected" in seen["shown"]


@pytest.mark.parametrize("theme", THEMES)
def test_every_word_has_contrast_enough(folder: Path, address: str, tmp_path: Path, theme: str) -> None:
    """4.5, the WCAG's AA for text, between what the browser computed and the first opaque ground behind."""
    seen = _seen(folder, address, tmp_path, 1280, theme)
    assert (sum(seen["ground"][:3]) > 3 * 128) == (theme == "light")
    assert seen["words"] > 50
    assert seen["faint"] == []


def test_paper_has_what_the_screen_folds_away(tmp_path: Path) -> None:
    """A config of 1500 lines lies folded on the screen; on paper it stands in three columns of some hundred lines."""
    short, long = ({"data": {f"key_{k}": k for k in range(count)}} for count in (1, 1500))
    assert 3 <= _pages(long, tmp_path) - _pages(short, tmp_path) <= 8


def _pages(config: dict[str, Any], tmp_path: Path) -> int:
    """Pages of the report on paper."""
    page, paper = tmp_path / "report.html", tmp_path / "report.pdf"
    page.write_text(html(Page((section(config),))))
    _browser(tmp_path, "--no-pdf-header-footer", f"--print-to-pdf={paper}", page.as_uri())
    return len(re.findall(rb"/Type\s*/Page\b", paper.read_bytes()))


def test_the_console_is_clean(folder: Path, tmp_path: Path) -> None:
    done = _browser(tmp_path, "--enable-logging=stderr", "--dump-dom", (folder / "report.html").as_uri())
    assert "CONSOLE" not in done.stderr
    assert "<h1>Results" in done.stdout
