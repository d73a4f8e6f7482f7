"""What the device can do at most: large matrix products in every precision, and copying."""

from collections.abc import Iterator

import torch

from hpdm_eval.benchmarks.gpu.bench import Bench, Result


def products(bench: Bench) -> Iterator[Result]:
    """TFLOP/s of matrix products: square ones, and those of a RIN's widths over the tokens of a batch."""
    side = 256 if bench.rehearse else 8192
    tokens, width = (512, 96) if bench.rehearse else (98304, 1024)
    shapes = {"square": (side, side, side), "tokens x width": (tokens, width, width)}
    kinds = {"tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    for shape, (rows, inner, columns) in shapes.items():
        for precision, dtype in kinds.items():

            def measure(precision=precision, dtype=dtype, sizes=(rows, inner, columns)):
                rows, inner, columns = sizes
                a = torch.randn(rows, inner, device=bench.device, dtype=dtype)
                b = torch.randn(inner, columns, device=bench.device, dtype=dtype)
                with bench.tf32(precision):
                    seconds = bench.seconds(lambda: [a @ b for _ in range(10)], at_most=1.0) / 10
                return 2 * rows * inner * columns / seconds / 1e12, "TFLOP/s", {"size": f"{rows}x{inner}x{columns}"}

            yield bench.attempt("matrix product", {"shape": shape, "precision": precision}, measure)
        bench.collect()


def copies(bench: Bench) -> Iterator[Result]:
    """GB/s of a copy within the device's memory, reads and writes counted, and from the host's pinned memory."""
    count = (1 << 22) if bench.rehearse else (1 << 31)

    def within():
        source = torch.randint(0, 255, (count,), dtype=torch.uint8, device=bench.device)
        target = torch.empty_like(source)
        seconds = bench.seconds(lambda: target.copy_(source), at_most=1.0)
        return 2 * count / seconds / 1e9, "GB/s", {"bytes": count, "counted": "read and written"}

    yield bench.attempt("copy", {"from": "device"}, within)
    bench.collect()

    def upload():
        few = count // 8
        source = torch.randint(0, 255, (few,), dtype=torch.uint8)
        source = source.pin_memory() if bench.on_gpu else source
        target = torch.empty(few, dtype=torch.uint8, device=bench.device)
        seconds = bench.seconds(lambda: target.copy_(source, non_blocking=True), at_most=1.0)
        return few / seconds / 1e9, "GB/s", {"bytes": few, "counted": "once"}

    yield bench.attempt("copy", {"from": "host"}, upload)
    bench.collect()
