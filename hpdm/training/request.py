"""What a caller may choose about a training run, and the configuration that follows; `hpdm-train` and `hpdm.train` fill
one in."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpdm.config import Config, coarsest_levels, load_config, override_config
from hpdm.support.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """Which configuration to train. None leaves a setting as the size has it."""

    config: Config | str | Path  # a `Config`, which is taken as it is, the name of a size, or a YAML file
    method: str | None = None  # a baseline by name, at that size; None: HPDM
    data: str | Path | None = None  # folder of videos or shards, an address of shards, or "procedural"
    steps: int | None = None  # of the whole schedule
    batch: int | None = None  # samples per step, over all processes together
    levels: int | None = None  # train only this many of the coarsest levels
    init_from: str | Path | None = None  # start from the averaged weights of a run with fewer levels
    seed: int | None = None
    eval_every: int | None = None  # steps between evaluations
    eval_reference: str | Path | None = None  # real clips to compare with
    overrides: Sequence[str] = ()  # "section.key=value", before which all of the above are applied

    def resolve(self, run: str | Path | None = None, must_exist: bool = True) -> Config:
        """The configuration to train in the folder `run`.

        A size gets as many classes as its data have, or as the run that it continues, unless `overrides` name a number
        or, without `must_exist`, the data are not there. Raises InputError for what is not known or does not fit.
        """
        named = {
            "data.path": self.data,
            "training.steps": self.steps,
            "training.batch": self.batch,
            "training.init_from": self.init_from,
            "training.eval_every": self.eval_every,
            "eval.reference": self.eval_reference,
            "training.seed": self.seed,
        }
        options = [
            f"{key}={json.dumps(str(value) if isinstance(value, Path) else value)}"
            for key, value in named.items()
            if value is not None
        ]
        if isinstance(self.config, Config):
            if self.method is not None:
                raise InputError(f"a configuration names its method itself; {self.method} is for a size")
            config = override_config(self.config, [*options, *self.overrides])
        else:
            config = load_config(self.config, [*options, *self.overrides], method=self.method)
        if self.levels is not None:
            config = coarsest_levels(config, self.levels)
        if isinstance(self.config, Config) or any(_names_classes(text) for text in self.overrides):
            return config
        from hpdm.training.data import with_classes_of_data

        return with_classes_of_data(config, run, must_exist=must_exist)


def _names_classes(override: str) -> bool:
    return override.partition("=")[0].strip() in ("num_classes", "network.num_classes")
