"""Published figures: every one with its source, clip size, sample count, protocol and whether it was pretrained.

One YAML file per table of the paper, and one of its peers in `peers/`. `rows` and `columns` name the keys that span the
table, `common` holds what its
figures share. A figure is as printed: nobody has measured it here.
"""

import re
from dataclasses import MISSING, dataclass, fields
from functools import cache
from importlib import resources

import yaml

from hpdm.support.errors import InputError
from hpdm.support.fields import check_keys

PAPER = (
    "Skorokhodov, Menapace, Siarohin and Tulyakov, Hierarchical Patch Diffusion Models for High-Resolution Video "
    "Generation, CVPR 2024, arXiv 2406.07792"
)
METRICS = ("fvd", "is", "memory", "throughput")
_CLIP = re.compile(r"([1-9]\d*x)?[1-9]\d*x[1-9]\d*")


@dataclass(frozen=True, kw_only=True)
class PublishedFigure:
    """One printed number. `paper` is where it is printed, which for other methods is not where it was measured."""

    method: str
    metric: str  # one of METRICS; memory in GB, throughput in videos/s
    value: float | None  # None with a note that says why there is none
    paper: str
    table: str
    data: str
    protocol: str
    clip: str | None = None  # frames x height x width, or height x width; None where not printed
    samples: int | None = None  # None where not printed, and for what is not measured on samples
    pretrained: bool | None = None  # on data other than that it is judged by; None for figures of efficiency
    trained_with: str | None = None  # networks that judge videos from whose features the model learnt; None: not known
    spread: float | None = None  # printed behind a plus-minus
    device: str | None = None
    variant: str | None = None  # the row of our own study that corresponds
    level: int | None = None  # the pyramid level judged, as in our studies
    note: str | None = None


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """A printed table, or a figure of which only findings can be stated."""

    name: str
    title: str
    table: str
    setting: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    figures: tuple[PublishedFigure, ...]
    findings: tuple[str, ...] = ()

    @property
    def citation(self) -> str:
        papers = {figure.paper for figure in self.figures}
        return f"{self.table} of {PAPER}" if papers <= {PAPER} else "; ".join(sorted(papers))


def published_names() -> list[str]:
    """Names of all tables, sorted."""
    return sorted(
        path.name.removesuffix(".yaml") for path in resources.files(__name__).iterdir() if path.name.endswith(".yaml")
    )


@cache
def load_published(name: str) -> "PublishedTable":
    """The PublishedTable of a name such as table3; raises InputError for other names."""
    if name not in published_names():
        raise InputError(f"no published table {name!r}; there are {', '.join(published_names())}")
    return parse_published(name, resources.files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8"))


@cache
def load_peers() -> "PublishedTable":
    """The PublishedTable of figures that other papers print on UCF-101, each with its own source."""
    text = resources.files(__name__).joinpath("peers", "ucf101.yaml").read_text(encoding="utf-8")
    return parse_published("ucf101-peers", text)


def parse_published(name: str, text: str) -> "PublishedTable":
    """The PublishedTable of a file's text; InputError names keys that are missing or unknown and impossible values."""
    values = yaml.safe_load(text)
    common = values.pop("common", {})
    table = values.get("table")
    values["figures"] = tuple(
        _figure(name, {"paper": PAPER, "table": table, **common, **entry}) for entry in values.get("figures", ())
    )
    for key in ("rows", "columns", "findings"):
        values[key] = tuple(values.get(key, ()))
    made = _checked(PublishedTable, name, {"name": name, **values})
    for key in (*made.rows, *made.columns):
        if key not in {field.name for field in fields(PublishedFigure)}:
            raise InputError(f"{name}: a table cannot be spanned by {key!r}")
    places = [tuple(getattr(figure, key) for key in (*made.rows, *made.columns)) for figure in made.figures]
    if twice := [place for place in places if places.count(place) > 1]:
        raise InputError(f"{name}: two figures for {', '.join(map(str, twice[0]))}")
    return made


def _figure(name, values):
    figure = _checked(PublishedFigure, name, values)
    where = f"{name}, {figure.method}"
    if figure.metric not in METRICS:
        raise InputError(f"{where}: metric {figure.metric!r} is none of {', '.join(METRICS)}")
    if isinstance(figure.value, bool) or not isinstance(figure.value, (int, float, type(None))):
        raise InputError(f"{where}: value {figure.value!r} is not a number")
    if figure.value is None and not figure.note:
        raise InputError(f"{where}: a figure without a value needs a note that says why")
    if figure.clip is not None and not _CLIP.fullmatch(str(figure.clip)):
        raise InputError(f"{where}: clip {figure.clip!r} is not frames x height x width")
    return figure


def _checked(kind, name, values):
    """`kind(**values)`; InputError for keys that it does not know or lacks."""
    needed = [field.name for field in fields(kind) if field.default is MISSING]
    check_keys(values, [field.name for field in fields(kind)], name, needed=needed)
    return kind(**values)
