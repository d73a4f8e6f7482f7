"""The log of a run: one JSON object per line in `log.jsonl`, the same figures for TensorBoard where it is installed."""

import json
from pathlib import Path

from hpdm.files import atomic_file

LOG_FILE = "log.jsonl"


class RunLog:
    """Appends lines to the log of a run that continues at `start_step`; later lines of an earlier process are cut."""

    def __init__(self, run, start_step: int):
        self.path = Path(run) / LOG_FILE
        kept = [line for line in read_log(run) if line["step"] <= start_step] if start_step else []
        with atomic_file(self.path, "w") as file:
            file.writelines(json.dumps(line) + "\n" for line in kept)
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  closed by close()
        self._board = _tensorboard(Path(run) / "tensorboard", start_step)

    def write(self, line: dict):
        """`line` has a whole number `step`; numbers and lists of numbers also go to TensorBoard."""
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._board:
            for name, value in line.items():
                values = {f"{name}/{i}": v for i, v in enumerate(value)} if isinstance(value, list) else {name: value}
                for key, number in values.items():
                    self._board.add_scalar(key, number, line["step"])

    def picture(self, picture, step):
        """Show uint8 [height, width, 3] in TensorBoard."""
        if self._board:
            self._board.add_image("sheet", picture, step, dataformats="HWC")

    def close(self):
        self._file.close()
        if self._board:
            self._board.close()


def read_log(run) -> list[dict]:
    """The lines of a run's log, without a last one that was cut off by a kill; empty where there is no log."""
    path = Path(run) / LOG_FILE
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def _tensorboard(folder, start_step):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder, purge_step=start_step + 1 if start_step else None)
