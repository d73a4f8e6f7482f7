"""One evaluation by jobs that know nothing of each other, as job arrays are: each extracts its share of the features.

    hpdm-eval fvd --samples S --reference R --shard 3/8 --shards DIR        in each of eight jobs
    hpdm-eval merge DIR                                                     once, when all are done

A share is a cache of features of its own in DIR: a job that is run again continues. What `merge` does is to join these
caches and run the command without --shard on them. Features of a clip are a function of that clip alone, so figures and
records are those of one process, to the last bit; the record says under `shards` which jobs there were. Clips that take
the place of rejected ones belong to no share, `merge` reads them itself.
"""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpdm.support.environment import choose_device, git_revision, hardware, package_versions, processes_here
from hpdm.support.errors import InputError
from hpdm.support.files import read_json, write_json
from hpdm.support.progress import note
from hpdm_eval.clips.source import ClipSource
from hpdm_eval.evaluation.comparison import Opened, open_comparison
from hpdm_eval.evaluation.settings import SHARDS, Evaluation, Place
from hpdm_eval.features.cache import SUFFIX, FeatureCache
from hpdm_eval.features.entry_file import EntryFile
from hpdm_eval.features.extraction import fill_cache
from hpdm_eval.records.record import command_line

FEATURES = "features"  # folder of the caches
OWN = ("--shard", "--shards")  # options that are no part of the evaluation
EQUAL = {
    "count": "the number of shards",
    "words": "the command",
    "sets": "the clips",
    "caches": "the network, processor, libraries or code",
    "git": "the commit",
}


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one comparison of a shard has done."""

    cache: str  # name of the cache's folder: a hash of all that features depend on beside the clip
    sets: dict  # {role: [path, clips that are wanted, hash over the names of all candidates]}
    clips: int


def extract_share(opened: Opened, shard: tuple[int, int], folder: Place = SHARDS) -> Share:
    """Extract the features of a shard's share of all clips of a comparison.

    shard: (number from 1 on, how many). Raises InputError where nothing is to be extracted.
    """
    number, count = shard
    evaluation = opened.evaluation
    cache = FeatureCache(
        opened.backbone, Path(folder, FEATURES), part=f"{number}of{count}", verify=evaluation.verify_cache
    )
    sets, clips = {}, 0
    for role, source in opened.sources.items():
        if isinstance(source, ClipSource):
            source.prepare(min_frames=opened.backbone.min_frames, part=(number - 1, count))
            cache, done = fill_cache(source, opened.backbone, evaluation.batch, evaluation.quiet, cache)
            clips += done
            sets[role] = source.listing()
    return Share(cache=cache.folder.name, sets=sets, clips=clips)


def share_of(evaluation: Evaluation, shard: tuple[int, int], folder: Place = SHARDS, per_frame: bool = False) -> Share:
    """Open a comparison and extract a shard's share of it; see `extract_share`."""
    check_shard(evaluation)
    return extract_share(open_comparison(evaluation, per_frame=per_frame), shard, folder)


def write_shard(shares: list[Share], shard: tuple[int, int], folder: Place, evaluation: Evaluation) -> None:
    """Write down what a shard's command has done, once all of its comparisons are."""
    number, count = shard
    words = shlex.split(command_line())[1:]
    write_json(
        _path(folder, number, count),
        {
            "number": number,
            "count": count,
            "words": _without_own(words),
            "sets": [share.sets for share in shares],
            "caches": [share.cache for share in shares],
            "clips": sum(share.clips for share in shares),
            "git": git_revision(),
            "versions": package_versions(),
            "hardware": hardware(choose_device(evaluation.device)),
        },
    )
    note(
        f"shard {number} of {count} is done in {folder}; `hpdm-eval merge {folder}` makes the record when all are",
        evaluation.quiet,
    )


def check_shard(evaluation: Evaluation) -> None:
    """Raise InputError for settings that do not go with a shard."""
    if not evaluation.cache:
        raise InputError("--shard with --no-cache: a shard is a cache of features; leave one out")
    if processes_here().world_size > 1:
        raise InputError("--shard under torchrun: torchrun shares out the clips by itself; use one of them")


def read_shards(folder: Place) -> list[dict[str, Any]]:
    """Descriptions of all shards of a folder, by number. Raises InputError for any that is missing or unlike others."""
    paths = sorted(Path(folder).glob("shard-*-of-*.json"))
    if not paths:
        raise InputError(f"{folder} holds no shard; `hpdm-eval fvd ... --shard 1/8 --shards {folder}` makes one of 8")
    shards = [read_json(path, "a shard") for path in paths]
    for shard, path in zip(shards, paths, strict=True):
        if not isinstance(shard, dict) or not {"number", *EQUAL} <= shard.keys():
            raise InputError(f"{path}: not the description of a shard; make it again with --shard")
        for key, what in EQUAL.items():
            if shard[key] != shards[0][key]:
                raise InputError(
                    f"{path} and {paths[0]} differ in {what}: shards of one evaluation are made by one "
                    "command on machines alike; make them again, or keep them in folders of their own"
                )
    missing = sorted(set(range(1, shards[0]["count"] + 1)) - {shard["number"] for shard in shards})
    if missing:
        words = shlex.join(shards[0]["words"])
        raise InputError(
            f"{folder}: {len(missing)} of {shards[0]['count']} shards are missing: "
            f"{', '.join(map(str, missing[:20]))}{' ...' * (len(missing) > 20)}; for each run `hpdm-eval "
            f"{words} --shard {missing[0]}/{shards[0]['count']} --shards {folder}`"
        )
    return sorted(shards, key=lambda shard: shard["number"])


def join_caches(folder: Place, quiet: bool = False) -> None:
    """Make one cache of the shards' own: all entries of a set go to its file; those that are there already stay."""
    damaged = 0
    for path in sorted(Path(folder, FEATURES).glob(f"*/*.part-*{SUFFIX}")):
        part = EntryFile(path)
        whole = EntryFile(path.with_name(path.name.partition(".part-")[0] + SUFFIX))
        for kind, key in part:
            if (kind, key) not in whole and (body := part.read(kind, key)) is not None:
                whole.append(kind, key, body)
        damaged += part.damaged
    if damaged:
        note(f"{folder}: {damaged} damaged entries of shards are computed again", quiet)


@contextmanager
def joined_cache(folder: Place) -> Iterator[None]:
    """Within the block, commands use the joined cache of a folder of shards."""
    before = os.environ.get("HPDM_EVAL_CACHE")
    os.environ["HPDM_EVAL_CACHE"] = str(Path(folder, FEATURES).absolute())
    try:
        yield
    finally:
        if before is None:
            del os.environ["HPDM_EVAL_CACHE"]
        else:
            os.environ["HPDM_EVAL_CACHE"] = before


def _without_own(words):
    kept, words = [], list(words)
    while words:
        word = words.pop(0)
        if word in OWN:
            words.pop(0)
        elif not word.startswith(tuple(f"{option}=" for option in OWN)):
            kept.append(word)
    return kept


def _path(folder, number, count):
    return Path(folder) / f"shard-{number:04d}-of-{count:04d}.json"
