"""Networks that other packages and scripts bring: what each is called and sees, and the function that makes it.

By the decorator `register_backbone`, or by an entry point of the group `hpdm_eval.backbones` that names a module or
function which uses it. Nothing here imports torch.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from hpdm.support.errors import InputError
from hpdm_eval.backbones.names import BACKBONES, SHORT_NAMES, TRANSFORMERS

GROUP = "hpdm_eval.backbones"


@dataclass(frozen=True, kw_only=True)
class BackboneInfo:
    """What is known of a network before it is loaded. JSON-able."""

    name: str
    dimension: int | None  # features of a clip; None where its weights decide, as for the next two
    frames: tuple[int, int | None] | None  # fewest and most that it takes, None: any number
    size: tuple[int, int] | None  # (height, width) in pixels that clips are resized to
    resize: str | None = None  # rule in place of a protocol's plain "bilinear", see `preprocess.resize`
    license: str = ""
    caveat: str = ""
    summary: str = ""
    source: str = "hpdm"  # the package that brings it


BUILTIN = (
    BackboneInfo(
        name="i3d",
        dimension=400,
        frames=(9, None),
        size=(224, 224),
        license="Apache 2.0 (kinetics-i3d)",
        caveat="the network of published FVD; sees little of motion",
        summary="Inception-I3D on Kinetics-400; its logits are the feature",
    ),
    BackboneInfo(
        name="shapes3d",
        dimension=128,
        frames=(4, None),
        size=(64, 64),
        resize="bilinear-antialias",
        license="Apache 2.0 (this package)",
        caveat="means something on the procedural videos alone",
        summary="small classifier of the procedural videos, shipped",
    ),
    BackboneInfo(
        name="c3d",
        dimension=101,
        frames=(16, 16),
        size=(112, 112),
        license="none is stated with the weights",
        caveat="the network of published Inception Scores of UCF-101",
        summary="C3D on Sports-1M and UCF-101; its logits are the feature",
    ),
    BackboneInfo(
        name="inception",
        dimension=2048,
        frames=(1, 1),
        size=(299, 299),
        license="Apache 2.0 (TensorFlow)",
        caveat="sees single frames",
        summary="Inception-v3 on ImageNet, the network of FID",
    ),
    BackboneInfo(
        name="videomae:WHERE",
        dimension=None,
        frames=None,
        size=None,
        license="that of the weights",
        caveat="figures are not those published with VideoMAE-v2",
        summary="VideoMAE from a folder or the hub; needs the extra `video`",
    ),
    BackboneInfo(
        name="vjepa:WHERE",
        dimension=None,
        frames=None,
        size=None,
        license="that of the weights",
        caveat="V-JEPA 2; JEDi was published with V-JEPA 1",
        summary="V-JEPA 2 from a folder or the hub; needs the extra `video`",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A network of another package or script, and the function that makes it."""

    info: BackboneInfo
    make: Callable[[Any], Any]  # device → network, see `register_backbone`


_registered: dict[str, Registered] = {}


def register_backbone(
    name: str, *, dimension: int, frames: int | tuple[int, int | None], size: int | tuple[int, int], **about: Any
) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """Decorator that makes a function's network a backbone: then `--backbone NAME` and `backbone="NAME"` take it.

        @hpdm_eval.register_backbone("mine", dimension=768, frames=16, size=(224, 224))
        def mine(device):
            return MyNetwork.from_file("mine.pt").to(device)

    The function gets a `torch.device` and returns a `torch.nn.Module` that turns float32 [B, 3, T, H, W] in [-1, 1]
    into features [B, D], or into a pair (features [B, D], logits [B, K]) where it is a classifier, which the Inception
    Score needs. It is run in fp32, in evaluation mode and without gradients; on a CPU in several threads at once, each
    with one clip. dimension: D. frames: how many a clip must have, a number or (fewest, most or None). size: pixels
    that clips are resized to, a number or (height, width). about: further fields of `BackboneInfo`. Records name the
    network with a SHA-256 over its weights, and its features are cached by that and by the text of the files that
    define it. Raises InputError for a name that is taken and for sizes that cannot be.

    >>> import torch, hpdm_eval
    >>> @hpdm_eval.register_backbone("mean-colour", dimension=3, frames=(1, None), size=8)
    ... def mean_colour(device):
    ...     return torch.nn.Sequential(torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten())
    >>> backbone = hpdm_eval.load_backbone("mean-colour")
    >>> backbone.extract(torch.full((1, 4, 16, 16, 3), 255, dtype=torch.uint8))[0]
    tensor([[1., 1., 1.]])
    """

    def register(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
        summary = about.pop("summary", None) or next(iter((make.__doc__ or "").strip().splitlines()), "")
        source = about.pop("source", None) or make.__module__.partition(".")[0]
        info = BackboneInfo(
            name=name,
            dimension=dimension,
            frames=_frames(name, frames),
            size=_size(name, size),
            summary=summary,
            source=source,
            **about,
        )
        add_backbone(Registered(info=info, make=make))
        return make

    return register


def add_backbone(registered: Registered) -> None:
    """Add a network; the same function again replaces itself. Raises InputError for a name that is taken."""
    name, dimension = registered.info.name, registered.info.dimension
    if not isinstance(name, str) or not name or any(sign in name for sign in ":/\\ \t\n"):
        raise InputError(f"backbone {name!r}: a name has neither spaces nor colons nor slashes")
    if not _is_count(dimension):
        raise InputError(f"backbone {name}: dimension is {dimension!r}, expected a whole number from 1")
    if name in BACKBONES or name in SHORT_NAMES or name in TRANSFORMERS:
        raise InputError(f"backbone {name} comes with this package; give yours another name")
    known = _registered.get(name)
    if known is not None and _origin(known) != _origin(registered):
        raise InputError(f"backbone {name} is there already, from {known.info.source}; give yours another name")
    _registered[name] = registered


def registered_names() -> list[str]:
    """Names of the networks that are registered in this process or by installed packages."""
    return list(dict.fromkeys([*_registered, *(point.name for point in _entry_points())]))


def find_backbone(name: str) -> Registered | None:
    """A registered network, None where no such name is registered. Raises InputError for an entry point that cannot be
    imported."""
    if name not in _registered and name not in BACKBONES:
        for point in _entry_points():
            if point.name == name:
                _load(point)
    return _registered.get(name)


def all_backbones() -> list[BackboneInfo]:
    """What is known of all networks; those of installed packages are imported."""
    found = [find_backbone(name) for name in registered_names()]
    return [*BUILTIN, *(registered.info for registered in found if registered is not None)]


def _entry_points() -> list[EntryPoint]:
    return sorted(entry_points(group=GROUP), key=lambda point: point.name)


def _load(point: EntryPoint) -> None:
    """Import what an entry point names, a module or function that registers the network."""
    try:
        point.load()
    except InputError:
        raise
    except Exception as error:  # whatever somebody else's module does
        raise InputError(f"backbone {point.name} of {point.value} cannot be imported: {error}") from error
    if point.name not in _registered:
        raise InputError(f"{point.value} registers no backbone {point.name}; it needs @hpdm_eval.register_backbone")


def _frames(name: str, frames: Any) -> tuple[int, int | None]:
    if isinstance(frames, tuple | list) and len(frames) == 2:
        least, most = frames
    else:
        least = most = frames
    if not _is_count(least) or not (most is None or (_is_count(most) and most >= least)):
        raise InputError(f"backbone {name}: frames is {frames!r}, expected a number or (fewest, most or None)")
    return least, most


def _size(name: str, size: Any) -> tuple[int, int]:
    pair = (size, size) if _is_count(size) else size
    if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(map(_is_count, pair))):
        raise InputError(f"backbone {name}: size is {size!r}, expected pixels or (height, width)")
    return tuple(pair)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _origin(registered: Registered) -> str:
    return f"{registered.make.__module__}:{registered.make.__qualname__}"
