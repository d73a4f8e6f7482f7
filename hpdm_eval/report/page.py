"""One HTML page with tables, figures and playable samples that needs no other file and no network (page.html)."""

import base64
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from hpdm_eval.report.model import Section
from hpdm_eval.report.videos import Grid, Video

if TYPE_CHECKING:
    import jinja2

PIXELS = 144  # a small video is shown enlarged to about this height
LARGEST = 288
MOST_COLUMNS = 8  # a wider table is set closer
SCALE = 1.7  # pixels per point of a figure: its text becomes as large as the tables'


def page(
    title: str,
    lead: str,
    sections: Sequence[Section],
    pictures: Mapping[str, bytes],
    videos: Grid | None = None,
    left_out: int = 0,
) -> str:
    """The page as text; everything in it but the project's own style and script is escaped.

    sections: `Section`s; pictures: {picture's name: SVG as bytes}; videos: {class: {variant: [Video]}};
    left_out: how many samples did not fit.
    """
    return _template().render(
        title=title,
        lead=lead,
        sections=sections,
        pictures=pictures,
        videos=videos,
        left_out=left_out,
        most_columns=MOST_COLUMNS,
        style=_read("page.css"),
        script=_read("page.js"),
    )


@cache
def _template() -> "jinja2.Template":
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"data_url": data_url, "shown_size": shown_size, "figure_size": figure_size}
    return environment.from_string(_read("page.html"))


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def data_url(data: bytes, kind: str) -> str:
    """A file of a MIME type as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def shown_size(video: Video) -> tuple[int, int]:
    """(width, height) in pixels at which a video is shown."""
    _, height, width = video.size
    scale = max(1, round(PIXELS / height)) if height < LARGEST else LARGEST / height
    return round(width * scale), round(height * scale)


def figure_size(svg: bytes) -> tuple[str, str]:
    """(width, height) in pixels at which the text of a figure is as large as that of the tables."""
    width, height = (re.search(rb'<svg[^>]* %s="([\d.]+)pt"' % side, svg) for side in (b"width", b"height"))
    if width is None or height is None:
        raise ValueError("an SVG without a size in points")
    return f"{float(width[1]) * SCALE:.0f}", f"{float(height[1]) * SCALE:.0f}"
