"""Post-hoc EMA: the traces' profile, the closed form, reconstruction, snapshots that stay and survive kills."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from scipy.integrate import quad

from hpdm.checkpoint import folder as checkpoint
from hpdm.checkpoint.folder import steps_saved, trace_file
from hpdm.checkpoint.load import load_checkpoint
from hpdm.commands.entry import info
from hpdm.support.errors import InputError
from hpdm.training import loop, saving, snapshots
from hpdm.training.ema import PowerEMA, gamma_of
from hpdm.training.plan import make_plan
from hpdm.training.posthoc import combine, find_snapshots, profile_product, solve, write_average
from tests.support.small_training import small_config

STEPS, EVERY, THIRD = 24, 2, 0.075


def profile(t, gamma):
    return lambda tau: (gamma + 1) * tau**gamma / t ** (gamma + 1)


@pytest.mark.parametrize("sigma_rel", [0.01, 0.05, 0.10, 0.25, 12**-0.5])
def test_exponent_gives_a_profile_of_that_width(sigma_rel):
    """The standard deviation of the profile over [0, 1], by quadrature."""
    density = profile(1.0, gamma_of(sigma_rel))
    mass, mean, square = (quad(lambda x, k=k: x**k * density(x), 0, 1, limit=200)[0] for k in (0, 1, 2))
    assert mass == pytest.approx(1, rel=1e-9)
    assert np.sqrt(square - mean**2) == pytest.approx(sigma_rel, rel=1e-6)


@pytest.mark.parametrize(("a", "b"), [((10, 0.05), (25, 0.1)), ((25, 0.05), (10, 0.1)), ((7, 0.2), (7, 0.2))])
def test_product_of_profiles_equals_quadrature(a, b):
    (t_a, s_a), (t_b, s_b) = a, b
    first, second = profile(t_a, gamma_of(s_a)), profile(t_b, gamma_of(s_b))
    expected = quad(lambda x: first(x) * second(x), 0, min(t_a, t_b), limit=500, epsabs=0, epsrel=1e-11)[0]
    assert float(profile_product(t_a, gamma_of(s_a), t_b, gamma_of(s_b))) == pytest.approx(expected, rel=1e-8)


class Walk:
    """Weights on a random walk with drift, and what traces of them must be: the profile's integral over each step."""

    def __init__(self, steps, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.network = torch.nn.Linear(3, 4)
        drift = torch.randn(16, generator=generator)
        noise = torch.randn(steps, 16, generator=generator)
        ramp = torch.arange(1, steps + 1)[:, None] / steps
        self.weights = (drift * ramp.sqrt() + 0.1 * noise + noise.cumsum(0) / steps**0.5).double()  # [steps, 16]

    def set(self, step):
        with torch.no_grad():
            flat = self.weights[step - 1].float()
            self.network.weight.copy_(flat[:12].view(4, 3))
            self.network.bias.copy_(flat[12:])

    def exact(self, step, sigma_rel):
        gamma, edges = gamma_of(sigma_rel), np.arange(step + 1) / step
        return torch.tensor(np.diff(edges ** (gamma + 1))) @ self.weights[:step]


def flat(average):
    return torch.cat([value.flatten() for value in average.average]).double()


@pytest.mark.parametrize("sigma_rel", [0.05, 0.1, 0.25, 12**-0.5])
def test_traces_follow_their_profile_exactly(sigma_rel):
    walk = Walk(300)
    trace = PowerEMA(walk.network, sigma_rel)  # whose start, before the first step, must leave no trace
    for step in range(1, 301):
        walk.set(step)
        trace.update(step)
        if step in (1, 2, 10, 300):
            torch.testing.assert_close(flat(trace), walk.exact(step, sigma_rel), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("every", "tolerance"), [(32, 0.02), (8, 0.001)])
@pytest.mark.parametrize("sigma_rel", [0.03, 0.075, 0.15, 0.2])
def test_reconstructs_lengths_that_were_not_kept(every, tolerance, sigma_rel):
    """Against the closed form in float64, of weights that wander: within `tolerance` of how far they wander."""
    steps, walk = 512, Walk(512, seed=3)
    kept = [(step, length) for step in range(every, steps + 1, every) for length in (0.05, 0.1)]
    solution = solve(*zip(*kept, strict=True), steps, sigma_rel)
    found = sum(x * walk.exact(*snapshot) for x, snapshot in zip(solution.coefficients, kept, strict=True))
    error = (found - walk.exact(steps, sigma_rel)).abs().max() / walk.weights.std()
    assert error < tolerance and solution.error < 4 * tolerance
    dense = np.diff((np.linspace(0, 1, 200_001)) ** (gamma_of(sigma_rel) + 1))  # least squares on a grid of the profile
    mixed = sum(
        x * np.diff(np.minimum(np.linspace(0, steps / t, 200_001), 1) ** (gamma_of(s) + 1))
        for x, (t, s) in zip(solution.coefficients, kept, strict=True)
    )
    assert np.linalg.norm(mixed - dense) / np.linalg.norm(dense) == pytest.approx(solution.error, rel=0.02, abs=1e-6)


def test_lengths_that_were_kept_come_back_as_they_are():
    solution = solve([10, 20, 10, 20], [0.05, 0.05, 0.1, 0.1], 20, 0.1)
    np.testing.assert_allclose(solution.coefficients, [0, 0, 0, 1], atol=1e-9)
    assert solution.error < 1e-6


@pytest.mark.parametrize("sigma_rel", [0.01, 0.03, 0.075, 0.25])
def test_weights_that_do_not_move_come_out_as_they_are(sigma_rel):
    kept = [(step, length) for step in range(50, 501, 50) for length in (0.05, 0.1)]
    assert solve(*zip(*kept, strict=True), 500, sigma_rel).coefficients.sum() == pytest.approx(1, abs=1e-12)


def run(folder, *overrides, **arguments):
    settings = (
        f"training.steps={STEPS}",
        f"keep_weights_every={EVERY}",
        "keep=1",
        "checkpoint_every=100",
        "micro_batch=8",
        f"power_ema=[0.05, {THIRD}, 0.1]",
    )
    return loop.train(small_config(*settings, *overrides), folder, device="cpu", quiet=True, **arguments)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that keeps a third length, against which reconstructions are held."""
    folder = tmp_path_factory.mktemp("posthoc") / "run"
    run(folder)
    return folder


def without_third(trained, folder):
    shutil.copytree(trained, folder, symlinks=True)
    for file in folder.rglob(trace_file(THIRD)):
        file.unlink()
    return folder


def distance(a, b):
    return torch.cat([(a[name] - b[name]).flatten() for name in a]).norm()


def test_a_training_kept_what_is_reconstructed(trained, tmp_path):
    """The third trace of a real training to 3 % of its distance from the nearer one of those that are kept."""
    source = without_third(trained, tmp_path / "two")
    about = write_average(source, tmp_path / "out", length=THIRD)
    assert about["step"] == STEPS and len(about["snapshots"]) == 2 * STEPS // EVERY
    direct = load_file(trained / "latest" / trace_file(THIRD))
    made = load_file(tmp_path / "out" / "ema.safetensors")
    apart = distance(direct, made)
    assert apart < 0.03 * min(distance(direct, load_file(trained / "latest" / trace_file(s))) for s in (0.05, 0.1))
    assert made.keys() == direct.keys() and about["profile_error"] < 0.01


def test_the_command_writes_a_checkpoint_to_sample_from(trained, tmp_path):
    out = tmp_path / "out"
    result = CliRunner().invoke(info, ["ema", str(trained), "--length", "0.08", "--step", "20", "--out", str(out)])
    assert result.exit_code == 0, result.stderr
    assert "step 20, length 0.08, from 30 averages" in result.stdout
    loaded = load_checkpoint(out)
    assert loaded.step == 20 and loaded.config.size == "small"
    about = json.loads((out / "posthoc.json").read_text())
    expected = combine(
        [trained / entry["file"] for entry in about["snapshots"]],
        [entry["coefficient"] for entry in about["snapshots"]],
    )
    assert all(torch.equal(value, expected[name]) for name, value in loaded.network.named_parameters())
    assert CliRunner().invoke(info, ["verify", str(out)]).exit_code == 0


def test_what_cannot_be_averaged_exits_2(trained, tmp_path):
    for arguments, message in (
        ((str(tmp_path), "--length", "0.1"), "holds no averages"),
        ((str(trained), "--length", "0.1", "--step", "21"), "of step 21; there are steps 2, 4, 6, ..., 20, 22, 24"),
        ((str(trained), "--length", "0.5"), "0.001<=x<=0.288"),
    ):
        result = CliRunner().invoke(info, ["ema", *arguments, "--out", str(tmp_path / "new")])
        assert result.exit_code == 2 and message in result.stderr and not (tmp_path / "new").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    result = CliRunner().invoke(info, ["ema", str(trained), "--length", "0.1", "--out", str(tmp_path / "full")])
    assert result.exit_code == 2 and "not empty" in result.stderr


def test_a_damaged_snapshot_is_named_and_done_without(trained, tmp_path, capsys):
    source = tmp_path / "run"
    shutil.copytree(trained, source, symlinks=True)
    file = source / "snapshots" / "step-00000020" / trace_file(0.05)
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    assert CliRunner().invoke(info, ["verify", str(source)]).exit_code == 2
    found = find_snapshots(source)
    assert {s.step for s in found} == set(range(2, STEPS + 1, 2)) - {20} and "step-00000020" in capsys.readouterr().err
    (source / "snapshots" / "step-00000018").rename(source / "snapshots" / "step-00000017")
    with pytest.raises(InputError, match="step-00000020 is damaged"):
        find_snapshots(source, 20)


def test_snapshots_stay_and_checkpoints_do_not(trained):
    assert list(steps_saved(trained / "snapshots")) == list(range(2, STEPS + 1, 2)) and len(steps_saved(trained)) == 1
    names = {path.name for path in (trained / "snapshots" / "step-00000024").iterdir()}
    traces = {trace_file(length) for length in (0.05, THIRD, 0.1)}
    assert names == {"ema.safetensors", "config.yaml", "manifest.json", *traces}
    for name in traces | {"ema.safetensors"}:
        ours, theirs = (trained / folder / name for folder in ("latest", "snapshots/step-00000024"))
        assert ours.read_bytes() == theirs.read_bytes(), name


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    folder = tmp_path_factory.mktemp("short") / "run"
    run(folder, "training.steps=6", "keep_weights_every=3")
    return folder


@pytest.mark.parametrize(
    ("module", "name"), [(saving, "save_snapshot"), (snapshots, "write_weights"), (checkpoint, "save_checkpoint")]
)
def test_a_run_that_was_killed_has_the_same_snapshots(short, tmp_path, monkeypatch, module, name):
    """Killed at the last step: between checkpoint and snapshot, in the snapshot, before the checkpoint."""

    class Killed(Exception):
        pass

    def killed(*arguments, step, **options):
        if step == 6:
            raise Killed
        return original(*arguments, step=step, **options)

    original = getattr(module, name)
    settings = ("training.steps=6", "keep_weights_every=3")
    with monkeypatch.context() as patch:
        patch.setattr(module, name, killed)
        with pytest.raises(Killed):
            run(tmp_path / "run", *settings)
    run(tmp_path / "run", *settings)
    files = {path.relative_to(short) for path in (short / "snapshots").rglob("*") if path.is_file()}
    assert (
        files
        == {
            path.relative_to(tmp_path / "run") for path in (tmp_path / "run" / "snapshots").rglob("*") if path.is_file()
        }
        and len(files) == 12
    )
    for file in (*files, "latest/training.pt", "latest/" + trace_file(0.05)):
        assert (short / file).read_bytes() == (tmp_path / "run" / file).read_bytes(), file


def test_later_snapshots_are_set_aside_where_one_goes_back(tmp_path):
    settings = ("training.steps=4", "keep_weights_every=2", "keep=10", "micro_batch=8")
    loop.train(small_config(*settings), tmp_path, device="cpu", quiet=True)
    shutil.rmtree(tmp_path / "step-00000004")
    (tmp_path / "latest").unlink()
    loop.train(small_config(*settings), tmp_path, device="cpu", quiet=True)
    assert sorted(path.name for path in (tmp_path / "snapshots").iterdir()) == [
        "set-aside-step-00000004",
        "step-00000002",
        "step-00000004",
    ]


def test_traces_start_with_the_run_or_not_at_all(tmp_path):
    def go_on(stop_after, *settings):
        loop.train(small_config("micro_batch=8", *settings), tmp_path, device="cpu", quiet=True, stop_after=stop_after)

    go_on(2)
    with pytest.raises(InputError, match="trace-0.050.safetensors: an average for post-hoc EMA starts with the run"):
        go_on(3, "keep_weights_every=3")
    go_on(3, "keep_weights_every=3", "power_ema=[]")
    kept = tmp_path / "snapshots" / "step-00000003"
    assert {path.name for path in kept.glob("*.safetensors")} == {"ema.safetensors"}


def test_a_skipped_step_counts_the_weights_once_more(tmp_path, monkeypatch):
    """So the profile is over all steps: the sum over saved weights, with those of the step before where one failed."""
    from hpdm.hierarchical import Hierarchical

    loss, calls = Hierarchical.loss, []

    def sometimes_nan(self, *arguments, **options):
        calls.append(None)
        return loss(self, *arguments, **options) * (np.nan if len(calls) == 3 else 1)

    monkeypatch.setattr(Hierarchical, "loss", sometimes_nan)
    settings = ("training.steps=6", "checkpoint_every=1", "power_ema=[0.1]", "micro_batch=8")
    loop.train(small_config(*settings), tmp_path, device="cpu", quiet=True)
    name = "detokenizer.project.weight"
    weights = [load_file(path / "model.safetensors")[name].double() for path in steps_saved(tmp_path).values()]
    assert torch.equal(weights[1], weights[2]) and not torch.equal(weights[2], weights[3])
    shares = np.diff((np.arange(7) / 6) ** (gamma_of(0.1) + 1))
    expected = sum(share * weight for share, weight in zip(shares, weights, strict=True))
    found = load_file(tmp_path / "latest" / trace_file(0.1))[name].double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "setting", ["power_ema=[0.3]", "power_ema=[0.1, 0.1]", "power_ema=[0]", "keep_weights_every=-1"]
)
def test_impossible_settings_are_refused(setting):
    with pytest.raises(InputError, match=setting.split("=", maxsplit=1)[0]):
        small_config(f"training.{setting}")


def test_plan_states_memory_and_disk_space(trained):
    config = small_config(f"training.steps={STEPS}", f"keep_weights_every={EVERY}", "keep=1")
    plan = make_plan(config)
    assert plan.memory["average"] == 12 * plan.parameters and plan.disk["checkpoint"] == (4 + 8 + 12) * plan.parameters
    assert plan.disk["checkpoints"] == 2 * plan.disk["checkpoint"]  # the one that stays, and one while it is written
    stored = sum(path.stat().st_size for path in (trained / "snapshots").rglob(f"trace-*{THIRD}*")) / (STEPS // EVERY)
    assert plan.disk["snapshot"] == pytest.approx(3 * stored, rel=0.5)  # headers weigh much at this size
    assert plan.disk["snapshots"] == plan.disk["snapshot"] * STEPS // EVERY
