"""What the main paths do without: torchvision and what asks for it, which a plain install has not."""

import json
import os
import subprocess
import sys

from tests.support.paths import ROOT
from tests.support.small_network import draw_clips, random_shapes3d
from tests.support.small_training import write_small

ABSENT = {"torchvision", "timm", "torch_fidelity", "transformers", "submitit", "decord", "webdataset"}
PROGRAM = """
import json, sys
from hpdm.commands.entry import sample, train
from hpdm_eval.commands.entry import main
import hpdm, hpdm_eval
hpdm.load, hpdm_eval.evaluate
for command, words in zip((train, sample, main), json.loads(sys.argv[1])):
    command(words, standalone_mode=False)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_training_sampling_and_fvd_import_no_extra(tmp_path):
    """A step with LAMB, a sample of the run, FVD by the shipped kind of network, in one process."""
    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / name).mkdir()
        draw_clips(tmp_path / name, 3, seed)
    network = random_shapes3d(tmp_path / "network.safetensors")
    run, quiet = str(tmp_path / "run"), ["--device", "cpu", "--quiet"]
    size = str(write_small(tmp_path / "small.yaml"))
    sets = [
        "--samples",
        str(tmp_path / "a"),
        "--reference",
        str(tmp_path / "b"),
        "--workers",
        "0",
        "--protocol",
        "native",
    ]
    words = [
        ["--size", size, "--data", "procedural", "--out", run, "--steps", "1", "--set", "optimizer=lamb", *quiet],
        ["--checkpoint", run, "--num", "1", "--out", str(tmp_path / "out"), "--steps", "1,1", *quiet],
        ["fvd", *sets, *network, *quiet],
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(words)], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    imported = set(json.loads(done.stdout.splitlines()[-1]))
    assert "torch" in imported and list((tmp_path / "out").glob("*.mp4"))
    assert sorted(imported & ABSENT) == []
