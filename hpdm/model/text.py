"""Texts for a network: encoders, embeddings made beforehand, and the way from what data deliver to `Conditions`.

An encoder is a T5 of the transformers library (extra `text`), by folder or hub id, frozen; the paper takes T5-11B. The
encoder `words` is only a vocabulary: the network embeds the words itself and learns to. Embeddings of a list of
captions can be made once, by `hpdm-train encode-text`, and are then read in place of running the encoder.

B batch, K text tokens of width w.
"""

import hashlib
import itertools
import os
from collections.abc import Callable, Container, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from hpdm.config import Config
from hpdm.model.conditioning import PADDING, SPECIAL_WORDS, UNKNOWN, Conditions
from hpdm.support.columns import DamagedTable, read_columns, write_columns
from hpdm.support.errors import InputError
from hpdm.support.files import atomic_file, read_json, rename, user_cache, write_json
from hpdm.support.pretrained import (
    FILES,
    PICKLED,
    SAFE,
    TOKENIZER_FILES,
    folder_digest,
    load_pretrained,
    need_transformers,
    pretrained_folder,
    quiet_transformers,
)

if TYPE_CHECKING:
    from hpdm.model.conditioning import Labels


WORDS = "words"
MANIFEST = "embeddings.json"
SHARD = "embeddings-{:05d}.safetensors"
KEY_BYTES = 16
KEY = np.dtype("<u8")


class WordEncoder:
    """Numbers of words of a vocabulary; the network embeds them."""

    def __init__(self, words: Sequence[str], tokens: int) -> None:
        self.tokens = tokens
        self.numbers = {word: number for number, word in enumerate(words, SPECIAL_WORDS)}

    def __call__(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Texts → (int64 [B, K], mask bool [B, K]); words beyond K are cut off, unknown ones count as one word."""
        rows = [[self.numbers.get(word, UNKNOWN) for word in text.lower().split()][: self.tokens] for text in texts]
        text = torch.tensor([row + [PADDING] * (self.tokens - len(row)) for row in rows]).long()
        return text, text != PADDING


class T5Encoder:
    """The encoder of a T5 in eval mode; `width` channels per token, `name` as it was asked for."""

    def __init__(self, name: str, tokens: int, *, precision: str = "fp32", device: torch.device | str = "cpu") -> None:
        library = need_transformers(f"text encoder {name}", "text")
        self.name, self.tokens, self.device = name, tokens, torch.device(device)
        self.folder = pretrained_folder(name, (*FILES, *TOKENIZER_FILES))
        if not any(self.folder.glob(SAFE)) and not any(self.folder.glob(PICKLED)):
            self.folder = pretrained_folder(name, (*FILES, *TOKENIZER_FILES, PICKLED))
        kind = read_json(self.folder / "config.json").get("model_type")
        if kind not in ("t5", "mt5", "umt5"):
            raise InputError(f"{name}: config.json is of {kind!r}, a text encoder needs a T5")
        model = {"t5": "T5", "mt5": "MT5", "umt5": "UMT5"}[kind] + "EncoderModel"
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        network, missing = load_pretrained(getattr(library, model), self.folder, pickled=True, dtype=dtype)
        if missing:
            raise InputError(f"{self.folder}: the weights lack {missing[0]} and {len(missing) - 1} more of {model}")
        with quiet_transformers():
            try:
                self.tokenizer = library.AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
            except (OSError, ValueError, ImportError) as error:
                raise InputError(
                    f"{self.folder} holds no tokenizer that transformers can read "
                    f"({(str(error).splitlines() or ['no reason given'])[0]})"
                ) from error
        self.network = network.eval().to(self.device)
        self.width = network.config.d_model

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Texts → (float [B, K, w], zero behind the mask; mask bool [B, K]) on the encoder's device."""
        inputs = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self.tokens, return_tensors="pt"
        ).to(self.device)
        states = self.network(input_ids=inputs.input_ids, attention_mask=inputs.attention_mask).last_hidden_state
        mask = inputs.attention_mask.bool()
        return states * mask[..., None], mask

    def digest(self) -> str:
        """SHA-256 of configuration and weights."""
        return folder_digest(self.folder)


def load_encoder(config: Config, device: torch.device | str = "cpu") -> "WordEncoder | T5Encoder | None":
    """The encoder that a configuration names; None for a network that reads no text. Raises InputError where it is not
    there or of another width."""
    network = config.network
    if not network.text_width:
        return None
    if config.text.encoder == WORDS:
        return WordEncoder(config.text.words, network.text_tokens)
    text = config.text
    encoder = T5Encoder(text.encoder, network.text_tokens, precision=text.encoder_precision, device=device)
    if encoder.width != network.text_width:
        raise InputError(
            f"the states of {encoder.name} are {encoder.width} wide, network.text_width is {network.text_width}"
        )
    return encoder


class StoredEmbeddings:
    """Embeddings that `hpdm-train encode-text` made, looked up by their text; tensors are read as they are needed."""

    def __init__(self, folder: str | Path, tokens: int) -> None:
        self.folder, self.tokens = Path(folder), tokens
        if not (self.folder / MANIFEST).is_file():
            raise InputError(f"{folder} holds no {MANIFEST}; make embeddings with hpdm-train encode-text")
        self.about = read_json(self.folder / MANIFEST)
        if not isinstance(self.about, dict) or type(self.about.get("width")) is not int:
            raise InputError(f"{self.folder / MANIFEST} is damaged: it names no width; make the embeddings again")
        self.shards, found = [], []
        for path in sorted(self.folder.glob(SHARD.replace("{:05d}", "*"))):
            try:
                shard = safe_open(path, framework="pt")
                keys, lengths = shard.get_slice("keys"), shard.get_slice("lengths")
                count = lengths.get_shape()[0]
                if shard.get_slice("embeddings").get_shape()[1:] != [self.about["width"]] or (
                    keys.get_shape() != [count, KEY_BYTES]
                ):
                    raise ValueError("its parts do not fit each other")
            except (OSError, SafetensorError, ValueError, RuntimeError, TypeError) as error:
                raise InputError(f"{path} is not a file of embeddings: {' '.join(str(error).split())}") from error
            about = path.stat()
            found.append((path.name, about.st_size, about.st_mtime_ns, count))
            self.shards.append(shard)
        self._places = self._find_places(found)

    def __len__(self) -> int:
        return len(self._places["first"])

    def __contains__(self, caption: object) -> bool:
        return self._place(caption) is not None

    def _place(self, caption):
        """(shard, first row, rows) of a text's embedding; None where there is none."""
        key, places = np.frombuffer(text_key(caption), KEY), self._places
        for row in range(int(np.searchsorted(places["begin"], key[0])), len(self)):
            if places["begin"][row] != key[0]:
                return None
            if places["rest"][row] == key[1]:
                return int(places["shard"][row]), int(places["first"][row]), int(places["length"][row])
        return None

    def _find_places(self, found):
        """Columns of all embeddings, sorted by key: shared by all processes through a file that each maps.

        The file is in the user's cache; it is made where it is missing or of other shards.
        """
        stamp = {"shards": [list(entry) for entry in found]}
        name = hashlib.sha256(os.fsencode(self.folder.resolve())).hexdigest()[:16]
        file = user_cache("hpdm") / f"embeddings-{name}.safetensors"
        with suppress(OSError, DamagedTable):
            columns, about = read_columns(file)
            if about == stamp:
                return columns
        columns = self._places_of_shards([name for name, *_ in found])
        with suppress(OSError):
            write_columns(file, columns, stamp)
            return read_columns(file)[0]
        return columns

    def _places_of_shards(self, names):
        keys, firsts, lengths = [np.zeros((0, 2), KEY)], [np.zeros(0, np.int64)], [np.zeros(0, np.int32)]
        for number, shard in enumerate(self.shards):
            keys.append(np.frombuffer(shard.get_tensor("keys").numpy().tobytes(), KEY).reshape(-1, 2))
            lengths.append(shard.get_tensor("lengths").numpy().astype(np.int32))
            ends = np.cumsum(lengths[-1], dtype=np.int64)
            if (int(ends[-1]) if len(ends) else 0) != shard.get_slice("embeddings").get_shape()[0]:
                raise InputError(
                    f"{self.folder / names[number]} is not a file of embeddings: its parts do not fit each other"
                )
            firsts.append(ends - lengths[-1])
        owner = np.repeat(np.arange(len(self.shards), dtype=np.int32), [len(own) for own in lengths[1:]])
        keys, firsts, lengths = np.concatenate(keys), np.concatenate(firsts), np.concatenate(lengths)
        order = np.lexsort((keys[:, 1], keys[:, 0]))
        return {
            "begin": keys[order, 0],
            "rest": keys[order, 1],
            "shard": owner[order],
            "first": firsts[order],
            "length": lengths[order],
        }

    def __call__(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """As `T5Encoder`; raises InputError for a text that was not encoded."""
        text = torch.zeros(len(texts), self.tokens, self.about["width"])
        mask = torch.zeros(len(texts), self.tokens, dtype=torch.bool)
        for row, caption in enumerate(texts):
            place = self._place(caption)
            if place is None:
                raise InputError(f"{self.folder} has no embedding of {caption!r}; run hpdm-train encode-text again")
            shard, first, length = place
            text[row, :length] = self.shards[shard].get_slice("embeddings")[first : first + length].float()
            mask[row, :length] = True
        return text, mask


def text_key(text: str) -> bytes:
    """What a text's embedding is found by."""
    return hashlib.sha256(text.encode()).digest()[:KEY_BYTES]


def store_embeddings(
    folder: str | Path,
    texts: Sequence[str],
    encoder: T5Encoder,
    *,
    batch: int = 64,
    shard: int = 10_000,
    done: Callable[[int], object] = lambda count: None,
) -> None:
    """Write embeddings of `texts` that `folder` lacks, `shard` texts to a file; each file appears whole or not at all.

    Several processes may write into one folder: none replaces another's file. Values are stored as bfloat16.
    done(count) is called after each batch. Raises InputError for a folder of another encoder.
    """
    folder = Path(folder)
    about = {"encoder": encoder.name, "sha256": encoder.digest(), "tokens": encoder.tokens, "width": encoder.width}
    known: Container[str] = ()
    if (folder / MANIFEST).is_file():
        if (before := read_json(folder / MANIFEST)) != about:
            changed = [f"{key} {before.get(key)} -> {new}" for key, new in about.items() if before.get(key) != new]
            raise InputError(f"{folder} holds embeddings made otherwise ({'; '.join(changed)}); name another folder")
        known = StoredEmbeddings(folder, encoder.tokens)
    else:
        write_json(folder / MANIFEST, about)
    missing = [text for text in dict.fromkeys(texts) if text not in known]
    for first in range(0, len(missing), shard):
        chosen = missing[first : first + shard]
        embeddings, lengths = [], []
        for start in range(0, len(chosen), batch):
            states, mask = encoder(chosen[start : start + batch])
            embeddings.append(states[mask].to("cpu", torch.bfloat16))
            lengths += mask.sum(1).tolist()
            done(min(batch, len(chosen) - start))
        keys = torch.frombuffer(bytearray(b"".join(map(text_key, chosen))), dtype=torch.uint8).view(-1, KEY_BYTES)
        lengths = torch.tensor(lengths, dtype=torch.int32)
        _add_shard(folder, save({"embeddings": torch.cat(embeddings), "lengths": lengths, "keys": keys}))


def _add_shard(folder, content: bytes):
    """Write a file under the first number that no process has taken."""
    written = folder / f".{os.getpid()}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    with atomic_file(written) as file:
        file.write(content)
    try:
        for number in itertools.count(len(list(folder.glob(SHARD.replace("{:05d}", "*"))))):
            try:
                os.link(written, folder / SHARD.format(number))  # fails where the name is taken, unlike a renaming
                return
            except FileExistsError:
                continue
            except OSError:  # a file system without links: a name that only this content has
                rename(written, folder / SHARD.replace("{:05d}", written.stem.rpartition("-")[2]))
                return
    finally:
        written.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class Conditioner:
    """From what a loader delivers, or from prompts, to what the network of a configuration takes."""

    config: Config
    encoder: Callable[[Sequence[str]], tuple[torch.Tensor, torch.Tensor]] | None  # None: the network reads no text
    device: torch.device

    def __call__(self, delivered: Any) -> "Labels":
        """Labels int64 [B], or {"label", "caption", "measures"} of data with captions → labels or `Conditions`."""
        if not isinstance(delivered, dict):
            if self.config.network.text_width or self.config.network.measures:
                raise InputError("this model reads captions, and the data have none: set data.captions")
            return delivered.to(self.device, non_blocking=True)
        if not (self.config.network.text_width or self.config.network.measures):
            return delivered["label"].to(self.device, non_blocking=True)
        text = mask = None
        if self.encoder is not None:
            text, mask = self.encoder(delivered["caption"])
        conditions = Conditions(labels=delivered["label"], text=text, mask=mask, measures=delivered["measures"])
        return conditions.to(self.device, non_blocking=True)

    def of_prompts(self, prompts: Sequence[str], fps: float, labels: Any = None) -> Conditions:
        """Conditions [B] of texts for videos of the configuration's full size, on the conditioner's device."""
        count = len(prompts)
        labels = torch.full((count,), self.config.network.num_classes) if labels is None else labels
        measures = measures_of_samples(self.config, fps).repeat(count, 1)
        return self({"label": labels, "caption": prompts, "measures": measures})


def measures_of_samples(config: Config, fps: float) -> torch.Tensor:
    """`MEASURES` [1, 3] of videos of the configuration's full size."""
    _, height, width = config.pyramid.resolution(config.pyramid.levels - 1)
    return torch.tensor([[fps, height, width]], dtype=torch.float32)


def make_conditioner(config: Config, device: torch.device | str = "cpu", *, stored: bool = True) -> Conditioner:
    """The conditioner of a configuration, with embeddings made beforehand where `stored` and the data name them."""
    folder = config.data.embeddings
    if not (stored and folder and config.network.text_width):
        return Conditioner(config=config, encoder=load_encoder(config, device), device=torch.device(device))
    embeddings = StoredEmbeddings(folder, config.network.text_tokens)
    for key, wanted in (
        ("encoder", config.text.encoder),
        ("tokens", config.network.text_tokens),
        ("width", config.network.text_width),
    ):
        if embeddings.about.get(key) != wanted:
            raise InputError(
                f"{folder} has embeddings with {key} {embeddings.about.get(key)!r}, the configuration "
                f"says {wanted!r}; conditions would not match training"
            )
    return Conditioner(config=config, encoder=embeddings, device=torch.device(device))
