"""The loss, its random draws, the optimizer and what the loop does with steps that are not finite."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from hpdm.checkpoint.folder import latest_checkpoint
from hpdm.config import load_config
from hpdm.config.training import TrainingConfig, plan_batch
from hpdm.hierarchical import Hierarchical
from hpdm.model.network import HPDM
from hpdm.support.environment import git_revision
from hpdm.support.errors import InputError
from hpdm.support.torchvision_compat import import_torchvision
from hpdm.training import lamb, loop, loss, plan
from hpdm.training.log import read_log
from hpdm.training.loss import draw, joint_loss, seed_dropout
from hpdm.training.optimizer import describe_groups, learning_rate, leave_zero, make_optimizer, parameter_groups
from hpdm.training.plan import count_flops, describe_plan, make_plan, recomputes_activations
from hpdm.training.provenance import PROVENANCE_FILE, read_provenance
from tests.support.small_training import batch_of, run, small_config


@pytest.mark.parametrize("pieces", [2, 4, 8])
def test_draws_do_not_depend_on_how_the_batch_is_split(pieces):
    config = small_config()
    whole = draw(config, step=3, positions=range(8))
    size = 8 // pieces
    parts = [draw(config, step=3, positions=range(i * size, (i + 1) * size)) for i in range(pieces)]
    for name in ("windows", "sigma", "eps", "no_label", "self_condition"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts])), name


def test_draws_differ_between_samples_levels_steps_and_seeds():
    config = small_config()
    noise = [
        *draw(config, step=0, positions=range(8)).eps.flatten(0, 1),
        *draw(config, step=1, positions=range(8)).eps.flatten(0, 1),
        *draw(small_config("training.seed=1"), step=0, positions=range(8)).eps.flatten(0, 1),
    ]
    assert len({tuple(sample.flatten().tolist()) for sample in noise}) == 3 * 8 * 2


def test_draws_have_the_configured_distributions():
    count = 4000
    config = small_config(
        f"training.batch={count}",
        "micro_batch=null",
        "label_dropout=0.1",
        "self_conditioning_rate=0.9",
        "diffusion.p_mean=[-1, 0.5]",
        "diffusion.p_std=1.2",
    )
    draws = draw(config, step=0, positions=range(count))
    log_sigma = draws.sigma.log()
    for level, mean in enumerate((-1, 0.5)):
        assert abs(log_sigma[:, level].mean() - mean) < 4.5 * 1.2 / math.sqrt(count)
    assert abs(torch.corrcoef(log_sigma.T)[0, 1]) < 4.5 / math.sqrt(count)
    for mask, rate in ((draws.no_label, 0.1), (draws.self_condition, 0.9)):
        assert abs(mask.float().mean() - rate) < 4.5 * math.sqrt(rate * (1 - rate) / count)
    assert abs(draws.eps.mean()) < 4.5 / math.sqrt(draws.eps.numel())


class Recorder(torch.nn.Module):
    """Stands for the network: answers with given outputs and remembers what it was asked.

    It knows samples by their noise levels, `c_noise` [B, L], whichever of them it is asked.
    """

    def __init__(self, outputs, latents, c_noise):
        super().__init__()
        self.outputs, self.latents, self.c_noise, self.calls = outputs, latents, c_noise, []

    def forward(self, *arguments, outputs=True):
        self.calls.append((arguments, torch.is_grad_enabled(), outputs))
        rows = (arguments[1][:, None] == self.c_noise).all(-1).nonzero()[:, 1]
        assert len(rows) == len(arguments[1])
        return [v[rows] for v in self.outputs] if outputs else None, [z[rows] for z in self.latents]


def test_loss_asks_and_scores_by_the_formulas():
    """Inputs c_in * y and targets v computed here in float64, from pixels averaged by NumPy."""
    config = small_config("label_dropout=0.5", "self_conditioning_rate=0.5", "training.batch=8")
    video, labels = batch_of(config, 8)
    labels[0] = -1
    draws = draw(config, step=0, positions=range(8))
    pixels = video.double().numpy() / 127.5 - 1
    fine = pixels
    coarse = pixels.reshape(8, 3, 2, 2, 4, 2, 4, 2).mean((3, 5, 7))
    inputs, targets = [], []
    for level, grid in enumerate((coarse, fine)):
        starts = draws.windows[:, level].tolist()
        x = np.stack([g[:, f : f + 2, h : h + 4, w : w + 4] for g, (f, h, w) in zip(grid, starts, strict=True)])
        eps = draws.eps[:, level].double().numpy()
        sigma = draws.sigma[:, level].double().numpy().reshape(-1, 1, 1, 1, 1)
        s_in = config.diffusion.scale_in(level)
        inputs.append((x / s_in + sigma * eps) / np.sqrt(1 / s_in**2 + sigma**2))
        targets.append((eps - sigma * x) / np.sqrt(1 + sigma**2))

    offset = torch.tensor([0.0, 1.0])  # of the output from the target: losses 0 and 1 on the two levels
    outputs = [torch.tensor(v).float() + offset[level] for level, v in enumerate(targets)]
    latents = [torch.randn(8, 4, 16), torch.randn(8, 4, 16)]
    network = Recorder(outputs, latents, draws.sigma.log() / 4)
    losses = joint_loss(network, video, labels, draws, config)
    torch.testing.assert_close(losses, offset.expand(8, 2), atol=1e-5, rtol=0)

    (first, first_grad, first_outputs), (second, second_grad, second_outputs) = network.calls
    assert not first_grad and second_grad and second_outputs and not first_outputs
    used = draws.self_condition
    of_used, of_all = ((*call[0], call[1], call[2], call[3].labels) for call in (first, second))
    for part, whole in zip(of_used, of_all, strict=True):
        assert torch.equal(part, whole[used])
    for asked, expected in zip(second[0], inputs, strict=True):
        np.testing.assert_allclose(asked.double(), expected, atol=2e-6)
    np.testing.assert_allclose(second[1], draws.sigma.log() / 4, rtol=1e-6)
    assert torch.equal(second[2], draws.windows)
    pairs = zip(draws.no_label.tolist(), labels.tolist(), strict=True)
    assert second[3].labels.tolist() == [12 if dropped or label < 0 else label for dropped, label in pairs]
    assert 0 < draws.self_condition.sum() < 8
    for start, carried, estimate in zip(first[4], second[4], latents, strict=True):
        assert not start.any()
        assert torch.equal(carried[draws.self_condition], estimate[draws.self_condition])
        assert not carried[~draws.self_condition].any()


def losses_of(*overrides, count=8):
    config = small_config("network.dropout=0.3", "training.batch=8", "micro_batch=null", *overrides)
    torch.manual_seed(0)
    network = Hierarchical(config).make_network().train()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    asked = []
    network.register_forward_pre_hook(lambda module, arguments: asked.append(len(arguments[1])))
    seed_dropout(0, 0, range(count), network)
    video, labels = batch_of(config, count)
    losses = Hierarchical(config).loss(network, video, labels, step=0, positions=range(count))
    return losses, torch.autograd.grad(losses.mean(), list(network.parameters()), allow_unused=True), asked


@pytest.mark.parametrize("fusion", ["deep", "shallow"])
def test_a_first_pass_of_the_samples_that_use_it_equals_one_of_all(fusion):
    """Latents, dropout masks, losses and gradients are those of a whole pass, whose other results are thrown away."""
    common = f"network.fusion={fusion}", "self_conditioning_rate=0.5"
    losses, gradients, asked = losses_of(*common)
    whole, theirs, asked_whole = losses_of(*common, "first_pass=whole")
    assert asked_whole == [8, 8] and 0 < asked[0] < 8 and asked[1] == 8
    torch.testing.assert_close(losses, whole, atol=1e-6, rtol=1e-6)
    for ours, other in zip(gradients, theirs, strict=True):
        assert (ours is None) == (other is None)
        assert ours is None or torch.allclose(ours, other, atol=1e-6, rtol=1e-4)
    unlike = losses_of(*common[:1], "self_conditioning_rate=0")[0]
    assert (losses - unlike).abs().max() > 1e-4  # the pass matters


@pytest.mark.parametrize("rate, passes", [(1.0, [8, 8]), (1e-9, [8]), (0.0, [8])])
def test_where_all_or_none_use_the_first_pass(rate, passes):
    losses, _, asked = losses_of(f"self_conditioning_rate={rate}")
    assert asked == passes
    torch.testing.assert_close(
        losses, losses_of(f"self_conditioning_rate={rate}", "first_pass=whole")[0], atol=1e-6, rtol=1e-6
    )


def test_compiled_blocks_see_one_number_of_samples(monkeypatch):
    config = small_config("training.batch=8", "self_conditioning_rate=0.5")
    network = Hierarchical(config).make_network().train()
    video, labels = batch_of(config, 8)
    asked = []
    network.register_forward_pre_hook(lambda module, arguments: asked.append(len(arguments[1])))
    assert not loss.is_compiled(network)
    compiled = Hierarchical(config).make_network()
    compiled.compile_blocks()
    monkeypatch.setattr(loss, "is_compiled", lambda network, known=loss.is_compiled(compiled): known)
    Hierarchical(config).loss(network, video, labels, step=0, positions=range(8))
    assert asked == [8, 8]


def test_flops_of_the_first_pass():
    """Of the share of samples that use it, without the last block's write and the detokenizer."""

    def figures(*own):
        return count_flops(small_config("self_conditioning_rate=0.5", *own))

    whole, lean, none = figures("first_pass=whole"), figures(), figures("self_conditioning_rate=0")
    forward = whole.forward
    assert (whole.training, none.training) == (4 * forward, 3 * forward)
    network, tokens = small_config().network, 8
    d, width, latents = network.token_width, network.io_heads * network.io_head_width, network.num_latents
    write = 2 * (tokens * d * width * 2 + latents * network.latent_width * 2 * width + 2 * tokens * latents * width)
    write += 2 * 2 * tokens * d * network.token_expansion * d
    detokenizer = 2 * tokens * d * 3 * 4
    assert lean.training == 3 * forward + (forward - 2 * (write + detokenizer)) // 2
    assert figures("compile=true").training == 3 * forward + (forward - 2 * (write + detokenizer))


def test_accumulated_passes_equal_one_pass(tmp_path):
    """Passes of unequal size too: each sample has the same weight, its own noise and its own dropout masks."""
    names = ("whole", 8), ("passes", 2), ("uneven", 3)
    for name, micro_batch in names:
        run(tmp_path / name, "network.dropout=0.3", f"micro_batch={micro_batch}", "training.steps=3")
    whole, *others = ([line["loss_per_level"] for line in read_log(tmp_path / name)] for name, _ in names)
    for losses in others:
        np.testing.assert_allclose(losses, whole, rtol=1e-6)


def test_checkpointing_only_where_memory_asks(monkeypatch):
    """Planned memory against the card's; a processor recomputes nothing, and the plan says from where on a GPU does."""
    config, fixed, always = (small_config(f"activation_checkpointing={which}") for which in ("auto", "false", "true"))
    planned = make_plan(config)
    total = planned.memory["total"]
    assert "activation_checkpointing=auto: recomputed on GPUs with less than" in describe_plan(planned)
    card = SimpleNamespace(total_memory=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(plan, "make_plan", lambda config, world_size: planned)
    for card.total_memory, expected in ((int(1.2 * total), False), (int(1.05 * total), True)):
        assert recomputes_activations(config, torch.device("cuda")) is expected
        assert recomputes_activations(fixed, torch.device("cuda")) is False
    assert recomputes_activations(config, torch.device("cpu")) is False
    assert recomputes_activations(always, "cpu") is recomputes_activations(always, "cuda") is True
    assert load_config("L").training.activation_checkpointing == "auto"
    with pytest.raises(InputError, match="true, false or auto"):
        small_config("activation_checkpointing=maybe")


def test_a_different_seed_gives_another_run(tmp_path):
    for seed in (0, 1):
        run(tmp_path / str(seed), f"training.seed={seed}", "training.steps=2")
    assert read_log(tmp_path / "0")[0]["loss"] != read_log(tmp_path / "1")[0]["loss"]


def test_activation_checkpointing_and_bf16_train_the_same_network(tmp_path):
    run(tmp_path / "plain", "training.steps=3")
    run(tmp_path / "recomputed", "training.steps=3", "activation_checkpointing=true")
    run(tmp_path / "bf16", "training.steps=3", "precision=bf16")
    plain, recomputed, bf16 = (
        [line["loss"] for line in read_log(tmp_path / name)] for name in ("plain", "recomputed", "bf16")
    )
    np.testing.assert_allclose(recomputed, plain, rtol=1e-6)
    np.testing.assert_allclose(bf16, plain, rtol=2e-2)
    assert bf16 != plain
    saved = load_file(latest_checkpoint(tmp_path / "bf16") / "model.safetensors")
    assert all(p.dtype == torch.float32 for p in saved.values())


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_learning_rate(schedule):
    config = TrainingConfig(steps=1000, warmup=100, lr=0.004, schedule=schedule)
    assert learning_rate(config, 0) == pytest.approx(0.00004)
    assert learning_rate(config, 49) == pytest.approx(0.002)
    assert learning_rate(config, 100) == 0.004
    halfway, end = learning_rate(config, 550), learning_rate(config, 1000)
    assert (halfway, end) == ((pytest.approx(0.002), pytest.approx(0)) if schedule == "cosine" else (0.004, 0.004))


def test_warmup_longer_than_the_run_and_none_at_all():
    assert learning_rate(TrainingConfig(steps=10, warmup=100, lr=1.0), 9) == pytest.approx(0.1)
    assert learning_rate(TrainingConfig(steps=10, warmup=0, lr=1.0), 0) == 1.0


def test_parameter_groups_follow_the_rule():
    config = small_config()
    network = HPDM(config.network, config.pyramid)
    names = {id(p): name for name, p in network.named_parameters()}
    decay, no_decay = parameter_groups(network, 0.01)
    assert len(decay["params"]) + len(no_decay["params"]) == len(names)
    assert (decay["weight_decay"], no_decay["weight_decay"]) == (0.01, 0.0)
    for parameter in decay["params"]:
        assert parameter.ndim == 2 and names[id(parameter)].endswith("weight")
    exempt = {names[id(p)] for p in no_decay["params"]}
    assert {"latents", "classes.weight", "tokenizer.positions.0", "detokenizer.norm.weight"} <= exempt
    assert f"{sum(p.numel() for p in decay['params']):,}" in describe_groups([decay, no_decay])


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lamb_equals_the_algorithm_in_float64(weight_decay):
    """You et al. 2019 (arXiv 1904.00962), algorithm 2; norms and biases without decay and without trust ratio."""
    config = small_config(f"weight_decay={weight_decay}")
    network = HPDM(config.network, config.pyramid)
    optimizer = make_optimizer(network, config.training)
    lr, (b1, b2), eps = 0.003, config.training.betas, config.training.eps
    exempt = network.no_decay_parameters()
    generator = torch.Generator().manual_seed(0)
    expected = {name: p.detach().double().clone() for name, p in network.named_parameters()}
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in expected.items()}
    for step in range(1, 4):
        for name, p in network.named_parameters():
            p.grad = torch.randn(p.shape, generator=generator) * 0.1
            m, v = moments[name]
            gradient = p.grad.double()
            m, v = moments[name] = b1 * m + (1 - b1) * gradient, b2 * v + (1 - b2) * gradient**2
            update = (m / (1 - b1**step)) / ((v / (1 - b2**step)).sqrt() + eps)
            if name not in exempt:
                update = update + weight_decay * expected[name]
                norm = expected[name].norm()
                update = update * (norm / update.norm() if norm > 0 else 1)
            expected[name] = expected[name] - lr * update
        optimizer.step()
    for name, p in network.named_parameters():
        torch.testing.assert_close(p.detach().double(), expected[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lamb_equals_timms(weight_decay, monkeypatch):
    """An implementation that is used widely; in chunks of a few tensors, and with parameters that get no gradient."""
    import_torchvision()  # timm imports it
    from timm.optim.lamb import Lamb as Theirs

    monkeypatch.setattr(lamb, "CHUNK", 5000)
    config = small_config(f"weight_decay={weight_decay}")
    networks = [HPDM(config.network, config.pyramid) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    ours = make_optimizer(networks[0], config.training)
    groups = parameter_groups(networks[1], weight_decay)
    for group in groups:
        group["always_adapt"] = group["name"] == "decay"
    training = config.training
    theirs = Theirs(groups, lr=training.lr, betas=training.betas, eps=training.eps, max_grad_norm=None)
    generator = torch.Generator().manual_seed(0)
    for step in range(4):
        for optimizer in (ours, theirs):
            for group in optimizer.param_groups:
                group["lr"] = 0.01 / (step + 1)
        for index, (a, b) in enumerate(zip(networks[0].parameters(), networks[1].parameters(), strict=True)):
            if index % 7 == step:  # such as a frozen or unused layer
                a.grad = b.grad = None
                continue
            a.grad = torch.randn(a.shape, generator=generator) * 10.0 ** (index % 5 - 3)
            b.grad = a.grad.clone()
        ours.step()
        theirs.step()
    for (name, a), b in zip(networks[0].named_parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8, msg=name)
    assert [group["step"].item() for group in ours.param_groups] == [4, 4]


def test_lamb_starts_no_matrix_at_zero_and_adamw_leaves_all_as_they_are():
    """The trust ratio ties growth to the norm: at zero a matrix stays. What is drawn does not move what was drawn."""
    networks = {}
    for name, settings in (
        ("lamb", ("warmup=100",)),
        ("none", ("warmup=100", "start_gain=0")),
        ("adamw", ("warmup=100", "optimizer=adamw")),
    ):
        config = small_config(*settings)
        torch.manual_seed(config.training.seed)
        networks[name] = HPDM(config.network, config.pyramid)
        drawn = leave_zero(networks[name], config.training)
        assert drawn == ([] if name != "lamb" else ["blocks.1.fusion.coordinates.weight", "detokenizer.project.weight"])
    lamb, none, adamw = (dict(network.named_parameters()) for network in networks.values())
    assert all(torch.equal(none[name], adamw[name]) for name in none)
    changed = [name for name in none if not torch.equal(lamb[name], none[name])]
    assert changed == ["blocks.1.fusion.coordinates.weight", "detokenizer.project.weight"]
    for name in changed:
        outputs, inputs = none[name].shape
        expected = 0.5 * math.sqrt(2 / (inputs + outputs))
        assert not none[name].any() and lamb[name].std().item() == pytest.approx(expected, rel=0.3)
    decay = parameter_groups(networks["lamb"], 0.01)[0]["params"]
    assert all(parameter.any() for parameter in decay)


def test_steps_that_are_not_finite_are_skipped_and_counted(tmp_path, monkeypatch):
    bad = {1, 3}

    whole = Hierarchical.loss

    def sometimes_nan(self, *arguments, **options):
        losses = whole(self, *arguments, **options)
        return losses * math.nan if calls.pop(0) in bad else losses

    calls = [step for step in range(6) for _ in range(4)]
    monkeypatch.setattr(Hierarchical, "loss", sometimes_nan)
    run(tmp_path / "run", "checkpoint_every=1", "max_nonfinite=3")
    weights = {
        step: load_file(tmp_path / "run" / f"step-{step:08d}" / "model.safetensors")["detokenizer.project.weight"]
        for step in range(1, 7)
    }
    assert torch.equal(weights[1], weights[2]) and torch.equal(weights[3], weights[4])
    assert not torch.equal(weights[2], weights[3]) and all(w.isfinite().all() for w in weights.values())
    assert [line["step"] for line in read_log(tmp_path / "run")] == [1, 3, 5, 6]
    assert read_log(tmp_path / "run")[-1]["nonfinite"] == 2

    calls = [1] * 24
    with pytest.raises(loop.NonFiniteLoss, match="stopped at step 3: 3 steps"):
        run(tmp_path / "other", "max_nonfinite=3")


@given(batch=st.integers(1, 60), world_size=st.integers(1, 9), micro_batch=st.integers(1, 12))
def test_any_number_of_processes_shares_a_batch(batch, world_size, micro_batch):
    batch = max(batch, world_size)
    plan = plan_batch(TrainingConfig(batch=batch, micro_batch=micro_batch), world_size)
    passes = [[plan.positions(rank, index) for index in range(plan.passes)] for rank in range(world_size)]
    assert [place for of_rank in passes for chosen in of_rank for place in chosen] == list(range(batch))
    assert max(len(chosen) for of_rank in passes for chosen in of_rank) <= micro_batch
    assert min(len(of_rank[0]) for of_rank in passes) >= 1
    shares = [len(plan.share(rank)) for rank in range(world_size)]
    assert max(shares) - min(shares) <= 1 and max(shares) == plan.per_process
    assert plan.passes == -(-plan.per_process // min(micro_batch, plan.per_process))  # none to spare


@pytest.mark.parametrize(("size", "world_size"), [("L", 7), ("L", 28), ("S", 40), ("M", 56), ("L", 72), ("T2V", 72)])
def test_published_batches_fit_any_cluster(size, world_size):
    config = load_config(size)
    plan = plan_batch(config.training, world_size)
    assert sum(len(plan.share(rank)) for rank in range(world_size)) == config.training.batch
    assert f"batch {config.training.batch} over {world_size} processes, {len(plan.share(0))} to" in plan.describe()


def test_nothing_is_written_where_there_are_more_processes_than_samples(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="batch of 8 leaves some of 9 processes without a sample"):
        plan_batch(small_config().training, 9)


@pytest.mark.parametrize(
    "setting", ["lr=-1", "optimizer=sgd", "warmup=-1", "betas=[0.9, 1.0]", "ema_half_life=0", "keep=0"]
)
def test_impossible_settings_are_refused(setting):
    with pytest.raises(InputError, match=setting.split("=", maxsplit=1)[0]):
        small_config(f"training.{setting}")


def test_log_has_the_figures_of_each_step(tmp_path):
    run(tmp_path / "run", "log_every=2", "training.steps=5")
    lines = read_log(tmp_path / "run")
    assert [line["step"] for line in lines] == [2, 4, 5]
    for line in lines:
        assert line["samples"] == 8 * line["step"]
        assert line["loss"] == pytest.approx(np.mean(line["loss_per_level"]))
        assert line["lr"] == learning_rate(small_config("training.steps=5").training, line["step"] - 1)
        assert line["gradient_norm"] > 0 and line["samples_per_second"] > 0


def test_every_start_notes_what_trained(tmp_path):
    run(tmp_path / "run", "training.steps=4", stop_after=2)
    with open(tmp_path / "run" / PROVENANCE_FILE, "a") as file:
        file.write('{"step": 9, "gi')  # cut off by a kill
        file.write("\n")
    run(tmp_path / "run", "training.steps=4")
    run(tmp_path / "run", "training.steps=4")  # nothing left to do
    lines = read_provenance(tmp_path / "run")
    assert [line["step"] for line in lines] == [0, 2] and read_provenance(tmp_path) == []
    assert lines[0]["git"] == git_revision() and lines[0]["processes"] == 1
    assert "torch" in lines[0]["versions"] and "threads" in lines[0]["hardware"] and lines[0]["command"]


def rin_flops(config, tokens):
    """A RIN block's matrix products by hand, a multiply-add as two."""
    d, D, c, M = config.token_width, config.latent_width, config.condition_width, config.num_latents

    def attention(queries, inputs, keys, context, width):
        projections = 2 * queries * inputs * width + 2 * keys * context * width
        return 2 * (projections + 2 * queries * keys * width)

    def feed_forward(count, width, expansion):
        return 2 * (2 * count * width * width * expansion)

    io, compute = config.io_heads * config.io_head_width, config.compute_heads * config.compute_head_width
    layer = attention(M, D, M, D, compute) + feed_forward(M, D, config.latent_expansion)
    return (
        attention(M, D, 2, c, io)
        + attention(M, D, tokens, d, io)
        + 2 * feed_forward(M, D, config.latent_expansion)
        + config.compute_layers * layer
        + attention(tokens, d, M, D, io)
        + feed_forward(tokens, d, config.token_expansion)
    )


def test_plan_adds_up():
    config = small_config()
    plan = make_plan(config)
    assert plan.parameters == sum(plan.parameters_by_part.values())
    assert [(entry["block"], entry["level"]) for entry in plan.flops] == [(0, 0), (1, 0), (1, 1)]
    assert plan.flops_outside_blocks > 0
    assert plan.flops[0]["flops"] == rin_flops(config.network, tokens=8)
    all_levels = make_plan(small_config("levels_per_block=[2, 2]"))
    assert all_levels.flops_per_sample > plan.flops_per_sample
    assert plan.batch == {
        "batch": 8,
        "processes": 1,
        "per_process": 8,
        "micro_batch": 2,
        "passes_per_step": 4,
        "steps": 6,
        "samples": 48,
    }
    recomputed = make_plan(small_config("activation_checkpointing=true"))
    assert 0 < recomputed.memory["activations"] < plan.memory["activations"]
    sharded = make_plan(small_config("parallel=fsdp"), world_size=2)
    assert sharded.memory["average"] == plan.memory["average"] // 2
