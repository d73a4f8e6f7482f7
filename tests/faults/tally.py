"""How faults ended, and damage to files: what all campaigns share."""

import random
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field

from hpdm.support.errors import InputError
from hpdm.training.loop import train
from tests.support.small_training import small_config

SLOWEST = 20.0  # seconds that one damaged file may take


@dataclass
class Tally:
    """How faults ended. survived: nothing was lost and the work went on; said: one message; the rest must be none."""

    name: str
    counts: Counter = field(default_factory=Counter)
    examples: list = field(default_factory=list)

    def add(self, outcome, example=None):
        self.counts[outcome] += 1
        if outcome in BAD and len(self.examples) < 20:
            self.examples.append(f"{outcome}: {example}")

    @property
    def tried(self):
        return sum(self.counts.values())

    @property
    def bad(self):
        return sum(self.counts[key] for key in BAD)


GOOD, BAD = ("survived", "said"), ("lost", "traceback", "hang")


def mutate(content, chance):
    """Damage of a random kind in bytes: flips, cuts, holes, repetitions, foreign bytes, hostile values."""
    if not content:
        return b"\xff"
    size = len(content)
    start = chance.randrange(size)
    end = min(size, start + chance.choice([1, 4, 64, 1024]))
    kind = chance.randrange(9)
    if kind == 0:
        return content[:start] + bytes([content[start] ^ (1 << chance.randrange(8))]) + content[start + 1 :]
    if kind == 1:
        return content[:start]
    if kind == 2:
        return content[:start] + bytes(end - start) + content[end:]
    if kind == 3:
        return content[:start] + content[end:]
    if kind == 4:
        return content[:end] + content[start:end] + content[end:]
    if kind == 5:
        return content[:start] + chance.randbytes(end - start) + content[end:]
    if kind == 6:
        return content + chance.randbytes(chance.choice([1, 100]))
    if kind == 7:
        return b""
    # a value exchanged for one that nobody expects
    places = [index for index in range(size) if content[index : index + 1] in (b":", b"=", b",", b"[")]
    if not places:
        return content[:start] + b"\xff\xfe" + content[start:]
    place = chance.choice(places) + 1
    stop = place
    while stop < size and content[stop : stop + 1] not in (b",", b"\n", b"}", b"]"):
        stop += 1
    return content[:place] + b" " + chance.choice(HOSTILE) + content[stop:]


HOSTILE = [
    b"NaN",
    b".nan",
    b"Infinity",
    b"-1",
    b"1e999",
    b"9" * 5000,
    b"[" * 3000,
    b"{}",
    b"[]",
    b"null",
    b"true",
    b'"\\ud800"',
    b'"' + b"x" * 3000 + b'"',
    b"2024-13-45",
    b"&a [*a]",
    b"!!python/name:os.system",
    b'"=1+1"',
    b"'$\\frac'",
    b'"{0.__class__}"',
    b'"../../x"',
    b"0x41",
    b"1:30",
    b"\xff",
]


def damage(name, path, read, effort, seed, same=None):
    """Mutate the file `path` `effort` times; read() has to take it or say what is wrong.

    same(value): whether what was read is what had been written, for formats with checksums; False is a silent loss.
    """
    tally, chance, whole = Tally(name), random.Random(f"{name} {seed}"), path.read_bytes()
    for number in range(effort):
        content = mutate(whole, chance)
        path.write_bytes(content)
        began = time.monotonic()
        try:
            value = read()
            outcome = "survived" if same is None or content == whole or same(value) else "lost"
            example = f"case {number}"
        except InputError as error:
            outcome = "said" if "\n" not in str(error).strip() and len(str(error)) < 2000 else "traceback"
            example = f"case {number}: {str(error)[:300]!r}"
        except Exception:  # what a user would see as a traceback
            outcome, example = "traceback", f"case {number}: {traceback.format_exc().splitlines()[-1][:300]}"
        if time.monotonic() - began > SLOWEST:
            outcome, example = "hang", f"case {number}: {time.monotonic() - began:.0f} s"
        tally.add(outcome, example)
    path.write_bytes(whole)
    return tally


CONFIG = ("training.steps=4", "checkpoint_every=2", "log_every=1", "keep=2")


def small_run(folder, steps=4):
    train(small_config(*CONFIG), folder, device="cpu", stop_after=steps, quiet=True)
    return folder
