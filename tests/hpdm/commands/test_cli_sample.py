"""`hpdm-sample`: the folder it writes, going on where it stopped, sharing the work out, and what it refuses."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time

import av
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from hpdm.checkpoint.load import load_checkpoint
from hpdm.commands import sample as cli
from hpdm.config.sampling import named_sampler
from hpdm.sampling.tiled import TiledSampler
from hpdm.support.console import EXIT_BAD_INPUT, EXIT_INTERRUPTED
from tests.support.sampling_models import save_tiny, tiny_config


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("run") / "step-00000007")


def run(checkpoint, out, *options, num=3):
    return CliRunner().invoke(
        cli.sample, ["--checkpoint", str(checkpoint), "--num", str(num), "--out", str(out), "--device", "cpu", *options]
    )


def arrays(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.npy"))}


def manifest(folder):
    return json.loads((folder / "samples.json").read_text())


def test_writes_playable_videos_and_says_how_they_were_made(checkpoint, tmp_path):
    result = run(checkpoint, tmp_path / "out", "--classes", "3,1", "--fps", "10", "--crf", "30", "--sheet")
    assert result.exit_code == 0, result.output
    names = ["00000_c003.mp4", "00001_c001.mp4", "00002_c003.mp4"]
    assert sorted(p.name for p in (tmp_path / "out").glob("*.mp4")) == names
    with av.open(str(tmp_path / "out" / names[0])) as video:
        stream = video.streams.video[0]
        assert (stream.codec.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 10)
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(stream)]
    assert np.stack(frames).shape == (16, 32, 32, 3)

    about = manifest(tmp_path / "out")
    assert about["checkpoint"]["step"] == 7
    assert len(about["checkpoint"]["sha256"]) == 64 and about["settings"]["checkpoint"] == about["checkpoint"]["sha256"]
    assert about["weights"] == "ema" and about["settings"]["seed"] == 0 and "torch" in about["versions"]
    assert about["samples"] == [
        {"index": i, "label": label, "file": name} for i, (label, name) in enumerate(zip((3, 1, 3), names, strict=True))
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "out",
        "out-pyramid.mp4",
        "out-pyramid.png",
        "out-sheet.mp4",
        "out-sheet.png",
    ]
    assert "block evaluations" in result.output and "GiB" in result.output


def test_arrays_are_the_sampler_s_videos(checkpoint, tmp_path):
    assert run(checkpoint, tmp_path / "out", "--format", "npy", "--seed", "4").exit_code == 0
    loaded = load_checkpoint(checkpoint)
    sampler = TiledSampler(loaded.network, loaded.config.diffusion, loaded.config.sampling)
    video = sampler.sample([1], [1], 4)[-1]
    clip = np.load(tmp_path / "out" / "00001_c001.npy")
    assert clip.dtype == np.uint8 and clip.shape == (16, 32, 32, 3)
    # The sampler here puts every tile into a call of its own: equal but for the last bits.
    exact = (video[0].permute(1, 2, 3, 0).clamp(-1, 1) + 1) * 127.5
    assert np.abs(clip - exact.numpy()).max() < 0.51


def test_samples_are_the_same_bytes_however_they_are_batched(checkpoint, tmp_path):
    for out, options in {
        "one": ["--batch", "1"],
        "eight": ["--batch", "8"],
        "tile": ["--tile-batch", "1", "--batch", "3"],
        "tiles": ["--tile-batch", "64"],
    }.items():
        assert run(checkpoint, tmp_path / out, "--format", "npy", *options, num=9).exit_code == 0
    wanted = arrays(tmp_path / "one")
    assert len(wanted) == 9
    assert all(arrays(tmp_path / other) == wanted for other in ("eight", "tile", "tiles"))


def command(checkpoint, out, *options):
    return [
        sys.executable,
        "-m",
        "hpdm.commands.sample",
        "--checkpoint",
        str(checkpoint),
        "--out",
        str(out),
        "--device",
        "cpu",
        "--format",
        "npy",
        *options,
    ]


def test_two_processes_share_the_work_and_write_the_same_bytes(checkpoint, tmp_path):
    environment = os.environ | {"WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    two = command(checkpoint, tmp_path / "two", "--num", "5", "--quiet")
    started = [subprocess.Popen(two, env=environment | {"RANK": rank}) for rank in "01"]
    assert [process.wait(timeout=120) for process in started] == [0, 0]
    assert run(checkpoint, tmp_path / "one", "--format", "npy", num=5).exit_code == 0
    assert arrays(tmp_path / "two") == arrays(tmp_path / "one")
    assert manifest(tmp_path / "two")["samples"] == manifest(tmp_path / "one")["samples"]


def test_ctrl_c_leaves_a_valid_folder_that_the_same_command_completes(checkpoint, tmp_path):
    out = tmp_path / "out"
    options = ["--num", "40", "--batch", "1", "--steps", "6,6,6"]
    process = subprocess.Popen(
        command(checkpoint, out, *options), env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while len(arrays(out)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == EXIT_INTERRUPTED
    made = arrays(out)
    assert 2 <= len(made) < 40
    assert [sample["file"] for sample in manifest(out)["samples"]] == sorted(made)
    assert all(np.load(out / name).shape == (16, 32, 32, 3) for name in made)

    number = len(made) + 1
    before = {name: (out / name).stat().st_mtime_ns for name in made}
    result = run(checkpoint, out, "--format", "npy", "--batch", "1", "--steps", "6,6,6", num=number)
    assert result.exit_code == 0, result.output
    assert len(arrays(out)) == number
    assert all((out / name).stat().st_mtime_ns == stamp for name, stamp in before.items())


def test_another_setting_on_the_same_folder_is_refused_with_the_difference(checkpoint, tmp_path):
    out = tmp_path / "out"
    assert run(checkpoint, out, num=1).exit_code == 0
    result = run(checkpoint, out, "--steps", "3,2,1", "--seed", "2", num=2)
    assert result.exit_code == EXIT_BAD_INPUT
    assert "seed: 0 -> 2" in result.output and "steps: [3, 2, 2] -> [3, 2, 1]" in result.output
    assert len(list(out.glob("*.mp4"))) == 1
    assert run(checkpoint, out, "--batch", "2", num=2).exit_code == 0
    (out / "samples.json").unlink()
    assert run(checkpoint, out, num=2).exit_code == EXIT_BAD_INPUT


# Sample 1 of the tiny checkpoint as the paper's sampler made it before there was any other.
GOLDEN = {
    "mean": 165.548,
    "pixels": np.array(
        [[113, 190, 249, 159, 255], [113, 65, 196, 191, 149], [200, 118, 217, 173, 255], [255, 101, 192, 50, 249]]
    ),
}
FAST = [
    "--tilings",
    "2",
    "--tiling-borders",
    "kept",
    "--start-noise",
    "1",
    "--tile-weights",
    "feathered",
    "--averaged-steps",
    "1",
    "--solver",
    "multistep",
    "--overlap",
    "w",
    "--steps",
    "2,3,2",
]


def test_the_paper_s_sampler_by_name_whatever_the_checkpoint_says(checkpoint, tmp_path):
    fast = tiny_config()
    fast = dataclasses.replace(
        fast,
        sampling=dataclasses.replace(
            fast.sampling,
            tilings=2,
            start_noise=1.0,
            tile_weights="feathered",
            tiling_borders="kept",
            averaged_steps=1,
            solver="multistep",
        ),
    )
    other = save_tiny(tmp_path / "run" / "step-00000007", fast)
    steps = ("--steps", ",".join(map(str, fast.sampling.steps)))
    ways = {"plain": (checkpoint,), "paper": (other, "--sampler", "paper", *steps), "other": (other,)}
    for name, options in ways.items():
        result = run(options[0], tmp_path / name, "--format", "npy", *options[1:], num=2)
        assert result.exit_code == 0, result.output
    assert arrays(tmp_path / "plain") == arrays(tmp_path / "paper") != arrays(tmp_path / "other")
    video = np.load(tmp_path / "paper" / "00001_c001.npy").astype(float)
    assert (
        video.mean() == pytest.approx(GOLDEN["mean"], abs=0.02)
        and np.abs(video[::5, 3, ::7, 1] - GOLDEN["pixels"]).max() <= 2
    )


def test_a_sampler_by_name_takes_the_published_steps_for_its_solver(checkpoint, tmp_path):
    """Steps stay the checkpoint's where they are for the same solver, and the command's where it names some."""
    config = tiny_config()
    sampling = dataclasses.replace(config.sampling, **named_sampler("multistep", config.sampling))
    other = save_tiny(tmp_path / "run" / "step-00000007", dataclasses.replace(config, sampling=sampling))

    def steps(model, *options):
        result = run(model, tmp_path / "none", "--dry-run", *options, num=1)
        assert result.exit_code == 0, result.output
        return [int(number) for number in re.findall(r"(\d+) steps", result.output)]

    own = list(config.sampling.steps)
    assert steps(checkpoint) == steps(checkpoint, "--sampler", "paper") == own
    first, second, third = steps(checkpoint, "--sampler", "multistep")
    assert first == 64 and 1 < second < 14 and 1 < third < 7  # those above ten times the signal are left out
    assert steps(other) == [first, second, third]
    assert steps(other, "--sampler", "paper") == [128, 64, 32]
    assert steps(other, "--sampler", "paper", "--steps", "5,4,3") == [5, 4, 3]


def test_ways_to_sample_by_option_and_by_key_are_written_down(checkpoint, tmp_path):
    assert run(checkpoint, tmp_path / "options", "--format", "npy", *FAST, num=1).exit_code == 0
    keys = {
        "tilings": 2,
        "tiling_borders": "kept",
        "start_noise": 1.0,
        "tile_weights": "feathered",
        "averaged_steps": 1,
        "solver": "multistep",
        "overlap": "w",
        "steps": [2, 3, 2],
    }
    words = [word for key, value in keys.items() for word in ("--set", f"sampling.{key}={json.dumps(value)}")]
    assert run(checkpoint, tmp_path / "keys", "--format", "npy", *words, num=1).exit_code == 0
    assert arrays(tmp_path / "options") == arrays(tmp_path / "keys")
    found = manifest(tmp_path / "keys")
    assert found["settings"].items() >= keys.items() and found["settings"]["calls"] == "exact"
    said = run(checkpoint, tmp_path / "none", *FAST, "--dry-run", num=5)
    blocks = found["block_evaluations_per_video"]
    assert said.exit_code == 0 and f"{blocks:,} block evaluations a video, {5 * blocks:,} for 5" in said.output
    assert "level 2: 16x32x32 from the level below" in said.output and not (tmp_path / "none").exists()
    again = run(checkpoint, tmp_path / "options", "--format", "npy", *FAST, "--start-noise", "none", num=2)
    assert again.exit_code == EXIT_BAD_INPUT and "start_noise: 1.0 -> null" in again.output
    elsewhere = run(checkpoint, tmp_path / "none", "--set", "training.lr=1")
    assert elsewhere.exit_code == EXIT_BAD_INPUT and "sampling.KEY" in elsewhere.output


def test_the_count_in_the_manifest_is_what_was_done(checkpoint, tmp_path):
    for name, options in {"fast": FAST, "uncached": ("--no-cache", "--steps", "1,1,1")}.items():
        result = run(checkpoint, tmp_path / name, *options, "--format", "npy", num=2)
        counted = int(result.output.rpartition("made now; ")[2].split()[0].replace(",", ""))
        assert counted == 2 * manifest(tmp_path / name)["block_evaluations_per_video"]


def test_exact_and_fastest_calls_are_not_mixed(checkpoint, tmp_path):
    quick = ("--format", "npy", "--overlap", "none", "--steps", "2,1,1")
    assert run(checkpoint, tmp_path / "out", *quick, num=1).exit_code == 0
    mixed = run(checkpoint, tmp_path / "out", *quick, "--calls", "fastest")
    assert mixed.exit_code == EXIT_BAD_INPUT and 'calls: "exact" -> "fastest"' in mixed.output
    result = run(checkpoint, tmp_path / "fastest", *quick, "--calls", "fastest", "--tile-batch", "8", num=1)
    assert result.exit_code == 0, result.output
    assert "tiles/s" in result.output
    about = manifest(tmp_path / "fastest")
    assert about["settings"]["calls"] == "fastest" and about["calls"]["sizes"] == [1, 2, 4, 8]
    rates = about["calls"]["tiles_per_second"]
    assert set(rates) == {"exact", "fastest"} and all(rate > 0 for rate in rates.values())
    near = (np.load(tmp_path / name / "00000_c000.npy").astype(int) for name in ("out", "fastest"))
    assert np.abs(np.subtract(*near)).max() <= 1


def test_folders_of_before_go_on(checkpoint, tmp_path):
    out, quick = tmp_path / "out", ("--steps", "1,1,1", "--format", "npy")
    assert run(checkpoint, out, *quick, num=1).exit_code == 0
    about = manifest(out)
    for key in ("tilings", "tiling_borders", "averaged_steps", "start_noise", "tile_weights", "solver", "calls"):
        del about["settings"][key]
    (out / "samples.json").write_text(json.dumps(about))
    assert run(checkpoint, out, *quick, num=2).exit_code == 0
    (out / "samples.json").write_text(json.dumps(about))
    other = run(checkpoint, out, *quick, "--tilings", "2", num=3)
    assert other.exit_code == EXIT_BAD_INPUT and "tilings: 1 -> 2" in other.output


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--start-noise", "much"], "--start-noise"),
        (["--start-noise", "0"], "start_noise"),
        (["--start-noise", "0.0001"], "sigma_min"),
        (["--set", "sampling.tilings=0"], "tilings"),
        (["--set", "sampling.tile_weights=round"], "tile_weights"),
        (["--levels", "4"], "3 levels"),
        (["--size", "16,64,64"], "16x32x32"),
        (["--size", "a"], "--size"),
        (["--size", "32,32,32"], "--beyond-training makes it nevertheless"),
        (["--size", "24,32,32", "--beyond-training"], "whole multiples"),
        (["--size", "32,32,32", "--beyond-training", "--overlap", "hw"], "overlapping tiles along f"),
        (["--size", "16,64,32", "--beyond-training", "--overlap", "none"], "overlapping tiles along h"),
        (["--classes", "0,4"], "0 to 3"),
        (["--classes", "cat"], "--classes"),
        (["--steps", "3,2"], "3 levels need 3"),
        (["--steps", "3,0,2"], "steps"),
        (["--sigma-max", "3,2"], "sigma_max"),
        (["--overlap", "z"], "--overlap"),
    ],
)
def test_bad_options_write_nothing(checkpoint, tmp_path, options, told):
    result = run(checkpoint, tmp_path / "out", *options)
    assert result.exit_code == EXIT_BAD_INPUT and told in result.output
    assert not (tmp_path / "out").exists()


def test_coarser_levels_and_no_class(checkpoint, tmp_path):
    options = ["--levels", "2", "--classes", "none", "--format", "npy", "--size", "8,16,16"]
    result = run(checkpoint, tmp_path / "out", *options, num=1)
    assert result.exit_code == 0, result.output
    assert np.load(tmp_path / "out" / "00000_c004.npy").shape == (8, 16, 16, 3)


def test_longer_videos_than_trained_where_asked_for(checkpoint, tmp_path):
    options = ["--size", "32,32,32", "--beyond-training", "--overlap", "fhw", "--format", "npy"]
    for name, extra in {"cached": [], "plain": ["--no-cache"]}.items():
        result = run(checkpoint, tmp_path / name, *options, *extra, num=1)
        assert result.exit_code == 0, result.output
    cached, plain = (np.load(tmp_path / name / "00000_c000.npy").astype(int) for name in ("cached", "plain"))
    assert cached.shape == (32, 32, 32, 3) and np.abs(cached - plain).max() <= 1
    assert manifest(tmp_path / "cached")["settings"]["canvas"] == [2, 1, 1]


def test_every_level_in_a_folder_of_its_own(checkpoint, tmp_path):
    assert run(checkpoint, tmp_path / "all", "--save-levels", "--format", "npy").exit_code == 0
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == ["level0", "level1", "level2"]
    for level in range(3):
        assert run(checkpoint, tmp_path / str(level), "--levels", str(level + 1), "--format", "npy").exit_code == 0
        assert arrays(tmp_path / "all" / f"level{level}") == arrays(tmp_path / str(level))
        of_level = manifest(tmp_path / "all" / f"level{level}")
        assert of_level["settings"] == manifest(tmp_path / str(level))["settings"] and of_level["count"] == 3
    lost = tmp_path / "all" / "level1" / "00001_c001.npy"
    before = lost.read_bytes()
    lost.unlink()
    assert run(checkpoint, tmp_path / "all", "--save-levels", "--format", "npy").exit_code == 0
    assert lost.read_bytes() == before


def test_a_run_that_does_not_fit_is_refused_before_it_starts(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("hpdm.sampling.memory.free_memory", lambda device: 2**20)
    result = run(checkpoint, tmp_path / "out", "--batch", "2")
    assert result.exit_code == EXIT_BAD_INPUT
    assert "--batch 1" in result.output and "--tile-batch" in result.output
    assert not (tmp_path / "out").exists()


def test_checkpoints_by_run_by_file_and_what_is_wrong_with_others(checkpoint, tmp_path):
    link = tmp_path / "run"
    link.mkdir()
    (link / "latest").symlink_to(checkpoint, target_is_directory=True)
    weights = load_checkpoint(checkpoint).sha256
    assert load_checkpoint(link).sha256 == weights and load_checkpoint(checkpoint / "ema.safetensors").sha256 == weights
    assert load_checkpoint(link).config == tiny_config()

    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.pt").write_bytes(b"x")
    (tmp_path / "cut.safetensors").write_bytes((checkpoint / "ema.safetensors").read_bytes()[:5000])
    for name in ("empty", "weights.pt", "cut.safetensors", "absent"):
        result = run(tmp_path / name, tmp_path / "out", num=1)
        assert result.exit_code == EXIT_BAD_INPUT, name
        assert name in result.output and "Traceback" not in result.output
    assert not (tmp_path / "out").exists()


def test_the_shipped_weights_load():
    loaded = load_checkpoint("nano")
    assert loaded.config.pyramid.levels == 3
    assert all(torch.isfinite(p).all() for p in loaded.network.parameters())
