"""A tiny T5 with a tokenizer made on the spot, small text-to-video settings, and a folder of captioned files."""

import csv
import json

import numpy as np
import torch
from matplotlib.image import imsave

from hpdm.data.procedural import procedural_clip, sample_scene
from hpdm.data.scene_captions import caption_words, describe_scene
from hpdm.model.conditioning import Conditions
from hpdm.support.torchvision_compat import import_torchvision
from hpdm.video.writer import write_video

WORDS = caption_words()
SMALL_TEXT = {
    "size": "small-text",
    "pyramid": {"levels": 2, "patch": [2, 4, 4]},
    "network": {
        "token": [1, 2, 2],
        "token_width": 16,
        "latent_width": 16,
        "num_latents": 4,
        "levels_per_block": [1, 2],
        "compute_layers": 1,
        "io_heads": 2,
        "io_head_width": 8,
        "compute_heads": 2,
        "compute_head_width": 8,
        "condition_width": 16,
        "noise_frequencies": 8,
        "num_classes": 0,
        "dropout": 0.1,
        "text_width": 16,
        "text_tokens": 14,
        "text_vocabulary": len(WORDS) + 2,
        "text_layers": 1,
        "measures": ["fps", "height", "width"],
    },
    "text": {"encoder": "words", "words": WORDS},
    "training": {
        "steps": 4,
        "batch": 4,
        "micro_batch": 2,
        "warmup": 2,
        "lr": 0.003,
        "ema_half_life": 0.5,
        "ema_ramp_up": 0.2,
        "log_every": 1,
        "checkpoint_every": 100,
        "keep": 10,
        "sheet_every": 0,
    },
    "data": {"procedural_videos": 100, "num_workers": 0, "captions": "auto", "image_share": 0.5},
    "sampling": {"steps": [2, 1], "overlap": "none"},
}


def small_text(**network):
    """The settings as a dictionary, with fields of the network changed."""
    return {**SMALL_TEXT, "network": {**SMALL_TEXT["network"], **network}}


def make_t5(folder, width=16):
    """Save a random T5 encoder of two layers with a word tokenizer; returns the folder."""
    import_torchvision()
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocabulary = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{word: number for number, word in enumerate(WORDS, 3)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=len(vocabulary), d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2, pad_token_id=0
    )
    network = transformers.T5EncoderModel(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    network.save_pretrained(folder)
    return folder


def write_captioned(folder, videos=3, images=3, suffix="jsonl"):
    """Write videos of 24x32 and images of 20x30 with their list of captions; returns the rows."""
    rows = []
    for index in range(videos + images):
        scene, _ = sample_scene(0, index)
        clip = procedural_clip(0, index, 8, 24, 32)[0]
        name = f"clips/{index}.mp4" if index < videos else f"images/{index}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if index < videos:
            write_video(folder / name, clip, fps=20)
        else:
            imsave(folder / name, np.ascontiguousarray(clip[4, :20, :30]))
        rows.append({"path": name, "caption": describe_scene(scene, still=index >= videos)})
    write_rows(folder / f"captions.{suffix}", rows)
    return rows


def write_rows(file, rows):
    """A list of captions as JSON Lines or CSV, by the file's suffix."""
    with open(file, "w", encoding="utf-8", newline="") as opened:
        if file.suffix == ".jsonl":
            opened.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(opened, sorted({key for row in rows for key in row}))
            writer.writeheader()
            writer.writerows(rows)


def conditions(config, lengths=(4, 2)):
    """Two samples with texts of unequal length, frame rates and sizes."""
    generator = torch.Generator().manual_seed(2)
    mask = torch.arange(config.text_tokens) < torch.tensor(lengths)[:, None]
    if config.text_vocabulary:
        text = torch.randint(1, config.text_vocabulary, mask.shape, generator=generator)
    else:
        text = torch.randn(*mask.shape, config.text_width, generator=generator, dtype=torch.float64)
    measures = torch.tensor([[25.0, 240, 320], [0, 1080, 1920]], dtype=torch.float64)
    return Conditions(labels=torch.zeros(2, dtype=torch.int64), text=text, mask=mask, measures=measures)
