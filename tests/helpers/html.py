"""Reading a page: what it holds, and whether it is whole."""

import base64
import io
from html.parser import HTMLParser

from PIL import Image

__all__ = ["Page"]

SINGLE_PROCESS = {"meta", "img", "br"}


class Page(HTMLParser):
    """A parsed page.

    Attributes:
        tags: every start tag and its attributes, in order.
        text: all words, in order.
        images: the decoded pictures.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []
        self.text = "\n".join(self._words)
        sources = [attributes["src"] or "" for tag, attributes in self.tags if tag == "img"]
        assert all(source.startswith("data:image/png;base64,") for source in sources)
        self.images = [Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) for source in sources]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in SINGLE_PROCESS:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open and data.strip():
            self._words.append(data.strip())

    def cells(self) -> set[str]:
        """Return the lines of its text."""
        return set(self.text.splitlines())
