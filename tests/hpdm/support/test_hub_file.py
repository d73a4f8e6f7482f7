"""Files on the hub by address, without a network."""

import json

import huggingface_hub
import numpy as np
import pytest
from click.testing import CliRunner

from hpdm.data.procedural import procedural_clip
from hpdm.support.errors import InputError
from hpdm.support.files import sha256_file
from hpdm.support.hub_file import local_file
from hpdm_eval.commands.entry import main


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that has the files of a folder; yields (folder, what was asked of it)."""
    asked = []

    def download(repository, file, *, repo_type, revision):
        asked.append((repository, file, repo_type, revision))
        if not (tmp_path / file).exists():
            raise OSError(f"{file} is not in {repository}\nmore lines")
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return tmp_path, asked


def test_addresses(hub):
    folder, asked = hub
    (folder / "a").mkdir()
    (folder / "a" / "s.npz").write_bytes(b"1")
    assert local_file("hf://me/stats/a/s.npz") == folder / "a" / "s.npz"
    local_file("hf://datasets/me/stats@v1.0/a/s.npz")
    assert asked == [("me/stats", "a/s.npz", "model", None), ("me/stats", "a/s.npz", "dataset", "v1.0")]
    assert local_file("plain.npz") == "plain.npz" and local_file(folder) == folder
    for wrong in ("hf://me", "hf://me/stats", "hf:///x/y", "hf://me/stats/"):
        with pytest.raises(InputError, match="write hf://OWNER/NAME/FILE"):
            local_file(wrong)
    with pytest.raises(InputError, match="the hub did not give it .b.npz is not in me/stats.; download it"):
        local_file("hf://me/stats/b.npz")


def test_statistics_on_the_hub_are_a_reference(hub):
    folder, _ = hub
    for number, name in enumerate(("samples", "real")):
        (folder / name).mkdir()
        for index in range(8):
            np.save(folder / name / f"{index}.npy", procedural_clip(number, index, 16, 32, 32)[0])
    common = ["--protocol", "native", "--backbone", "shapes3d", "--device", "cpu", "--workers", "0"]

    def run(*words):
        return CliRunner().invoke(main, list(map(str, words)))

    made = run("stats", "--data", folder / "real", "--out", folder / "real.npz", *common)
    assert made.exit_code == 0, made.output
    result = run("fvd", "--samples", folder / "samples", "--reference", "hf://me/stats/real.npz", *common, "--json")
    record = json.loads(result.stdout)
    assert record["reference"]["statistics"] == "hf://me/stats/real.npz"
    assert record["reference"]["statistics_sha256"] == sha256_file(folder / "real.npz")
    missing = run("fvd", "--samples", folder / "samples", "--reference", "hf://me/stats/other.npz", *common)
    assert missing.exit_code == 2 and "the hub did not give it" in missing.output
