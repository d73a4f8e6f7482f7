"""A loaded checkpoint as a folder for the Hugging Face hub: weights, configuration, checksums and a model card."""

from pathlib import Path
from typing import Any

from hpdm.checkpoint.folder import CONFIG_FILE, EMA_FILE, MANIFEST_FILE, MODEL_FILE, write_manifest, write_weights
from hpdm.checkpoint.load import Checkpoint
from hpdm.config import save_config
from hpdm.support.environment import package_versions
from hpdm.support.errors import InputError
from hpdm.support.files import (
    atomic_file,
    atomic_folder,
    holds_something,
    read_json,
    scratch_folder,
    sha256_file,
    write_json,
)

CARD_FILE = "README.md"


def save_pretrained(checkpoint: Checkpoint, folder: str | Path, name: str | None = None) -> Path:
    """Write the network's weights as they are now, its configuration, checksums and a model card into a new folder.

    `load_checkpoint` and `hpdm-sample --checkpoint` read the folder. name: of the repository, for the card. Raises
    InputError where `folder` holds something, WriteError where there is no room.
    """
    folder = Path(folder)
    if holds_something(folder):
        raise InputError(f"{folder} is not empty; name a new folder")
    kind, file = ("model", MODEL_FILE) if checkpoint.weights == "raw" else ("ema", EMA_FILE)
    weights = {key: value.detach().cpu().contiguous() for key, value in checkpoint.network.named_parameters()}
    with atomic_folder(folder) as temporary:
        write_weights(temporary / file, weights, config=checkpoint.config, step=checkpoint.step, kind=kind)
        save_config(checkpoint.config, temporary / CONFIG_FILE)
        (temporary / file).chmod((temporary / CONFIG_FILE).stat().st_mode)  # safetensors writes for the owner alone
        with atomic_file(temporary / CARD_FILE, "w") as card:
            card.write(model_card(checkpoint, file, sha256_file(temporary / file), name or str(folder)))
        write_manifest(temporary, checkpoint.step, (file, CONFIG_FILE, CARD_FILE))
        about = read_json(temporary / MANIFEST_FILE)
        write_json(temporary / MANIFEST_FILE, about | {"weights": checkpoint.weights})
    return folder


def push_to_hub(
    checkpoint: Checkpoint,
    repository: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
    message: str | None = None,
) -> Any:
    """Upload what `save_pretrained` writes to a repository on the hub, which is created where there is none.

    private, token, revision (a branch): as of `huggingface_hub.HfApi`; message: of the commit. Returns its
    `CommitInfo`. Raises InputError where the hub refuses.
    """
    from huggingface_hub import HfApi

    with scratch_folder("hpdm-push") as place:
        folder = save_pretrained(checkpoint, place / "model", name=repository)
        try:
            api = HfApi(token=token)
            api.create_repo(repository, private=private, exist_ok=True)
            return api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                revision=revision,
                commit_message=message or f"HPDM {checkpoint.config.size} at step {checkpoint.step}",
            )
        except (OSError, ValueError) as error:  # the hub's own errors are of these kinds
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"{repository} could not be uploaded ({reason}); `hf auth login` stores a token"
            ) from error


def model_card(checkpoint: Checkpoint, file: str, sha256: str, name: str) -> str:
    """The README.md of a checkpoint: what it is, its digest, and how to load it."""
    config = checkpoint.config
    resolutions = [checkpoint.method.resolution(level) for level in range(config.pyramid.levels)]
    sizes = ", ".join("x".join(map(str, resolution)) for resolution in resolutions)
    parameters = sum(parameter.numel() for parameter in checkpoint.network.parameters())
    text = bool(config.network.text_width)
    conditions = "text" if text else f"{config.network.num_classes} classes"
    example = 'prompts=["a red ball rolls to the left"]' if text else "classes=[0, 3]"
    weights = "average of the training weights (EMA)" if checkpoint.weights == "ema" else "weights as trained"
    rows = {
        "Method": config.method.name,
        "Size": config.size,
        "Parameters": f"{parameters:,}",
        "Conditions": conditions,
        "Videos per level (frames x rows x columns)": sizes,
        "Training steps": f"{checkpoint.step:,}",
        "Weights": weights,
        f"SHA-256 of {file}": f"`{sha256}`",
        "Written with": ", ".join(f"{key} {value}" for key, value in package_versions(("hpdm", "torch")).items()),
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    header = ["library_name: hpdm", "tags:", "- video-generation", "- diffusion", "- hpdm"]
    header += ["pipeline_tag: text-to-video"] if text else []
    return f"""---
{chr(10).join(header)}
---

# {name}

A video generator trained with [HPDM](https://arxiv.org/abs/2406.07792), hierarchical patch diffusion models.

| | |
|---|---|
{table}

```python
import hpdm

model = hpdm.load("{name}")
videos = model.sample(num=8, {example}, seed=0)  # uint8 [N, T, H, W, 3]
```

```bash
hpdm-sample --checkpoint {name} --num 8 --out samples/
```

`hpdm.load("{name}", revision="COMMIT")` pins the weights. The full configuration is in `{CONFIG_FILE}`; nothing in this
repository is executed.
"""
