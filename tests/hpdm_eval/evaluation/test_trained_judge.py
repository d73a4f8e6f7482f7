"""A network that a model was trained with is refused as its judge, and marked where it is allowed."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from baselines.published import PAPER, load_peers
from hpdm.data.procedural import procedural_clip
from hpdm_eval.commands.entry import main
from hpdm_eval.evaluation.comparison import _family
from hpdm_eval.report.published import published_table
from hpdm_eval.report.write import make_sections


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    for name, seed in (("samples", 0), ("real", 1)):
        (root / name).mkdir()
        np.save(root / name / "clips.npy", np.stack([procedural_clip(seed, k, 8, 32, 32)[0] for k in range(6)]))
    return root


def run(clips, *words, command="fvd"):
    shared = [
        "--samples",
        clips / "samples",
        "--reference",
        clips / "real",
        "--protocol",
        "native",
        "--backbone",
        "shapes3d",
        "--workers",
        "0",
        "--quiet",
    ]
    return CliRunner().invoke(main, list(map(str, [command, *shared, *words])))


def test_it_is_refused_without_the_flag_and_marked_with_it(clips):
    for command in ("fvd", "kvd", "all"):
        refused = run(clips, "--trained-with", "shapes3d", command=command)
        assert refused.exit_code == 2 and "--allow-trained-judge" in refused.stderr and refused.stdout == ""
    allowed = run(clips, "--trained-with", "shapes3d", "--allow-trained-judge", "--json")
    assert any("trained with features of shapes3d" in text for text in json.loads(allowed.stdout)["warnings"])
    assert "no measure of their quality" in run(clips, "--trained-with", "shapes3d", "--allow-trained-judge").stdout
    assert run(clips, "--trained-with", "VideoMAE-v2").exit_code == 0


def test_samples_say_it_themselves(clips):
    manifest = clips / "samples" / "samples.json"
    for names in (["videomae", "shapes3d"], "shapes3d"):
        manifest.write_text(json.dumps({"trained_with": names}))
        refused = run(clips)
        assert refused.exit_code == 2 and "samples.json" in refused.stderr
    manifest.write_text("[]")
    assert run(clips).exit_code == 0
    manifest.unlink()


@pytest.mark.parametrize(
    "one, other",
    [
        ("VideoMAE-v2", "videomae:some/folder"),
        ("V-JEPA 2", "vjepa:x"),
        ("i3d", "i3d-kinetics400"),
        ("C3D", "c3d-ucf101"),
    ],
)
def test_relatives_count(one, other):
    assert _family(one) == _family(other) != _family("shapes3d")


def test_published_peers():
    figures = {(figure.method, figure.clip): figure for figure in load_peers().figures}
    expected = {
        "W.A.L.T": (36, 2),
        "MAGVIT-v2": (58, 2),
        "LARP-L-Long": (57, None),
        "EVATok": (48, None),
        "VideoRAE, autoregressive": (40, None),
        "VideoRAE, DiT": (93, None),
        "NBP, 3B": (55.3, None),
        "AR-Diffusion": (186.6, None),
    }
    for method, (value, spread) in expected.items():
        (figure,) = [figure for figure in figures.values() if figure.method == method]
        assert (figure.value, figure.spread) == (value, spread)
    assert (figures["FAR-XL", "16x256x256"].value, figures["FAR-XL", "16x256x256"].spread) == (108, 4.2)
    for figure in figures.values():
        assert figure.clip and figure.paper != PAPER and "arXiv" in figure.paper and figure.data == "UCF-101"
    assert {figure.trained_with for figure in figures.values()} == {None, "VideoMAE", "V-JEPA 2"}
    table = published_table(load_peers())
    assert "trained with features of" in table.heads and "pretrained" in table.heads
    text = {row.heads[0]: row.cells[0].text for row in table.rows}
    assert text["W.A.L.T"] == "36 ± 2" and text["NBP, 3B"] == "55.3"


def test_peers_stand_with_table_6():
    tables = [table.name for section in make_sections([], published=["table6"]) for table in section.tables]
    assert tables == ["published-table6", "published-ucf101-peers"]
