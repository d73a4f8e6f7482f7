"""What can be set about training data; nothing here imports a decoder."""

from collections.abc import Sequence
from dataclasses import dataclass

from hpdm.support.errors import InputError
from hpdm.video import ucf101

PROCEDURAL = "procedural"
AUTO = "auto"
LAYOUTS = ("auto", "folders", "ucf101")
STARTS = ("random", "first", "center")
SHORT = ("drop", "loop")
CROPS = ("center", "random")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where clips come from and how they are cut; their size and number are the model's and the run's."""

    path: str = PROCEDURAL  # a folder of videos or shards, an address of shards, or "procedural": drawn on the fly
    layout: str = "auto"  # "folders": each subfolder a class; "ucf101": split lists; "auto": whichever is there
    split_lists: str | None = None  # folder of UCF-101's lists; by default ucfTrainTestlist in or beside the videos
    split: int = 1  # which of UCF-101's three splits
    part: str = "train"  # "train", "test" or "all" of that split, or of a folder with train, test or val in it
    start: str = "random"  # first frame of a clip: "random", "first", or "center" to cut from the middle
    stride: int = 1  # take every n-th frame
    fps: float | None = None  # resample to this frame rate by nearest frames in time; None keeps each file's own
    short: str = "drop"  # videos with too few frames: "drop" them, or "loop" them from their first frame
    flip: bool = False  # mirror half of the clips left to right
    crop: str = "center"  # which box of the target's shape: the one in the middle, or one at "random"
    least_kept: float = 0.0  # leave out pictures of which cropping to the target's shape keeps a smaller share
    captions: str | None = None  # deliver captions: a JSONL or CSV file, or "auto" for the one in the folder
    embeddings: str | None = None  # folder of `hpdm-train encode-text`; None encodes captions as they come
    image_share: float = 0.0  # share of images, as videos that stand still, in every batch of captioned data
    shrink: tuple[int, int, int] = (1, 1, 1)  # cut clips larger by these factors, (frames, rows, columns), and average
    procedural_videos: int = 1_000_000  # how many different procedural clips there are
    procedural_seed: int = 0  # which endless set of procedural clips they come from
    num_workers: int | None = None  # decoding processes per training process, at least 1 for files; None: by cores
    steps_ahead: int = 4  # deliveries prepared in advance by all workers together
    index: str | None = None  # file of `hpdm-data index --out`; None: the one in the folder or the user's cache
    recheck: bool = False  # compare every file with the index of `hpdm-data index`, which is trusted otherwise
    index_limit: int = 100_000  # files that a start opens by itself to index them; beyond, `hpdm-data index` has to

    RETIRED = ("start_method",)  # keys of older configurations that no longer mean anything; not a field

    def __post_init__(self):
        for name, allowed in (
            ("layout", LAYOUTS),
            ("split", ucf101.SPLITS),
            ("part", ucf101.PARTS),
            ("start", STARTS),
            ("short", SHORT),
            ("crop", CROPS),
        ):
            if getattr(self, name) not in allowed:
                choices = ", ".join(map(str, allowed))
                raise InputError(f"data.{name} must be one of {choices}; got {getattr(self, name)!r}")
        for name, least in (
            ("stride", 1),
            ("procedural_videos", 1),
            ("procedural_seed", 0),
            ("steps_ahead", 1),
            ("index_limit", 0),
        ):
            if getattr(self, name) < least:
                raise InputError(f"data.{name} must be at least {least}; got {getattr(self, name)}")
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise InputError(f"data.fps must be a positive number of frames per second; got {self.fps}")
        for name in ("image_share", "least_kept"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"data.{name} must lie in [0, 1]; got {getattr(self, name)}")
        if self.image_share and self.captions is None:
            raise InputError("data.image_share needs captions: set data.captions=auto, or name their file")
        if min(self.shrink) < 1:
            raise InputError(f"data.shrink must be three whole numbers of at least 1; got {self.shrink}")
        if self.num_workers is not None and self.num_workers < 0:
            raise InputError(f"data.num_workers must be 0 or more; got {self.num_workers}")


def need_decoder() -> None:
    """Raise InputError where what reads videos is not installed: training on procedural clips does without."""
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise InputError("PyAV is not installed, and videos are read with it: pip install av") from error


def check_classes(names: Sequence[str], num_classes: int | None, where: str) -> None:
    """Raise InputError where there are more classes than a model can tell apart (None: any number)."""
    if num_classes is not None and len(names) > num_classes:
        raise InputError(
            f"{where} has {len(names)} classes, but the model only {num_classes}; raise its num_classes "
            f"(--set network.num_classes={len(names)}), which by default is what the data has"
        )
