"""The published protocols, and `hpdm-eval compare-protocols`, which runs one set of videos under several."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from hpdm.data.procedural import procedural_clip
from hpdm_eval.commands.entry import main
from hpdm_eval.evaluation import comparison as judge
from hpdm_eval.evaluation.settings import Evaluation
from hpdm_eval.protocols import list_protocols, load_protocol
from hpdm_eval.records.record import load_record

PUBLISHED = {
    # frames, real clips, generated clips, split, way into the network, (ddof, root, epsilon)
    "styleganv-128f": (128, 2048, 2048, None, "bilinear", (0, "scipy-sqrtm", 1e-3)),
    "videogpt-16f": (16, 256, 256, None, "short-side", (1, "fp32-svd", 1e-5)),
    "digan-16f": (16, 2048, 2048, None, "short-side", (1, "fp32-svd", 1e-5)),
    "tats-16f": (16, 2048, 2048, "ucf101-train-01", "bilinear", (1, "fp32-svd", 1e-5)),
    "latte-16f": (16, 2048, 2048, None, "bilinear", (0, "scipy-sqrtm", 1e-3)),
    "google-2018": (16, None, None, None, "tf1-bilinear", (1, "fp64-svd", 1e-3)),
    "far-16f": (16, 2048, 2048, None, "bilinear", (1, "scipy-sqrtm", 1e-3)),
    "larp-16f": (16, None, 10000, "ucf101-train-01", "bilinear", (0, "fp64-svd", 1e-3)),
    "cdfvd-16f": (16, None, 2048, None, "bilinear", (0, "scipy-sqrtm", 1e-5)),
    "ardiff-16f": (16, 2048, 2048, "ucf101-train-03", "bilinear", (1, "scipy-sqrtm", 1e-3)),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings(name):
    frames, real, generated, split, into, arithmetic = PUBLISHED[name]
    protocol = load_protocol(name)
    assert (protocol.frames, protocol.num_reference, protocol.num_samples) == (frames, real, generated)
    assert (protocol.split, protocol.backbone_resize, protocol.backbone) == (split, into, "i3d")
    assert (protocol.ddof, protocol.root, protocol.bn_epsilon) == arithmetic
    exact = load_protocol(name, numerics="exact")
    assert (exact.ddof, exact.root, exact.bn_epsilon) == (arithmetic[0], "qr-nuclear", arithmetic[2])
    assert protocol.citation and "arXiv" in protocol.citation or "20" in protocol.citation


def test_what_sets_them_apart():
    latte, styleganv = load_protocol("latte-16f"), load_protocol("styleganv-16f")
    assert set(latte.differences(styleganv)) == {"stride", "selection"}
    assert (latte.stride, latte.samples_stride, latte.selection) == (3, 1, "shuffled")
    assert set(load_protocol("styleganv-128f").differences(styleganv)) == {"frames"}
    assert set(load_protocol("digan-16f").differences(load_protocol("tats-16f"))) == {"split", "backbone_resize"}
    assert len({protocol.hash() for protocol in list_protocols()}) == len(list_protocols())
    assert load_protocol("videogpt-16f").resolution == (64, 64)  # BAIR's; it publishes no FVD of UCF-101


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Ten real and eight generated clips of 20 frames of 40x48 pixels."""
    root = tmp_path_factory.mktemp("clips")
    for number, (name, count) in enumerate({"real": 10, "fake": 8}.items()):
        videos = [procedural_clip(number, index, 20, 40, 48)[0] for index in range(count)]
        (root / name).mkdir()
        np.save(root / name / "clips.npy", np.stack(videos))
    return root


@pytest.fixture
def run(clips, monkeypatch):
    monkeypatch.setenv("HPDM_EVAL_CACHE", str(clips / "cache"))
    monkeypatch.chdir(clips)

    def call(command, *words):
        shared = [
            "--samples",
            "fake",
            "--reference",
            "real",
            "--backbone",
            "shapes3d",
            "--workers",
            "0",
            "--device",
            "cpu",
            "--split",
            "none",
            "--resolution",
            "32",
        ]
        return CliRunner().invoke(main, [command, *map(str, words), *shared])

    return call


def test_each_protocol_gives_the_figure_that_fvd_gives(run, tmp_path):
    result = run(
        "compare-protocols",
        "--protocols",
        "pvdm-16f,google-2018,hpdm-64f",
        "--out",
        tmp_path / "out",
        "--record",
        tmp_path / "records",
    )
    assert result.exit_code == 0, result.output
    records = [load_record(path) for path in (tmp_path / "records").iterdir()]
    found = {(record.protocol["name"], record.protocol["numerics"]): record for record in records}
    names = ("generic-16f", "pvdm-16f", "google-2018")
    assert set(found) == {(name, numerics) for name in names for numerics in ("exact", "legacy")} - {
        ("generic-16f", "legacy")
    }  # which has no published code
    for (name, numerics), record in found.items():
        alone = json.loads(run("fvd", "--protocol", name, "--numerics", numerics, "--json").stdout)
        assert record.value == pytest.approx(alone["value"], rel=1e-9)
        assert record.protocol["hash"] == alone["protocol"]["hash"]
    rounding = found["pvdm-16f", "legacy"].value - found["pvdm-16f", "exact"].value
    assert rounding != 0 and abs(rounding) < 0.1 * found["pvdm-16f", "exact"].value
    rows = [line for line in result.stdout.splitlines() if "@" in line.split()[0]]
    assert len(rows) == 5 and rows[0].startswith("generic-16f@")
    assert sum("(exact numerics)" in row for row in rows) == 2
    base, other = found["generic-16f", "exact"].value, found["google-2018", "exact"].value
    (row,) = (line for line in rows if line.startswith("google-2018@") and " exact " in line)
    assert f"{100 * (other / base - 1):+.1f} %" in row
    assert "start first" in row and "backbone_resize tf1-bilinear" in row
    assert "hpdm-64f: no readable clip" in result.stdout and "64 needed" in result.stdout
    assert (tmp_path / "out" / "protocols.md").read_text().count("\n| ") == 5
    image = np.asarray(Image.open(tmp_path / "out" / "protocols.png").convert("RGB"))
    assert image.std() > 10


def test_baseline_numerics_and_json(run, tmp_path):
    result = run(
        "compare-protocols",
        "--protocol",
        "native",
        "--protocols",
        "native,tats-16f",
        "--no-legacy",
        "--json",
        "--quiet",
        "--out",
        tmp_path / "out",
        "--frames",
        "16",
    )
    assert result.exit_code == 0, result.output
    records = json.loads(result.stdout)
    assert [(record["protocol"]["name"], record["protocol"]["numerics"]) for record in records] == [
        ("native", "exact"),
        ("tats-16f", "exact"),
    ]
    assert records[0]["protocol"]["frames"] == 16 and result.stderr == ""


@pytest.mark.parametrize(
    "words, message",
    [
        (["--protocols", "pvdm-17f", "--protocol", "pvdm-17f"], "unknown protocol 'pvdm-17f'"),
        (["--protocols", "hpdm-64f", "--protocol", "hpdm-64f"], "no readable clip"),
        (["--protocols", "native", "--protocol", "native", "--numerics", "legacy"], "no legacy numerics"),
    ],
)
def test_nothing_to_compare_is_bad_input(run, tmp_path, words, message):
    result = run("compare-protocols", *words, "--out", tmp_path / "out", "--quiet")
    assert result.exit_code == 2 and message in result.stderr and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "name, epsilon", [("pvdm-16f", 1e-5), ("hpdm-16f", 1e-3), ("cdfvd-16f", 1e-5), ("native", None)]
)
def test_the_paper_s_network_is_loaded_whatever_the_numerics(monkeypatch, name, epsilon):
    seen = []

    class Network:
        min_frames, max_frames = 9, None

    monkeypatch.setattr(judge, "load_backbone", lambda *_, **settings: seen.append(settings["bn_epsilon"]) or Network())
    monkeypatch.setattr(judge, "check_frames", lambda *_: None)
    for numerics in ("exact", "legacy") if epsilon else ("exact",):
        judge.open_backbone(Evaluation(protocol=load_protocol(name, numerics=numerics), samples="."), "cpu")
    assert set(seen) == {epsilon}
