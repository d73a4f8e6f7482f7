"""One evaluation by jobs that know nothing of each other, as job arrays are: each extracts its share of the features.

    hpdm-eval fvd --samples S --reference R --shard 3/8 --shards DIR        in each of eight jobs
    hpdm-eval merge DIR                                                     once, when all are done

A share is a cache of features of its own in DIR: a job that is run again continues. What `merge` does is to join these
caches and run the command without --shard on them. Features of a clip are a function of that clip alone, so figures and
records are those of one process, to the last bit; the record says under `shards` which jobs there were. Clips that take
the place of rejected ones belong to no share, `merge` reads them itself.
"""

import os
import re
import shlex
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from hpdm.support.console import OutputFolder
from hpdm.support.environment import choose_device, git_revision, hardware, package_versions, processes_here
from hpdm.support.errors import InputError
from hpdm.support.files import read_json, write_json
from hpdm.support.progress import note
from hpdm_eval.clips.source import ClipSource
from hpdm_eval.features.cache import SUFFIX, FeatureCache
from hpdm_eval.features.entry_file import EntryFile
from hpdm_eval.features.extraction import fill_cache
from hpdm_eval.records.record import command_line

FOLDER = "shards"  # where none is named
FEATURES = "features"  # folder of the caches
OWN = ("--shard", "--shards")  # options that are no part of the evaluation
EQUAL = {
    "count": "the number of shards",
    "words": "the command",
    "sets": "the clips",
    "caches": "the network, processor, libraries or code",
    "git": "the commit",
}


class Shard(click.ParamType):
    """I/N, as (number from 1 on, how many)."""

    name = "I/N"

    def convert(self, value, parameter, context):
        if isinstance(value, tuple):
            return value
        found = re.fullmatch("([0-9]{1,6})/([0-9]{1,6})", value)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            self.fail(
                f"{value!r}: write the number of this job and how many there are, such as 1/8 ... 8/8",
                parameter,
                context,
            )
        return int(found[1]), int(found[2])


def shard_options(function):
    """Add `--shard` and `--shards`."""
    function = click.option(
        "--shards", type=OutputFolder(), metavar="DIR", help=f"Folder of the shards, for --shard. [{FOLDER}]"
    )(function)
    return click.option(
        "--shard",
        type=Shard(),
        metavar="I/N",
        help="Only extract the features of the I-th of N shares of the clips; `hpdm-eval merge` makes "
        "the record when all are there.",
    )(function)


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one comparison of a shard has done."""

    cache: str  # name of the cache's folder: a hash of all that features depend on beside the clip
    sets: dict  # {role: [path, clips that are wanted, hash over the names of all candidates]}
    clips: int


def extract_share(opened, options):
    """Extract the features of a shard's share of all clips of a comparison; returns a Share.

    opened: an `Opened` comparison, see `judge`. Raises InputError where nothing is to be extracted.
    """
    (number, count), folder = options["shard"], options["shards"] or FOLDER
    sources = {role: source for role, source in opened.sources.items() if isinstance(source, ClipSource)}
    cache = FeatureCache(
        opened.backbone, Path(folder, FEATURES), part=f"{number}of{count}", verify=options.get("verify_cache", False)
    )
    sets, clips = {}, 0
    for role, source in sources.items():
        source.min_frames, source.part = opened.backbone.min_frames, (number - 1, count)
        cache, done = fill_cache(source, opened.backbone, options["batch"], options["quiet"], cache)
        clips += done
        sets[role] = source.listing()
    return Share(cache=cache.folder.name, sets=sets, clips=clips)


def finish_shard(shares, options):
    """Write what a shard's command has done, once all of its comparisons are, and end the command."""
    (number, count), folder = options["shard"], options["shards"] or FOLDER
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
            "hardware": hardware(choose_device(options["device"])),
        },
    )
    note(
        f"shard {number} of {count} is done in {folder}; `hpdm-eval merge {folder}` makes the record when all are",
        options["quiet"],
    )
    raise click.exceptions.Exit(0)


def check_shard(options):
    """Raise InputError for options that do not go with --shard."""
    if not options["cache"]:
        raise InputError("--shard with --no-cache: a shard is a cache of features; leave one out")
    if processes_here().world_size > 1:
        raise InputError("--shard under torchrun: torchrun shares out the clips by itself; use one of them")


def read_shards(folder):
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


def join_caches(folder, quiet=False):
    """Make one cache of the shards' own: all entries of a set go to its file; those that are there already stay."""
    damaged = 0
    for path in sorted(Path(folder, FEATURES).glob(f"*/*.part-*{SUFFIX}")):
        part = EntryFile(path)
        whole = EntryFile(path.with_name(path.name.partition(".part-")[0] + SUFFIX))
        for entry in part:
            if entry not in whole and (body := part.read(*entry)) is not None:
                whole.append(*entry, body)
        damaged += part.damaged
    if damaged:
        note(f"{folder}: {damaged} damaged entries of shards are computed again", quiet)


@contextmanager
def joined_cache(folder):
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
