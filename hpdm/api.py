"""The Python door of hpdm: load a model and sample from it, train one, publish one. `import hpdm` offers all of it."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hpdm.checkpoint import publish
from hpdm.checkpoint.folder import latest_checkpoint
from hpdm.checkpoint.load import Checkpoint, load_checkpoint
from hpdm.config import Config
from hpdm.config.sampling import SamplingConfig
from hpdm.methods import Method
from hpdm.sampling.folder import Written
from hpdm.sampling.folder import sample_into as write_samples
from hpdm.sampling.request import FolderRequest, SampleRequest
from hpdm.sampling.sampler import Sampler
from hpdm.support.environment import choose_device, processes_here
from hpdm.support.errors import InputError
from hpdm.training.log import read_log
from hpdm.training.loop import train as train_run
from hpdm.training.request import TrainRequest
from hpdm.video.formats import DEFAULT_CRF


def load(
    name: str | Path, *, device: torch.device | str = "cpu", revision: str | None = None, raw: bool = False
) -> "HPDM":
    """A trained model.

    name: a run's folder, one of its steps, a folder of `save_pretrained`, a .safetensors file, "nano", which ships with
    hpdm, or an id on the Hugging Face hub, "user/name". device: as PyTorch names it, or "auto" for a GPU where there is
    one. revision: branch, tag or commit of a hub id. raw: the weights as trained, not their average. Raises InputError
    where there is no such checkpoint, or it is damaged.

    >>> import hpdm
    >>> model = hpdm.load("nano")
    >>> model.step, model.video_size
    (16000, (16, 32, 32))
    """
    return HPDM(load_checkpoint(name, raw, choose_device(device), revision))


class HPDM:
    """A trained model: an HPDM, or another method that its configuration names.

    >>> import hpdm
    >>> model = hpdm.load("nano")
    >>> videos = model.sample(num=2, classes=[0, 3], seed=0, steps=(2, 1, 1), overlap="hw")
    >>> videos.dtype, tuple(videos.shape)
    (torch.uint8, (2, 16, 32, 32, 3))
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    @property
    def network(self) -> torch.nn.Module:
        """The network, float32, in eval mode."""
        return self.checkpoint.network

    @property
    def config(self) -> Config:
        """The configuration that it was trained with."""
        return self.checkpoint.config

    @property
    def method(self) -> Method:
        """What turns the configuration into networks, losses and samplers."""
        return self.checkpoint.method

    @property
    def step(self) -> int:
        """Steps that it was trained for."""
        return self.checkpoint.step

    @property
    def sha256(self) -> str:
        """Digest of the weights' file as it was loaded."""
        return self.checkpoint.sha256

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    @property
    def video_size(self) -> tuple[int, int, int]:
        """Frames, rows and columns of its videos."""
        return self.method.video_size

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of its classes by number, where the training data had any."""
        return self.config.trained_on.class_names

    def __repr__(self) -> str:
        size = "x".join(map(str, self.video_size))
        return f"HPDM({self.config.size}, step {self.step:,}, {size} videos, sha256 {self.sha256[:12]}, {self.device})"

    def to(self, device: torch.device | str) -> "HPDM":
        """Move the network to a device; returns the model."""
        self.network.to(choose_device(device))
        return self

    def sampler(self, num: int = 1, *, quiet: bool = True, **options: Any) -> Sampler:
        """The `Sampler` of the options that `sample` takes, for videos by their numbers, of all levels."""
        return Sampler(self.checkpoint, _request(num, options), quiet=quiet)

    def sample(
        self,
        num: int = 1,
        classes: str | int | Sequence[int | str] | None = None,
        *,
        prompts: str | Path | Sequence[str] | None = None,
        seed: int = 0,
        steps: Sequence[int] | None = None,
        overlap: str | None = None,
        guidance: float | None = None,
        levels: int | None = None,
        size: tuple[int, int, int] | None = None,
        quiet: bool = True,
        **options: Any,
    ) -> torch.Tensor:
        """Videos, uint8 [num, T, H, W, 3] on the CPU, bit for bit those of `hpdm-sample` with the same settings.

        classes: video i gets the i-th of these in turn, by number or name; "all", or "none" for neither class nor text;
        by default the classes that were trained. prompts: texts, for models that read them, or the `Path` of a file.
        steps: per level, coarse to fine; overlap: axes along which tiles overlap; size: frames, rows, columns.
        options: other fields of `SampleRequest`, and those of `SamplingConfig`, by name. What is not named is as the
        checkpoint has it. quiet: no notes on stderr. Raises InputError for what the model cannot make.
        """
        named = {"steps": steps, "overlap": overlap, "guidance": guidance, "levels": levels, "size": size}
        options |= {key: value for key, value in named.items() if value is not None}
        options |= {"classes": classes, "prompts": prompts, "seed": seed}
        return torch.cat([videos for _, videos in self.iterate(num, quiet=quiet, **options)])

    def iterate(self, num: int = 1, *, quiet: bool = True, **options: Any) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Yield (numbers, videos uint8 [B, T, H, W, 3]) a batch at a time, for more videos than memory holds.

        The batches of `sample(num, **options)`, one after the other: what is yielded does not depend on their size.

        >>> import hpdm
        >>> model = hpdm.load("nano")
        >>> for numbers, videos in model.iterate(num=3, steps=(1, 1, 1), batch=2):
        ...     print(numbers, tuple(videos.shape))
        [0, 1] (2, 16, 32, 32, 3)
        [2] (1, 16, 32, 32, 3)
        """
        for numbers, clips in self.sampler(num, quiet=quiet, **options).iterate():
            yield numbers, torch.from_numpy(clips[-1])

    def sample_into(
        self,
        out: str | Path,
        num: int = 1,
        *,
        format: str = "mp4",
        crf: int = DEFAULT_CRF,
        save_levels: bool = False,
        sheet: bool = False,
        quiet: bool = True,
        **options: Any,
    ) -> Written:
        """Write the videos that the folder `out` lacks, and `samples.json`: `hpdm-sample` as a function.

        format: "mp4", or "npy" for exact arrays; crf: H.264 quality; save_levels: every level in a folder of its own;
        sheet: contact sheets too; options: as of `sample`. The same call continues, and processes of a `torchrun` share
        the videos. Raises InputError where the folder was made with other settings, WriteError where there is no room.

        >>> import hpdm, tempfile
        >>> hpdm.load("nano").sample_into(tempfile.mkdtemp(), 1, format="npy", steps=(1, 1, 1)).total
        1
        """
        process = processes_here()
        quiet = quiet or process.rank > 0
        request = FolderRequest(format=format, crf=crf, save_levels=save_levels, sheet=sheet)
        return write_samples(self.sampler(num, quiet=quiet, **options), out, request, process=process, quiet=quiet)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write weights, configuration, checksums and a model card into a new folder; returns it.

        `hpdm.load` and `hpdm-sample --checkpoint` read it. Raises InputError where the folder holds something.

        >>> import hpdm, tempfile
        >>> folder = hpdm.load("nano").save_pretrained(tempfile.mkdtemp())
        >>> sorted(path.name for path in folder.iterdir())
        ['README.md', 'config.yaml', 'ema.safetensors', 'manifest.json']
        """
        return publish.save_pretrained(self.checkpoint, folder)

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        message: str | None = None,
    ) -> Any:
        """Upload what `save_pretrained` writes to "user/name" on the Hugging Face hub, created where it is not there.

        private, token, revision (a branch): as of `huggingface_hub.HfApi`; message: of the commit. Returns its
        `CommitInfo`. Raises InputError where the hub refuses.
        """
        return publish.push_to_hub(
            self.checkpoint, repository, private=private, token=token, revision=revision, message=message
        )


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """How `train` ended."""

    run: Path  # the run's folder
    config: Config  # what was trained
    step: int  # steps made since the run began
    interrupted: bool  # by a signal, before the last step

    @property
    def checkpoint(self) -> Path | None:
        """Folder of the last checkpoint; None where none was saved."""
        return latest_checkpoint(self.run)

    def log(self) -> list[dict]:
        """The lines of the run's log, one dictionary per line: step, loss, ..., and those of evaluations."""
        return read_log(self.run)

    def load(self, device: torch.device | str = "cpu") -> HPDM:
        """The trained model, with averaged weights."""
        return load(self.run, device=device)


def train(
    config: Config | str | Path,
    out: str | Path,
    *,
    data: str | Path | None = None,
    steps: int | None = None,
    batch: int | None = None,
    levels: int | None = None,
    init_from: str | Path | None = None,
    method: str | None = None,
    seed: int | None = None,
    eval_every: int | None = None,
    eval_reference: str | Path | None = None,
    overrides: Sequence[str] = (),
    device: torch.device | str = "auto",
    resume: bool = False,
    stop_after: int | None = None,
    evaluator: Any = None,
    quiet: bool = False,
) -> TrainingResult:
    """Train a model in the folder `out`, or continue the run that is there: `hpdm-train` as a function.

    config: the name of a size, "nano" to "T2V", a YAML file, or a `Config`, which is taken as it is. data: a folder of
    videos, shards, or "procedural". steps: of the whole schedule; batch: samples per step over all processes.
    overrides: "section.key=value", as `--set`. method: a baseline by name. resume: fail where there is no checkpoint
    to continue; stop_after: save and return when this many steps in all are made. evaluator: what judges samples every
    `eval_every` steps in place of the installed one, see `hpdm.training.evaluation.find_evaluator`. Every process of a
    `torchrun` calls this. In the main thread Ctrl-C and SIGTERM save and return.

    Raises InputError, before anything is written, for settings or data that do not fit, and `NonFiniteLoss` where
    training diverges.

    >>> import hpdm, tempfile
    >>> small = ("token_width=16", "latent_width=16", "num_latents=4", "compute_layers=1", "sheet_every=0")
    >>> run = tempfile.mkdtemp()
    >>> result = hpdm.train("nano", run, data="procedural", steps=2, batch=2, overrides=small, device="cpu", quiet=True)
    >>> result.step, result.interrupted, result.checkpoint.name
    (2, False, 'step-00000002')
    >>> result.load().sample(num=1, steps=(1, 1, 1)).shape
    torch.Size([1, 16, 32, 32, 3])
    """
    request = TrainRequest(
        config=config,
        method=method,
        data=data,
        steps=steps,
        batch=batch,
        levels=levels,
        init_from=init_from,
        seed=seed,
        eval_every=eval_every,
        eval_reference=eval_reference,
        overrides=tuple(overrides),
    )
    resolved = request.resolve(out)
    outcome = train_run(
        resolved, out, device=str(device), resume=resume, stop_after=stop_after, quiet=quiet, evaluator=evaluator
    )
    return TrainingResult(run=Path(out), config=resolved, step=outcome.step, interrupted=outcome.interrupted)


def _request(num: int, options: dict[str, Any]) -> SampleRequest:
    """The `SampleRequest` of options by name: its own fields, those of `SamplingConfig`, and prompts."""
    own = {field.name for field in dataclasses.fields(SampleRequest)}
    of_sampling = {field.name for field in dataclasses.fields(SamplingConfig)}
    unknown = sorted(options.keys() - own - of_sampling)
    if unknown:
        raise InputError(f"unknown option {unknown[0]!r}; sampling takes {', '.join(sorted(own | of_sampling))}")
    prompts = options.pop("prompts", None)
    if prompts is not None:
        texts = [prompts] if isinstance(prompts, str) else prompts
        options |= {"prompts": prompts} if isinstance(prompts, Path) else {"texts": tuple(texts)}
    settings = {key: options.pop(key) for key in of_sampling & options.keys()}
    settings = {**options.pop("settings", {}), **{key: _plain(value) for key, value in settings.items()}}
    return SampleRequest(num=num, settings=settings, **options)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
