"""A page as tests read it: its elements, what a reader without eyes or mouse needs, its colours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Self

VOID = {"meta", "img", "input", "link", "br", "hr"}


@dataclass
class Element:
    """An element, its own text and its parent."""

    tag: str
    attributes: dict[str, str]
    parent: Element | None
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def all(self) -> Iterator[Element]:
        """This and everything below, in the order of the page."""
        yield self
        for child in self.children:
            yield from child.all()

    @property
    def words(self) -> str:
        """All text in it."""
        return self.text + "".join(child.words for child in self.children)


class Webpage(HTMLParser):
    """A parsed page; what is opened and not closed, or closed and not opened, is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {}, None)
        self.at = self.root

    @classmethod
    def of(cls, text: str) -> Self:
        """The page that `text` holds."""
        page = cls()
        page.feed(text)
        page.close()
        assert page.at is page.root, f"{page.at.tag} is never closed"
        return page

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = Element(tag, {name: value or "" for name, value in attrs}, self.at)
        self.at.children.append(found)
        self.at = self.at if tag in VOID else found

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.at.tag == tag, f"</{tag}> closes <{self.at.tag}>"
        assert self.at.parent is not None
        self.at = self.at.parent

    def handle_data(self, data: str) -> None:
        self.at.text += data

    def find(self, *tags: str) -> list[Element]:
        """All elements of some tags, in order."""
        return [one for one in self.root.all() if one.tag in tags]


def problems(page: Webpage) -> list[str]:
    """What hinders those who read the page by ear, or move through it by keyboard."""
    return [*_landmarks(page), *_headings(page), *_names(page), *_ids(page), *_order(page)]


def _landmarks(page: Webpage) -> Iterator[str]:
    (html,) = page.find("html")
    if html.attributes.get("lang") != "en":
        yield "the language is not stated"
    for tag in ("main", "header", "footer", "title", "h1"):
        if len([one for one in page.find(tag) if one.words.strip()]) != 1:
            yield f"not one <{tag}>"


def _headings(page: Webpage) -> Iterator[str]:
    last = 0
    for one in page.find("h1", "h2", "h3", "h4"):
        level = int(one.tag[1])
        if level > last + 1:
            yield f"{one.words!r} skips a level"
        if not one.words.strip():
            yield "an empty heading"
        last = level


def _names(page: Webpage) -> Iterator[str]:
    labelled = {one.attributes.get("for") for one in page.find("label") if one.words.strip()}
    for one in page.find("input", "select", "textarea"):
        if one.attributes.get("id") not in labelled and not one.attributes.get("aria-label"):
            yield f"no label: {one.attributes}"
    for one in page.find("button", "a", "summary", "caption", "legend"):
        if not (one.words.strip() or one.attributes.get("aria-label")):
            yield f"an empty <{one.tag}>"
    yield from ("an image without alt" for i in page.find("img") if not i.attributes.get("alt"))
    yield from ("a table without caption" for t in page.find("table") if not _captioned(t))
    for one in page.find("th"):
        if one.attributes.get("scope") not in {"row", "col"}:
            yield "a header cell without scope"
    for one in page.find("nav", "canvas"):
        if not one.attributes.get("aria-label"):
            yield f"a <{one.tag}> without a name"


def _captioned(table: Element) -> bool:
    return any(child.tag == "caption" for child in table.children)


def _ids(page: Webpage) -> Iterator[str]:
    ids = [one.attributes["id"] for one in page.root.all() if "id" in one.attributes]
    yield from (f"the id {one} stands twice" for one in set(ids) if ids.count(one) > 1)
    for one in page.root.all():
        for name in ("aria-labelledby", "aria-describedby", "for"):
            yield from (f"no {i}" for i in one.attributes.get(name, "").split() if i not in ids)
        href = one.attributes.get("href", "")
        if href.startswith("#") and href[1:] not in ids:
            yield f"a link to nowhere: {href}"


def _order(page: Webpage) -> Iterator[str]:
    for one in page.root.all():
        if int(one.attributes.get("tabindex", "0")) > 0:
            yield f"<{one.tag}> is out of order"


def outside(page: Webpage) -> list[str]:
    """What a page would fetch, or run from its attributes."""
    found = []
    for one in page.root.all():
        for name, value in one.attributes.items():
            if name in {"src", "href", "action", "data", "srcset", "poster", "xlink:href"}:
                found += [] if value.startswith(("data:image/svg+xml;base64,", "#")) else [value]
            if name.startswith("on") or name == "style":
                found.append(name)
        if one.tag == "style":
            found += re.findall(r"@import[^;]*|url\([^)]*\)", one.text)
    return found


def palettes(css: str) -> list[dict[str, str]]:
    """The colours of each scheme of a style sheet, by name."""
    blocks = re.findall(r":root\s*\{([^}]*)\}", css)
    return [dict(re.findall(r"--([a-z]+):\s*(#[0-9a-f]{3,6})", block)) for block in blocks]


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, as WCAG 2 defines it."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    shares = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    return sum(weight * s for weight, s in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
