"""The paper's table 1 at size S: full resolution against patches, with and without adaptive computation."""

from collections.abc import Iterator
from functools import partial

from hpdm.config.variants import alternatives
from hpdm_eval.benchmarks.gpu.bench import Bench, Result
from hpdm_eval.benchmarks.gpu.training import Trainer, step_times

PRECISION = "tf32"
MARGIN = 0.95  # of the memory, that a predicted batch may take
TRIES = 4


def row(bench: Bench, *, name: str, checkpointing: bool = False) -> Iterator[Result]:
    """Memory at batch 1; the largest batch that fits and its videos per second."""
    config = alternatives(bench.config("S"))[name]
    settings = {
        "size": config.size,
        "row": name,
        "patch": "x".join(map(str, config.pyramid.patch)),
        "precision": PRECISION,
        "checkpointing": checkpointing,
    }
    key = ("table1", name, checkpointing)
    memory = bench.attempt("memory at batch 1", settings, partial(_memory, bench, config, key, checkpointing, 1))
    yield memory
    if memory.value is None:
        return
    larger = bench.attempt("memory at batch 2", settings, partial(_memory, bench, config, key, checkpointing, 2))
    yield larger
    yield _largest(bench, config, key, checkpointing, settings, memory.value, larger.value)
    bench.release()


def _trainer(bench, config, key):
    return bench.kept(key, lambda: Trainer(config, bench.device))


def _memory(bench, config, key, checkpointing, batch):
    """Peak of the second step of a batch, the first of which has made the optimizer's state."""
    trainer = _trainer(bench, config, key)
    *_, peak = step_times(bench, trainer, batch=batch, precision=PRECISION, checkpointing=checkpointing, rounds=1)
    return peak, "GiB", {"batch": batch}


def _largest(bench, config, key, checkpointing, settings, one, two):
    """Predicted from batches 1 and 2, then tried; where it does not fit, smaller ones."""
    batch = 1
    if two is not None:
        batch = 4 if not bench.on_gpu else max(2, 1 + int((MARGIN * bench.room_gib() - one) / max(two - one, 1e-3)))
    tried = []
    for _ in range(TRIES):
        result = bench.attempt(
            "training at the largest batch", settings, partial(_rate, bench, config, key, checkpointing, batch, tried)
        )
        if result.value is not None or batch == 1:
            return result
        tried.append(batch)
        batch = max(1, min(batch - 1, int(0.93 * batch)))
    return Result(what="training at the largest batch", settings=settings, status=result.status, reason=result.reason)


def _rate(bench, config, key, checkpointing, batch, tried):
    trainer = _trainer(bench, config, key)
    of_pass, of_update, _, peak = step_times(
        bench, trainer, batch=batch, precision=PRECISION, checkpointing=checkpointing, rounds=3
    )
    details = {
        "largest batch": batch,
        "did not fit": ", ".join(map(str, tried)) or "none tried",
        "peak GiB": peak,
        "pass ms": 1e3 * of_pass,
        "update ms": 1e3 * of_update,
    }
    return batch / (of_pass + of_update), "videos/s", details
