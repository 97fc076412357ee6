"""Self-contained HTML. All text is escaped here."""

import base64
from collections.abc import Sequence
from html import escape

from prebake.train.report.tiles import Tile, png

__all__ = ["group", "groups", "image", "page", "paragraph", "section", "table"]

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fff; --faint: #6a6f76; --line: #d9dce0; --box: #f4f5f7;
  --accent: #2f74d8; --wrong: #c2402a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e7e9; --paper: #16181b; --faint: #9aa0a8; --line: #34383e; --box: #202328;
    --accent: #5b9bf3; --wrong: #f0745c; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1320px; padding: 16px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 8px 0; }
h2 { font-size: 1.2rem; margin: 40px 0 8px; padding-top: 8px; border-top: 1px solid var(--line); }
p { margin: 6px 0; max-width: 75ch; }
.faint { color: var(--faint); }
.figures { display: flex; flex-wrap: wrap; gap: 10px; margin: 14px 0; }
.figures div { background: var(--box); border-radius: 8px; padding: 8px 14px; }
.figures b { display: block; font-size: 1.25rem; }
.hints { background: var(--box); border-left: 4px solid var(--wrong); border-radius: 4px; padding: 8px 14px; }
.hints.none { border-color: var(--accent); }
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); gap: 12px 28px;
  align-items: start; }
.side > * { min-width: 0; }
.drawing { display: block; width: 100%; max-width: 720px; height: auto; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-view-numeric: tabular-nums; overflow-wrap: normal; }
th, td { text-align: left; padding: 3px 14px 3px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--faint); font-weight: 600; white-space: nowrap; }
td:first-child { min-width: 7em; overflow-wrap: anywhere; }
.facts td { overflow-wrap: anywhere; }
.facts td:first-child { min-width: 9em; color: var(--faint); }
h3 { font-size: 1rem; margin: 14px 0 4px; }
td.share { white-space: nowrap; }
.bar { display: inline-block; width: 4em; height: .6em; margin-right: 6px; background: var(--line); }
.bar i { display: block; height: 100%; background: var(--accent); }
@media (max-width: 560px) {
  table { font-size: .8rem; }
  th { white-space: normal; }
  th, td { padding-right: 6px; }
  td:first-child { min-width: 4.5em; }
  .bar { display: none; }
}
.groups { display: flex; flex-wrap: wrap; gap: 14px 20px; }
figure { margin: 0; max-width: 100%; min-width: 0; }
figcaption { font-size: .85rem; color: var(--faint); }
.tiles { display: grid; gap: 3px; }
.tiles img { display: block; width: 100%; height: auto; image-rendering: pixelated; border-radius: 3px; }
.tiles .wrong img { outline: 2px solid var(--wrong); outline-offset: -2px; }
.tiles span { display: block; font-size: .75rem; line-height: 1.25; white-space: pre-line; color: var(--faint); }
.tiles .wrong span { color: var(--wrong); }
"""
CONTROLS = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\n")}, "\N{REPLACEMENT CHARACTER}")


def page(title: str, parts: Sequence[str]) -> str:
    """Return the whole document; control characters, which HTML does not allow, are replaced."""
    document = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )
    return document.translate(CONTROLS)


def section(title: str, *parts: str) -> str:
    """Return a section with a title."""
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def paragraph(text: str) -> str:
    """Return plain text as a grey paragraph."""
    return f'<p class="faint">{escape(text)}</p>'


def image(data: bytes, alt: str) -> str:
    """Return an embedded PNG with its alternative text."""
    return f'<img class="drawing" alt="{escape(alt)}" src="{_embedded(data)}">'


def group(tiles: Sequence[Tile], columns: int, width: int, caption: str = "", *, captions: bool = False) -> str:
    """Return tiles in columns, each at most `width` pixels wide, and narrower on a small screen.

    With `captions`, the caption of each tile is printed below it; else it is a tooltip.
    """
    cells = "".join(_tile(each, captions=captions) for each in tiles)
    above = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    style = f"grid-template-columns: repeat({columns}, minmax(0, {width}px))"
    return f'<figure>{above}<div class="tiles" style="{style}">{cells}</div></figure>'


def groups(parts: Sequence[str]) -> str:
    """Return groups side by side, as many as fit."""
    return f'<div class="groups">{"".join(parts)}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> str:
    """Return a table, in a box that scrolls if the table is too wide.

    A float is a fraction from 0 to 1 and is shown with a bar; None is shown as a dash.
    """
    heading = "".join(f"<th>{escape(title)}</th>" for title in head)
    cells = ("".join(map(_cell, row)) for row in rows)
    body = "\n".join(f"<tr>{row}</tr>" for row in cells)
    kind = "" if head else ' class="facts"'
    top = f"<thead><tr>{heading}</tr></thead>\n" if head else ""
    return f'<div class="scroll"><table{kind}>\n{top}<tbody>\n{body}\n</tbody></table></div>'


def _tile(each: Tile, *, captions: bool) -> str:
    kind = ' class="wrong"' if each.wrong else ""
    caption = escape(each.caption)
    below = f"<span>{caption}</span>" if captions else ""
    return f'<div{kind}><img alt="{caption}" title="{caption}" src="{_embedded(png(each.picture))}">{below}</div>'


def _cell(cell: str | float | None) -> str:
    if cell is None:
        return "<td>-</td>"
    if isinstance(cell, float):
        bar = f'<span class="bar"><i style="width: {100 * cell:.1f}%"></i></span>'
        return f'<td class="share">{bar}{100 * cell:.1f} %</td>'
    return f"<td>{escape(cell)}</td>"


def _embedded(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"
