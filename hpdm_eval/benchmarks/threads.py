"""How many threads calls of a network pay for, against what the program chooses by the size of its products."""

import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from hpdm.config import load_config
from hpdm.methods import make_method
from hpdm.model.conditioning import no_conditions
from hpdm.model.threads import product_size, threads, threads_for
from hpdm_eval.benchmarks.results import Measured
from hpdm_eval.support.timing import rates_by_round

CALLS = (("nano", 1), ("nano", 4), ("nano", 16), ("nano", 64), ("S", 1))
ROW = "{:<6}{:>9}{:>16}{:>9}{:>9}{:>11}   {}"


def bench_threads(*, calls: Sequence[tuple[str, int]] = CALLS, rounds: int = 5, quiet: bool = False) -> Measured:
    """Time a training pass of one block on level 0 with one thread, two, four, ... up to PyTorch's own number.

    calls: (size, patches at once). One block of a network of that size; forward and backward.
    """
    most, stages = torch.get_num_threads(), {}
    rows: list[dict[str, Any]] = []
    counts = sorted({*(2**i for i in range(most.bit_length()) if 2**i < most), most})
    for size, patches in calls:
        config = load_config(size, ["network.levels_per_block=[3]"])
        rows.append({"size": size, "patches": patches, "work": product_size(config, patches)})
        run = partial(_pass, *_prepare(config, patches))
        for count in counts:
            stages[f"{size} {patches} {count}"] = 1, partial(_with_threads, count, run)
    rates = rates_by_round(stages, rounds, quiet)
    for row in rows:
        own = {count: rates["{size} {patches} {0}".format(count, **row)] for count in counts}
        row["seconds"] = {str(count): statistics.median(1 / rate for rate in rates) for count, rates in own.items()}
        row["chosen"] = threads_for(row["work"], most)
        row["fastest"] = min(counts, key=lambda count: row["seconds"][str(count)])
        nearest = max(count for count in counts if count <= row["chosen"])
        row["ratio"] = statistics.median(mine / all_ for mine, all_ in zip(own[nearest], own[most], strict=True))
    result = {"bench": "threads", "most": most, "rounds": rounds, "rows": rows}
    return Measured(result=result, lines=_lines(result, counts))


def _prepare(config, patches):
    generator = torch.Generator().manual_seed(0)
    network = make_method(config).make_network().train()
    video = torch.randn(patches, config.network.channels, *config.pyramid.patch, generator=generator)
    start = torch.zeros(patches, 3, dtype=torch.int64)
    return network, video, start, no_conditions(config.network, patches, "cpu")


def _pass(network, video, start, labels):
    noise = torch.full((len(video),), -0.3)
    network.forward_level(0, video, noise, labels, network.level_constants(0, start, [])).output.sum().backward()


def _with_threads(count, run):
    with threads(count):
        run()


def _lines(result: dict[str, Any], counts: Sequence[int]) -> list[str]:
    lines = [
        f"forward and backward of one block, seconds with 1 to {result['most']} threads",
        "",
        ROW.format("size", "patches", "multiply-adds", "chosen", "fastest", "speed-up", "seconds by threads"),
    ]
    for row in result["rows"]:
        seconds = ", ".join(f"{count}: {row['seconds'][str(count)]:.4f}" for count in counts)
        cells = [f"{row['work']:,}", row["chosen"], row["fastest"], f"{row['ratio']:.2f}", seconds]
        lines.append(ROW.format(row["size"], row["patches"], *cells))
    return [*lines, "", "chosen: threads by the size of a product; speed-up: of those over all threads"]
