"""What the site needs beyond mkdocs: links into the source, and nothing fetched from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

from mkdocs.exceptions import PluginError

# On the web these would lead nowhere: the pages are read beside the source as well.
_SOURCE_LINK = re.compile(r"\[`?([^\]`]+)`?\]\((?:\.\./)+([^)]+)\)")
_LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
_HARMLESS = {"canonical", "prev", "next", "alternate"}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Name files of the source instead of linking to them."""
    return _SOURCE_LINK.sub(lambda link: f"`{link.group(2)}`", markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Refuse a page that would load anything from another host."""
    finder = _External()
    finder.feed(output)
    if finder.found:
        raise PluginError(f"{page.file.src_uri} loads from elsewhere: {', '.join(finder.found)}")
    return output


class _External(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        address = values.get(_LOADS.get(tag, ""), "") or ""
        if tag == "link" and values.get("rel") in _HARMLESS:
            return
        if re.match(r"(https?:)?//", address):
            self.found.append(address)
