"""What a run ran on: package versions, hardware, source revision, device choice."""

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from hpdm.errors import InputError

BUILD_FILE = "_build.json"  # {"git": commit}, written by setup.py
RECORDED_PACKAGES = ("hpdm", "torch", "numpy", "scipy", "torch-fidelity", "decord", "av")


def package_versions(names=RECORDED_PACKAGES):
    """Installed versions by package name, plus Python's; packages that are absent are left out."""
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def hardware(device="cpu"):
    """One line that names the processor or GPU a figure was measured on."""
    device = torch.device(device)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor_name()}, {cores} cores, {torch.get_num_threads()} threads"


def git_revision():
    """Commit of the source tree this package runs from, with "-dirty" for local changes; of an installed package that
    of the tree it was built from, which the build writes into it; None where neither is known.

    It is that of when the program started: a long run may outlive a commit, and its code does not change with it.
    """
    return _REVISION


def _read_revision():
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return _built_from(Path(__file__).with_name(BUILD_FILE))
    try:
        revision = _git(root, "rev-parse", "HEAD")
        return revision + ("-dirty" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _built_from(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))["git"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def choose_device(name):
    """Turn `auto`, `cpu` or `cuda` into a `torch.device`; raise InputError where CUDA is asked for and absent."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this PyTorch sees no CUDA device; use --device cpu or install a CUDA build")
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return torch.device(name)


def _git(root, *arguments):
    return subprocess.run(
        ["git", "-c", f"safe.directory={root}", "-C", str(root), *arguments],
        capture_output=True, text=True, check=True, timeout=10,
    ).stdout.strip()


def _processor_name():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


_REVISION = _read_revision()
