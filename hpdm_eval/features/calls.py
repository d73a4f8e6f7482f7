"""Clips through a network, so that the features of each are a function of that clip alone.

Kernels choose their order of summation by the size of a call: the last bits of a clip's features depend on how many
others share its call, and with them on --batch, on the number of processes and on what is cached. So

- on a CPU every clip is a call of its own, and each call has one thread (see `threads`), as many calls at once as there
  are threads;
- elsewhere a call has as many clips as `batch` says, and clips are repeated where there are fewer. Features then depend
  on `batch`, which is why the cache keeps them apart by it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby, islice

import numpy as np
import torch

from hpdm_eval.backbones.backbone import Extractor
from hpdm_eval.support.threads import side_by_side

FRAMES_PER_CLIP = 16  # `batch` counts clips of this length; of longer ones as many go at once as have as many frames


def call_size(backbone: Extractor, batch: int) -> int:
    """Clips of FRAMES_PER_CLIP frames in a call: 1 on a CPU, else `batch`."""
    return 1 if _on_cpu(backbone) else batch


@contextmanager
def network_calls(
    backbone: Extractor, batch: int
) -> Iterator[Callable[[Sequence[np.ndarray]], list[tuple[np.ndarray, ...]]]]:
    """Yield a function: list of uint8 [T,H,W,3] of any sizes → (features, probabilities) as arrays for each, in order.

    The clips are arrays or tensors.

    batch: how many are in memory as floats at once, and on a device other than a CPU the size of a call.
    """
    if not _on_cpu(backbone):
        yield lambda videos: _by_shape(videos, batch, lambda group, size: _padded(backbone, group, size))
        return
    with side_by_side() as run:
        yield lambda videos: _by_shape(
            videos, batch, lambda group, size: run(lambda video: _padded(backbone, [video], 1)[0], group, size)
        )


def _by_shape(videos, batch, extract):
    """Results in the order of `videos` of `extract(videos of one shape, how many at once)`."""
    results = [None] * len(videos)
    by_shape = sorted(range(len(videos)), key=lambda index: videos[index].shape)
    for shape, group in groupby(by_shape, key=lambda index: videos[index].shape):
        size = max(batch * FRAMES_PER_CLIP // shape[0], 1)
        while indices := list(islice(group, size)):
            for index, result in zip(indices, extract([videos[index] for index in indices], size)):
                results[index] = result
    return results


def _padded(backbone, videos, size):
    """[(features, probabilities)] of up to `size` clips of one shape, by a call of exactly `size`."""
    count = len(videos)
    tensors = [torch.as_tensor(videos[index % count]) for index in range(size)]  # arrays are not copied
    stacked = tensors[0][None] if size == 1 else torch.stack(tensors)
    return [tuple(values.numpy() for values in row) for row in zip(*backbone.extract(stacked))][:count]


def _on_cpu(backbone):
    return torch.device(getattr(backbone, "device", "cpu")).type == "cpu"
