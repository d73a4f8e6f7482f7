"""Fixtures shared by the tests, and the limits that keep them honest on small machines."""

import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.support.paths import ROOT

# Tests of full disks limit what a process may write, and Python would keep the half of a module's bytecode that fits.
sys.dont_write_bytecode = True
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"

settings.register_profile("default", deadline=None, max_examples=50)
settings.load_profile("default")

# What is started in the background may inherit an ignored Ctrl-C, which tests of interruption and their children need.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared():
    """Real clips and reference values: the folder $HPDM_SHARED, or `shared` beside the checkout; a user has neither.

    The only place outside the repository that tests read, see `test_hygiene.py`.
    """
    folder = Path(os.environ.get("HPDM_SHARED") or ROOT.parent / "shared")
    if not (folder / "data").is_dir():
        pytest.skip(f"needs a folder of real clips and reference vectors: {folder}, or what $HPDM_SHARED names")
    return folder


@pytest.fixture(autouse=True)
def own_feature_cache(tmp_path, monkeypatch):
    """Tests neither read nor fill the user's cache of features."""
    monkeypatch.setenv("HPDM_EVAL_CACHE", str(tmp_path / "feature-cache"))


@pytest.fixture(autouse=True)
def own_registries(monkeypatch):
    """What a test registers is gone after it."""
    from hpdm_eval.backbones import registry as backbones
    from hpdm_eval.metrics import registry as metrics

    for module in (backbones, metrics):
        monkeypatch.setattr(module, "_registered", dict(module._registered))


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


# Imported by every child's interpreter at its start: decoders that fail as the file's name says.
BAD_DECODER = """
import os, signal, time
import hpdm.video.reader as reader

def fail(path, when):
    name = os.path.basename(str(path))
    if "crash-" + when in name:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "hang-" + when in name:
        while True:
            time.sleep(1)
    if "binding-" + when in name:
        raise AttributeError("no such attribute")

class BadReader(reader.VideoReader):
    def __init__(self, path):
        fail(path, "open")
        super().__init__(path)

    def read_chosen(self, *arguments):
        fail(self.path, "clip")
        return super().read_chosen(*arguments)

reader.VideoReader = BadReader
"""


@pytest.fixture
def bad_decoder(tmp_path_factory, monkeypatch):
    """Worker processes crash or hang on files named crash-open, hang-open (at once), crash-clip, hang-clip (for clips).

    Returns the folder that does it on PYTHONPATH.
    """
    folder = tmp_path_factory.mktemp("bad-decoder")
    (folder / "sitecustomize.py").write_text(BAD_DECODER)
    monkeypatch.syspath_prepend(folder)
    return folder
