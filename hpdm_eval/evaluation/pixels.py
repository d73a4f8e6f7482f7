"""What metrics on pixels share: a pass over the clips of one set, and the record."""

import json
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Any, TypeVar

from hpdm.support.progress import progress
from hpdm_eval.clips.source import Clip
from hpdm_eval.evaluation.comparison import open_set
from hpdm_eval.evaluation.settings import Evaluation
from hpdm_eval.records.record import Record, make_record

Measured = TypeVar("Measured")


def measure_clips(
    evaluation: Evaluation, role: str, measure: Callable[[Clip], Measured]
) -> tuple[list[Measured], dict[str, Any]]:
    """([measure(clip) for each clip of a role], the record's entry for them); only the results are kept.

    role: "samples" or "reference". Raises InputError where there is no readable clip.
    """
    source = open_set(role, evaluation)
    results = []
    with progress(total=len(source), unit="clip", description=role, quiet=evaluation.quiet) as bar:
        for clip in source:
            results.append(measure(clip))
            bar.update()
    return results, source.summary()


def pixel_record(
    metric: str,
    evaluation: Evaluation,
    settings: Mapping[str, Any],
    *,
    warnings: Iterable[str] = (),
    extra: Mapping[str, Any] | None = None,
    **values: Any,
) -> Record:
    """The Record of a metric on pixels.

    settings: the metric's own, JSON-able; they are kept under "settings" and are part of the protocol's hash, so that
    records of different settings do not pass for each other. values: of `make_record`.
    """
    protocol = evaluation.protocol
    digest = sha256(json.dumps([protocol.hash(), settings], sort_keys=True).encode()).hexdigest()[:12]
    return make_record(
        metric=metric,
        seed=evaluation.seed,
        protocol={**protocol.to_dict(), "hash": digest},
        warnings=(*evaluation.limit_remarks, *warnings),
        extra={"settings": dict(settings), **(extra or {})} | evaluation.limit_entry,
        **values,
    )
