"""Text encoders: T5 against transformers' own, words, stored embeddings, and what a network is told in the end."""

import dataclasses
import hashlib
import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from hpdm.commands.entry import train
from hpdm.config import config_from_dict, override_config
from hpdm.data.scene_captions import sample_prompts
from hpdm.model.text import (
    StoredEmbeddings,
    T5Encoder,
    WordEncoder,
    load_encoder,
    make_conditioner,
    store_embeddings,
    text_key,
)
from hpdm.support.errors import InputError
from hpdm.support.files import sha256_file
from tests.support.small_text import SMALL_TEXT, WORDS, make_t5, small_text, write_captioned, write_rows

PROMPTS = sample_prompts(0, 5)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def library():
    from hpdm.support.torchvision_compat import import_torchvision

    import_torchvision()
    return pytest.importorskip("transformers", reason="needs the extra `text`")


@pytest.fixture(scope="module")
def t5(library, tmp_path_factory):
    return make_t5(tmp_path_factory.mktemp("t5"))


def with_t5(t5, *overrides):
    values = small_text(text_vocabulary=0)
    return override_config(config_from_dict({**values, "text": {"encoder": str(t5)}}), overrides)


def test_t5_states_are_those_of_transformers_and_padding_changes_none(library, t5):
    states, mask = T5Encoder(str(t5), 16)(PROMPTS)
    tokenizer = library.AutoTokenizer.from_pretrained(t5)
    network = library.T5EncoderModel.from_pretrained(t5).eval()
    for prompt, ours, some in zip(PROMPTS, states, mask, strict=True):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        assert some.tolist() == [True] * ids.shape[1] + [False] * (16 - ids.shape[1])
        with torch.no_grad():
            torch.testing.assert_close(ours[some], network(ids).last_hidden_state[0], atol=1e-5, rtol=0)
        assert not ours[~some].any()


def test_digest_is_the_one_that_stored_embeddings_hold(t5):
    """Of configuration and weights alone: embeddings that were made before tell by it whose they are."""
    lines = "".join(f"{name} {sha256_file(t5 / name)}\n" for name in ("config.json", "model.safetensors"))
    assert T5Encoder(str(t5), 4).digest() == hashlib.sha256(lines.encode()).hexdigest()


def test_long_texts_are_cut(t5):
    _, mask = T5Encoder(str(t5), 4)([PROMPTS[0]])
    assert mask.shape == (1, 4) and mask.all()


def test_words_are_numbers_behind_padding_and_unknown():
    text, mask = WordEncoder(["red", "disc"], 4)(["Red disc", "a red", "", "red red red red red"])
    assert text.tolist() == [[2, 3, 0, 0], [1, 2, 0, 0], [0, 0, 0, 0], [2, 2, 2, 2]]
    assert torch.equal(mask, text != 0)


def test_stored_embeddings_are_the_encoder_s_and_resuming_encodes_only_what_is_new(t5, tmp_path):
    encoder = T5Encoder(str(t5), 16)
    store_embeddings(tmp_path, PROMPTS[:3], encoder, batch=2, shard=2)
    first = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    assert len(first) == 2
    counts = []
    store_embeddings(tmp_path, PROMPTS, encoder, batch=2, shard=2, done=counts.append)
    assert sum(counts) == 2 and len(list(tmp_path.glob("*.safetensors"))) == 3
    assert {name: (tmp_path / name).stat().st_mtime_ns for name in first} == first
    expected, mask = encoder(PROMPTS)
    found, found_mask = StoredEmbeddings(tmp_path, 16)(PROMPTS)
    assert torch.equal(found_mask, mask)
    torch.testing.assert_close(found, expected.bfloat16().float(), atol=0, rtol=0)
    with pytest.raises(InputError, match="has no embedding of 'another'"):
        StoredEmbeddings(tmp_path, 16)(["another"])
    with pytest.raises(InputError, match="made otherwise"):
        store_embeddings(tmp_path, PROMPTS, T5Encoder(str(t5), 8))


@pytest.mark.parametrize("links", [True, False])
def test_processes_that_encode_at_once_keep_each_other_s_files(t5, tmp_path, monkeypatch, links):
    """The second begins when the first has counted the files, and ends before it."""
    if not links:
        monkeypatch.setattr("hpdm.model.text.os.link", lambda *names: (_ for _ in ()).throw(OSError("no links here")))
    encoder = T5Encoder(str(t5), 16)

    def second(count):
        if len(list(tmp_path.glob("*.safetensors"))) < 2:
            store_embeddings(tmp_path, PROMPTS[3:], encoder, shard=2)

    store_embeddings(tmp_path, PROMPTS[:3], encoder, batch=1, shard=2, done=second)
    assert StoredEmbeddings(tmp_path, 16)(PROMPTS)[1].any(1).all()
    assert len(list(tmp_path.iterdir())) == 1 + 3  # nothing else is left


def test_processes_of_one_command_share_the_captions(t5, tmp_path, monkeypatch):
    rows = write_captioned(tmp_path / "data")
    size = tmp_path / "size.yaml"
    size.write_text(json.dumps({**small_text(text_vocabulary=0), "text": {"encoder": str(t5)}}))
    options = ["encode-text", "--size", size, "--data", tmp_path / "data", "--out", tmp_path / "made", "--quiet"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        result = CliRunner().invoke(train, [str(option) for option in options])
        assert result.exit_code == 0
        assert f"3 captions are encoded in {tmp_path / 'made'} by process {rank}" in result.output
    stored = StoredEmbeddings(tmp_path / "made", 14)
    assert stored([row["caption"] for row in rows])[1].any(1).all()
    assert [len(load_file(path)["keys"]) for path in sorted((tmp_path / "made").glob("*.safetensors"))] == [3, 3]


def test_encode_text_from_the_command_line(t5, tmp_path):
    rows = write_captioned(tmp_path / "data")
    size = tmp_path / "size.json.yaml"
    size.write_text(json.dumps({**small_text(text_vocabulary=0), "text": {"encoder": str(t5)}}))
    options = ["encode-text", "--size", size, "--data", tmp_path / "data", "--out", tmp_path / "made", "--quiet"]
    result = CliRunner().invoke(train, [str(option) for option in options])
    assert result.exit_code == 0, result.output
    assert "6 captions" in result.output
    stored = StoredEmbeddings(tmp_path / "made", 14)
    assert stored([row["caption"] for row in rows])[1].any(1).all()
    content = load_file(tmp_path / "made" / "embeddings-00000.safetensors")
    assert content["embeddings"].dtype == torch.bfloat16 and len(content["keys"]) == 6
    config = with_t5(t5, f"data.embeddings={tmp_path / 'made'}")
    told = {"label": torch.tensor([-1]), "caption": [rows[0]["caption"]], "measures": torch.zeros(1, 3)}
    fresh, kept = make_conditioner(config, stored=False)(told), make_conditioner(config)(told)
    torch.testing.assert_close(kept.text, fresh.text.bfloat16().float())
    for change, said in (("text.encoder=elsewhere", "encoder"), ("network.text_tokens=9", "tokens")):
        with pytest.raises(InputError, match=said):
            make_conditioner(override_config(config, [change]))
    # A caption that came later is what a second call encodes.
    write_rows(tmp_path / "data" / "captions.jsonl", [*rows, {**rows[0], "caption": "a blue disc"}])
    result = CliRunner().invoke(train, [str(option) for option in options])
    assert result.exit_code == 0 and len(list((tmp_path / "made").glob("*.safetensors"))) == 2


def test_encoding_words_or_without_captions_is_refused(tmp_path):
    size = tmp_path / "size.yaml"
    size.write_text(json.dumps(SMALL_TEXT))
    for data in (tmp_path, "procedural"):
        options = ["encode-text", "--size", str(size), "--data", str(data), "--out", str(tmp_path / "x"), "--quiet"]
        result = CliRunner().invoke(train, options)
        assert result.exit_code == 2 and "Traceback" not in result.output


def test_prompts_and_data_become_conditions(t5):
    for config in (config_from_dict(SMALL_TEXT), with_t5(t5)):
        conditioner = make_conditioner(config)
        conditions = conditioner.of_prompts(PROMPTS, fps=24)
        assert len(conditions) == 5 and conditions.mask.any(1).all()
        assert conditions.measures.tolist() == [[24, 8, 8]] * 5
        with pytest.raises(InputError, match="data have none"):
            conditioner(torch.tensor([1]))


def test_what_is_missing_is_said(t5, library, monkeypatch, tmp_path):
    config = with_t5(t5)
    with pytest.raises(InputError, match="16 wide"):
        load_encoder(override_config(config, ["network.text_width=8"]))
    with pytest.raises(InputError, match="neither a folder nor an id"):
        T5Encoder("/no/such/folder", 8)
    with pytest.raises(InputError, match=r"no embeddings.json"):
        StoredEmbeddings(tmp_path, 8)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match="needs a T5"):
        T5Encoder(str(tmp_path), 8)
    (tmp_path / "config.json").write_text((t5 / "config.json").read_text())
    with pytest.raises(InputError, match="no .safetensors"):
        T5Encoder(str(tmp_path), 8)
    monkeypatch.setattr("hpdm.support.pretrained.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'hpdm\[text\]'"):
        T5Encoder(str(t5), 8)


def test_vocabulary_and_network_must_agree():
    config = config_from_dict(SMALL_TEXT)
    assert config.network.text_vocabulary == len(WORDS) + 2
    with pytest.raises(InputError, match="2 more"):
        dataclasses.replace(config, text=dataclasses.replace(config.text, words=("one",)))
    with pytest.raises(InputError, match="for text.encoder=words"):
        override_config(config, ["text.encoder=a/b"])


def write_embeddings(folder, name, texts, width=4):
    """A file of embeddings in which text k is k + 1 tokens of value k."""
    lengths = [k % 5 + 1 for k in range(len(texts))]
    keys = torch.frombuffer(bytearray(b"".join(map(text_key, texts))), dtype=torch.uint8).view(-1, 16)
    states = torch.cat([torch.full((length, width), float(k)) for k, length in enumerate(lengths)]).bfloat16()
    save_file({"embeddings": states, "lengths": torch.tensor(lengths, dtype=torch.int32), "keys": keys}, folder / name)


def test_embeddings_are_found_by_a_table_that_processes_share(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "embeddings.json").write_text(json.dumps({"encoder": "x", "sha256": "", "tokens": 6, "width": 4}))
    first, second = ([f"{name} {k}" for k in range(40)] for name in "ab")
    write_embeddings(folder, "embeddings-00000.safetensors", first)
    stored = StoredEmbeddings(folder, 6)
    assert len(stored) == 40 and "a 7" in stored and "b 7" not in stored
    write_embeddings(folder, "embeddings-00001.safetensors", second)  # the table is of other files now
    (table,) = (tmp_path / "cache" / "hpdm").iterdir()
    before = table.read_bytes()
    for _ in range(2):  # made, then read
        stored = StoredEmbeddings(folder, 6)
        for texts in (first, second):
            text, mask = stored(texts)
            assert mask.sum(1).tolist() == [k % 5 + 1 for k in range(40)]
            assert text[:, 0, 0].tolist() == [float(k) for k in range(40)] and (text[~mask] == 0).all()
    assert table.read_bytes() != before
    table.write_bytes(b"damaged")
    assert "b 7" in StoredEmbeddings(folder, 6)
    with pytest.raises(InputError, match="no embedding of 'c'"):
        stored(["c"])
    lengths = torch.ones(3, dtype=torch.int32)
    save_file(
        {"embeddings": torch.zeros(9, 4).bfloat16(), "lengths": lengths, "keys": torch.zeros(3, 16, dtype=torch.uint8)},
        folder / "embeddings-00002.safetensors",
    )
    with pytest.raises(InputError, match=r"embeddings-00002.*do not fit each other"):
        StoredEmbeddings(folder, 6)
