"""Features of one set of clips, and statistics of them to be used as a reference again and again."""

from typing import Any

from hpdm.support.environment import choose_device, git_revision, hardware, package_versions
from hpdm.support.errors import InputError
from hpdm.support.progress import note
from hpdm_eval.backbones import Backbone, PerFrame
from hpdm_eval.clips.selection import sources_of
from hpdm_eval.clips.source import ClipSource, open_clips
from hpdm_eval.evaluation.comparison import open_backbone, open_cache
from hpdm_eval.evaluation.settings import Evaluation
from hpdm_eval.features.extraction import FeatureSet, extract_features, extract_moments
from hpdm_eval.features.moments import Moments
from hpdm_eval.features.reference_statistics import Statistics
from hpdm_eval.records.record import command_line, utc_now


def make_statistics(evaluation: Evaluation, *, keep_features: bool = False, per_frame: bool = False) -> Statistics:
    """Mean and covariance of the features of the evaluation's samples, read as a protocol reads a reference.

    keep_features: store every clip's features too, for metrics that need them. per_frame: of single frames, for fid.
    Raises InputError for fewer than two clips.
    """
    if per_frame and keep_features:
        raise InputError("--per-frame with --keep-features: features of single frames are not kept; leave one out")
    source, backbone = _open(evaluation, "reference", per_frame)
    reading = _reading(evaluation, backbone)
    features, sources = None, None
    if keep_features:
        extracted = extract_features(source, backbone, **reading)
        features, sources = extracted.features, sources_of(extracted.names, clips=source.settings.rule.clips)
        moments = Moments.of(features)
    else:
        moments = extract_moments(source, backbone, **reading)
    what = "frames" if per_frame else "clips"
    if moments.n < 2:
        raise InputError(f"{evaluation.samples}: statistics need at least 2 {what}, got {moments.n}")
    if moments.n <= moments.dimension:
        note(
            f"warning: {moments.n} {what} for {moments.dimension} features: a distance from these statistics "
            "will be mostly sampling bias",
            evaluation.quiet,
        )
    return Statistics(
        moments=moments,
        features=features,
        sources=sources,
        protocol={**evaluation.protocol.to_dict(), "hash": evaluation.protocol.hash()},
        backbone=backbone.describe(),
        source={**source.summary(), **evaluation.limit_entry},
        seed=evaluation.seed,
        made={"command": command_line(), "versions": package_versions(), "git": git_revision(), "created": utc_now()},
    )


def make_features(evaluation: Evaluation) -> tuple[FeatureSet, Backbone | PerFrame]:
    """Features of the evaluation's samples with a manifest that says what they are of, and the network."""
    source, backbone = _open(evaluation, "samples")
    extracted = extract_features(source, backbone, **_reading(evaluation, backbone))
    manifest = {
        **extracted.manifest,
        "protocol": {**evaluation.protocol.to_dict(), "hash": evaluation.protocol.hash()},
        "samples": source.summary(),
        "seed": evaluation.seed,
        "command": command_line(),
        "versions": package_versions(),
        "hardware": hardware(choose_device(evaluation.device)),
        "git": git_revision(),
        "created": utc_now(),
        **evaluation.limit_entry,
    }
    features = FeatureSet(
        features=extracted.features, names=extracted.names, probabilities=extracted.probabilities, manifest=manifest
    )
    return features, backbone


def _open(evaluation: Evaluation, role: str, per_frame: bool = False) -> tuple[ClipSource, Backbone | PerFrame]:
    reading = evaluation.reading("samples") | {"role": role, "num": evaluation.most(role)}
    source = open_clips(evaluation.samples, evaluation.protocol, **reading)
    backbone = open_backbone(evaluation, choose_device(evaluation.device), per_frame)
    source.prepare(min_frames=backbone.min_frames, shared=True)
    return source, backbone


def _reading(evaluation: Evaluation, backbone: Backbone | PerFrame) -> dict[str, Any]:
    return {"batch": evaluation.batch, "quiet": evaluation.quiet, "cache": open_cache(backbone, evaluation)}
