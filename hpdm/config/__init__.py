"""Configurations: what each field means, the named sizes, overrides, and their way to and from YAML.

A size is a YAML file in `hpdm/configs/`; a file says only what differs from the defaults of the dataclasses.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from hpdm.config.data import DataConfig
from hpdm.config.diffusion import DiffusionConfig
from hpdm.config.method import HPDM_METHOD, MethodConfig, method_class, settings_class
from hpdm.config.network import NetworkConfig, TextConfig
from hpdm.config.pyramid import Pyramid, check_branching
from hpdm.config.sampling import SamplingConfig
from hpdm.config.training import EvalConfig, TrainingConfig
from hpdm.support.errors import InputError
from hpdm.support.fields import build, short
from hpdm.support.files import atomic_file
from hpdm.support.yaml_text import parse_yaml

# No setting is larger; some would be built one by one.
LARGEST_WHOLE = 2**63 - 1
MOST = {
    "levels": 16,
    "compute_layers": 1000,
    "text_layers": 1000,
    "num_workers": 10_000,
    "steps_ahead": 10_000,
    "branching": 1000,
}
MOST_OF_NETWORK = 10**7  # widths, heads, tokens, frames, pixels


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """What the data of a run were, noted by the training for those who sample and for a run that is resumed."""

    class_names: tuple[str, ...] = ()  # by class id
    classes: tuple[int, ...] = ()  # ids of the classes of which there were videos
    fingerprint: str = ""  # of names, sizes and lengths of the files that were used


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that makes a model: a checkpoint carries it, and sampling needs the checkpoint alone."""

    size: str
    pyramid: Pyramid
    network: NetworkConfig = field(default_factory=NetworkConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    data: DataConfig = field(default_factory=DataConfig)
    text: TextConfig = field(default_factory=TextConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    trained_on: TrainedOn = field(default_factory=TrainedOn)

    def __post_init__(self) -> None:
        self.diffusion.check_levels(self.pyramid.levels)
        check_geometry(self.network, self.pyramid)
        if self.training.branching is not None:
            check_branching(self.training.branching, self.pyramid.levels)
        if self.network.text_vocabulary and len(self.text.words) + 2 != self.network.text_vocabulary:
            raise InputError(
                f"network.text_vocabulary of {self.network.text_vocabulary} must be 2 more than the "
                f"{len(self.text.words)} words of text.words: the others are no word and an unknown one"
            )
        if self.network.text_width and bool(self.network.text_vocabulary) != (self.text.encoder == "words"):
            raise InputError("network.text_vocabulary is for text.encoder=words, and needed there")


def check_geometry(network: NetworkConfig, pyramid: Pyramid) -> None:
    """Raises InputError where a network cannot work on a pyramid: levels that no block hosts, patches that do not
    divide into tokens."""
    if max(network.levels_per_block) != pyramid.levels:
        raise InputError(
            f"network.levels_per_block {list(network.levels_per_block)} must reach "
            f"pyramid.levels = {pyramid.levels}, and no more"
        )
    if any(r % t for r, t in zip(pyramid.patch, network.token, strict=True)):
        raise InputError(f"pyramid.patch {pyramid.patch} is not a multiple of network.token {network.token}")


def coarsest_levels(config: Config, levels: int) -> Config:
    """The configuration of a generator of the `levels` coarsest levels alone, on the same videos averaged to that size.

    Its weights fit the whole configuration's network, which has fusion layers beside them. Raises InputError where
    there are fewer levels.
    """
    pyramid, network = config.pyramid, config.network
    if levels > pyramid.levels:
        raise InputError(f"--levels {levels}: size {config.size} has {pyramid.levels} levels")
    cut = {
        field.name: getattr(config.diffusion, field.name)[:levels]
        for field in dataclasses.fields(config.diffusion)
        if isinstance(getattr(config.diffusion, field.name), tuple)
    }
    finer = pyramid.factors(pyramid.levels - levels)
    branching = config.training.branching and config.training.branching[:levels]
    frames, rows, columns = (before * times for before, times in zip(config.data.shrink, finer, strict=True))
    return dataclasses.replace(
        config,
        pyramid=dataclasses.replace(pyramid, levels=levels),
        network=dataclasses.replace(network, levels_per_block=tuple(min(n, levels) for n in network.levels_per_block)),
        diffusion=dataclasses.replace(config.diffusion, **cut),
        training=dataclasses.replace(config.training, branching=branching),
        data=dataclasses.replace(config.data, shrink=(frames, rows, columns)),
    )


def sizes() -> list[str]:
    """Names of the sizes that ship with the package."""
    folder = resources.files("hpdm") / "configs"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_config(size: str | Path, overrides: Sequence[str] = (), method: str | None = None) -> Config:
    """The configuration of a named size or of a YAML file, with `section.key=value` overrides applied in order.

    `method` makes it the configuration of another method than HPDM, before the overrides. A key without its section is
    accepted where only one section has it. Raises InputError for unknown sizes, files,
    sections and keys, for values of the wrong kind and for settings that contradict each other.
    """
    if str(size) in sizes():
        text = (resources.files("hpdm") / "configs" / f"{size}.yaml").read_text(encoding="utf-8")
    elif Path(size).suffix in (".yaml", ".yml"):
        try:
            text = Path(size).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise InputError(f"cannot read the configuration {size}: {reason}") from error
    else:
        raise InputError(f"unknown size {short(size)!r}; choose one of {', '.join(sizes())}, or name a .yaml file")
    values = _parse(text, str(size))
    if method is not None:
        values = config_to_dict(method_class(method).configure(config_from_dict(values, where=str(size))))
    return config_from_dict(_with_overrides(values, overrides), where=str(size))


def config_to_dict(config: Config) -> dict:
    """Plain dictionaries, lists and scalars, every field; `trained_on` and `eval` where they are not the defaults."""
    values = plain(dataclasses.asdict(config))
    for section, default in (("trained_on", TrainedOn()), ("eval", EvalConfig())):
        if getattr(config, section) == default:
            del values[section]
    return values


def config_from_dict(values: dict, where: str = "configuration") -> Config:
    """The inverse of `config_to_dict`; absent fields take their defaults, unknown ones raise InputError."""
    return build(Config, values, where, resolve=_resolve, check=_within)


def save_config(config: Config, path: str | Path) -> None:
    """Write as YAML, atomically."""
    with atomic_file(path, "w") as file:
        yaml.safe_dump(config_to_dict(config), file, sort_keys=False)


def override_config(config: Config, overrides: Sequence[str]) -> Config:
    """A copy of `config` with `section.key=value` overrides applied."""
    return config_from_dict(_with_overrides(config_to_dict(config), overrides))


def _parse(text, where):
    values = parse_yaml(text, where)
    if not isinstance(values, dict):
        raise InputError(f"{where} must hold sections such as pyramid and network, not {type(values).__name__}")
    return values


def _with_overrides(values, overrides):
    values = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
    for text in overrides:
        name, separator, value = text.partition("=")
        if not separator:
            raise InputError(f"--set takes key=value, such as training.lr=0.002; got {text!r}")
        section, key = _locate(name.strip(), _sections(values))
        parsed = parse_yaml(value, f"--set {short(text)}")
        if not isinstance(values.setdefault(section, {}), dict):
            raise InputError(f"{section} must be a section with keys, not {short(values[section])!r}")
        values[section][key] = parsed
    return values


def _sections(values):
    """Section → its dataclass, in a configuration's dictionary."""
    kinds = {f.name: f.type for f in dataclasses.fields(Config) if dataclasses.is_dataclass(f.type)}
    return kinds | {"method": _settings_class(values.get("method", {}))}


def _settings_class(values):
    """The dataclass of the section `method`, which depends on the method's name."""
    return settings_class(values.get("name", HPDM_METHOD) if isinstance(values, dict) else HPDM_METHOD)


def _locate(name, sections):
    """Section and key of an override's name."""
    owners = {section: [f.name for f in dataclasses.fields(kind)] for section, kind in sections.items()}
    section, dot, key = name.partition(".")
    if dot:
        if key not in owners.get(section, ()):
            raise InputError(f"unknown key {name!r}; {_known(section, owners)}")
        return section, key
    found = [owner for owner, keys in owners.items() if name in keys]
    found = [owner for owner in found if owner != "eval"] or found  # which has seed, steps, overlap and part of its own
    if len(found) != 1:
        hint = f"it stands in {' and '.join(found)}: name one" if found else "see --dry-run for all keys"
        raise InputError(f"unknown key {name!r}; {hint}")
    return found[0], name


def _known(section, owners):
    return f"{section} has {', '.join(owners[section])}" if section in owners else f"sections are {', '.join(owners)}"


def _resolve(hint, value):
    """The annotation that a value goes by: settings of a method depend on its name."""
    return _settings_class(value) if hint is MethodConfig else hint


def _within(value, where):
    """A number; raises InputError for a whole one that is larger than its setting can be."""
    if not isinstance(value, int):
        return value
    section, key = where.split(": ")[-2:] if where.count(": ") else ("", where)
    most = MOST.get(key, MOST_OF_NETWORK if section in ("pyramid", "network") else LARGEST_WHOLE)
    if abs(value) > most:
        raise InputError(f"{where} must be at most {most}, not {short(value)}")
    return value


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
