"""What each sample of a run is asked to show: a class, or a text.

A file of prompts is text with one prompt per line, which the line feed alone ends, or YAML: a list of prompts, or
`prompts` and `frequencies` by name, whose samples then come in those proportions. `ucf101` names the prompts for
UCF-101's classes that ship with hpdm.
"""

import dataclasses
import gc
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from hpdm.model.conditioning import no_conditions
from hpdm.model.text import make_conditioner, measures_of_samples
from hpdm.support.errors import InputError
from hpdm.support.yaml_text import parse_yaml

SHIPPED = "ucf101"
ENCODED_AT_ONCE = 32
SHOWN = 8  # classes named in a line


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """Texts and, where samples shall not take them in turn, in which proportions they take them."""

    texts: tuple[str, ...]
    frequencies: tuple[int, ...] | None = None


class AskedClasses:
    """Sample i shows the i-th of `labels` in turn; `names` are those of all classes, where they are known."""

    def __init__(self, labels, names=()):
        self.labels, self.names, self.settings = labels, names, {"classes": labels}

    def label(self, index: int) -> int:
        return self.labels[index % len(self.labels)]

    def describe(self):
        """A line for people: which classes are made; empty where they have no names."""
        if not self.names:
            return ""
        shown = [f"{label} {class_name(self.names, label)}" for label in dict.fromkeys(self.labels)]
        more = f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
        return f"classes: {', '.join(shown[:SHOWN])}{more}, of {len(self.names)}"

    def told(self, labels):
        """What the network is told for samples with `labels`."""
        return labels


def class_name(names, label: int) -> str:
    """Name of a class for people, "no class" beyond the last."""
    return names[label] if label < len(names) else "no class"


class AskedTexts:
    """Sample i shows one of some texts; its label is the number of the text.

    Texts are encoded here, all at once, and the encoder is given up again. No text at all stands for samples without.
    """

    names = ()

    def __init__(self, prompts: Prompts, config, *, count, fps, device):
        self.config, self.device, self.texts = config, torch.device(device), prompts.texts
        self.settings = {"prompts": list(prompts.texts), "told_fps": fps}
        self.turns = None
        if prompts.frequencies:
            self.settings["frequencies"] = list(prompts.frequencies)
            self.turns = proportional_turns(prompts.frequencies, count)
        self.measures = measures_of_samples(config, fps)
        self.parts = encode(self.texts, config, fps, device) if self.texts else []

    def describe(self):
        return ""

    def label(self, index: int) -> int:
        if not self.texts:
            return 0
        return index % len(self.texts) if self.turns is None else int(self.turns[index])

    def told(self, labels):
        """`Conditions` of the texts with the numbers `labels`, on the device."""
        if not self.texts:
            told = no_conditions(self.config.network, len(labels), self.device)
            return dataclasses.replace(told, measures=self.measures.repeat(len(labels), 1).to(self.device))
        rows = [self.parts[label // ENCODED_AT_ONCE][[label % ENCODED_AT_ONCE]] for label in labels]
        return join_conditions(rows).to(self.device)


def encode(texts, config, fps, device) -> list:
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


def join_conditions(parts):
    """Batches of `Conditions` of one kind, one after the other."""
    names = [name for name, value in vars(parts[0]).items() if value is not None]
    return type(parts[0])(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def proportional_turns(frequencies, count: int) -> np.ndarray:
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


def read_prompts(name) -> Prompts:
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
