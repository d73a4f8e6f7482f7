"""Reference statistics: mean and covariance of features in one .npz, with the manifest that says what they are of.

Keys of the file: `mean` float64 [D], `cov` float64 [D, D] (over N - 1), `n`, `manifest` (JSON text), and optionally
`features` float32 [N, D] and `sources` text [N], see `selection.sources_of`. Those of other tools (pytorch-fid and its
descendants: `mu`, `sigma`) are read as well where the number of clips is known; nothing says which clips, network and
protocol they are of.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file, parse_json, sha256_file
from hpdm_eval.features.moments import Moments
from hpdm_eval.protocols import Protocol
from hpdm_eval.records.record import OF_BACKBONE
from hpdm_eval.support.npz import read_npz

SCHEMA = 1
OWN, FOREIGN = ("mean", "cov"), ("mu", "sigma")
COUNTS = ("n", "num", "count", "num_samples", "num_images", "N")  # by which other tools name the number of clips


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistics:
    """Moments of one set of clips under one protocol and backbone."""

    moments: Moments
    protocol: dict  # resolved settings
    backbone: dict  # as `Backbone.describe()`
    source: dict  # the clips: {"path", "sha256", "clips", "rejected"}, as `ClipSource.summary()`
    seed: int  # of the protocol's random starts and selection
    features: np.ndarray | None = None  # float32 [N, D]
    sources: list[str] | None = None  # of each clip, where several come from one video
    made: dict = field(default_factory=dict)  # command, versions, created

    def save(self, path: str | os.PathLike) -> None:
        """Write the .npz atomically; the same statistics give the same bytes."""
        manifest = {
            "schema": SCHEMA,
            "protocol": self.protocol,
            "backbone": self.backbone,
            "source": self.source,
            "seed": self.seed,
            "cov_ddof": 1,
            "made": self.made,
        }
        arrays = self.moments.to_arrays()
        if self.features is not None:
            arrays["features"] = self.features.astype(np.float32)
        if self.sources is not None:
            arrays["sources"] = np.array(self.sources, dtype=np.str_)
        with atomic_file(path) as file:
            np.savez(file, **arrays, manifest=np.array(json.dumps(manifest)))

    @property
    def foreign(self) -> bool:
        """Whether another tool made them: nothing but their numbers is known."""
        return not self.protocol

    @classmethod
    def load(cls, path: str | os.PathLike, count: int | None = None) -> Statistics:
        """Read what `save` wrote, or `mu` and `sigma` of another tool; raises InputError for any other file.

        count: how many clips those of another tool are of, where the file does not say.
        """
        arrays = read_npz(path)
        if set(FOREIGN) <= set(arrays) and not set(OWN) <= set(arrays):
            return cls._of_another_tool(path, arrays, count)
        missing = [key for key in ("mean", "cov", "n", "manifest") if key not in arrays]
        if missing:
            raise InputError(
                f"{path}: not reference statistics, it lacks {', '.join(missing)}; `hpdm-eval stats` makes such a file"
            )
        mean, cov, n = arrays["mean"], arrays["cov"], arrays["n"]
        numbers = (mean, cov, n, arrays.get("features", mean))
        if not all(array.dtype.kind in "fiu" for array in numbers):
            raise InputError(f"{path}: damaged statistics, they hold something other than numbers")
        _check_moments(path, mean, cov, n)
        features = arrays.get("features")
        if features is not None and features.shape != (int(n), len(mean)):
            raise InputError(
                f"{path}: damaged statistics, features are {list(features.shape)} for n = {n} and "
                f"{len(mean)} dimensions"
            )
        sources = arrays.get("sources")
        if sources is not None and (sources.dtype.kind != "U" or sources.shape != (int(n),)):
            raise InputError(f"{path}: damaged statistics, sources are {list(sources.shape)} for n = {n}")
        try:
            manifest = parse_json(str(arrays["manifest"]))
            if manifest["schema"] != SCHEMA:
                raise InputError(f"{path}: statistics of schema {manifest['schema']}, this version reads {SCHEMA}")
            parts = {key: manifest[key] for key in ("protocol", "backbone", "source", "seed", "made")}
            if not all(isinstance(parts[key], dict) for key in ("protocol", "backbone", "source", "made")):
                raise TypeError("not of objects")
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path}: the statistics' manifest is damaged ({error})") from error
        return cls(
            moments=Moments.from_arrays(mean, cov, int(n)),
            features=features,
            sources=None if sources is None else sources.tolist(),
            **parts,
        )

    @classmethod
    def _of_another_tool(cls, path, arrays, count):
        mean, cov = (arrays[key] for key in FOREIGN)
        stated = next((arrays[key] for key in COUNTS if key in arrays), None)
        n = np.asarray(count if stated is None else stated)
        if n.dtype.kind not in "ui":
            raise InputError(
                f"{path}: statistics of another tool that do not say how many clips they are of; "
                "--num-reference says it, or write it into the file: numpy.savez(FILE, mu=..., sigma=..., "
                "n=...)"
            )
        _check_moments(path, mean, cov, n)
        source = {
            "path": str(path),
            "sha256": sha256_file(path),
            "clips": int(n),
            "rejected": [],
            "split": None,
            "made_by": "another tool",
        }
        return cls(moments=Moments.from_arrays(mean, cov, n), protocol={}, backbone={}, source=source, seed=0)

    def check_match(self, protocol: Protocol, backbone: Mapping[str, Any], where: object) -> None:
        """Raise InputError naming every setting in which these statistics differ from the samples' side.

        protocol: Protocol; backbone: dict as `Backbone.describe()`; where: the statistics' path. Settings that only
        concern the samples, or the distance itself, need not agree; of another tool's statistics none is known.
        """
        if self.foreign:
            return
        made = Protocol.from_dict({key: value for key, value in self.protocol.items() if key != "hash"})
        differences = [
            f"{key} is {theirs} there and {mine} here"
            for key, (theirs, mine) in made.differences(protocol, role="reference").items()
        ]
        if self.backbone.get("per_frame") != backbone.get("per_frame"):
            raise InputError(
                f"{where} holds statistics of single frames; make those of clips with `hpdm-eval stats`"
                if self.backbone.get("per_frame")
                else f"{where} holds statistics of clips, and this metric compares single frames; make others "
                "with `hpdm-eval stats --per-frame`, or give the clips"
            )
        differences += [
            f"the backbone's {key} is {self.backbone.get(key)} there and {backbone.get(key)} here"
            for key in OF_BACKBONE
            if self.backbone.get(key) != backbone.get(key)
        ]
        if differences:
            raise InputError(
                f"{where} does not fit the samples: {'; '.join(differences)}. Make the statistics again "
                "with `hpdm-eval stats` and the same options, or give the options they were made with"
            )


def _check_moments(path, mean, cov, n):
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)) or n.shape != () or n < 2:
        raise InputError(f"{path}: damaged statistics (mean {list(mean.shape)}, cov {list(cov.shape)}, n {n})")
    if mean.dtype.kind != "f" or cov.dtype.kind != "f":
        raise InputError(f"{path}: damaged statistics, of {mean.dtype} and {cov.dtype}")
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise InputError(f"{path}: damaged statistics, they hold values that are not finite")


def is_statistics(path: str | os.PathLike) -> bool:
    """Whether `path` is a .npz with a mean and a covariance, as opposed to one that holds clips."""
    if Path(path).suffix.lower() != ".npz" or not Path(path).is_file():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
            return set(OWN) <= names or set(FOREIGN) <= names
    except Exception:  # damaged archives raise nearly anything
        return False
