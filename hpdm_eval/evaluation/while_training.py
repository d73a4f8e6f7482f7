"""Metrics while a network trains: the evaluator that `hpdm-train --eval-every` finds (entry point `hpdm.evaluators`).

Metrics run as commands of `hpdm-eval` in a process of their own: nothing of them reaches the training, what they take
of a GPU is free afterwards, and they can be ended at once. Each evaluation leaves its records in a folder of its own,
`step-00001000/`, beside `reference-<hash>.npz`, the features of the reference, which are computed once.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpdm.config.data import PROCEDURAL
from hpdm.support.errors import InputError
from hpdm.support.files import parse_json, write_json
from hpdm_eval.backbones import backbone_name, load_backbone
from hpdm_eval.backbones.backbone import check_frames
from hpdm_eval.features.reference_statistics import is_statistics
from hpdm_eval.protocols import DEFAULT, load_protocol

ON_FEATURES = ("fvd", "kvd", "prdc", "is")  # one extraction serves them all
METRICS = (*ON_FEATURES, "fid", "seams", "dead-tokens")
OF_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")
POLL_SECONDS = 0.2


class EvaluationFailed(InputError):
    """A command of hpdm-eval did not end well, or was asked to end."""


class Evaluator:
    """Judges folders of samples as the section `eval` of a Config says; keeps what it needs in `folder`.

    Raises InputError for metrics, protocols and networks that are not there, or that cannot see the videos.
    """

    def __init__(self, config: Any, folder: Any, *, device: Any = "cpu") -> None:
        self.settings, self.folder, self.device = config.eval, Path(folder), device
        self.data = {
            "data": dataclasses.asdict(config.data),
            "fingerprint": config.trained_on.fingerprint,
            "pyramid": dataclasses.asdict(config.pyramid),
        }
        self.token = "x".join(map(str, config.network.token))
        if unknown := [name for name in self.settings.metrics if name not in METRICS]:
            raise InputError(f"eval.metrics: {unknown[0]!r} is none of {', '.join(METRICS)}")
        if config.data.path == PROCEDURAL and self.settings.part and not self.settings.reference:
            raise InputError("eval.part: procedural clips have no part that is held out")
        frames = config.pyramid.resolution(config.pyramid.levels - 1)[0]
        named = self.settings.protocol or (DEFAULT if frames >= load_protocol(DEFAULT).frames else "native")
        self.protocol = load_protocol(named)
        own = "shapes3d" if config.data.path == PROCEDURAL and not self.settings.reference else self.protocol.backbone
        self.backbone = self.settings.backbone or own
        if set(self.settings.metrics) & {*ON_FEATURES, "fid"}:
            self._check_network(min(frames, self.protocol.frames or frames))
        self.options = ["--protocol", named, "--device", str(device), "--no-cache"]
        # fid looks through inception where the others look through I3D
        own_of_frames = [] if backbone_name(self.backbone) == "i3d-kinetics400" else ["--backbone", self.backbone]
        self.networks = {False: ["--backbone", self.backbone], True: own_of_frames}

    def _check_network(self, frames):
        if (self.protocol.frames or frames) > frames:
            raise InputError(
                f"eval.protocol: {self.protocol.name} wants {self.protocol.frames} frames, the videos have {frames}"
            )
        network = load_backbone(backbone_name(self.backbone))  # on the processor: it is only looked at
        check_frames(network, frames, "eval.backbone")
        if self.settings.reference and not Path(self.settings.reference).exists():
            raise InputError(f"eval.reference: {self.settings.reference} does not exist")

    def __call__(
        self, samples: Any, step: int, draw_reference: Callable[..., Any], stopped: Callable[[], bool]
    ) -> dict[str, dict[str, Any]]:
        """{metric: {"value", "ci95"}} of a folder of samples, or {metric: {"failed": why}}; records go to a folder.

        draw_reference(folder) writes clips to compare with; `stopped()` says whether to give up. A metric that cannot
        be computed keeps none of the others from being. Raises EvaluationFailed where it was given up.
        """
        wanted = self.settings.metrics
        common = ["--samples", str(samples), "--seed", str(self.settings.seed), "--json", "--quiet"]

        def compared(words, per_frame=False):
            reference = self._reference(draw_reference, stopped, per_frame)
            return self._run(
                [*words, *common, "--reference", str(reference), *self.options, *self.networks[per_frame]], stopped
            )

        on_features = tuple(name for name in ON_FEATURES if name in wanted)
        ways = {
            on_features: lambda: compared(["all", "--metrics", ",".join(on_features)]),
            ("fid",): lambda: compared(["fid"], per_frame=True),
            ("seams",): lambda: self._run(["seams", *common], stopped),
            ("dead-tokens",): lambda: self._run(["dead-tokens", *common, "--token", self.token], stopped),
        }
        records, figures = [], {}
        for names, compute in ways.items():
            if not names or not set(names) <= set(wanted):
                continue
            try:
                records += compute()
            except InputError as error:
                if stopped():
                    raise
                figures |= {name: {"failed": str(error)} for name in names}
        self._keep(records, self.folder / f"step-{step:08d}")
        return figures | {record["metric"]: {"value": record["value"], "ci95": record["ci95"]} for record in records}

    def _keep(self, records, folder):
        """Save the records; those of an evaluation that was cut short are replaced."""
        for record in records:
            write_json(folder / f"{record['metric']}.json", record)

    def _reference(self, draw_reference, stopped, per_frame=False):
        """The statistics to compare with; made where they are not there yet."""
        given = self.settings.reference
        if given and is_statistics(given):
            return Path(given)
        what = {
            **self.data,
            "given": given and str(Path(given).resolve()),
            "protocol": self.protocol.hash(),
            "backbone": self.backbone,
            "part": self.settings.part,
            "count": self.settings.num_reference,
            "seed": self.settings.seed,
            "per_frame": per_frame,
        }
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:12]
        path = self.folder / f"reference-{digest}.npz"
        if not path.exists():
            with contextlib.ExitStack() as stack:
                clips = given
                if not given:
                    self.folder.mkdir(parents=True, exist_ok=True)
                    clips = stack.enter_context(tempfile.TemporaryDirectory(prefix=".reference-", dir=self.folder))
                    draw_reference(Path(clips))
                self._run(
                    [
                        "stats",
                        "--data",
                        str(clips),
                        "--out",
                        str(path),
                        "--seed",
                        str(self.settings.seed),
                        "--quiet",
                        "--per-frame" if per_frame else "--keep-features",
                        *self.options,
                        *self.networks[per_frame],
                    ],
                    stopped,
                )
        return path

    def _run(self, words, stopped):
        """What a command of hpdm-eval prints, as a list of records; of `stats` nothing."""
        environment = {
            key: value
            for key, value in os.environ.items()
            if key not in OF_TORCHRUN and not key.startswith("TORCHELASTIC_")
        }
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
            # A session of its own: Ctrl-C on the terminal is for the training, which ends this one.
            process = subprocess.Popen(
                [sys.executable, "-m", "hpdm_eval", *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=environment,
                start_new_session=True,
            )
            try:
                while process.poll() is None:
                    if stopped():
                        raise EvaluationFailed(f"hpdm-eval {words[0]} was ended")
                    time.sleep(POLL_SECONDS)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            output.seek(0)
            errors.seek(0)
            text, said = output.read(), errors.read().decode(errors="replace").strip()
        if process.returncode:
            last = (said.splitlines() or [""])[-1].removeprefix("error: ")
            raise EvaluationFailed(f"hpdm-eval {words[0]} ended with {process.returncode}: {last}")
        return read_records(words[0], text)


def read_records(command: str, text: str) -> list[dict]:
    """The records that a command of hpdm-eval printed with --json; none of `stats`, which has no --json."""
    records = [] if command == "stats" else parse_json(text)
    return records if isinstance(records, list) else [records]
