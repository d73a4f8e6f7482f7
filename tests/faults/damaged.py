"""Damaged files, through everything that reads them."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from hpdm.checkpoint import folder as checkpoints
from hpdm.checkpoint.recover import newest_whole
from hpdm.config import load_config
from hpdm.sampling.prompts import read_prompts
from hpdm.sampling.writer import SamplesFolder
from hpdm.support.files import write_json
from hpdm.training.log import RunLog
from hpdm.training.provenance import read_provenance
from hpdm.video.writer import write_video
from hpdm_eval.backbones import load_backbone
from hpdm_eval.backbones.loading import read_tensors
from hpdm_eval.backbones.weights import read_pins
from hpdm_eval.clips.source import open_clips
from hpdm_eval.features.cache import FeatureCache
from hpdm_eval.features.extraction import FeatureSet
from hpdm_eval.features.moments import Moments
from hpdm_eval.features.reference_statistics import Statistics
from hpdm_eval.protocols import load_protocol
from hpdm_eval.records.record import load_record
from hpdm_eval.report.collect import collect_records
from hpdm_eval.report.markup import csv_text, latex, markdown
from hpdm_eval.report.write import make_sections
from tests.faults.tally import damage, small_run
from tests.support.paths import ROOT


def weights_equal(value, original):
    return all(torch.equal(value[0][name], tensor) for name, tensor in original[0].items())


def damaged_runs(effort, seed, folder):
    """Files of a training run. Checkpoints have checksums: what is read has to be what was written."""
    run = small_run(folder / "run", 2)
    step = run / "step-00000002"
    original = checkpoints.read_weights(step / "ema.safetensors")
    tallies = [
        damage(
            "weights file alone",
            step / "ema.safetensors",
            lambda: checkpoints.read_weights(step / "ema.safetensors"),
            effort,
            seed,
            lambda value: weights_equal(value, original),
        )
    ]
    for file in (*checkpoints.FILES, checkpoints.MANIFEST_FILE):
        content = {name: (step / name).read_bytes() for name in checkpoints.FILES}
        tallies.append(
            damage(
                f"checkpoint: {file}",
                step / file,
                lambda: newest_whole(run, say=lambda text: None),
                effort,
                seed,
                lambda _, content=content: all((step / name).read_bytes() == data for name, data in content.items()),
            )
        )
    tallies += [
        damage(
            "configuration of a run",
            run / "config.yaml",
            lambda: checkpoints.read_config(run / "config.yaml"),
            effort,
            seed,
        ),
        damage(
            "training state alone",
            step / "training.pt",
            lambda: checkpoints.read_state(step / "training.pt"),
            effort,
            seed,
        ),
        damage("log", run / "log.jsonl", lambda: RunLog(run, 2, quiet=True).close(), effort, seed),
        damage("provenance", run / "provenance.jsonl", lambda: read_provenance(run), effort, seed),
    ]
    return tallies


def damaged_texts(effort, seed, folder):
    """Files that people write: configurations, protocols, prompts; and manifests of samples and weights."""
    folder.mkdir(parents=True, exist_ok=True)
    sources = {
        "size.yaml": ROOT / "hpdm" / "configs" / "nano.yaml",
        "prompts.yaml": ROOT / "hpdm" / "prompts" / "ucf101.yaml",
    }
    for name, source in sources.items():
        shutil.copy(source, folder / name)
    shutil.copy(next((ROOT / "hpdm_eval" / "protocols").glob("*.yaml")), folder / "protocol.yaml")
    settings = {"format": "npy", "seed": 0, "steps": [1, 2]}
    SamplesFolder(folder / "samples", settings, {}).write_manifest()
    pin = {"sha256": "0" * 64, "bytes": 3, "trust": "first-use", "date": "2026-01-01"}
    write_json(folder / "pins.json", {"net.pt": pin})
    return [
        damage("configuration", folder / "size.yaml", lambda: load_config(folder / "size.yaml"), effort, seed),
        damage(
            "protocol", folder / "protocol.yaml", lambda: load_protocol(folder / "protocol.yaml").hash(), effort, seed
        ),
        damage("prompts", folder / "prompts.yaml", lambda: read_prompts(folder / "prompts.yaml"), effort, seed),
        damage(
            "manifest of samples",
            folder / "samples" / "samples.json",
            lambda: SamplesFolder(folder / "samples", settings, {}),
            effort,
            seed,
        ),
        damage("pinned weights", folder / "pins.json", lambda: read_pins(folder), effort, seed),
    ]


def damaged_results(effort, seed, folder):
    """Records, statistics, features and cached features."""
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "records" / "record.json"
    record.parent.mkdir()
    shutil.copy(ROOT / "tests" / "records" / "fvd-shapes3d-procedural.json", record)

    def report():
        for section in make_sections(collect_records([record.parent])):
            for table in section.tables:
                markdown(table), latex(table), csv_text(table)

    rng = np.random.default_rng(0)
    backbone = load_backbone("shapes3d")
    features = rng.normal(size=(8, backbone.feature_dim)).astype(np.float32)
    FeatureSet(
        features=features,
        names=[str(n) for n in range(8)],
        probabilities=features[:, :12],
        manifest={"backbone": backbone.describe()},
    ).save(folder / "features.npz")
    protocol = load_protocol("native", backbone="shapes3d")
    summary = {"path": "clips", "sha256": "0" * 64, "clips": 8, "rejected": []}
    Statistics(
        moments=Moments.of(features), protocol=protocol.to_dict(), backbone=backbone.describe(), source=summary, seed=0
    ).save(folder / "stats.npz")
    moments = Statistics.load(folder / "stats.npz").moments

    def statistics():
        loaded = Statistics.load(folder / "stats.npz")
        loaded.check_match(protocol, backbone.describe(), "stats.npz")
        return loaded

    cache = FeatureCache(backbone, folder / "cache")
    cache.put("ab" * 32, features[0], features[0, :12])
    torch.save({"a": torch.arange(100.0), "b": torch.zeros(3, 4)}, folder / "net.pt")
    shipped = shutil.copy(ROOT / "hpdm_eval" / "backbones" / "weights" / "shapes3d.safetensors", folder / "net.st")
    return [
        damage("record", record, lambda: load_record(record), effort, seed),
        damage("report of a record", record, report, effort, seed),
        damage(
            "statistics",
            folder / "stats.npz",
            statistics,
            effort,
            seed,
            lambda value: (
                np.array_equal(value.moments.mean, moments.mean) and np.array_equal(value.moments.cov(), moments.cov())
            ),
        ),
        damage(
            "features",
            folder / "features.npz",
            lambda: FeatureSet.load(folder / "features.npz"),
            effort,
            seed,
            lambda value: np.array_equal(value.features, features),
        ),
        damage(
            "cached features",
            cache.file,
            lambda: cache.get("ab" * 32),
            effort,
            seed,
            lambda value: value is None or np.array_equal(value[0], features[0]),
        ),
        damage("state dict", folder / "net.pt", lambda: read_tensors(folder / "net.pt"), effort, seed),
        damage(
            "weights of shapes3d",
            Path(shipped),
            lambda: load_backbone("shapes3d", weights=shipped, unverified=True, optimize=False),
            max(1, effort // 10),
            seed,
        ),
    ]


def damaged_clips(effort, seed, folder):
    """Clips of every form: each is read, or refused by name with the reason; decoders run in processes of their own."""
    clip = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    places = {name: folder / name for name in ("video", "frames", "npy", "npz", "pt", "zip")}
    for place in places.values():
        place.mkdir(parents=True)
    write_video(places["video"] / "a.mp4", clip, fps=8)
    (places["frames"] / "a").mkdir()
    for number, frame in enumerate(clip):
        Image.fromarray(frame).save(places["frames"] / "a" / f"{number}.png")
    np.save(places["npy"] / "a.npy", clip)
    np.savez(places["npz"] / "a.npz", clip)
    torch.save(torch.from_numpy(clip), places["pt"] / "a.pt")
    with zipfile.ZipFile(places["zip"] / "a.zip", "w") as archive:
        archive.write(places["npy"] / "a.npy", "a.npy")
    targets = {"video": "a.mp4", "frames": "a/3.png", "npy": "a.npy", "npz": "a.npz", "pt": "a.pt", "zip": "a.zip"}

    def read(place):
        source = open_clips(place, load_protocol("native"), quiet=True, workers=1)
        count = sum(1 for _ in source)
        source.close()
        return count + len(source.rejected)

    return [
        damage(
            f"clips: {name}",
            places[name] / file,
            lambda place=places[name] / (file if name == "zip" else ""): read(place),
            effort,
            seed,
            lambda accounted: accounted >= 1,
        )
        for name, file in targets.items()
    ]
