"""What a run ran on: package versions, hardware, source revision, device choice."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from hpdm.support.errors import InputError

if TYPE_CHECKING:
    import torch

BUILD_FILE = "_build.json"  # {"git": commit}, written by setup.py
RECORDED_PACKAGES = ("hpdm", "torch", "numpy", "scipy", "torch-fidelity", "decord", "av")


def own_version() -> str:
    """The installed version of hpdm; "0+unknown" for a source tree that was never installed."""
    try:
        return metadata.version("hpdm")
    except metadata.PackageNotFoundError:
        return "0+unknown"


def package_versions(names: Sequence[str] = RECORDED_PACKAGES) -> dict[str, str]:
    """Installed versions by package name, plus Python's; packages that are absent are left out."""
    versions = {"python": platform.python_version()}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def hardware(device: "torch.device | str" = "cpu") -> str:
    """One line that names the processor or GPU a figure was measured on."""
    import torch  # in functions here: what only asks for processes or versions does without

    device = torch.device(device)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{_processor_name()}, {cores} cores, {torch.get_num_threads()} threads"


def processor(device: "torch.device | str" = "cpu") -> str:
    """What the last bits of a computation depend on beside libraries: the model of the GPU or CPU, and its vectors."""
    import torch

    device = torch.device(device)
    if device.type == "cpu":
        return f"{_processor_name()}, {torch.backends.cpu.get_cpu_capability()}"
    return torch.cuda.get_device_name(device) if device.type == "cuda" and torch.cuda.is_available() else device.type


@cache
def git_revision() -> str | None:
    """Commit of the source tree this package runs from, with "-dirty" for local changes; of an installed package that
    of the tree it was built from, which the build writes into it; None where neither is known.

    It is read once in a process: commands ask when they begin, for a long run may outlive a commit, and its code does
    not change with it.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return _built_from(Path(__file__).resolve().parents[1] / BUILD_FILE)
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


def choose_device(name: "torch.device | str") -> "torch.device":
    """Turn `auto`, `cpu`, `cuda`, `cuda:1`, `mps` or any other device of PyTorch into a `torch.device`.

    One of CUDA has its number: `cuda` is the current one and, under `torchrun`, each process' own. Raises InputError
    for a device that is not there.
    """
    import torch

    name = str(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(
            f"--device {name}: PyTorch knows no such device; write auto, cpu, cuda, cuda:1 or mps"
        ) from error
    if device.type == "meta":
        raise InputError(f"--device {name} holds no data; use --device cpu")
    if device.type == "cpu":
        return torch.device("cpu")
    local = _whole_number("LOCAL_RANK") if "LOCAL_RANK" in os.environ else None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise InputError(
                f"--device {name}: this PyTorch sees no CUDA device; use --device cpu or install a CUDA build"
            )
        if device.index is not None and device.index != local and (_whole_number("LOCAL_WORLD_SIZE") or 1) > 1:
            raise InputError(f"--device {name} under torchrun: use --device cuda, and each process takes its own")
        if device.index is None and local is not None:
            device = torch.device("cuda", local)
        elif device.index is None:  # torch.cuda.set_device wants a number
            device = torch.device("cuda", torch.cuda.current_device())
        count = torch.cuda.device_count()
        if device.index >= count:
            raise InputError(f"--device {device}: there {'is' if count == 1 else 'are'} {count} here, from cuda:0 on")
    _try(device, name)
    return device


def _try(device, name):
    """Raise InputError where nothing can be put on a device."""
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ImportError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
        raise InputError(f"--device {name}: PyTorch cannot use it here ({reason}); use --device cpu") from error


@dataclass(frozen=True, kw_only=True)
class Launched:
    """This process' place among those that `torchrun` has started: 0 of 1 where it has started none."""

    rank: int
    world_size: int


def processes_here() -> Launched:
    """The `Launched` of the environment's RANK and WORLD_SIZE; raises InputError where they make no sense."""
    world_size = _whole_number("WORLD_SIZE")
    world_size = 1 if world_size is None else world_size
    rank = _whole_number("RANK")
    advice = "start the processes with torchrun, or unset both"
    if world_size < 1:
        raise InputError(f"WORLD_SIZE is {world_size}, a number of processes: {advice}")
    if world_size == 1:
        return Launched(rank=0, world_size=1)
    if rank is None:
        raise InputError(f"WORLD_SIZE is {world_size} and RANK is not set: {advice}")
    if rank >= world_size:
        raise InputError(f"RANK is {rank} of a WORLD_SIZE of {world_size}: {advice}")
    return Launched(rank=rank, world_size=world_size)


def check_meeting_point() -> None:
    """Raise InputError where several processes are to join and the environment does not say where."""
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if processes_here().world_size > 1 and missing:
        raise InputError(
            f"WORLD_SIZE and RANK are set and {' and '.join(missing)} not: start the processes with torchrun"
        )


def _whole_number(name):
    text = os.environ.get(name)
    if text is None or text == "":
        return None
    if not text.strip().isdecimal() or len(text) > 9:
        raise InputError(f"{name} in the environment is {text!r}, expected a whole number; torchrun sets it")
    return int(text)


def _git(root, *arguments):
    return subprocess.run(
        ["git", "-c", f"safe.directory={root}", "-C", str(root), *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    ).stdout.strip()


def _processor_name():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
