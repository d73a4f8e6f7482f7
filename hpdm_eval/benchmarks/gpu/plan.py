"""The items of a run, most valuable first, with what each may cost in seconds.

Costs are of one H100 and include building the network; a rehearsal has its own, of two processor cores.
"""

import statistics
from functools import partial
from typing import Any

from hpdm.support.errors import InputError
from hpdm_eval.benchmarks.gpu import agreement, backbones, gradients, roof, sampling, table1, training
from hpdm_eval.benchmarks.gpu.bench import Item, Settings

# (precision, micro-batch, activation checkpointing)
FIRST_S = (("tf32", 8, False), ("attention-bf16", 8, False), ("bf16", 8, False))
MORE_S = (
    ("fp32", 4, False),
    ("tf32", 4, False),
    ("attention-fp16", 8, False),
    ("bf16", 16, False),
    ("tf32", 8, True),
    ("bf16", 32, True),
)
FIRST_L = (("tf32", 4, False), ("attention-bf16", 4, False), ("bf16", 4, False))
MORE_L = (
    ("bf16", 8, False),
    ("tf32", 8, True),
    ("attention-bf16", 8, True),
    ("bf16", 16, True),
    ("attention-bf16", 4, True),
)
OF_M = (("tf32", 8, False), ("attention-bf16", 8, False), ("bf16", 8, False))
COMPILED = (("tf32", 8, False), ("bf16", 8, False), ("attention-bf16", 8, False))
COMPILED_L = (("bf16", 4, False), ("attention-bf16", 4, False))
# As many finest windows a pass as one window per level of four times the clips, then twice as many.
BRANCHES = {"one window per level": [], "windows 1, 2, 4": ["training.branching=[1,2,4]"]}
ONE, TREE = BRANCHES
BRANCHES_S = tuple(
    (precision, batch, False, name)
    for precision in ("attention-bf16", "bf16", "tf32")
    for batch, name in ((8, ONE), (2, TREE), (4, TREE))
)
BRANCHES_L = tuple(
    (precision, batch, False, name)
    for precision in ("attention-bf16", "bf16")
    for batch, name in ((4, ONE), (1, TREE), (2, TREE))
)
FIRST_PASSES = {"first pass of all": ["training.first_pass=whole"], "of those that use it": []}
FIRST_PASSES_S = tuple((precision, 8, False, name) for precision in ("attention-bf16", "tf32") for name in FIRST_PASSES)
FIRST_PASSES_L = tuple(("attention-bf16", 4, False, name) for name in FIRST_PASSES)
# The mean, for passes have few or many samples.
FIRST_PASS: dict[str, Any] = {"variants": FIRST_PASSES, "typical": statistics.mean, "rounds": 20, "seconds": 5.0}
# (precision, overlap, cached, videos at once, most tiles a call)
FIRST_VIDEOS = (
    ("tf32", "hw", True, 1, 16),
    ("tf32", "hw", False, 1, 16),
    ("tf32", "none", True, 1, 16),
    ("fp16", "hw", True, 1, 16),
)
MORE_VIDEOS = (
    ("bf16", "hw", True, 1, 16),
    ("fp32", "hw", True, 1, 16),
    ("fp16", "none", True, 1, 16),
    ("tf32", "hw", True, 4, 16),
    ("fp16", "hw", True, 4, 16),
)
VIDEOS_ATTENTION = (("attention-fp16", "hw", True, 1, 16), ("attention-bf16", "hw", True, 1, 16))
VIDEOS_L = (("tf32", "hw", True, 1, 16), ("fp16", "hw", True, 1, 16))
# (what over the sampler of the paper, precision, calls, videos at once)
FIRST_OPTIONS = (
    ("paper", "fp16", "exact", 4),
    ("paper", "fp16", "fastest", 4),
    ("tilings 2 kept, start 1", "fp16", "exact", 4),
    ("tilings 2 kept, start 1", "fp16", "fastest", 4),
    ("tilings 2 kept, start 1", "tf32", "exact", 1),
    ("tilings 2 kept, start 1", "tf32", "fastest", 4),
    ("multistep", "fp16", "fastest", 4),
    ("multistep", "tf32", "fastest", 4),
    ("paper", "tf32", "fastest", 4),
)
MORE_OPTIONS = (
    ("tilings 2 kept, start 1", "fp16", "exact", 1),
    ("tilings 2, start 1", "fp16", "fastest", 4),
    ("tilings 2", "fp16", "fastest", 4),
    ("tilings 2, borders kept", "fp16", "fastest", 4),
    ("start 1", "fp16", "fastest", 4),
    ("feathered", "fp16", "fastest", 4),
    ("tilings 2 kept, start 1", "tf32", "fastest", 1),
)

# name, seconds on a GPU, seconds in a rehearsal, function
PLAN = (
    ("agreement/forward", 4, 6, agreement.forward),
    ("roof/products", 6, 4, roof.products),
    ("roof/copy", 3, 2, roof.copies),
    ("training/S", 24, 10, partial(training.steps, size="S", cases=FIRST_S)),
    ("gradients/S", 14, 8, partial(gradients.cosines, size="S", batch=2)),
    ("sampling/S", 30, 15, partial(sampling.video, size="S", cases=FIRST_VIDEOS)),
    ("training/L", 30, 8, partial(training.steps, size="L", cases=FIRST_L)),
    ("table1/full", 15, 4, partial(table1.row, name="full")),
    ("table1/small-patch-adaptive", 14, 6, partial(table1.row, name="small-patch-adaptive")),
    ("table1/small-patch", 14, 6, partial(table1.row, name="small-patch")),
    ("backbones/i3d", 20, 12, partial(backbones.clips_per_second, network="i3d", batches=(8, 32, 128))),
    ("agreement/samples", 20, 12, agreement.samples),
    ("training/S-more", 25, 10, partial(training.steps, size="S", cases=MORE_S)),
    ("sampling/S-calls", 15, 6, partial(sampling.calls, size="S", largest=64)),
    ("table1/large-patch-adaptive", 14, 5, partial(table1.row, name="large-patch-adaptive")),
    ("table1/large-patch", 14, 5, partial(table1.row, name="large-patch")),
    ("backbones/files", 30, 15, partial(backbones.from_files, batch=32)),
    ("training/L-more", 34, 9, partial(training.steps, size="L", cases=MORE_L)),
    ("gradients/nano", 6, 8, partial(gradients.cosines, size="nano", batch=32)),
    ("training/M", 20, 6, partial(training.steps, size="M", cases=OF_M)),
    ("sampling/S-more", 30, 12, partial(sampling.video, size="S", cases=MORE_VIDEOS)),
    ("sampling/S-attention", 15, 6, partial(sampling.video, size="S", cases=VIDEOS_ATTENTION)),
    ("sampling/S-options", 30, 14, partial(sampling.options, size="S", cases=FIRST_OPTIONS)),
    ("sampling/S-options-more", 25, 14, partial(sampling.options, size="S", cases=MORE_OPTIONS)),
    ("training/S-compiled", 75, 60, partial(training.steps, size="S", cases=COMPILED, compile=True)),
    ("backbones/c3d", 12, 10, partial(backbones.clips_per_second, network="c3d", batches=(8, 32, 128))),
    ("table1/full-checkpointing", 15, 4, partial(table1.row, name="full", checkpointing=True)),
    ("gradients/L", 20, 8, partial(gradients.cosines, size="L", batch=2)),
    ("sampling/L", 30, 10, partial(sampling.video, size="L", cases=VIDEOS_L)),
    ("training/L-branching", 30, 15, partial(training.steps, size="L", cases=BRANCHES_L, variants=BRANCHES)),
    ("training/S-branching", 40, 20, partial(training.steps, size="S", cases=BRANCHES_S, variants=BRANCHES)),
    ("training/updates", 10, 6, partial(training.updates, sizes=("S", "L"))),
    ("training/L-first-pass", 20, 6, partial(training.steps, size="L", cases=FIRST_PASSES_L, **FIRST_PASS)),
    ("training/S-first-pass", 35, 8, partial(training.steps, size="S", cases=FIRST_PASSES_S, **FIRST_PASS)),
    ("training/L-compiled", 75, 60, partial(training.steps, size="L", cases=COMPILED_L, compile=True)),
)


def plan(settings: Settings) -> list[Item]:
    """The items of a run; raises InputError where `settings.only` names one that there is not."""
    items = [
        Item(name=name, cost=rehearsal if settings.rehearse else cost, run=run) for name, cost, rehearsal, run in PLAN
    ]
    for wanted in settings.only:
        if not any(matches(item.name, wanted) for item in items):
            raise InputError(f"--only {wanted}: there is no such item; there are {', '.join(i.name for i in items)}")
    return [item for item in items if not settings.only or any(matches(item.name, wanted) for wanted in settings.only)]


def matches(name: str, wanted: str) -> bool:
    """Whether `wanted` is an item's name or its subject."""
    return name == wanted or name.split("/")[0] == wanted
