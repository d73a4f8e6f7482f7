"""Data with captions: lists, images as still videos, mixing, crops, what is left out; captions of procedural scenes."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpdm.data.captions import read_captions
from hpdm.data.loader import DataConfig, TrainingClips, make_loader, open_clips
from hpdm.data.procedural import procedural_clip, sample_scene
from hpdm.data.scene_captions import (
    attributes_of_caption,
    attributes_of_scene,
    caption_words,
    describe_scene,
    sample_prompts,
)
from hpdm.data.videos import fit
from hpdm.support.errors import InputError
from tests.support.small_text import WORDS, write_captioned, write_rows

SIZE = {"frames": 4, "height": 12, "width": 16, "seed": 3}


def open_folder(folder, **changes):
    settings = {"path": str(folder), "captions": "auto", "image_share": 0.5, "num_workers": 0}
    return open_clips(DataConfig(**{**settings, **changes}), **SIZE, quiet=True)


@given(st.integers(0, 10_000), st.booleans())
def test_a_caption_says_what_its_scene_has_and_can_be_read_back(index, still):
    scene, _ = sample_scene(0, index)
    caption = describe_scene(scene, still)
    asked = attributes_of_caption(caption)
    assert set(caption.split()) <= set(caption_words())
    expected = attributes_of_scene(scene)
    if still:
        del expected["motion"]
    assert asked == expected


@pytest.mark.parametrize("text", ["", "a red disc", "a striped red cat rises over a wavy navy background"])
def test_other_texts_are_no_captions_of_scenes(text):
    with pytest.raises(ValueError, match="no caption"):
        attributes_of_caption(text)


def test_prompts_ask_for_every_shape_and_motion_equally_often():
    asked = [attributes_of_caption(prompt) for prompt in sample_prompts(5, 24)]
    assert len({(entry["shape"], entry["motion"]) for entry in asked[:12]}) == 12
    assert sample_prompts(5, 24)[:10] == sample_prompts(5, 10) and sample_prompts(6, 24) != sample_prompts(5, 24)


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_videos_and_images_come_with_their_captions(tmp_path, suffix):
    rows = {row["path"]: row["caption"] for row in write_captioned(tmp_path, suffix=suffix)}
    clips = open_folder(tmp_path)
    assert (clips.videos, clips.images) == (3, 3)
    for number in range(12):
        video, told = clips[number]
        name = clips.source.files[clips.item(number)].file.path
        assert video.shape == (3, 4, 12, 16) and video.dtype == torch.uint8
        assert told["caption"] == rows[name] and told["label"] == -1
        still = name.startswith("images")
        assert (video == video[:, :1]).all().item() == still
        assert told["measures"].tolist() == ([0, 20, 30] if still else [20, 24, 32])


def test_batches_hold_the_stated_share_of_images_and_resume_anywhere(tmp_path):
    write_captioned(tmp_path)
    config = DataConfig(path=str(tmp_path), captions="auto", image_share=0.25, num_workers=0)
    batches = make_loader(config, **SIZE, batch=8, quiet=True)
    taken = [next(batches) for _ in range(3)]
    for _, told in taken:
        assert len(told["caption"]) == 8 and (told["measures"][:, 0] == 0).sum() == 2
    again = next(make_loader(config, **SIZE, batch=8, start_step=2, quiet=True))
    assert torch.equal(again[0], taken[2][0]) and again[1]["caption"] == taken[2][1]["caption"]


@given(st.fractions(0, 1, max_denominator=12), st.integers(1, 5), st.integers(1, 5))
def test_mixing_takes_every_item_once_per_epoch_of_its_kind(share, videos, images):
    source = type("Source", (), {"images": images, "__len__": lambda self: videos + images})()
    clips = TrainingClips(source, seed=1, image_share=float(share))
    period = share.denominator
    items = [clips.item(number) for number in range(period * 60)]
    for first in range(0, len(items), period):
        assert sum(item >= videos for item in items[first : first + period]) == share.numerator
    for of_kind, count in (([i for i in items if i < videos], videos), ([i for i in items if i >= videos], images)):
        whole = of_kind[: len(of_kind) // count * count]
        assert all(len(set(whole[first : first + count])) == count for first in range(0, len(whole), count))


def test_what_cannot_be_used_is_counted_by_reason(tmp_path):
    rows = write_captioned(tmp_path)
    (tmp_path / "clips" / "broken.mp4").write_bytes(b"no video")
    rows += [
        {"path": "clips/gone.mp4", "caption": "x"},
        {"path": "clips/broken.mp4", "caption": "x"},
        {"path": "clips/0.mp4", "caption": "  "},
        {"path": "../other.mp4", "caption": "x"},
        {"path": "notes.txt", "caption": "x"},
    ]
    write_rows(tmp_path / "captions.jsonl", rows)
    about = open_folder(tmp_path).describe()
    assert (about["videos"], about["images"]) == (3, 3)
    assert [entry["path"] for entry in about["broken"]] == ["clips/broken.mp4"]
    assert about["dropped"] == {
        "listed, but not there": 1,
        "empty caption": 1,
        "path leads out of the folder": 1,
        "neither a video nor an image: .txt": 1,
    }
    stills = DataConfig(path=str(tmp_path), captions="auto", image_share=1.0)
    dropped = open_clips(stills, **{**SIZE, "frames": 16}, quiet=True).describe()["dropped"]
    assert dropped["too short for 16 frames"] == 3
    # The videos have the target's shape, of the images a tenth is cut away.
    cropped = open_folder(tmp_path, least_kept=0.95, image_share=0.0).describe()
    assert (cropped["videos"], cropped["images"]) == (3, 0)
    assert cropped["dropped"]["cropping leaves less than 95% of the picture"] == 3


def test_several_captions_of_a_file_are_all_used_and_the_list_may_correct_the_frame_rate(tmp_path):
    rows = write_captioned(tmp_path, videos=1, images=0)
    other = {"path": rows[0]["path"], "caption": "b", "fps": ""}
    write_rows(tmp_path / "captions.csv", [{**rows[0], "fps": "10"}, other])
    (tmp_path / "captions.jsonl").unlink()
    clips = open_folder(tmp_path, image_share=0.0)
    told = [clips[number][1] for number in range(20)]
    assert {entry["caption"] for entry in told} == {rows[0]["caption"], "b"}
    assert {entry["measures"][0].item() for entry in told} == {10.0}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"path": "x.mp4"}', "line 1"),
        ("a.jsonl", '{"path": "x.mp4", "caption": "y"}\n{', "line 2"),
        ("a.csv", "file,text\nx,y", "columns"),
        ("a.csv", "path,caption,fps\nx.mp4,y,fast", "line 2"),
        ("a.jsonl", "", "lists no captions"),
        ("a.jsonl", "[1]", "expected an object"),
    ],
)
def test_lists_that_are_not_as_they_should_be(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said):
        read_captions(tmp_path / name)


def test_missing_lists_and_images_are_said_at_once(tmp_path):
    write_captioned(tmp_path, images=0)
    with pytest.raises(InputError, match="3 videos and 0 images"):
        open_folder(tmp_path)
    (tmp_path / "captions.jsonl").unlink()
    with pytest.raises(InputError, match="no list of captions"):
        open_folder(tmp_path)
    with pytest.raises(InputError, match="image_share needs captions"):
        DataConfig(image_share=0.5)


@pytest.mark.parametrize("shape", [(24, 32), (20, 60), (60, 20)])
def test_random_crops_reach_both_ends_and_keep_the_target_s_shape(shape):
    frames = np.broadcast_to(np.arange(shape[1], dtype=np.uint8)[None, None, :, None], (1, *shape, 3))
    frames = frames + np.arange(shape[0], dtype=np.uint8)[None, :, None, None]
    seen = [fit(frames, 12, 16, np.random.default_rng(seed)) for seed in range(200)]
    assert all(clip.shape == (3, 1, 12, 16) for clip in seen)
    corners = {int(clip[0, 0, 0, 0]) for clip in seen}
    middle = int(fit(frames, 12, 16)[0, 0, 0, 0])
    assert (len(corners) > 1) == (shape[0] / shape[1] != 12 / 16)
    assert min(corners) <= middle <= max(corners)


def test_procedural_stills_are_frames_of_their_scene():
    config = DataConfig(captions="auto", image_share=0.5, procedural_videos=10)
    clips = open_clips(config, frames=4, height=16, width=16, seed=0)
    kinds = []
    for number in range(6):
        video, told = clips[number]
        asked = attributes_of_caption(told["caption"])
        item = clips.item(number)
        assert asked["colour"] == sample_scene(0, item)[0].colour
        kinds.append("motion" in asked)
        if "motion" in asked:
            assert np.array_equal(video.permute(1, 2, 3, 0), procedural_clip(0, item, 4, 16, 16)[0])
        else:
            assert (video == video[:, :1]).all() and told["measures"][0] == 0
    assert sum(kinds) == 3 and caption_words() == WORDS


def test_averaged_clips_are_the_means_of_larger_ones():
    large = open_clips(DataConfig(), frames=8, height=16, width=16, seed=0)[0][0]
    small = open_clips(DataConfig(shrink=(2, 4, 4)), frames=4, height=4, width=4, seed=0)[0][0]
    mean = large.float().reshape(3, 4, 2, 4, 4, 4, 4).mean((2, 4, 6))
    assert small.shape == (3, 4, 4, 4) and (small.float() - mean).abs().max() <= 0.5 + 1e-3
