"""How well the gradient of each precision points where that of fp32 points."""

from collections.abc import Iterator
from functools import partial

import torch

from hpdm.checkpoint.load import load_checkpoint
from hpdm_eval.benchmarks.gpu.bench import Bench, Result, wake
from hpdm_eval.benchmarks.gpu.training import Trainer

SHARE = 1e-6  # of the squared norm of the whole gradient: tensors with less are not named the worst
# (precision, factor of the loss): half precision loses small gradients that a factor saves
CASES = (
    ("fp32", 1),
    ("tf32", 1),
    ("attention-bf16", 1),
    ("attention-fp16", 1),
    ("attention-fp16", 1024),
    ("bf16", 1),
    ("fp16", 1),
    ("fp16", 1024),
)


def cosines(bench: Bench, *, size: str, batch: int) -> Iterator[Result]:
    """Cosine with the gradient of fp32 without TF32, of all weights together and of the worst tensor.

    nano has its shipped weights; other sizes starting values, those that start at zero drawn small. Without dropout,
    whose masks depend on the dtype.
    """
    config, batch = bench.config(size, "network.dropout=0"), bench.few(batch)
    trainer = Trainer(config, bench.device)
    weights = "starting values"
    if size == "nano":
        trainer.network.load_state_dict(load_checkpoint("nano").network.state_dict())
        weights = "shipped"
    else:
        wake(trainer.network, bench.seed)
    video, labels = trainer.videos(batch)
    names = [name for name, _ in trainer.network.named_parameters()]
    reference = _gradient(bench, trainer, video, labels, "fp32", 1)
    for precision, factor in CASES:
        settings = {
            "size": config.size,
            "precision": precision,
            "loss factor": factor,
            "micro_batch": batch,
            "weights": weights,
        }
        yield bench.attempt(
            "gradient against fp32",
            settings,
            partial(_compare, bench, trainer, video, labels, precision, factor, names, reference),
        )


def _gradient(bench, trainer, video, labels, precision, factor):
    """Gradients of all parameters in their order."""
    trainer.prepare(precision, False)
    method = trainer.method(len(video))
    trainer.network.zero_grad()
    with bench.tf32(precision):
        with bench.autocast(precision):
            losses = method.loss(trainer.network, video, labels, step=0, positions=range(len(video)))
        (factor * losses.mean()).backward()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad / factor for p in trainer.network.parameters()]
    trainer.network.zero_grad()
    return gradients


def _compare(bench, trainer, video, labels, precision, factor, names, reference):
    own = _gradient(bench, trainer, video, labels, precision, factor)
    products = [
        torch.stack([(a.double() * b).sum(), a.double().square().sum(), b.double().square().sum()])
        for a, b in zip(own, reference, strict=True)
    ]
    products = torch.stack(products).cpu()
    dot, own, wanted = products.sum(0).tolist()
    finite = bool(products.isfinite().all())
    counted = products[:, 2] > SHARE * wanted
    each = products[:, 0] / (products[:, 1] * products[:, 2]).sqrt()
    worst = int(torch.where(counted, each.nan_to_num(nan=-1.0), 2.0).argmin())
    cosine = dot / (own * wanted) ** 0.5
    details = {
        "1 - cosine": 1 - cosine,
        "worst tensor": each[worst].item() if finite else None,
        "its name": names[worst],
        "finite": finite,
        "norm over fp32's": (own / wanted) ** 0.5,
        "tensors": len(names),
        "tensors counted": int(counted.sum()),
    }
    return cosine, "cosine", details
