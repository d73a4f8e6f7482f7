"""What each sample of a run is conditioned on: a class, or a text.

A file of prompts is text with one prompt per line, which the line feed alone ends, or YAML: a list of prompts, or
`prompts` and `frequencies` by name, whose samples then come in those proportions. `ucf101` names the prompts for
UCF-101's classes that ship with hpdm.
"""

import dataclasses
import gc
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hpdm.config import Config, TrainedOn
from hpdm.model.conditioning import Conditions, no_conditions
from hpdm.model.text import make_conditioner, measures_of_samples
from hpdm.sampling.request import SampleRequest
from hpdm.support.errors import InputError
from hpdm.support.yaml_text import parse_yaml

SHIPPED = "ucf101"
ENCODED_AT_ONCE = 32
SHOWN = 8  # classes named in a line


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Texts and, where samples do not take them in turn, in which proportions they take them."""

    texts: tuple[str, ...]
    frequencies: tuple[int, ...] | None = None


class ClassConditions:
    """Sample i shows the i-th of `labels` in turn; `names` are those of all classes, where they are known."""

    def __init__(self, labels: Sequence[int], names: Sequence[str] = ()) -> None:
        self.labels, self.names = list(labels), names
        self.settings: dict[str, Any] = {"classes": self.labels}

    def label(self, index: int) -> int:
        """Class of sample `index`."""
        return self.labels[index % len(self.labels)]

    def describe(self) -> str:
        """A line for people: which classes are made; empty where they have no names."""
        if not self.names:
            return ""
        shown = [f"{label} {class_name(self.names, label)}" for label in dict.fromkeys(self.labels)]
        more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
        return f"classes: {', '.join(shown[:SHOWN])}{more}, of {len(self.names)}"

    def of(self, labels: Sequence[int]) -> Sequence[int]:
        """What samples with `labels` are conditioned on."""
        return labels


def class_name(names: Sequence[str], label: int) -> str:
    """Name of a class for people, "no class" beyond the last."""
    return names[label] if label < len(names) else "no class"


class TextConditions:
    """Sample i shows one of some texts; its label is the number of the text.

    Texts are encoded here, all at once, and the encoder is freed again. No text at all means samples without one.
    """

    names: Sequence[str] = ()

    def __init__(self, prompts: Prompts, config: Config, *, count: int, fps: float, device: torch.device | str) -> None:
        self.config, self.device, self.texts = config, torch.device(device), prompts.texts
        self.settings: dict[str, Any] = {"prompts": list(prompts.texts), "told_fps": fps}
        self.turns: np.ndarray | None = None
        if prompts.frequencies:
            self.settings["frequencies"] = list(prompts.frequencies)
            self.turns = proportional_turns(prompts.frequencies, count)
        self.measures = measures_of_samples(config, fps)
        self.parts = encode(self.texts, config, fps, device) if self.texts else []

    def describe(self) -> str:
        """Nothing: prompts are in the manifest."""
        return ""

    def label(self, index: int) -> int:
        """Number of the text of sample `index`."""
        if not self.texts:
            return 0
        return index % len(self.texts) if self.turns is None else int(self.turns[index])

    def of(self, labels: Sequence[int]) -> Conditions:
        """`Conditions` of the texts with the numbers `labels`, on the device."""
        if not self.texts:
            nothing = no_conditions(self.config.network, len(labels), self.device)
            return dataclasses.replace(nothing, measures=self.measures.repeat(len(labels), 1).to(self.device))
        rows = [self.parts[label // ENCODED_AT_ONCE][[label % ENCODED_AT_ONCE]] for label in labels]
        return join_conditions(rows).to(self.device)


def choose_conditions(
    config: Config, request: SampleRequest, device: torch.device | str
) -> ClassConditions | TextConditions:
    """What the samples of a request show; raises InputError for what the model cannot be conditioned on."""
    network = config.network
    texts = bool(request.texts or request.prompts)
    if not network.text_width:
        if texts:
            raise InputError("this model reads no text: choose with --classes")
        if not network.measures:
            labels = parse_classes(request.classes, network.num_classes, config.trained_on)
            return ClassConditions(labels or [0], config.trained_on.class_names)
    classes = "all" if request.classes is None else request.classes
    if request.texts and request.prompts:
        raise InputError("--prompt and --prompts exclude each other")
    if classes not in ("all", "none") or (classes == "none" and texts):
        raise InputError(
            f"--classes {classes}: this model reads texts; give --prompt, --prompts, or --classes none alone"
        )
    if classes == "all" and network.text_width and not texts:
        raise InputError("this model reads texts: give --prompt TEXT or --prompts FILE, or --classes none for neither")
    chosen = read_prompts(request.prompts) if request.prompts else Prompts(texts=tuple(request.texts))
    return TextConditions(chosen, config, count=request.num, fps=request.fps, device=device)


def parse_classes(
    classes: str | int | Sequence[int | str] | None, num_classes: int, trained_on: TrainedOn
) -> list[int]:
    """Labels of classes by number or name, in a sequence or "0,3,NAME"; "all", "none", or None for the trained ones.

    Raises InputError for a class that the model does not have.
    """
    if classes is None:
        return list(trained_on.classes) or list(range(num_classes))
    if isinstance(classes, str) and classes == "all":
        return list(range(num_classes))
    if isinstance(classes, str) and classes == "none":
        return [num_classes]
    words = classes.split(",") if isinstance(classes, str) else [classes] if isinstance(classes, int) else list(classes)
    shown = ",".join(map(str, words))
    numbers = {name: number for number, name in enumerate(trained_on.class_names)}
    try:
        labels = [numbers[word] if word in numbers else int(word) for word in words]
    except (ValueError, TypeError) as error:
        known = "0,3,7, names of classes, or all or none" if numbers else "0,3,7, or all or none"
        raise InputError(f"--classes takes numbers such as {known}; got {shown!r}") from error
    if not labels:
        raise InputError("--classes names no class")
    if min(labels) < 0 or max(labels) >= num_classes:
        raise InputError(f"--classes {shown}: this model has the classes 0 to {num_classes - 1}")
    return labels


def encode(texts: Sequence[str], config: Config, fps: float, device: torch.device | str) -> list[Conditions]:
    """`Conditions` of texts in host memory, ENCODED_AT_ONCE in each; the encoder's memory is free again afterwards."""
    conditioner = make_conditioner(config, device, stored=False)
    parts = [
        conditioner.of_prompts(texts[first : first + ENCODED_AT_ONCE], fps).to("cpu")
        for first in range(0, len(texts), ENCODED_AT_ONCE)
    ]
    del conditioner
    gc.collect()  # networks of transformers may refer to themselves
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()  # else what is free for sampling would seem less by it
    return parts


def join_conditions(parts: Sequence[Conditions]) -> Conditions:
    """Batches of `Conditions` of one kind, one after the other."""
    names = [name for name, value in vars(parts[0]).items() if value is not None]
    return type(parts[0])(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def proportional_turns(frequencies: Sequence[int], count: int) -> np.ndarray:
    """Which of several items each of `count` turns goes to: int64 [count].

    Each turn goes to the item that is furthest behind its share, so every beginning of the turns has nearly the shares,
    and asking for more turns changes none.
    """
    shares = np.asarray(frequencies, np.float64) / sum(frequencies)
    had, turns = np.zeros(len(shares)), np.empty(count, np.int64)
    for turn in range(count):
        turns[turn] = np.argmax(shares * (turn + 1) - had)
        had[turns[turn]] += 1
    return turns


def read_prompts(name: str | Path) -> Prompts:
    """The prompts of a file, or those that ship under `name`; raises InputError for a file that holds none."""
    path = Path(name)
    if str(name) == SHIPPED and not path.exists():
        path = Path(str(resources.files("hpdm") / "prompts" / f"{name}.yaml"))
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            text = file.read()
        content = parse_yaml(text, str(name)) if path.suffix in (".yaml", ".yml") else text.split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the prompts {name} cannot be read: {' '.join(str(error).split())}") from error
    frequencies = None
    if isinstance(content, dict) and set(content) <= {"prompts", "frequencies"}:
        prompts, frequencies = content.get("prompts"), content.get("frequencies")
        if isinstance(prompts, dict) and isinstance(frequencies, dict) and set(prompts) == set(frequencies):
            frequencies = [frequencies[key] for key in prompts]
        content = list(prompts.values()) if isinstance(prompts, dict) else prompts
    if not isinstance(content, list) or not all(isinstance(entry, str) for entry in content):
        raise InputError(f"{name} holds no prompts: a line each, or YAML with a list, or with prompts and frequencies")
    texts = [" ".join(entry.split()) for entry in content]
    if path.suffix not in (".yaml", ".yml"):
        texts = [entry for entry in texts if entry]
    if frequencies is not None and not _are_counts(frequencies, len(texts)):
        raise InputError(f"{name}: frequencies must be whole numbers above 0, one for each prompt")
    if not texts or not all(texts):
        raise InputError(f"{name} holds an empty prompt, or none")
    return Prompts(texts=tuple(texts), frequencies=None if frequencies is None else tuple(frequencies))


def _are_counts(values, count):
    return isinstance(values, list) and len(values) == count and all(type(n) is int and n > 0 for n in values)
