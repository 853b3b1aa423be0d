"""The report as plain data and in its three forms: what stands in it, what is escaped, and that nothing leads out."""

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ntkrun.errors import UserError
from ntkrun.evidence.claims.table import CLAIMS
from ntkrun.evidence.report.gather import document
from ntkrun.evidence.report.html import html, inlined
from ntkrun.evidence.report.markdown import markdown
from ntkrun.evidence.report.page import Page, in_short
from ntkrun.text import json_text
from tests.evidence.report.pages import HOSTILE, SVG, claim, page, part, section

VOID = {"meta", "link", "br"}


class _Elements(HTMLParser):
    """Every element with its attributes; text by element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []  # every element that began has ended

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def values(self, name: str) -> list[str]:
        return [value for _, attributes in self.found if (value := attributes.get(name)) is not None]


def test_the_page_has_verdict_numbers_picture_and_how_it_was_made() -> None:
    text = html(page(section(config={"network": {"depth": 4}, "sweep": [{"grid": {"network.width": [64, 128]}}]})))
    for words in (
        "1 verdict: 1 supported",
        "✓</span> supported",
        "-1.00 [-1.10, -0.90]",
        "[-1.20, -0.80]",
        "The kernel stands still.",
        "[L] figure 1",
        "The drift against width. Dots: seeds.",
        "-0.81",
        "[-0.9, -0.7]",
        "4 runs, 4 done, 1.5 minutes",
        "L = 4; width 64 128",
        "depth: 4",
        "torch 2.13.0",
        "every planned run has ended",
    ):
        assert words in text, words


@pytest.mark.parametrize(
    ("diverged", "count", "said"),
    [(3, "1 as expected where", "3 diverged (as expected)"), (0, "1 not as expected", "none diverged")],
)
def test_a_sweep_that_has_to_diverge_is_counted(diverged: int, count: str, said: str) -> None:
    swept = section().sweeps[0].swept.model_dump() | {"diverged": diverged}
    shown = page(section({"expect": "diverged"}, claims=[], sweeps={"one": swept}))
    assert count in shown.summary
    for text in (html(shown), markdown(shown)):
        assert count in text
    assert said in html(shown)
    assert ("Unexpected results" in html(shown)) == (diverged == 0)


def test_every_anchor_leads_somewhere_and_no_two_names_are_alike() -> None:
    """Two sections of one name, with one figure: matplotlib's ids are the same in every figure."""
    elements = _Elements(html(page(section(), section(), section(name="λ"))))
    names = elements.values("id")
    assert len(names) == len(set(names))
    targets = [href[1:] for href in elements.values("href") if href.startswith("#")]
    assert len(targets) > 10
    assert set(targets) <= set(names)
    clipped = re.findall(r"url\(#([^)]*)\)", " ".join(elements.values("clip-path")))
    assert len(clipped) == 3
    assert set(clipped) <= set(names)


@pytest.mark.parametrize("place", ["name", "statement", "references", "departures", "preset"])
def test_text_of_experiments_is_escaped(place: str) -> None:
    _no_markup(page(section(**{place: HOSTILE})))


def test_text_of_configs_claims_and_data_is_escaped() -> None:
    settings = {f"network.{HOSTILE}": HOSTILE}
    broken = claim(name=HOSTILE, part=HOSTILE, settings=settings, why=HOSTILE, sweep=HOSTILE, verdict="inconclusive")
    broken["as_expected"] = False
    row = {"what": HOSTILE, "ours": 1.0, "interval": None, "paper": 1.0, "theory": None, "note": HOSTILE}
    config = {"name": HOSTILE, "network": {"activation": HOSTILE}, "sweep": {"grid": {HOSTILE: [HOSTILE]}}}
    swept = section().sweeps[0].swept.model_dump() | {"made_by": {"versions": {HOSTILE: HOSTILE}, "cpu": HOSTILE}}
    _no_markup(
        page(section(config, claims=[broken], rows=[row], sweeps={HOSTILE: swept}, figures={"kernel_drift": HOSTILE}))
    )


def _no_markup(hostile: Page) -> None:
    text = html(hostile)
    elements = _Elements(text)
    assert "script" not in {tag for tag, _ in elements.found}
    assert not [href for href in elements.values("href") if not href.startswith(("#", "data:"))]
    assert "&lt;script&gt;" in text
    for beside in (None, Path("results")):
        summary = markdown(hostile, beside)
        assert "<script>" not in summary
        assert "](http" not in summary
        for table in re.findall(r"(?:^\|.*\n)+", summary, re.M):  # a cell stays one cell
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert "script" in json_text(document(hostile))


def test_nothing_is_loaded_from_outside() -> None:
    elements = _Elements(html(page()))
    assert not {"script", "img", "iframe", "object"} & {tag for tag, _ in elements.found}
    assert elements.values("src") == []
    (policy,) = [dict(a)["content"] for tag, a in elements.found if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_a_stored_figure_is_nothing_but_shapes() -> None:
    svg = inlined(SVG, "a-", 'drift "of" <w>')
    root = ET.fromstring(svg)
    assert root.get("aria-label") == 'drift "of" <w>'
    assert (root.get("role"), root.get("viewBox")) == ("img", "0 0 245 194")
    assert {element.tag for element in root.iter()} == {"svg", "defs", "path", "clipPath", "rect", "g", "use"}
    assert [element.get("id") for element in root.iter() if element.get("id")] == ["a-glyph", "a-box"]
    (use,) = root.iter("use")
    assert (use.get("href"), use.get("transform")) == ("#a-glyph", "scale(0.015625)")
    first, last = root.iter("path")
    assert first.get("d") == "M 0.12 1 L 2 3.98"
    assert last.get("clip-path") == "url(#a-box)"


@pytest.mark.parametrize(
    "evil",
    [
        "<script>alert(1)</script>",
        "<foreignObject><p>text</p></foreignObject>",
        '<image xlink:href="http://outside.example/a.png"/>',
        '<use xlink:href="http://outside.example/a.svg#b"/>',
        '<a xlink:href="javascript:alert(1)"><path d="M 0 0"/></a>',
        '<path d="M 0 0" style="fill: url(http://outside.example/a)"/>',
        '<path d="M 0 0" style="fill: url( \'http://outside.example/a\')"/>',
        '<path d="M 0 0" onload="alert(1)"/>',
    ],
)
def test_what_is_no_shape_is_left_out(evil: str) -> None:
    svg = inlined(SVG.replace("<g id", f"{evil}<g id"), "a-", "")
    for word in ("outside", "alert", "script", "<p>", "<a "):
        assert word not in svg


@pytest.mark.parametrize("torn", [SVG[:200], "", "<html/>"])
def test_a_torn_figure_is_a_sentence(torn: str) -> None:
    with pytest.raises(UserError, match=r"kernel_drift\.svg: cannot be read as a figure"):
        html(page(section(svg=torn)))


def test_a_control_is_marked_and_counts_as_it_should() -> None:
    failed = claim(verdict="refuted", expect="refuted", why="it lies outside")
    other = claim(verdict="refuted", as_expected=False)
    made = page(section(claims=[failed]), section(claims=[other, claim(verdict="inconclusive", as_expected=False)]))
    assert made.tally == {"supported": 0, "control": 1, "inconclusive": 1, "otherwise": 1}
    assert [part.is_control for part in made.sections] == [True, False]
    text = html(made)
    assert "refuted, as expected" in text
    assert 'id="what-is-open"' in text
    assert 'id="what-turned-out-otherwise"' in text
    assert '<span class="badge">control</span>' in text
    marks = [line.split(" | ")[0] for line in markdown(made).splitlines() if "frozen-kernel" in line]
    assert marks == ["| ✓", "| ✗", "| ?"]


def test_numbers_that_are_none_are_shown_as_none() -> None:
    """JSON has null for nan and for an open end."""
    nothing = part(estimate=None, interval=[None, None], expected=[None, 0.05], fit_range=[None, None], seeds=0)
    made = page(section(claims=[claim(**nothing, parts=[nothing])]))
    (found,) = made.sections[0].claims
    assert (found.measured, found.margin) == ("-", "< 0.05")
    assert '<svg class="bar' not in html(made)
    assert '"estimate": null' in json_text(document(made))
    assert not re.search(r"\bnan\b", html(made))


def test_columns_without_numbers_are_left_out() -> None:
    (table,) = section().tables
    assert table.head == ("quantity", "paper", "ours", "95 % interval")
    assert section(rows=[]).tables == []


def test_every_condition_of_a_claim_says_in_words_what_it_is() -> None:
    for entry in CLAIMS.values():
        for condition in entry.conditions:
            assert condition.__doc__, condition.__name__
            assert "\n" not in condition.__doc__


def test_a_config_in_short_leaves_out_what_it_varies_and_bears_any_shape() -> None:
    config = {
        "data": {"name": "digits", "samples": 64},
        "network": {"activation": "relu", "weight_scale": 2**0.5},
        "sweep": [{"grid": {"network.activation": ["relu", "erf"]}, "seeds": [1, 2]}, {"zip": {}, "seeds": 3}],
    }
    assert in_short(config) == "digits, N = 64, σ_w = 1.414; activation relu erf, 2 seeds; 3 seeds"
    assert in_short({}) == ""
    assert "3" in in_short({"network": 3, "data": [1], "sweep": [3, {"grid": 3, "zip": {"a.b": 3}}]})
