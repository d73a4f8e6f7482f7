"""The log of a run: one JSON object per line in `log.jsonl`, and the same figures for others.

TensorBoard gets them where it is installed, Weights & Biases where it is installed and asked for: WANDB_PROJECT is set,
or the program has a run of it already.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from hpdm.support.files import append_line, atomic_file, free_name, parse_json
from hpdm.support.progress import note

if TYPE_CHECKING:
    import numpy as np


LOG_FILE = "log.jsonl"


class RunLog:
    """Appends lines to the log of a run that continues at `start_step`; later lines of an earlier process are cut."""

    def __init__(self, run: str | Path, start_step: int, quiet: bool = False) -> None:
        self.path = Path(run) / LOG_FILE
        lines, unreadable = _read(self.path)
        if unreadable:
            damaged = free_name(self.path.with_name("damaged-" + LOG_FILE))
            os.replace(self.path, damaged)
            note(f"{unreadable} lines of {self.path} cannot be read; the file as it was is {damaged.name}", quiet)
        kept = [line for line in lines if line["step"] <= start_step] if start_step else []
        with atomic_file(self.path, "w") as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)
        self._quiet = quiet
        self._board = _tensorboard(Path(run) / "tensorboard", start_step)
        self._wandb = _wandb(Path(run), quiet)

    def write(self, line: dict) -> None:
        """`line` has a whole number `step`; numbers and lists of numbers also go to TensorBoard and Weights & Biases.

        Raises WriteError where the disk is full.
        """
        append_line(self.path, json.dumps(line), kept="checkpoints are kept; the same command continues")
        numbers = {}
        for name, value in line.items():
            values = {f"{name}/{i}": v for i, v in enumerate(value)} if isinstance(value, list) else {name: value}
            numbers |= {key: number for key, number in values.items() if isinstance(number, int | float)}
        for key, number in numbers.items():
            self._show("add_scalar", key, number, line["step"])
        self._report("log", numbers, step=line["step"])

    def picture(self, picture: "np.ndarray", step: int) -> None:
        """Show uint8 [height, width, 3] in TensorBoard."""
        self._show("add_image", "sheet", picture, step, dataformats="HWC")

    def close(self) -> None:
        self._show("close")
        self._report("finish")

    def _show(self, method, *arguments, **options):
        """Tell TensorBoard; where it fails, on a full disk for one, training goes on without."""
        if self._board is None:
            return
        try:
            getattr(self._board, method)(*arguments, **options)
        except Exception as error:  # its writer is a thread, which hands on whatever it met
            self._board = None
            note(f"no more is written for TensorBoard: {error or type(error).__name__}", self._quiet)

    def _report(self, method, *arguments, **options):
        """Tell Weights & Biases; where it fails, training goes on without."""
        if self._wandb is None:
            return
        try:
            getattr(self._wandb, method)(*arguments, **options)
        except Exception as error:
            self._wandb = None
            note(f"no more is sent to Weights & Biases: {error or type(error).__name__}", self._quiet)


def read_log(run: str | Path) -> list[dict]:
    """The lines of a run's log, without those that a kill or a fault of the disk has broken; empty without a log."""
    return _read(Path(run) / LOG_FILE)[0]


def read_lines(path: str | Path) -> tuple[list[dict], int, bool]:
    """(objects, lines that are none, whether the last line is one of them) of a file with a JSON object per line."""
    try:
        texts = Path(path).read_bytes().split(b"\n")
    except FileNotFoundError:
        return [], 0, False
    objects, unreadable, broken_off = [], 0, False
    for number, text in enumerate(texts):
        if not text.strip():
            continue
        try:
            value = parse_json(text)
        except ValueError:
            value = None
        if isinstance(value, dict):
            objects.append(value)
        else:
            unreadable += 1
            broken_off = number == len(texts) - 1
    return objects, unreadable, broken_off


def _read(path):
    """(lines of the log, how many others there are); a last line that was broken off does not count."""
    objects, unreadable, broken_off = read_lines(path)
    lines = [line for line in objects if type(line.get("step")) is int]
    return lines, unreadable - broken_off + len(objects) - len(lines)


def _tensorboard(folder, start_step):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    try:
        return SummaryWriter(folder, purge_step=start_step + 1 if start_step else None)
    except OSError:  # no room; the log itself says so
        return None


def _wandb(run, quiet):
    """The wandb run to report to, one per folder, which a resumed training goes on with; None without."""
    try:
        import wandb
    except ImportError:
        return None
    try:
        if wandb.run is not None:
            return wandb.run
        if not os.environ.get("WANDB_PROJECT"):
            return None
        identity = hashlib.sha256(str(run.resolve()).encode()).hexdigest()[:16]
        return wandb.init(dir=str(run), name=run.name, id=identity, resume="allow")
    except Exception as error:  # no network, no account
        note(f"nothing is sent to Weights & Biases: {error or type(error).__name__}", quiet)
        return None
