"""Speed and memory of feature extraction, against the plain network in the same run."""

import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

from hpdm.data.procedural import procedural_clip
from hpdm.support.progress import note
from hpdm.video.writer import write_video
from hpdm_eval.backbones import WeightsInfo, load_backbone
from hpdm_eval.backbones.backbone import I3DBackbone
from hpdm_eval.backbones.convolution import apart
from hpdm_eval.backbones.i3d import TENSORFLOW_EPSILON, FoldedI3D, multiply_adds, random_network
from hpdm_eval.benchmarks.results import CPU, Measured
from hpdm_eval.clips.source import open_clips
from hpdm_eval.features.extraction import extract_features
from hpdm_eval.metrics.frechet import FewSamplesWarning, frechet_from_features
from hpdm_eval.protocols import load_protocol
from hpdm_eval.support.threads import side_by_side
from hpdm_eval.support.timing import median_rates, peak_rss_mib


def bench_extraction(
    *,
    clips: int = 32,
    frames: int = 16,
    size: int = 256,
    batch: int = 8,
    rounds: int = 3,
    memory: Sequence[int] = (50, 500),
    bf16: bool = False,
    weights: str | None = None,
    unverified: bool = False,
    workers: int | None = None,
    device: torch.device = CPU,
    seed: int = 0,
    quiet: bool = False,
) -> Measured:
    """Feature extraction with I3D: decoding, resizing, network and all of it together, in clips per second.

    clips: videos to make and read, `frames` of `size` x `size`; batch: clips per forward pass; memory: numbers of clips
    whose peak memory is measured, each in a process of its own; bf16: also bfloat16; weights: I3D's state dict, None
    takes random ones, which cost the same time; workers: decoding processes. The yardstick is the network as public
    code runs it (float32, contiguous, BatchNorm unfolded, explicit padding), without any decoding or resizing, timed in
    the same run.
    """
    plain = _backbone(weights, unverified, device, seed, optimize=False)
    fast = _backbone(weights, unverified, device, seed)
    half = None
    if bf16:
        half = _backbone(weights, unverified, device, seed, precision="bf16") if _has_bf16(device) else None
        note("this processor has no fast bfloat16: left out", quiet or half is not None)

    with tempfile.TemporaryDirectory(prefix="hpdm-bench-") as scratch:
        folder = Path(scratch)
        note(f"writing {clips} clips of {frames}x{size}x{size}", quiet)
        for index in range(clips):
            write_video(folder / f"{index:05d}.mp4", procedural_clip(seed, index, frames, size, size)[0])
        source = open_clips(folder, load_protocol("native"), workers=workers, quiet=True)
        raw = torch.from_numpy(
            np.stack([clip.video for _, clip in zip(range(batch), source) if clip.video is not None])
        )
        video = fast.prepare(raw)
        stages = {
            "plain network": (len(raw), lambda: plain.forward(video)),
            "decode": (clips, lambda: [None for _ in source]),
            "resize": (len(raw), lambda: fast.prepare(raw)),
            "network, ReLU apart": (len(raw), lambda: _one_by_one(fast, video, apart)),
            "network": (len(raw), lambda: _one_by_one(fast, video)),
            "whole": (clips, lambda: extract_features(source, fast, batch=batch, quiet=True)),
        }
        if half:
            stages["network, bf16"] = len(raw), lambda: half.forward(video)
            stages["whole, bf16"] = clips, lambda: extract_features(source, half, batch=batch, quiet=True)
        rates = median_rates(stages, rounds, quiet)
        result = {
            "bench": "extract",
            "clips": clips,
            "frames": frames,
            "size": size,
            "batch": batch,
            "rounds": rounds,
            "weights": fast.weights.name,
            "seed": seed,
            "clips_per_second": rates,
            "relative_to_plain": {name: rate / rates["plain network"] for name, rate in rates.items()},
            "gemm_gflops": _roof(device),
            "gflop_per_clip": 2 * multiply_adds(frames) / 1e9,
            "feature_error": _relative_error(fast.forward(video)[0], plain.forward(video)[0]),
        }
        if half:
            result["bf16"] = _drift(source, fast, half, batch)
        result["memory"] = [
            _memory(folder, count, weights, unverified, device, seed, batch, workers, quiet) for count in memory
        ]
    return Measured(result=result, lines=_table(result), device=device)


def _backbone(weights, unverified, device, seed, precision="fp32", optimize=True):
    if weights is not None:
        return load_backbone(
            "i3d", weights=weights, unverified=unverified, device=device, precision=precision, optimize=optimize
        )
    network = random_network(seed)
    if optimize:
        network = FoldedI3D(network, torch.bfloat16 if precision == "bf16" else torch.float32)
    info = WeightsInfo(name=f"random (seed {seed})", path=None, sha256="", trust="unverified", source="random")
    return I3DBackbone(
        network, info, epsilon=TENSORFLOW_EPSILON, precision=precision, device=device, resize_rule="bilinear"
    )


def _one_by_one(backbone, video, setting=nullcontext):
    """The network as clips go through it: on a CPU each alone and on one thread, as many at once as there are."""
    if video.device.type != "cpu":
        return backbone.forward(video)
    with setting(), side_by_side() as run:
        return run(backbone.forward, list(video.split(1)), len(video))


def _roof(device):
    """GFLOP/s of float32 matrix products of 1024, of all threads together."""
    a = torch.rand(1024, 1024, device=device)
    seconds = 1 / median_rates({"gemm": (1, lambda: a @ a)}, 9, quiet=True, device=device)["gemm"]
    return 2 * 1024**3 / seconds / 1e9


def _drift(source, fast, half, batch):
    """What bfloat16 does to features and to the distance between the even and the odd clips."""
    exact, rough = (extract_features(source, backbone, batch=batch, quiet=True).features for backbone in (fast, half))
    distances = {}
    for name, features in (("fp32", exact), ("bf16", rough)):
        distances[name] = _distance(features[::2], features[1::2])
    return {
        "feature_error": _relative_error(torch.from_numpy(rough), torch.from_numpy(exact)),
        "distance_fp32": distances["fp32"],
        "distance_bf16": distances["bf16"],
        "drift": distances["bf16"] - distances["fp32"],
        "distance_between_precisions": _distance(rough, exact),
    }


def _distance(x, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewSamplesWarning)
        return frechet_from_features(x, y)


def _memory(folder, clips, weights, unverified, device, seed, batch, workers, quiet):
    """Peak memory of a fresh process that extracts features of `clips` clips: {"clips", "peak_rss_mib"}."""
    note(f"memory of {clips} clips", quiet)
    request = {
        "folder": str(folder),
        "clips": clips,
        "weights": weights,
        "unverified": unverified,
        "device": str(device),
        "seed": seed,
        "batch": batch,
        "workers": workers,
    }
    code = "import sys; from hpdm_eval.benchmarks.extraction import run_for_memory; run_for_memory(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, json.dumps(request)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the memory run failed:\n{done.stderr}")
    return {"clips": clips, "peak_rss_mib": json.loads(done.stdout.splitlines()[-1])}


def run_for_memory(request: str) -> None:
    """Body of the measured process: reads the same files again and again until it has seen enough clips."""
    wanted = json.loads(request)
    backbone = _backbone(wanted["weights"], wanted["unverified"], torch.device(wanted["device"]), wanted["seed"])
    names = sorted(Path(wanted["folder"]).glob("*.mp4"))
    with tempfile.TemporaryDirectory(prefix="hpdm-bench-") as folder:
        for index in range(wanted["clips"]):
            (Path(folder) / f"{index:05d}.mp4").write_bytes(names[index % len(names)].read_bytes())
        source = open_clips(folder, load_protocol("native"), workers=wanted["workers"], quiet=True)
        extract_features(source, backbone, batch=wanted["batch"], quiet=True)
    print(json.dumps(peak_rss_mib()))


def _has_bf16(device):
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _relative_error(x, y):
    return ((x.double() - y.double()).norm() / y.double().norm()).item()


def _table(result):
    lines = [
        f"{result['clips']} clips of {result['frames']}x{result['size']}x{result['size']}, "
        f"batch {result['batch']}, weights {result['weights']}",
        "",
        f"{'stage':<20}{'clips/s':>10}{'of plain':>10}",
        f"{'-' * 19:<20}{'-' * 7:>10}{'-' * 8:>10}",
    ]
    for name, rate in result["clips_per_second"].items():
        lines.append(f"{name:<20}{rate:>10.2f}{result['relative_to_plain'][name]:>9.2f}x")
    rates, work, roof = result["clips_per_second"], result["gflop_per_clip"], result["gemm_gflops"]
    lines += [
        "",
        f"of the float32 roof ({roof:.0f} GFLOP/s in matrix products, {work:.1f} GFLOP a clip): network "
        f"{rates['network'] * work / roof:.0%}, whole {rates['whole'] * work / roof:.0%}",
    ]
    lines += ["", f"features differ from the plain network's by {result['feature_error']:.1e} (relative, L2)"]
    if "bf16" in result:
        lines.append(
            "bf16: features differ by {feature_error:.1e}; distance of two halves {distance_fp32:.4f} -> "
            "{distance_bf16:.4f} (drift {drift:+.4f}); same clips, both precisions: "
            "{distance_between_precisions:.4f}".format(**result["bf16"])
        )
    lines += [f"peak memory with {row['clips']} clips: {row['peak_rss_mib']:.0f} MiB" for row in result["memory"]]
    return lines
