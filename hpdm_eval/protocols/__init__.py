"""Named protocols: everything about how clips are cut, resized, counted and turned into a figure, as YAML files.

`load_protocol("hpdm-16f", num_samples=2048)` resolves a name (or a YAML file of one's own) and overrides into a
`Protocol`, whose hash stands beside every figure made with it.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from hpdm.support.errors import InputError
from hpdm.support.fields import check_keys
from hpdm.support.yaml_text import parse_yaml
from hpdm_eval.clips.choices import METHODS, RANGES, RULES, check_split
from hpdm_eval.records.labels import subset_remarks

DEFAULT = "generic-16f"  # claims nothing of the data
MOST = 10**9  # of any count

# Fields that say what a protocol is, not what it does.
DESCRIPTION = ("name", "title", "citation", "notes", "overrides")
# Fields that may differ where statistics of a reference are used again: those of the samples or of a metric's last
# step, the range of float arrays, which each side has its own, and the network's, which is compared as it was loaded.
NOT_OF_REFERENCE = (
    "num_samples",
    "samples_selection",
    "samples_frames",
    "samples_stride",
    "samples_fps",
    "samples_clips_per_video",
    "numerics",
    "ddof",
    "root",
    "value_range",
    "backbone",
    "bn_epsilon",
    "is_splits",
    "is_loops",
)

# Field of the reference → the same of the samples.
OF_BOTH = {
    "start": "samples_frames",
    "stride": "samples_stride",
    "fps": "samples_fps",
    "clips_per_video": "samples_clips_per_video",
}

CHOICES = {
    "start": ("first", "random", "center"),
    "short": ("reject", "loop"),
    "crop": ("none", "center"),
    "resize": METHODS,
    "value_range": RANGES,
    "selection": RULES,
    "samples_selection": RULES,
    "samples_frames": ("first", "random", "center", "subsampled"),
    "backbone_resize": ("bilinear", "bilinear-antialias", "short-side", "tf1-bilinear"),
    "numerics": ("exact", "legacy"),
    "root": ("qr-nuclear", "scipy-sqrtm", "fp32-svd", "fp64-svd"),
}


def _setting(help, default):
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A fully resolved protocol. Raises InputError for values that no field of that name can have."""

    name: str = _setting("what it is called", "unnamed")
    title: str = _setting("one line", "")
    citation: str = _setting("whose protocol it is", "")
    notes: str = _setting("what was published, and what had to be chosen", "")
    overrides: tuple[str, ...] = _setting("settings that differ from the named protocol", ())

    frames: int | None = _setting("frames per clip; null is all", 16)
    start: str = _setting("where a reference clip starts: first, random (one seeded start per video), center", "first")
    stride: int = _setting("every so many frames of a reference video, after resampling to fps", 1)
    fps: float | None = _setting("frames per second that reference videos are resampled to; null is as they come", None)
    short: str = _setting("videos with too few frames: reject, or loop from their beginning", "reject")
    crop: str = _setting("none, or center: the largest centred window with the aspect of the resolution", "none")
    resolution: tuple[int, int] | None = _setting("[height, width] after cropping; null leaves the size", None)
    resize: str = _setting("bilinear, bicubic, area or lanczos (half-pixel centres)", "bilinear")
    antialias: bool = _setting("whether shrinking widens the filter", False)
    value_range: str = _setting("range of float arrays: auto, 0..1, -1..1 or 0..255", "auto")

    selection: str = _setting(
        "which reference clips are taken where there are more: class-balanced or shuffled draw "
        "at random, sorted takes the first by name",
        "class-balanced",
    )
    split: str | None = _setting("official list that picks the reference, such as ucf101-train-01", None)
    num_reference: int | None = _setting("reference clips; null is all", None)
    clips_per_video: int | None = _setting(
        "clips of one reference video: spread evenly, or one random start in each "
        "of as many equal parts where start is random; null is one",
        None,
    )
    num_samples: int | None = _setting("generated clips; null is all", None)
    samples_selection: str = _setting("the same for generated clips", "class-balanced")
    samples_frames: str = _setting("which frames of a generated clip: first, random, center or subsampled", "first")
    samples_stride: int = _setting("every so many frames of a generated clip", 1)
    samples_fps: float | None = _setting("frames per second that generated clips are resampled to", None)
    samples_clips_per_video: int | None = _setting("clips of one generated video; null is one", None)

    backbone: str = _setting("network whose features are compared", "i3d")
    backbone_resize: str = _setting(
        "how a clip reaches the network's size: bilinear, bilinear-antialias or "
        "tf1-bilinear of the whole frame, or short-side and centre crop",
        "bilinear",
    )
    bn_epsilon: float | None = _setting("BatchNorm epsilon of the network; null is the network's own", None)
    numerics: str = _setting("legacy: the rounding of the published code; exact: double precision", "exact")
    ddof: int = _setting("covariances divide by N - ddof", 1)
    root: str = _setting("how the trace of the matrix square root is computed", "qr-nuclear")
    is_splits: int | None = _setting("parts over which an Inception Score is averaged; null is the command's", None)
    is_loops: int | None = _setting("sets of num_samples whose Inception Scores are averaged; null is one", None)

    def __post_init__(self) -> None:
        if isinstance(self.resolution, list):
            object.__setattr__(self, "resolution", tuple(self.resolution))
        if not (isinstance(self.overrides, (list, tuple)) and all(isinstance(item, str) for item in self.overrides)):
            raise InputError(f"protocol {self.name}: overrides is {self.overrides!r}, expected a list of texts")
        object.__setattr__(self, "overrides", tuple(self.overrides))
        for key in ("fps", "samples_fps", "bn_epsilon"):  # 25 and 25.0 must hash alike
            if type(getattr(self, key)) is int:
                object.__setattr__(self, key, float(getattr(self, key)))
        for item in fields(self):
            _check(self.name, item.name, getattr(self, item.name))
        for key in ("clips_per_video", "samples_clips_per_video"):  # one, as null: they must hash alike
            if getattr(self, key) == 1:
                object.__setattr__(self, key, None)
        if self.split is not None:
            check_split(self.split)
        if self.resize == "lanczos" and not self.antialias:
            raise InputError(f"protocol {self.name}: resize lanczos needs antialias true; it has no other form")
        if self.samples_frames == "subsampled" and (self.frames is None or self.samples_stride != 1):
            raise InputError(
                f"protocol {self.name}: samples_frames subsampled needs a number of frames and "
                "samples_stride 1; it spreads the frames over the whole clip by itself"
            )
        self._check_clips()

    def _check_clips(self):
        for key, start in (("clips_per_video", "start"), ("samples_clips_per_video", "samples_frames")):
            if getattr(self, key) and (self.frames is None or getattr(self, start) == "subsampled"):
                raise InputError(
                    f"protocol {self.name}: {key} above 1 needs a number of frames, and another {start} "
                    "than subsampled, which uses up the whole video"
                )

    @property
    def label(self) -> str:
        """Name for tables: with its overrides, its hash and what `remark` says."""
        return " ".join(
            [
                self.name,
                *(f"+{override}" for override in self.overrides),
                f"[{self.hash()}]",
                *([f"({self.remark})"] if self.remark else []),
            ]
        )

    @property
    def remark(self) -> str:
        """What a reader of the bare name would not expect: subsets that are prefixes. "" where there is nothing."""
        return "; ".join(subset_remarks(self.settings()))

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON types."""
        values = asdict(self)
        values["overrides"] = list(self.overrides)
        values["resolution"] = self.resolution and list(self.resolution)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Protocol":
        """The protocol that `to_dict` wrote; raises InputError for unknown fields."""
        _check_keys(values.get("name", "unnamed"), values)
        return cls(**values)

    def settings(self) -> dict[str, Any]:
        """The fields that move a figure, as JSON types."""
        return {key: value for key, value in self.to_dict().items() if key not in DESCRIPTION}

    def hash(self) -> str:
        """First 12 hex digits of the SHA-256 of the settings as canonical JSON (sorted keys, no spaces)."""
        text = json.dumps(self.settings(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def changed(self, **settings: Any) -> "Protocol":
        """A copy with other settings, which its `overrides` name. Raises InputError."""
        _check_keys(self.name, settings)
        protocol = replace(self, **settings)
        kept = {text.partition("=")[0]: text for text in self.overrides}
        new = {key: f"{key}={_short(mine)}" for key, (mine, _) in protocol.differences(self).items()}
        order = [item.name for item in fields(self) if item.name != "numerics"] + ["numerics"]
        overrides = sorted((kept | new).items(), key=lambda item: order.index(item[0]))
        return replace(protocol, overrides=tuple(text for _, text in overrides))

    def differences(self, other: "Protocol", role: str | None = None) -> dict[str, tuple[Any, Any]]:
        """Settings that differ, as {field: (mine, theirs)}; role="reference": those that decide its statistics."""
        theirs = other.settings()
        ignored: tuple[str, ...] = NOT_OF_REFERENCE if role == "reference" else ()
        if role == "reference" and self.num_reference is other.num_reference is None:
            ignored += ("selection",)  # all are taken
        return {
            key: (mine, theirs[key])
            for key, mine in self.settings().items()
            if mine != theirs[key] and key not in ignored
        }


def load_protocol(name_or_path: str | os.PathLike, **overrides: Any) -> Protocol:
    """Resolve a named protocol, or a YAML file of one's own, with some settings overridden.

    A YAML file holds fields of `Protocol`; `extends: NAME` starts from another named protocol, and `legacy:` holds what
    `numerics: legacy` changes. In the protocols of this package that is rounding alone, and `legacy` is what those
    named after a paper do. Raises InputError for unknown names, fields and values.
    """
    values, legacy = _read(str(name_or_path))
    _check_keys(values["name"], overrides)
    named = values.get("numerics", "exact")
    numerics = overrides.get("numerics", named)
    if numerics == "legacy":
        if not legacy:
            raise InputError(f"protocol {values['name']} knows no legacy numerics; use exact")
        values.update(legacy)
    values["numerics"] = numerics
    base = Protocol(**values)
    protocol = replace(base, **overrides)
    changed = [f"{key}={_short(theirs)}" for key, (_, theirs) in base.differences(protocol).items()]
    if numerics != named:
        changed.append(f"numerics={numerics}")
    return replace(protocol, overrides=tuple(changed))


def for_both_roles(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings in which those of the reference hold for samples as well, unless theirs are among them."""
    settings = dict(settings)
    for reference, samples in OF_BOTH.items():
        if reference in settings:
            settings.setdefault(samples, settings[reference])
    return settings


def list_protocols() -> list[Protocol]:
    """All protocols that come with the package, by name."""
    return [load_protocol(name) for name in _names()]


def _names():
    return sorted(file.name[:-5] for file in resources.files(__name__).iterdir() if file.name.endswith(".yaml"))


def _read(name, seen=()):
    """(fields, legacy fields) of a protocol, with those it extends filled in."""
    if name in seen:
        raise InputError(f"protocol {name} extends itself")
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"protocol {name}: no such file")
        own = path.stem
    elif name in _names():
        path, own = resources.files(__name__) / f"{name}.yaml", name
    else:
        raise InputError(f"unknown protocol {name!r}: known are {', '.join(_names())}, or a .yaml file")
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"), f"protocol {name}")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"protocol {name} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise InputError(f"protocol {name}: expected fields and values, such as `frames: 16`")
    base, base_legacy = {}, {}
    if "extends" in values:
        base, base_legacy = _read(str(values.pop("extends")), (*seen, name))
    legacy = values.pop("legacy", None) or {}
    if not isinstance(legacy, dict):
        raise InputError(f"protocol {name}: legacy is {legacy!r}, expected settings, such as `ddof: 0`")
    for part in (values, legacy):
        _check_keys(own, part)
    return {**base, "name": own, **values}, {**base_legacy, **legacy}


def _check_keys(name: str, values: Mapping[str, Any]) -> None:
    check_keys(values, [item.name for item in fields(Protocol)], f"protocol {name}", word="setting")


def _check(protocol, key, value):
    wanted = _wanted(key, value)
    if wanted is not None:
        shown = repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."
        raise InputError(f"protocol {protocol}: {key} is {shown}, expected {wanted}")


def _wanted(key, value):
    """What `key` should have been, None where `value` is fine."""
    if key in CHOICES:
        return None if isinstance(value, str) and value in CHOICES[key] else "one of " + ", ".join(CHOICES[key])
    if key in ("name", "title", "citation", "notes", "backbone"):
        return None if isinstance(value, str) else "text"
    if key == "split":
        return None if value is None or isinstance(value, str) else "the name of a split, or null"
    if key == "overrides":
        return None
    if key == "antialias":
        return None if isinstance(value, bool) else "true or false"
    if key == "ddof":
        return None if value in (0, 1) and not isinstance(value, bool) else "0 or 1"
    if key == "resolution":
        good = value is None or (isinstance(value, tuple) and len(value) == 2 and all(map(_is_count, value)))
        return None if good else "[height, width], or null"
    if key in ("stride", "samples_stride"):
        return None if _is_count(value) else "a whole number from 1"
    if key in ("fps", "samples_fps", "bn_epsilon"):
        good = value is None or (isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e6)
        return None if good else "a positive number, or null"
    return None if value is None or _is_count(value) else "a whole number from 1, or null"


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST


def _short(value):
    return "x".join(map(str, value)) if isinstance(value, list) else json.dumps(value).strip('"')
