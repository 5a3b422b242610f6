"""Pages as tests read them without a browser: elements, links, colours; and one that is served."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Self

from mobisim.pages.explorer import Explorer
from mobisim.pages.serve import address, listen, server

VOID = {"meta", "img", "input", "link", "br", "hr", "wbr"}


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
    """What axe-core would not find (test_browser.py has it look for the rest)."""
    return [*_tables(page), *_links(page)]


def _tables(page: Webpage) -> Iterator[str]:
    for table in page.find("table"):
        if not any(child.tag == "caption" and child.words.strip() for child in table.children):
            yield "a table without caption"
    for one in page.find("th"):
        if one.attributes.get("scope") not in {"row", "col"}:
            yield "a header cell without scope"


def _links(page: Webpage) -> Iterator[str]:
    ids = [one.attributes["id"] for one in page.root.all() if "id" in one.attributes]
    yield from (f"the id {one} stands twice" for one in set(ids) if ids.count(one) > 1)
    for one in page.root.all():
        href = one.attributes.get("href", "")
        if href.startswith("#") and href[1:] not in ids:
            yield f"a link to nowhere: {href}"


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


@contextmanager
def served(explorer: Explorer) -> Iterator[str]:
    """The address at which a scenario is explored, meanwhile."""
    with listen(0) as listening:
        serving = server(explorer)
        thread = threading.Thread(target=serving.run, kwargs={"sockets": [listening]})
        thread.start()
        until = time.monotonic() + 20
        while not serving.started and time.monotonic() < until:
            time.sleep(0.02)
        yield address(listening)
        serving.should_exit = True
        thread.join(20)
