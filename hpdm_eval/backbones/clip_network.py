"""CLIP through the transformers library, an optional extra: frames and texts in one space.

B frames, H rows, W columns, D channels of the shared space.
"""

from pathlib import Path

import torch

from hpdm.support.errors import InputError
from hpdm.support.files import read_json
from hpdm.support.pretrained import (
    FILES,
    TOKENIZER_FILES,
    folder_digest,
    load_pretrained,
    need_transformers,
    pretrained_folder,
    quiet_transformers,
)

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's own normalisation
FRAMES_AT_ONCE = 64
# files that decide what a text is to the network
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)


class Clip:
    """A CLIP in eval mode by folder or hub id; raises InputError that says what is missing."""

    def __init__(self, where: str, device: str | torch.device = "cpu") -> None:
        library = need_transformers("CLIPSIM", "video")
        folder = pretrained_folder(where, (*FILES, *TOKENIZER_FILES))
        config = read_json(folder / "config.json")
        if config.get("model_type") != "clip":
            raise InputError(f"{where}: config.json is of {config.get('model_type')!r}, CLIPSIM needs a clip")
        network, missing = load_pretrained(library.CLIPModel, folder)
        if missing:
            raise InputError(f"{folder}: the weights lack {missing[0]} and {len(missing) - 1} more of CLIPModel")
        with quiet_transformers():
            try:
                self.tokenizer = library.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            except (OSError, ValueError, ImportError) as error:
                raise InputError(f"{folder} holds no tokenizer that transformers can read") from error
        self.network, self.device = network.eval().to(device), torch.device(device)
        self.size = network.config.vision_config.image_size
        self.length = network.config.text_config.max_position_embeddings
        self.about = {"name": f"clip-{Path(where).name}", "sha256": folder_digest(folder, TOKENIZER), "verified": False}

    @torch.inference_mode()
    def frames(self, video: torch.Tensor) -> torch.Tensor:
        """uint8 [B, H, W, 3] → float32 [B, D] on the CPU: short side bicubically to CLIP's size, centre cut out."""
        mean, std = (torch.tensor(values, device=self.device).view(1, 3, 1, 1) for values in (MEAN, STD))
        parts = []
        for chunk in torch.as_tensor(video).split(FRAMES_AT_ONCE):
            images = chunk.to(self.device).permute(0, 3, 1, 2).float() / 255
            height, width = images.shape[-2:]
            inner = [max(self.size, round(side * self.size / min(height, width))) for side in (height, width)]
            images = torch.nn.functional.interpolate(images, inner, mode="bicubic", antialias=True, align_corners=False)
            top, left = ((side - self.size) // 2 for side in inner)
            images = images.clamp(0, 1)[..., top : top + self.size, left : left + self.size]
            states = self.network.vision_model(pixel_values=(images - mean) / std).pooler_output
            parts.append(self.network.visual_projection(states).float().cpu())
        return torch.cat(parts)

    @torch.inference_mode()
    def text(self, text: str) -> torch.Tensor:
        """A text, cut to CLIP's length → float32 [D] on the CPU."""
        inputs = self.tokenizer([text], truncation=True, max_length=self.length, return_tensors="pt").to(self.device)
        states = self.network.text_model(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).pooler_output
        return self.network.text_projection(states)[0].float().cpu()
