"""What training steps and sampling cost here: videos per second with alternatives in turn, the memory of each alone."""

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch

from hpdm.config import Config
from hpdm.methods import make_method
from hpdm.model.rin import set_attention_precision
from hpdm.sampling.calls import find_call_sizes, reference_size
from hpdm.sampling.memory import choose_tile_batch
from hpdm.support.progress import note
from hpdm.training.loss import seed_dropout
from hpdm.training.optimizer import make_optimizer
from hpdm.training.plan import recomputes_activations
from hpdm.training.precision import mixed_precision
from hpdm_eval.support.timing import memory_of_process, rates_by_round, reset_peak_memory


def training_rates(
    configs: Mapping[Any, Config], *, batch: Any, rounds: int, device: torch.device, quiet: bool = False
) -> dict[Any, list[float]]:
    """Videos per second of whole training steps: {name: Config} → {name: [rate in each of `rounds` steps]}.

    All configurations are stepped in turn, after a first round that warms up, so that a slow spell of the machine hits
    all alike. Data are random and on the device; samples, self-conditioning and the optimizer's step are as in
    training. `batch` is for all, or {name: videos per step}. Where steps of a method differ in cost, each kind is timed
    in every round and counts by its share of the training. What does not fit on the device is left out.
    """
    sizes = batch if isinstance(batch, dict) else dict.fromkeys(configs, batch)
    time_steps = partial(_time_steps, sizes=sizes, rounds=rounds, device=device, quiet=quiet)
    return _together_or_apart(time_steps, configs, quiet)


def _time_steps(configs, *, sizes, rounds, device, quiet):
    stages, kinds = {}, {}
    for name, config in configs.items():
        step, kinds[name] = training_step(config, sizes[name], device), make_method(config).kinds_of_step()
        stages |= {(name, number): (sizes[name], partial(step, number)) for number in kinds[name]}
    rates = rates_by_round(stages, rounds, quiet, device)
    return {
        name: [1 / sum(share / rates[name, number][turn] for number, share in own.items()) for turn in range(rounds)]
        for name, own in kinds.items()
    }


def training_memory(config: Config, *, batch: int, device: torch.device) -> int:
    """Bytes that weights, gradients, optimizer and activations of training steps of `batch` videos take.

    On a GPU the most that was allocated at once; on a processor by how much the resident memory of a fresh process
    grew.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        _few_steps(config, batch, device)
        return torch.cuda.max_memory_allocated(device) - before
    context = get_context("forkserver")  # whose processes start as bare as new ones, without importing all again
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_resident_growth, config, batch, torch.get_num_threads()).result()


def fitting_batch(config: Config, device: torch.device, most: int) -> int:
    """The most videos a step of which fits on a GPU: `most` or, so that batches can be made of it, a divisor of it.

    0 where not even one fits. On a processor, whose memory is not asked for beforehand, `most`.
    """
    if torch.device(device).type != "cuda":
        return most
    fitting = 0
    for batch in [most // n for n in range(1, most + 1) if most % n == 0]:
        try:
            training_memory(config, batch=batch, device=device)
            fitting = batch
            break
        except torch.OutOfMemoryError:
            pass
    torch.cuda.empty_cache()
    return fitting


def training_step(config: Config, batch: int, device: torch.device, *, update: bool = True) -> Callable[..., Any]:
    """A function of a step's number that makes it on random videos; without `update`, forward and backward alone."""
    config = replace(config, training=replace(config.training, batch=batch, micro_batch=None))
    torch.manual_seed(config.training.seed)
    method = make_method(config)
    network = method.make_network().to(device).train()
    network.checkpoint_blocks = recomputes_activations(config, device)
    set_attention_precision(network, config.training.attention_precision)
    optimizer = make_optimizer(network, config.training) if update else None
    video = torch.randint(0, 256, (batch, 3, *method.video_size), dtype=torch.uint8, device=device)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)
    torch.backends.cuda.matmul.allow_tf32 = config.training.tf32

    def step(number=0):
        seed_dropout(config.training.seed, number, range(batch), network)
        with mixed_precision(device, config.training.precision):
            method.loss(network, video, labels, step=number, positions=range(batch)).mean().backward()
        if update:
            torch.nn.utils.clip_grad_norm_(network.parameters(), config.training.clip_norm or math.inf)
            optimizer.step()
        network.zero_grad()

    return step


def sampling_seconds(
    configs: Mapping[Any, Config], *, videos: int, rounds: int, device: torch.device, quiet: bool = False
) -> dict[Any, list[float]]:
    """Seconds per video of sampling `videos` at once: {name: Config} → {name: [seconds in each of `rounds`]}.

    Networks have starting values; how long they take does not depend on what they learnt. All are sampled in turn. What
    does not fit on the device is left out.
    """
    time_sampling = partial(_time_sampling, videos=videos, rounds=rounds, device=device, quiet=quiet)
    return _together_or_apart(time_sampling, configs, quiet)


def _time_sampling(configs, *, videos, rounds, device, quiet):
    stages = {name: (videos, _sampling(config, videos, device)) for name, config in configs.items()}
    rates = rates_by_round(stages, rounds, quiet, device)
    return {name: [1 / rate for rate in own] for name, own in rates.items()}


def _sampling(config, videos, device):
    """A function that samples `videos`."""
    method = make_method(config)
    torch.manual_seed(config.training.seed)
    network = method.make_network().eval().requires_grad_(False).to(device)
    plan = {"levels": config.pyramid.levels, "batch": videos, "use_cache": True, "offload": False}
    tile_batch = choose_tile_batch(
        network, config.sampling, device=device, at_least=reference_size(math.prod(network.token_grid)), **plan
    )
    sampler = method.sampler(
        network,
        config.diffusion,
        config.sampling,
        device=device,
        call_sizes=find_call_sizes(network, tile_batch, device),
    )
    labels = [index % config.network.num_classes for index in range(videos)]
    return lambda: sampler.sample(range(videos), labels, config.training.seed)


def _together_or_apart(time_all, configs, quiet):
    """`time_all` of all configurations; where they do not fit on the device at once, of each that fits by itself."""
    try:
        return time_all(configs)
    except torch.OutOfMemoryError:
        pass  # the error holds what was allocated until here
    torch.cuda.empty_cache()
    if len(configs) == 1:
        return {}
    note("not all fit on the device at once: each is timed by itself", quiet)
    rates = {}
    for name, config in configs.items():
        rates |= _together_or_apart(time_all, {name: config}, quiet)
    return rates


def _few_steps(config, batch, device):
    step = training_step(config, batch, device)
    for _ in range(2):  # the optimizer's state exists from the second on
        for number in make_method(config).kinds_of_step():
            step(number)


def _resident_growth(config, batch, threads):
    torch.set_num_threads(threads)
    torch.ones(256, 256) @ torch.ones(256, 256)  # the libraries' own buffers
    reset_peak_memory()
    before = memory_of_process()["now"]
    _few_steps(config, batch, "cpu")
    return memory_of_process()["peak"] - before
