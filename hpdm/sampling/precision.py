"""The arithmetic of the network while sampling. Canvas, solver, averages over tiles and weights are always float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def network_precision(name: str, device: torch.device | str) -> Iterator[None]:
    """Within the block networks on a GPU run in `name`: fp32, tf32 (matrix products), bf16 or fp16 (autocast).

    Other devices compute in float32 whatever the name.
    """
    device = torch.device(device)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    try:
        with torch.autocast(device.type, HALF.get(name), enabled=name in HALF and device.type == "cuda"):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
