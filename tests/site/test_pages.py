"""The built pages: links lead somewhere, nothing comes from elsewhere, phones can read them."""

import html.parser
import time

from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

from browser import CHROMIUM, browser

SITE = Path(__file__).parents[2] / "docs" / "_build" / "html"
PAGES = sorted(
    str(page.relative_to(SITE)) for page in SITE.rglob("*.html") if "_static" not in page.parts
)
# One of the many of the reference stands for all of them, which differ in their text only.
WRITTEN = [page for page in PAGES if "generated" not in page]
PHONE, DESK = 390, 1280
# Figures of plotly that are wider than their place.
CUT_OFF = """[...document.querySelectorAll(".plotly-graph-div")].some(
    figure => !figure._fullLayout || figure._fullLayout.width > figure.clientWidth + 1)"""


class Reader(html.parser.HTMLParser):
    """What a page is made of: its anchors, its links, and what a browser fetches with it."""

    def __init__(self):
        super().__init__()
        self.anchors, self.links, self.fetched = set(), [], []

    def handle_starttag(self, tag, attrs):
        """Sort the attributes of a tag."""
        found = dict(attrs)
        self.anchors.update(found[key] for key in ("id", "name") if found.get(key))
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag == "link" and found.get("rel") in {
            "stylesheet",
            "preload",
            "icon",
            "modulepreload",
        }:
            self.fetched.append(found["href"])
        elif found.get("src"):
            self.fetched.append(found["src"])


def _read(name):
    reader = Reader()
    reader.feed((SITE / name).read_text(encoding="utf-8"))
    return reader


@pytest.fixture(scope="module")
def pages():
    """Return every page, read."""
    assert "index.html" in PAGES, "no pages: make docs builds them"
    return {name: _read(name) for name in PAGES}


def test_links_lead_somewhere(pages):
    broken = []
    for name, page in pages.items():
        for link in page.links:
            target, fragment = urldefrag(link)
            if urlsplit(link).scheme:
                continue
            path = (SITE / name).parent / unquote(target) if target else SITE / name
            there = path.resolve()
            if not there.is_file():
                broken.append(f"{name}: {link}")
            elif fragment and there.suffix == ".html":
                anchors = pages[str(there.relative_to(SITE))].anchors
                # "#" alone is the top of a page.
                if unquote(fragment) not in anchors:
                    broken.append(f"{name}: {link}")
    assert not broken


def test_what_pages_need_lies_beside_them(pages):
    missing = []
    for name, page in pages.items():
        for address in page.fetched:
            parts = urlsplit(address)
            if parts.scheme == "data":
                continue
            path = (SITE / name).parent / unquote(parts.path)
            if parts.scheme or parts.netloc or not path.resolve().is_file():
                missing.append(f"{name}: {address}")
    assert not missing


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
def test_a_browser_asks_nobody_else_and_phones_scroll_one_way():
    wide, with_figures = [], []
    with browser(width=PHONE) as page:
        for name in WRITTEN:
            page.open((SITE / name).as_uri())
            page.until("document.readyState === 'complete'")
            time.sleep(0.1)  # scripts may ask later
            if (width := page.ask("document.documentElement.scrollWidth")) > PHONE:
                wide.append(f"{name}: {width} pixels")
            if page.ask("document.querySelector('.plotly-graph-div') !== null"):
                with_figures.append(name)
                page.until(f"!({CUT_OFF})", 20)
        page.size(DESK, 900)
        for name in with_figures:
            page.open((SITE / name).as_uri())
            page.until(f"document.readyState === 'complete' && !({CUT_OFF})", 20)
    asked = [urlsplit(url) for url in page.requests]
    assert {SITE / name for name in WRITTEN} <= {Path(unquote(url.path)) for url in asked}
    assert [url.geturl() for url in asked if url.scheme not in {"file", "data", "blob"}] == []
    assert not wide
    assert with_figures
