"""Whether the data keep up with the steps: clips per second of both, measured one after the other."""

import time
from contextlib import closing

import torch

from hpdm.config import Config
from hpdm.config.training import plan_batch
from hpdm.data.loader import make_loader, open_clips, profile_loader
from hpdm.methods import make_method
from hpdm.model.rin import set_attention_precision
from hpdm.model.text import make_conditioner
from hpdm.support.environment import choose_device, hardware
from hpdm.support.progress import note
from hpdm.training.optimizer import make_optimizer
from hpdm.training.plan import recomputes_activations
from hpdm.training.precision import mixed_precision

DELIVERIES = 8
STEPS = 3


def profile_run(config: Config, *, device: torch.device | str = "auto", quiet: bool = False) -> str:
    """Measure loader and step of one process and say which is the slower; nothing is written."""
    settings, method, device = config.training, make_method(config), choose_device(device)
    micro_batch = plan_batch(settings, 1).micro_batch
    frames, height, width = method.video_size
    clips = open_clips(
        config.data,
        frames=frames,
        height=height,
        width=width,
        seed=settings.seed,
        num_classes=config.network.num_classes,
        quiet=quiet,
    )
    with closing(clips):
        return _profile(config, method, clips, device, micro_batch, quiet)


def _profile(config, method, clips, device, micro_batch, quiet):
    settings, (frames, height, width) = config.training, method.video_size
    loader = make_loader(
        config.data,
        frames=frames,
        height=height,
        width=width,
        batch=micro_batch,
        seed=settings.seed,
        clips=clips,
        pin_memory=device.type == "cuda",
    )
    note(f"measuring {DELIVERIES} deliveries of {micro_batch} clips", quiet)
    data_rate = profile_loader(loader, DELIVERIES)

    torch.manual_seed(settings.seed)
    network = method.make_network().to(device).train()
    network.checkpoint_blocks = recomputes_activations(config, device)
    set_attention_precision(network, settings.attention_precision)
    optimizer = make_optimizer(network, settings)
    video, conditions = next(loader)
    video, labels = video.to(device), make_conditioner(config, device)(conditions)
    loader.close()
    note(f"measuring {STEPS} passes and steps of {micro_batch} samples", quiet)
    for step in range(STEPS + 1):
        if step == 1:  # the first one warms up
            _synchronize(device)
            began = time.perf_counter()
        with mixed_precision(device, settings.precision):
            loss = method.loss(network, video, labels, step=0, positions=range(micro_batch)).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    _synchronize(device)
    step_rate = STEPS * micro_batch / (time.perf_counter() - began)
    verdict = "the data keep up" if data_rate >= step_rate else "the data are the bottleneck: raise data.num_workers"
    return (
        f"data: {data_rate:.1f} clips/s from {loader.num_workers} workers\n"
        f"steps: {step_rate:.1f} samples/s on {hardware(device)}\n"
        f"data / steps: {data_rate / step_rate:.2f}; {verdict}"
    )


def _synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
