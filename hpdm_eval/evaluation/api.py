"""Judging samples from Python: `hpdm_eval.evaluate`."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from hpdm.support.errors import InputError
from hpdm_eval.clips.source import ClipSource
from hpdm_eval.evaluation.comparison import open_set
from hpdm_eval.evaluation.comparisons import Comparisons, evaluate_one
from hpdm_eval.evaluation.figure import Result
from hpdm_eval.evaluation.settings import Evaluation, Place
from hpdm_eval.evaluation.words import command_words
from hpdm_eval.metrics.registry import MetricInfo, get_metric, in_all
from hpdm_eval.protocols import DEFAULT, Protocol, for_both_roles, load_protocol
from hpdm_eval.records.record import Record, running_command

OWN = tuple(item.name for item in fields(Evaluation) if item.name not in ("protocol", "samples", "reference"))
NATIVE = "native"
OF_PROTOCOL = tuple(item.name for item in fields(Protocol))


def evaluate(
    samples: Place | Iterable[Any],
    reference: Place | Iterable[Any] | None = None,
    metrics: str | Sequence[str] = ("fvd",),
    protocol: str | Protocol | None = None,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    quiet: bool = True,
    **settings: Any,
) -> Result:
    """Judge samples by one or more metrics; the figures are those of the commands of these names.

    samples: a path, as `hpdm-eval --samples` takes it (a folder of videos, of frames or of arrays, an archive, ...); or
    an iterable, such as a DataLoader or a generator, of batches uint8 [B, T, H, W, 3], float [B, 3, T, H, W] in
    [-1, 1] (value_range="0..1" or "0..255" says otherwise) or dicts and tuples whose first entry is one, of which each
    clip is looked at once; the first `num_samples` count.
    reference: a path to real clips, or to the statistics that `hpdm-eval stats` writes; beside an iterable also another
    one; None for metrics without one.
    metrics: names, see `hpdm-eval ls metrics`; "all" takes what the clips and weights at hand allow, and names the rest
    in `missing`. protocol: a name, a YAML file, or a `Protocol`; None is that of the metric's command: generic-16f for
    metrics on features, native for those that read pixels. options: of single metrics by their name,
    {"fvd": {"at": (256, 512)}}. settings: fields of `Protocol` (num_samples, frames, resolution, backbone, ...) and of
    `Evaluation` (device, seed, batch, cache, grid, match, weights, limit, ...).

    Raises InputError, one line that says what is wrong and what to do, for whatever cannot be read or computed.

    >>> import numpy as np, hpdm_eval
    >>> clips = np.random.default_rng(0).integers(0, 256, (12, 8, 32, 32, 3), np.uint8)  # or paths, or loaders
    >>> result = hpdm_eval.evaluate(clips[:6], clips[6:], metrics=["fvd", "kvd"], backbone="shapes3d", frames=8)
    >>> result["fvd"].value == float(result["fvd"]), result["fvd"].record.num_samples
    (True, 6)
    >>> list(result.to_frame()["metric"])
    ['fvd', 'kvd']
    """
    everything = metrics == "all"
    names = [info.name for info in in_all()] if everything else [metrics] if isinstance(metrics, str) else list(metrics)
    chosen = [get_metric(name) for name in names]
    if unknown := sorted(set(options or {}) - set(names)):
        raise InputError(f"options of {unknown[0]}, which is none of the metrics {', '.join(names)}")
    options = {info.name: check_options(info, (options or {}).get(info.name, {})) for info in chosen}
    own, changes = split_settings(settings)
    resolved = resolve(protocol or default_protocol(chosen), changes)
    if not isinstance(samples, str | os.PathLike):
        from hpdm_eval.evaluation.streams import evaluate_stream  # which needs this module

        settings = {"options": options, "quiet": quiet, "everything": everything, "changes": changes}
        return evaluate_stream(samples, reference, chosen, resolved, **settings, **own)
    if not isinstance(reference, str | os.PathLike | None):
        raise InputError("samples in files are compared with a reference in files: give its path")
    evaluation = Evaluation(protocol=resolved, samples=samples, reference=reference, quiet=quiet, **own)
    if len(chosen) == 1:  # a single metric looks through the network that its command takes
        return Result({names[0]: record_of(chosen[0], for_one(chosen[0], evaluation, changes), options[names[0]])})
    comparisons, records, missing = Comparisons(evaluation), {}, {}
    for info in chosen:
        if info.reference and reference is None and not everything:
            raise InputError(f"{info.name} compares with real clips: give reference")
        try:
            if info.reference and reference is None:
                raise InputError("it compares with real clips")
            records[info.name] = _one_of_several(info, comparisons, options[info.name], protocol, changes)
        except InputError as error:
            if not everything:
                raise
            missing[info.name] = str(error)
    return Result(records, missing)


def _one_of_several(
    info: MetricInfo,
    comparisons: Comparisons,
    options: Mapping[str, Any],
    protocol: str | Protocol | None,
    changes: Mapping[str, Any],
) -> Record:
    if not info.extracts and protocol is None:  # it reads pixels, by a protocol of its own
        return record_of(info, replace(comparisons.evaluation, protocol=resolve(NATIVE, changes)), options)
    with running_command(command_words(info, comparisons.settings_of(info)[1], options)):
        return comparisons.record(info, options)


def default_protocol(metrics: Sequence[MetricInfo]) -> str:
    """The protocol of metrics where none is named: that of their commands."""
    return DEFAULT if any(info.extracts for info in metrics) else NATIVE


def open_clips(
    path: Place, protocol: str | Protocol = NATIVE, *, role: str = "samples", quiet: bool = True, **settings: Any
) -> ClipSource:
    """Clips of any input as `hpdm-eval` reads them: iterate for `Clip`s, whose `video` is uint8 [T, H, W, 3].

    path: as `hpdm-eval --samples` takes it. protocol: a name, a YAML file, or a `Protocol`; native is every frame at
    its own size. role: "samples" or "reference", which protocols cut differently. settings: fields of `Protocol` and
    those of `Evaluation` that say how clips are read (seed, grid, match, strict, workers, split_lists, limit). After
    an iteration, `summary()` is a record's entry: digest, counts, rejected clips. Raises InputError where nothing can
    be read.

    >>> import numpy as np, tempfile, hpdm_eval
    >>> folder = tempfile.mkdtemp()
    >>> np.save(folder + "/clips.npy", np.zeros((3, 8, 16, 16, 3), np.uint8))
    >>> clips = hpdm_eval.open_clips(folder, frames=4, workers=0)
    >>> [(clip.name, clip.video.shape) for clip in clips][:1], clips.summary()["clips"]
    ([('clips.npy#0', (4, 16, 16, 3))], 3)
    """
    own, changes = split_settings(settings)
    evaluation = Evaluation(protocol=resolve(protocol, changes), samples=path, reference=path, quiet=quiet, **own)
    if role == "reference" and evaluation.grid is not None:
        evaluation = replace(evaluation, reference_grid=evaluation.grid)
    return open_set(role, evaluation)


def record_of(metric: str | MetricInfo, evaluation: Evaluation, options: Mapping[str, Any] | None = None) -> Record:
    """The Record of one metric, whose `command` is the one of `hpdm-eval` that says the same."""
    info = get_metric(metric) if isinstance(metric, str) else metric
    options = check_options(info, options or {})
    if info.reference and evaluation.reference is None:
        raise InputError(f"{info.name} compares with real clips: give reference")
    with running_command(command_words(info, evaluation, options)):
        return evaluate_one(info, evaluation, options)


def resolve(protocol: str | Protocol, changes: Mapping[str, Any]) -> Protocol:
    """A protocol with some of its settings changed; as on the command line, `start`, `stride`, `fps` and
    `clips_per_video` hold for samples as well unless theirs are given."""
    changes = for_both_roles(changes)
    if isinstance(protocol, Protocol):
        return protocol.changed(**changes) if changes else protocol
    return load_protocol(protocol, **changes)


def for_one(info: MetricInfo, evaluation: Evaluation, changes: Mapping[str, Any]) -> Evaluation:
    """The evaluation of a metric alone: one with a network of its own looks through that unless another is named."""
    if info.backbone is None or "backbone" in changes:
        return evaluation
    return replace(evaluation, protocol=evaluation.protocol.changed(backbone=info.backbone))


def split_settings(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(fields of Evaluation, fields of Protocol) among keywords; raises InputError for any other."""
    if unknown := sorted(set(settings) - set(OWN) - set(OF_PROTOCOL)):
        raise InputError(f"unknown setting {unknown[0]!r}; there are {', '.join(sorted({*OWN, *OF_PROTOCOL}))}")
    own = {key: value for key, value in settings.items() if key in OWN}
    changes = {key: value for key, value in settings.items() if key not in OWN}
    if isinstance(changes.get("resolution"), int):
        changes["resolution"] = (changes["resolution"],) * 2
    return own, changes


def check_options(info: MetricInfo, options: Mapping[str, Any]) -> dict[str, Any]:
    """A metric's own options with its defaults; raises InputError for any that it does not have, or cannot take."""
    known = {option.name: option for option in info.options}
    for name, value in options.items():
        if name not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise InputError(f"{info.name} has no option {name!r}; {has}")
        option = known[name]
        if value is None and option.default is None:
            continue
        if option.choices and value not in option.choices:
            raise InputError(f"{info.name}: {name} is {value!r}, expected one of {', '.join(option.choices)}")
        if (
            option.minimum is not None
            and value is not None
            and not (isinstance(value, int) and value >= option.minimum)
        ):
            raise InputError(f"{info.name}: {name} is {value!r}, expected a whole number from {option.minimum}")
    return {**info.defaults(), **options}
