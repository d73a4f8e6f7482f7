"""Weights files: which are known, whether a file is what it claims to be, and the cache they live in.

Trust of a file, from best to worst:
    package      it came with this package
    hash         its SHA-256 (or git blob id) is the published one
    first-use    no hash is published; it has the bytes that this machine's cache got first
    unverified   accepted because the user insisted
Only the first two count as verified; the others mark every record made with them, and so does "registered", the weights
of a network that another package brings.
"""

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file, expand_user, parse_json, write_json
from hpdm.support.files import user_cache as platform_cache
from hpdm.support.trust import need_trust, trust_is_limited
from hpdm_eval.backbones.forms import check_form, is_torchscript

PINS = "pins.json"
TRUSTS = ("package", "hash", "first-use", "unverified")  # from best to worst
PINNED = TRUSTS[2:]  # what a pin can give


@dataclass(frozen=True, kw_only=True)
class Source:
    """A known weights file; one entry of sources.yaml."""

    file: str
    backbone: str | None  # network it belongs to; None where it is listed only to be told apart
    title: str
    bytes: int | None = None
    sha256: str | None = None
    git_blob: str | None = None  # SHA-1 over "blob <size>\0" and the bytes, as git names them
    form: str | None = None  # see `forms.check_form`; what can be told of a file without a published hash
    urls: tuple[str, ...] = ()  # tried in this order
    page: str | None = None  # where a person finds it when no address works

    @property
    def hash_known(self) -> bool:
        return bool(self.sha256 or self.git_blob)


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    sha256: str
    git_blob: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class WeightsInfo:
    """The file that a backbone was loaded from. `name` is the known file's name, `source` an address or a path."""

    name: str
    path: Path
    sha256: str
    trust: str
    source: str

    @property
    def verified(self) -> bool:
        return self.trust in TRUSTS[:2]


def cache_dir() -> Path:
    """Folder of downloaded weights: $HPDM_EVAL_WEIGHTS, else hpdm-eval in the platform's cache folder."""
    if chosen := os.environ.get("HPDM_EVAL_WEIGHTS"):
        return expand_user(chosen)
    return user_cache()


def user_cache() -> Path:
    """hpdm-eval in the platform's cache folder."""
    return platform_cache("hpdm-eval")


@cache
def sources() -> dict[str, Source]:
    """All known files: {name: Source}, in order of preference within a backbone."""
    entries = yaml.safe_load((resources.files("hpdm_eval.backbones") / "sources.yaml").read_text(encoding="utf-8"))
    return {
        file: Source(**{"file": file, **entry, "urls": tuple(entry.get("urls", ()))}) for file, entry in entries.items()
    }


def fingerprint(path: str | os.PathLike) -> Fingerprint:
    """Both hashes and the size of a file, in one reading. Raises InputError where it cannot be read."""
    sha256 = hashlib.sha256()
    try:
        size = os.path.getsize(path)
        sha1 = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                sha256.update(block)
                sha1.update(block)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    return Fingerprint(sha256=sha256.hexdigest(), git_blob=sha1.hexdigest(), bytes=size)


def matches(source: Source, found: Fingerprint) -> bool:
    """Whether the fingerprint `found` is the published one of `source`; False where none is published."""
    if source.sha256:
        return source.sha256 == found.sha256
    return source.git_blob is not None and source.git_blob == found.git_blob


def identify(found: Fingerprint) -> Source | None:
    """The known Source with this fingerprint, or None."""
    return next((source for source in sources().values() if matches(source, found)), None)


def trust_of(source: Source, found: Fingerprint, folder: Path) -> str | None:
    """Trust of a file that stands in the cache as `source`, or None where it is damaged or was exchanged."""
    if matches(source, found):
        return "hash"
    pin = read_pins(folder).get(source.file)
    return pin["trust"] if pin and pin["sha256"] == found.sha256 else None


def admit(
    source: Source, path: Path, found: Fingerprint, folder: Path, origin: object, unverified: bool = False
) -> str:
    """Decide whether the file `path` may become `source` in the cache; pins it where no published hash speaks for it.

    found: its fingerprint; origin: what messages call it. Returns the trust; raises InputError for a file that differs
    from the published or pinned one, or that cannot be what it should be, such as a page in place of a download.
    """
    if matches(source, found):
        return "hash"
    pins = read_pins(folder)
    pin = pins.get(source.file) if (folder / source.file).is_file() else None
    if source.hash_known or (pin and pin["sha256"] != found.sha256):
        if not unverified:
            expected = f"SHA-256 {source.sha256}" if source.sha256 else f"git blob {source.git_blob}"
            if pin and not source.hash_known:
                expected = f"SHA-256 {pin['sha256']}, seen first on {pin['date']}"
            raise InputError(
                f"{origin}: not the known {source.file}: SHA-256 {found.sha256}, "
                f"git blob {found.git_blob}, {found.bytes} bytes; expected {expected}. Get it again, "
                "or pass --unverified to use it and have every record say so"
            )
        trust = "unverified"
    else:
        trust = pin["trust"] if pin else _first_trust(source, path, origin, unverified)
    pins[source.file] = {
        "sha256": found.sha256,
        "bytes": found.bytes,
        "trust": trust,
        "origin": str(origin),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    write_json(folder / PINS, pins)
    return trust


def _first_trust(source, path, origin, unverified):
    if source.form is not None:
        try:
            check_form(path, source.form)
        except InputError as error:
            if not unverified:
                raise InputError(f"{origin}: {error}; this is not {source.file} or not all of it") from error
            return "unverified"
    return "first-use"


def read_pins(folder: Path) -> dict[str, dict[str, Any]]:
    """{file: {"sha256", "bytes", "trust", "origin", "date"}} of the files without a published hash in a cache.

    A pin means nothing once its file is gone from there. Raises InputError for a damaged list.
    """
    path = folder / PINS
    try:
        pins = parse_json(path.read_bytes())
        if not isinstance(pins, dict) or not all(map(_is_pin, pins.values())):
            raise ValueError("not a list of pins")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: damaged list of pinned files; delete it and add the weights again") from error
    return pins


def _is_pin(entry):
    return (
        isinstance(entry, dict)
        and all(isinstance(entry.get(key), str) for key in ("sha256", "date"))
        and entry.get("trust") in PINNED
    )


def add(
    path: str | os.PathLike, *, name: str | None = None, unverified: bool = False, folder: Path | None = None
) -> WeightsInfo:
    """Copy a file that the user has into the cache, whatever it is called now.

    The file is recognised by its hash. Where that says nothing, `name` (or the file's own name) tells which known file
    it stands for, and `unverified` is needed unless no hash of that file is published. Returns a WeightsInfo; raises
    InputError.
    """
    path, folder = Path(path), folder or cache_dir()
    found = fingerprint(path)
    source = identify(found)
    if source is None:
        source = sources().get(name or path.name)
        if source is None:
            usable = ", ".join(file for file, known in sources().items() if known.backbone)
            raise InputError(
                f"{path}: SHA-256 {found.sha256} is not a known file's; say with --as which one it stands "
                f"for ({usable}) and accept it with --unverified"
            )
    if source.backbone is None:
        raise InputError(f"{path}: this is {source.file}, {source.title}")
    trust = admit(source, path, found, folder, path, unverified)
    target = folder / source.file
    if not (target.exists() and os.path.samefile(path, target)):
        with open(path, "rb") as original, atomic_file(target) as copy:
            shutil.copyfileobj(original, copy, 1 << 20)
    return WeightsInfo(name=source.file, path=target, sha256=found.sha256, trust=trust, source=str(path))


def check_cached(source: Source, folder: Path | None = None) -> WeightsInfo | None:
    """WeightsInfo of `source` in the cache, None where it is absent; raises InputError where it is damaged."""
    folder = folder or cache_dir()
    path = folder / source.file
    if not path.is_file():
        return None
    found = fingerprint(path)
    trust = trust_of(source, found, folder)
    if trust is None:
        raise InputError(
            f"{path}: damaged or exchanged (SHA-256 {found.sha256}); delete it and run "
            f"`hpdm-eval weights fetch {source.file}`"
        )
    origin = source.urls[0] if trust == "hash" and source.urls else str(path)
    return WeightsInfo(name=source.file, path=path, sha256=found.sha256, trust=trust, source=origin)


def find(
    backbone: str,
    *,
    weights: str | os.PathLike | None = None,
    unverified: bool = False,
    accept: Sequence[str] | None = None,
    first_use: str | None = None,
    folder: Path | None = None,
) -> WeightsInfo:
    """The weights file for `backbone`: the user's `weights`, else the first in the cache.

    accept: names of known files that will do, in order of preference; None is all of the backbone's. first_use: the
    known file that an unknown `weights` is added to the cache as, instead of being refused. Raises InputError that says
    what to do where there is no such file, or where it is unknown and `unverified` is not given.
    """
    folder = folder or cache_dir()
    if weights is not None:
        return _given(Path(weights), backbone, unverified, first_use, folder)
    wanted = [source for source in sources().values() if source.backbone == backbone]
    if accept is not None:
        wanted = [sources()[file] for file in accept]
    for source in wanted:
        if info := check_cached(source, folder):
            return info
    raise InputError(
        f"no weights for {backbone}: run `hpdm-eval weights fetch {wanted[0].file}`. " + how_to_bring(wanted[0], folder)
    )


def how_to_bring(source: Source, folder: Path) -> str:
    """A sentence that tells a person how a file gets into the cache of a machine without network."""
    place = source.page or (source.urls[0] if source.urls else "its authors")
    return (
        f"Without a network here, get {source.file} from {place} on another machine and run "
        f"`hpdm-eval weights add {source.file}` (it goes to {folder})"
    )


def _given(path, backbone, unverified, first_use, folder):
    found = fingerprint(path)
    source = identify(found)
    if source is not None:
        if source.backbone != backbone:
            raise InputError(f"{path}: this is {source.file} ({source.title}), not weights of {backbone}")
        return WeightsInfo(name=source.file, path=path, sha256=found.sha256, trust="hash", source=str(path))
    mine = [source.file for source in sources().values() if source.backbone == backbone]
    pin = next(
        (
            pin
            for file, pin in read_pins(folder).items()
            if pin["sha256"] == found.sha256 and file in mine and (folder / file).is_file()
        ),
        None,
    )
    if pin is None:
        kind = "unverified weights, a program that is executed," if is_torchscript(path) else "unverified weights"
        need_trust(kind, path, found.sha256)
        unverified = unverified or trust_is_limited()  # nothing is pinned by a file's word
    if pin is None and not unverified:
        if first_use is not None:
            return add(path, name=first_use, folder=folder)
        raise InputError(
            f"{path}: SHA-256 {found.sha256} is not a known file of {backbone}; "
            "pass --unverified to use it and have every record say so"
        )
    return WeightsInfo(
        name=path.name, path=path, sha256=found.sha256, trust=pin["trust"] if pin else "unverified", source=str(path)
    )
