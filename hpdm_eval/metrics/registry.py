"""The metrics there are: what each is called, needs and means, and where it is computed.

Built-in metrics are in `builtin`; other packages bring theirs by the decorator `register_metric`, or by an entry point
of the group `hpdm_eval.metrics` that names a module or function which does. Commands, `all`, `compare`, reports and
`hpdm-eval ls metrics` go by this list. Nothing is imported before a metric is computed.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from hpdm.support.errors import InputError

GROUP = "hpdm_eval.metrics"
NEEDS = {
    "features": "features of whole clips, of both sets",
    "probabilities": "class probabilities of a classifier, of the samples alone",
    "frames": "features of single frames, of both sets",
    "clips": "the clips themselves",
    "pairs": "clips and the texts they were made from",
    "tilings": "the clips and the tiling that they were sampled with",
    "levels": "the samples at every level of the pyramid",
}


@dataclass(frozen=True, kw_only=True)
class MetricOption:
    """A setting of one metric alone: a keyword of its function, an option of its command."""

    name: str
    default: Any = None
    kind: Any = None  # type of a value, or a click type by name, see `hpdm_eval.commands.options`; None: the default's
    help: str = ""
    metavar: str | None = None
    flags: tuple[str, ...] = ()  # on the command line; by default --name
    choices: tuple[str, ...] = ()
    minimum: int | None = None
    overrides: str | None = None  # the protocol's setting of the same meaning, where the protocol has one


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """What is known of a metric before it is computed."""

    name: str
    needs: str  # one of NEEDS
    higher_is_better: bool
    measure: Callable[..., Any] | str  # see `register_metric`; "module:function" is imported when it is called
    unit: str | None = None
    reference: bool = True  # whether it compares with real clips
    figures: Mapping[str, "FigureInfo"] = field(default_factory=dict)  # in a comparison of methods; {}: the value alone
    backbone: str | None = None  # a network of its own in place of the protocol's, by name
    cost: str = ""  # in words, beside one pass of the network
    license: str = ""  # of the network that it is published with
    caveat: str = ""  # what a reader of the figure must know
    summary: str = ""  # one line
    text: str = ""  # paragraphs of the command's help
    options: tuple[MetricOption, ...] = ()
    source: str = "hpdm"  # the package that brings it

    def function(self) -> Callable[..., Any]:
        """`measure`, imported where it is a name."""
        if not isinstance(self.measure, str):
            return self.measure
        module, _, name = self.measure.partition(":")
        return getattr(importlib.import_module(module), name)

    def defaults(self) -> dict[str, Any]:
        """The values of its own options where nothing else is said."""
        return {option.name: option.default for option in self.options}

    @property
    def extracts(self) -> bool:
        """Whether it is computed from features, which several metrics share."""
        return self.needs in ("features", "probabilities", "frames")

    def compared(self) -> Mapping[str, "FigureInfo"]:
        """The figures that a comparison of methods shows of it."""
        return self.figures or {self.name: FigureInfo(higher_is_better=self.higher_is_better)}


@dataclass(frozen=True, kw_only=True)
class FigureInfo:
    """One of a metric's figures in a comparison of methods."""

    higher_is_better: bool
    low: float = float("-inf")  # the least it can be
    high: float = float("inf")
    headline: bool = True  # whether it is the record's value


_registered: dict[str, MetricInfo] = {}


def register_metric(
    name: str, *, needs: str, higher_is_better: bool, options: tuple[MetricOption, ...] = (), **about: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator that makes a function a metric: then it is a command, in `all`, in `compare` and in reports.

        @hpdm_eval.register_metric("flicker", needs="clips", higher_is_better=False)
        def flicker(samples, reference, settings):
            return float(np.mean([np.abs(np.diff(clip.video.astype(float), axis=0)).mean() for clip in samples]))

    The function gets both sets and the `MetricSettings`. For needs="features", "probabilities" and "frames" a set is a
    `Side`, with features float32 [N, D]; for "clips" it is an iterable of `Clip`s, whose `video` is uint8 [T,H,W,3].
    `reference` is None where there is none; reference=False says that it is never needed. It returns a number; an array
    of one number per clip, whose mean is the figure and gets an interval; or a dict of the record's fields: "value"
    and, where there are any, "ci95", "details" and "settings". about: further fields of `MetricInfo`. Raises InputError
    for a name that is taken, and for needs that are none of NEEDS.

    >>> import numpy as np, hpdm_eval
    >>> @hpdm_eval.register_metric("brightness", needs="clips", higher_is_better=True, reference=False)
    ... def brightness(samples, reference, settings):
    ...     return [float(clip.video.mean()) for clip in samples]
    >>> clips = np.full((2, 4, 8, 8, 3), 7, np.uint8)
    >>> hpdm_eval.evaluate(clips, metrics="brightness", protocol="native")["brightness"].value
    7.0
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        summary = about.pop("summary", None) or next(iter((function.__doc__ or "").strip().splitlines()), "")
        source = about.pop("source", None) or function.__module__.partition(".")[0]
        add_metric(
            MetricInfo(
                name=name,
                needs=needs,
                higher_is_better=higher_is_better,
                options=tuple(options),
                measure=function,
                summary=summary,
                source=source,
                **about,
            )
        )
        return function

    return register


def add_metric(info: MetricInfo) -> None:
    """Add a metric; the same function again replaces itself. Raises InputError for a name that is taken."""
    if info.needs not in NEEDS:
        raise InputError(f"metric {info.name}: needs is {info.needs!r}, expected one of {', '.join(NEEDS)}")
    known = _builtin().get(info.name) or _registered.get(info.name)
    if known is not None and _origin(known) != _origin(info):
        raise InputError(f"metric {info.name} is there already, from {known.source}; give yours another name")
    _registered[info.name] = replace(info, figures=dict(info.figures))


def metric_names() -> list[str]:
    """Names of all metrics: built in, registered in this process, and those of installed packages."""
    return list(dict.fromkeys([*_builtin(), *_registered, *(point.name for point in _entry_points())]))


def known_metric(name: str) -> MetricInfo | None:
    """What is known of a metric without importing another package; None where that has to be asked."""
    return _builtin().get(name) or _registered.get(name)


def get_metric(name: str) -> MetricInfo:
    """What is known of a metric; raises InputError for a name that no metric has."""
    found = known_metric(name)
    if found is None:
        for point in _entry_points():
            if point.name == name:
                _load(point)
                found = _registered.get(name)
    if found is None:
        raise InputError(f"unknown metric {name!r}; there are {', '.join(metric_names())}")
    return found


def all_metrics() -> list[MetricInfo]:
    """All metrics, those of installed packages imported."""
    return [get_metric(name) for name in metric_names()]


def in_all() -> list[MetricInfo]:
    """The metrics that `all` takes: those on features, and what other packages register on clips."""
    return [info for info in all_metrics() if info.extracts or info.needs == "clips"]


def _builtin() -> dict[str, MetricInfo]:
    from hpdm_eval.metrics.builtin import BUILTIN  # which needs the classes of this module

    return BUILTIN


def _entry_points() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda point: point.name)


def _load(point: EntryPoint) -> None:
    """Import what an entry point names; a `MetricInfo` is added, a function or module has registered itself."""
    try:
        found = point.load()
    except InputError:
        raise
    except Exception as error:  # whatever somebody else's module does
        raise InputError(f"metric {point.name} of {point.value} cannot be imported: {error}") from error
    if isinstance(found, MetricInfo):
        add_metric(found)
    elif point.name not in _registered:
        raise InputError(f"{point.value} registers no metric {point.name}; it needs @hpdm_eval.register_metric")


def _origin(info: MetricInfo) -> str:
    measure = info.measure
    return measure if isinstance(measure, str) else f"{measure.__module__}:{measure.__qualname__}"
