"""One HTML page with tables, figures and playable samples that needs no other file and no network."""

import base64
import re
from html import escape
from importlib import resources

PIXELS = 144  # a small video is shown enlarged to about this height
LARGEST = 288
MOST_COLUMNS = 8  # a wider table is set closer
SCALE = 1.7  # pixels per point of a figure

HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
{lead}
</header>
<nav aria-label="Contents"><ol>
{contents}
</ol></nav>
<main>
"""


def page(title, lead, sections, pictures, videos=None, left_out=0):
    """The page as text.

    sections: `Section`s; pictures: {picture's name: SVG as bytes}; videos: {class: {variant: [Video]}};
    left_out: how many samples did not fit.
    """
    contents = [(section.name, section.title) for section in sections]
    if videos:
        contents.insert(0, ("videos", "Samples"))
    style = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    items = "\n".join(f'<li><a href="#{escape(name)}">{escape(text)}</a></li>' for name, text in contents)
    parts = [HEAD.format(title=escape(title), style=style, lead=f'<p class="lead">{escape(lead)}</p>', contents=items)]
    if videos:
        parts.append(_videos(videos, left_out))
    parts += [_section(section, pictures) for section in sections]
    parts.append("</main>\n")
    if videos:
        script = resources.files(__package__).joinpath("page.js").read_text(encoding="utf-8")
        parts.append(f"<script>\n{script}</script>\n")
    return "".join([*parts, "</body>\n</html>\n"])


def _section(section, pictures):
    parts = [f'<section id="{escape(section.name)}">\n<h2>{escape(section.title)}</h2>\n']
    if section.text:
        parts.append(f"<p>{escape(section.text)}</p>\n")
    first, *others = section.tables
    parts.append(_table(first, heading=first.title != section.title))
    for picture in section.pictures:
        parts.append(_image(pictures[picture.name], picture.caption))
    parts += [_table(table) for table in others]
    return "".join([*parts, "</section>\n"])


def _table(table, heading=True):
    kind = "published" if table.published else "ours"
    parts = [f'<div class="table {kind}">\n']
    if heading:
        parts.append(f"<h3>{escape(table.title)}</h3>\n")
    if table.rows:
        heads = "".join(f'<th scope="col" class="word">{escape(name)}</th>' for name in table.heads)
        heads += "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
        wide = ' class="wide"' if len(table.heads) + len(table.columns) > MOST_COLUMNS else ""
        parts.append(f'<div class="scroll" tabindex="0"><table{wide}>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n')
        for row in table.rows:
            first, *rest = row.heads
            cells = f'<th scope="row">{escape(first)}</th>'
            cells += "".join(f'<td class="word">{escape(text)}</td>' for text in rest)
            parts.append(f"<tr>{cells}{''.join(map(_cell, row.cells))}</tr>\n")
        parts.append("</tbody></table></div>\n")
    if table.notes:
        items = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
        parts.append(f'<ol class="notes">{items}</ol>\n')
    parts += [f'<p class="remark">{escape(remark)}</p>\n' for remark in table.remarks]
    parts.append(f'<p class="origin">{escape(table.origin)}</p>\n')
    if table.sources:
        parts.append(_sources(table.sources))
    return "".join([*parts, "</div>\n"])


def _cell(cell):
    marks = f"<sup>{','.join(map(str, cell.marks))}</sup>" if cell.marks else ""
    interval = f'<span class="interval">{escape(cell.interval)}</span>' if cell.interval else ""
    return f"<td>{escape(cell.text)}{marks}{interval}</td>"


def _sources(records):
    rows = "".join(
        f"<li><code>{escape(item.name)}</code> <code>{escape(item.record.command)}</code></li>\n" for item in records
    )
    return f"<details><summary>Records and commands ({len(records)})</summary><ul>\n{rows}</ul></details>\n"


def _videos(grid, left_out):
    cards = []
    for label, row in grid.items():
        clips = "".join(_video(video, variant) for variant, own in row.items() for video in own)
        cards.append(f'<div class="card"><h3>{escape(label)}</h3><div class="clips">{clips}</div></div>\n')
    note = f" {left_out} more did not fit into the page's limit of size." if left_out else ""
    return (
        '<section id="videos">\n<h2>Samples</h2>\n<p>The first clips of every class by name, not chosen by hand; '
        f'encoded again for this page.{note} <button type="button" id="pause" hidden>Pause all</button></p>\n'
        f'<div class="cards">\n{"".join(cards)}</div>\n</section>\n'
    )


def _video(video, variant):
    frames, height, width = video.size
    scale = max(1, round(PIXELS / height)) if height < LARGEST else LARGEST / height
    data = base64.b64encode(video.data).decode("ascii")
    name = f"{escape(variant)}, {escape(video.name)}"
    return (
        f'<figure class="clip"><video src="data:video/mp4;base64,{data}" width="{round(width * scale)}" '
        f'height="{round(height * scale)}" muted loop autoplay playsinline title="{name}" '
        f'aria-label="{name}, {frames} frames"></video><figcaption>{escape(variant)}</figcaption></figure>'
    )


def _image(svg, caption):
    """The figure in a size at which its text is as large as the tables'."""
    width, height = (
        float(re.search(rb'<svg[^>]* %s="([\d.]+)pt"' % side, svg)[1]) * SCALE for side in (b"width", b"height")
    )
    data = base64.b64encode(svg).decode("ascii")
    return (
        f'<figure><img src="data:image/svg+xml;base64,{data}" width="{width:.0f}" height="{height:.0f}" '
        f'alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>\n'
    )
