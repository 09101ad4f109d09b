"""Links of README, CONTRIBUTING, CHANGELOG and docs lead to files and headings that there are."""

import re

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *ROOT.glob("*.md"),
    *(path for path in ROOT.glob("docs/**/*.md") if "_build" not in path.parts),
]
# Of Markdown, without titles; of HTML.
LINK = re.compile(r"\]\(<?([^)\s>]+)>?[^)]*\)|(?:href|src)=\"([^\"]+)\"")


def prose(path):
    """Return a page without its code."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"^( *)(`{3,})(?!\{(?:figure|image)).*?^\1\2$", "", text, flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", "`code`", text)


def anchors(path):
    """Return the anchors of a page, as GitHub and MyST make them of its headings, and targets."""
    text = re.sub(r"^( *)(`{3,}).*?^\1\2$", "", path.read_text("utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ +(.+?) *#*$", text, flags=re.M)
    slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return {*slugs, *targets(text)}


def targets(text):
    """Return the names that a page gives to places of its own, which MyST knows on all pages."""
    return re.findall(r"^\(([\w-]+)\)=$", text, flags=re.M)


KNOWN = {
    name for page in PAGES if "docs" in page.parts for name in targets(page.read_text("utf-8"))
}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    broken = []
    for link in (first or second for first, second in LINK.findall(prose(path))):
        if re.match(r"[a-z]+:", link) or (path in PAGES and link.removeprefix("#") in KNOWN):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        # A page may be written without its ending, as Sphinx takes it.
        if not target.exists() and target.with_name(target.name + ".md").exists():
            target = target.with_name(target.name + ".md")
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_broken_ones_are_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A heading, with a comma\n\n[a](#a-heading-with-a-comma) [b](#no) [c](no.md)")
    assert anchors(page) == {"a-heading-with-a-comma"}
    with pytest.raises(AssertionError, match=r"\['#no', 'no.md'\]"):
        test_links_lead_somewhere(page)
