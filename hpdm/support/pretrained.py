"""Networks of the transformers library, an optional extra, from a folder as it saves them or from the hub.

Only safetensors files and, for text encoders that are published in no other form, PyTorch's weights-only files are
read: nothing in them is executed.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from hpdm.support.errors import InputError
from hpdm.support.files import sha256_file
from hpdm.support.torchvision_compat import import_torchvision
from hpdm.support.trust import need_trust

SAFE, PICKLED = "*.safetensors", "pytorch_model*.bin"
FILES = ("*.json", SAFE)
TOKENIZER_FILES = ("*.json", "*.model", "*.txt")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def need_transformers(what: str, extra: str) -> Any:
    """Raises InputError where the library is not installed; otherwise imports it quietly and returns it."""
    if find_spec("transformers") is None:
        raise InputError(f"{what} needs the extra `{extra}`: pip install 'hpdm[{extra}]'")
    import_torchvision()  # transformers imports it
    import transformers

    return transformers


def pretrained_folder(where: str, files: Sequence[str] = FILES) -> Path:
    """The folder `where`, or a copy from the hub of the files of an id; raises InputError where there is neither."""
    if Path(where).is_dir():
        need_trust("the unverified network", where)
        return Path(where)
    if not HUB_ID.fullmatch(where):
        raise InputError(f"{where}: neither a folder nor an id on the hub (OWNER/NAME)")
    need_trust("a network from the hub,", where)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(where, allow_patterns=list(files)))
    except (OSError, ValueError) as error:  # the hub's own errors are of these kinds
        raise InputError(
            f"{where}: not a folder here, and the hub did not give it "
            f"({(str(error).splitlines() or [type(error).__name__])[0]}). Download it elsewhere and give "
            "the folder"
        ) from error


def load_pretrained(model: Any, folder: Path, *, pickled: bool = False, **options: Any) -> tuple[Any, list[str]]:
    """The network of class `model` saved in `folder`, without gradients; `pickled` allows PyTorch's own files.

    Returns (network, names of parameters that the files lack). Raises InputError for files that are no such network.
    """
    if not any(folder.glob(SAFE)) and not (pickled and any(folder.glob(PICKLED))):
        raise InputError(f"{folder}: no .safetensors files; other formats are not read")
    with quiet_transformers():
        try:
            network, report = model.from_pretrained(
                folder,
                use_safetensors=any(folder.glob(SAFE)),
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            message = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{folder}: not readable as {model.__name__} ({message})") from error
    return network.requires_grad_(False), sorted(report["missing_keys"])


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Within the block the library neither warns nor draws progress bars."""
    import transformers

    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
        transformers.logging.enable_progress_bar()


def folder_digest(folder: Path, also: Sequence[str] = ()) -> str:
    """SHA-256 over lines of name and SHA-256 of a network's configuration and weights.

    also: names of files that count too, where the folder has them.
    """
    weights = sorted(folder.glob(SAFE)) or sorted(folder.glob(PICKLED))
    others = [folder / name for name in also if (folder / name).is_file()]
    lines = "".join(f"{path.name} {sha256_file(path)}\n" for path in [folder / "config.json", *weights, *others])
    return hashlib.sha256(lines.encode()).hexdigest()
