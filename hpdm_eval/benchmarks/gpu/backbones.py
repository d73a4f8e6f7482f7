"""The networks behind FVD and the Inception Score, with random weights: clips per second alone and from mp4 files."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hpdm.data.procedural import procedural_clip
from hpdm.video.writer import write_video
from hpdm_eval.backbones import WeightsInfo
from hpdm_eval.backbones.backbone import I3DBackbone
from hpdm_eval.backbones.c3d import C3D, FRAMES, MEAN_SHAPE
from hpdm_eval.backbones.i3d import RESOLUTION, TENSORFLOW_EPSILON, FoldedI3D, multiply_adds, random_network
from hpdm_eval.benchmarks.gpu.bench import Bench, Result
from hpdm_eval.clips.source import open_clips
from hpdm_eval.features.extraction import extract_features
from hpdm_eval.protocols import load_protocol

PRECISIONS = ("fp32", "tf32", "bf16")
FILES, OWN = 256, 32  # clips read, and how many of them differ


def clips_per_second(bench: Bench, *, network: str, batches: Sequence[int]) -> Iterator[Result]:
    """Rate of a network on prepared clips, and how far its features are from those of fp32."""
    with bench.precision("fp32"), torch.inference_mode():
        probe = _input(bench, network, bench.few(4))
        wanted = bench.kept((network, "fp32"), partial(_network, bench, network, "fp32"))(probe).double()
    for precision in PRECISIONS:
        for batch in batches[:1] if bench.rehearse else batches:
            settings = {"network": network, "precision": precision, "batch": bench.few(batch)}
            yield bench.attempt(
                "clips through the network",
                settings,
                partial(_rate, bench, network, precision, settings["batch"], probe, wanted),
            )
    bench.release()


@torch.inference_mode()
def _rate(bench, name, precision, batch, probe, wanted):
    kind = precision if name == "i3d" and precision == "bf16" else "fp32"
    network = bench.kept((name, kind), partial(_network, bench, name, kind))
    video = _input(bench, name, batch)
    # The folded I3D is cast by itself and keeps its head in fp32; C3D goes through autocast.
    with bench.tf32(precision), bench.autocast("fp32" if name == "i3d" else precision):
        error = ((network(probe).double() - wanted).norm() / wanted.norm()).item()
        bench.reset_peak()
        seconds = bench.seconds(lambda: network(video))
    details = {"relative error of features": error, "peak GiB": bench.peak_gib()}
    if name == "i3d":
        flops = 2 * multiply_adds() * batch / seconds
        details["TFLOP/s"] = flops / 1e12
        if roof := bench.facts.get("roof", {}).get(precision):
            details["share of the roof"] = flops / roof
    return batch / seconds, "clips/s", details


def _network(bench, name, precision):
    if name == "i3d":
        return _folded(bench, precision).to(bench.device)
    torch.manual_seed(bench.seed)
    with bench.device:
        return C3D(torch.zeros(MEAN_SHAPE)).requires_grad_(False).eval()


def _folded(bench, precision):
    return FoldedI3D(random_network(bench.seed), torch.bfloat16 if precision == "bf16" else torch.float32)


def _input(bench, name, batch):
    size = RESOLUTION if name == "i3d" else (112, 112)
    generator = torch.Generator(bench.device).manual_seed(bench.seed)
    return torch.rand(batch, 3, FRAMES, *size, device=bench.device, generator=generator).mul_(2).sub_(1)


def from_files(bench: Bench, *, batch: int) -> Iterator[Result]:
    """mp4 files → features of I3D: decoding in processes, transfer, resizing, network."""
    files, own = (8, 4) if bench.rehearse else (FILES, OWN)
    with tempfile.TemporaryDirectory(prefix="hpdm-bench-") as folder:
        folder = Path(folder)
        for index in range(own):
            write_video(folder / f"{index:05d}.mp4", procedural_clip(bench.seed, index, FRAMES, 256, 256)[0])
        for index in range(own, files):
            shutil.copy(folder / f"{index % own:05d}.mp4", folder / f"{index:05d}.mp4")
        source = open_clips(folder, load_protocol("native"), quiet=True)
        settings = {"clips": files, "size": f"{FRAMES}x256x256"}
        yield bench.attempt("mp4 decoded", settings, partial(_decode, bench, source, files))
        for precision in ("fp32", "tf32", "bf16"):
            named = {**settings, "network": "i3d", "precision": precision, "batch": bench.few(batch)}
            yield bench.attempt(
                "mp4 to features", named, partial(_extract, bench, source, files, precision, named["batch"])
            )
    bench.release()


def _decode(bench, source, files):
    began = bench.clock()
    count = sum(1 for _ in source)
    return count / (bench.clock() - began), "clips/s", {"read": count, "decoder": "PyAV"}


def _extract(bench, source, files, precision, batch):
    info = WeightsInfo(name=f"random (seed {bench.seed})", path=None, sha256="", trust="unverified", source="random")
    kind = TF32I3D if precision == "tf32" else I3DBackbone
    network = _folded(bench, precision)
    backbone = kind(
        network, info, epsilon=TENSORFLOW_EPSILON, precision=precision, device=bench.device, resize_rule="bilinear"
    )
    with bench.tf32(precision):
        raw = torch.zeros(batch, FRAMES, 256, 256, 3, dtype=torch.uint8)
        backbone.extract(raw)  # warm up
        began = bench.clock()
        features = extract_features(source, backbone, batch=batch, quiet=True).features
        seconds = bench.clock() - began
    return len(features) / seconds, "clips/s", {"decoder": "PyAV", "seconds measured": seconds}


class TF32I3D(I3DBackbone):
    """I3D whose convolutions may take TF32, which no metric here allows."""

    @torch.inference_mode()
    def forward(self, video: torch.Tensor) -> Any:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
            features, logits = self.run(video)
        return features.float().cpu(), logits.float().softmax(dim=1).cpu()
