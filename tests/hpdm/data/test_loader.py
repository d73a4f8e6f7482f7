"""The loader: what a step contains must not depend on processes, workers, or where a run was stopped."""

import logging
import os
import signal
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hpdm.batches import BatchPlan
from hpdm.data.index import INDEX_NAME
from hpdm.data.loader import (
    REPLACEMENTS,
    ClipNumbers,
    DataConfig,
    TrainingClips,
    default_workers,
    make_loader,
    open_clips,
    profile_loader,
)
from hpdm.data.procedural import CLASS_NAMES, procedural_clip
from hpdm.support.errors import InputError
from tests.support.video_files import frame_numbers, grey_clip, write_video

SIZE = {"frames": 4, "height": 16, "width": 16, "seed": 3, "quiet": True}
VIDEOS = 7


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven videos in two classes; video k starts at grey level 4 * 3k, and one more is too short."""
    root = tmp_path_factory.mktemp("videos")
    for k in range(VIDEOS):
        write_video(root / ("even", "odd")[k % 2] / f"{k}.mp4", grey_clip(10, 24, 32, first=3 * k))
    write_video(root / "odd" / "short.mp4", grey_clip(3, 24, 32))
    return root


@pytest.fixture(scope="module", autouse=True)
def opened():
    """Clips by their configuration and seed: processes that decode take seconds to start."""
    OPENED.clear()
    yield OPENED
    for clips in OPENED.values():
        clips.close()


OPENED = {}


def take(config, count, **options):
    options = {**SIZE, "batch": 6, "num_workers": 0, **options}
    if "clips" not in options:
        size = {name: options[name] for name in SIZE}
        key = config, options["seed"]
        options["clips"] = OPENED[key] = OPENED.get(key) or open_clips(config, **size)
    loader = make_loader(config, **options)
    return [next(loader) for _ in range(count)]


def equal(mine, theirs):
    return len(mine) == len(theirs) and all(
        torch.equal(a, b) and torch.equal(c, d) for (a, c), (b, d) in zip(mine, theirs, strict=True)
    )


def joined(batches):
    return torch.cat([video for video, _ in batches]), torch.cat([label for _, label in batches])


def configs(folder):
    return DataConfig(path=str(folder), flip=True), DataConfig(procedural_videos=20, flip=True)


def test_batches_have_the_promised_form(folder):
    for config in configs(folder):
        ((video, label),) = take(config, 1)
        assert video.dtype == torch.uint8 and video.shape == (6, 3, 4, 16, 16) and video.is_contiguous()
        assert label.dtype == torch.int64 and label.shape == (6,)


def test_steps_differ_and_seeds_differ(folder):
    for config in configs(folder):
        first, second = take(config, 2)
        assert not torch.equal(first[0], second[0])
        assert not torch.equal(first[0], take(config, 1, seed=4)[0][0])


def test_workers_do_not_change_batches(folder):
    for config in configs(folder):
        assert equal(take(config, 5), take(config, 5, num_workers=2, steps_ahead=7))


def test_resuming_at_a_step_continues_the_run(folder):
    for config in configs(folder):
        whole = take(config, 8)
        assert equal(whole[5:], take(config, 3, start_step=5))
        assert equal(whole[5:7], take(config, 2, start_step=5, num_workers=2))


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_the_global_batch(folder, world_size):
    for config in configs(folder):
        whole = take(config, 4)
        ranks = [take(config, 4, rank=rank, world_size=world_size) for rank in range(world_size)]
        assert equal(whole, [joined(step) for step in zip(*ranks, strict=True)])


def test_pieces_of_a_step_are_the_step(folder):
    for config in configs(folder):
        pieces = take(config, 6, micro_batch=2)
        assert [len(label) for _, label in pieces] == [2] * 6
        assert equal(take(config, 2), [joined(pieces[:3]), joined(pieces[3:])])


@given(
    batch=st.integers(1, 24), micro_batch=st.integers(1, 9), world_size=st.integers(1, 5), start_step=st.integers(0, 50)
)
def test_every_clip_number_is_delivered_once(batch, micro_batch, world_size, start_step):
    batch = max(batch, world_size)
    plan = BatchPlan(batch=batch, world_size=world_size, micro_batch=micro_batch)
    seen = []
    for rank in range(world_size):
        numbers = ClipNumbers(
            batch=batch, rank=rank, world_size=world_size, start_step=start_step, micro_batch=micro_batch
        )
        pieces = 2 * sum(len(plan.positions(rank, index)) > 0 for index in range(plan.passes))
        seen += [number for _, piece in zip(range(pieces), numbers, strict=False) for number in piece]
    assert sorted(seen) == list(range(start_step * batch, (start_step + 2) * batch))


def test_a_batch_of_another_size_goes_on_with_the_next_clip():
    numbers = iter(ClipNumbers(batch=4, rank=0, world_size=1, start_step=5, first=50, micro_batch=3))
    assert [list(next(numbers)) for _ in range(4)] == [[50, 51], [52, 53], [54, 55], [56, 57]]


@given(length=st.integers(1, 30), seed=st.integers(0, 5), epochs=st.integers(1, 4))
def test_every_epoch_is_a_permutation(length, seed, epochs):
    clips = TrainingClips(range(length), seed=seed)
    order = [clips.item(number) for number in range(epochs * length)]
    for epoch in range(epochs):
        assert sorted(order[epoch * length : (epoch + 1) * length]) == list(range(length))
    jump = TrainingClips(range(length), seed=seed)
    assert [jump.item(number) for number in reversed(range(epochs * length))] == order[::-1]
    assert len(jump._epochs) <= 2


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {
        tuple(TrainingClips(range(20), seed=seed).item(20 * epoch + place) for place in range(20))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


def test_clips_are_the_files_frames_with_their_class(folder):
    config = DataConfig(path=str(folder), stride=2)
    clips = open_clips(config, **SIZE, num_classes=2)
    starts = set()
    for number in range(10 * VIDEOS):
        video, label = clips[number]
        item = clips.item(number)
        k = int(clips.source.videos[item].path[-5])
        levels = frame_numbers(video, first=3 * k)
        assert label == k % 2 and (np.diff(levels[0]) == 2).all()
        assert (levels == levels[0]).all() and levels[0][0] in range(4)
        starts.add(int(levels[0][0]))
    assert starts == {0, 1, 2, 3}


def test_half_of_the_clips_are_mirrored():
    plain = open_clips(DataConfig(), **SIZE)
    flipped = open_clips(DataConfig(flip=True), **SIZE)
    mirrored = 0
    for number in range(60):
        (a, _), (b, _) = plain[number], flipped[number]
        same = torch.equal(a, b)
        assert same or torch.equal(a.flip(-1), b)
        mirrored += not same
    assert 18 <= mirrored <= 42


def test_procedural_clips_are_those_of_the_formulas():
    config = DataConfig(procedural_videos=50, procedural_seed=9)
    clips = open_clips(config, **SIZE, num_classes=12)
    video, label = clips[17]
    expected, expected_label = procedural_clip(9, clips.item(17), 4, 16, 16)
    assert np.array_equal(video.permute(1, 2, 3, 0).numpy(), expected) and label == expected_label


def test_short_videos_are_dropped_or_looped_and_counted(folder):
    dropped = open_clips(DataConfig(path=str(folder)), **SIZE).describe()
    assert dropped["videos"] == VIDEOS and dropped["dropped"] == {"too short for 4 frames": 1}
    assert (dropped["layout"], dropped["classes"], dropped["broken"]) == ("folders", 2, [])
    looped = open_clips(DataConfig(path=str(folder), short="loop"), **SIZE)
    assert looped.describe()["videos"] == VIDEOS + 1 and looped.describe()["dropped"] == {}
    short = [video.path for video in looped.source.videos].index("odd/short.mp4")
    video, label = looped[next(number for number in range(8) if looped.item(number) == short)]
    assert frame_numbers(video)[0].tolist() == [0, 1, 2, 0] and label == 1


def test_a_damaged_video_is_replaced_by_another_and_logged(folder, tmp_path, caplog):
    root = tmp_path / "videos"
    for name in ("a", "b", "c", "d"):
        write_video(root / "only" / f"{name}.mp4", grey_clip(6, 24, 32))
    config = DataConfig(path=str(root))
    clips = open_clips(config, **SIZE)
    (root / "only" / "b.mp4").write_bytes(b"no longer a video")
    with caplog.at_level(logging.WARNING):
        for number in range(4):
            assert clips[number][0].shape == (3, 4, 16, 16)
    assert "b.mp4" in caplog.text and "a.mp4" not in caplog.text
    assert equal(take(config, 2, clips=clips), take(config, 2, clips=clips, num_workers=2))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_folder_that_vanishes_ends_the_run_with_one_sentence(tmp_path, num_workers):
    path = write_video(tmp_path / "videos" / "only" / "a.mp4", grey_clip(6, 24, 32))
    clips = open_clips(DataConfig(path=str(tmp_path / "videos")), **SIZE)
    path.unlink()
    with pytest.raises(InputError) as caught:
        take(DataConfig(), 1, clips=clips, num_workers=num_workers)
    assert str(caught.value).startswith(f"{REPLACEMENTS} videos in a row") and "\n" not in str(caught.value)


def test_signals_to_the_group_leave_workers_alive():
    loader = make_loader(DataConfig(), **SIZE, batch=2, num_workers=2)
    next(loader), next(loader)  # one from each worker: both have started
    workers = [process.pid for process in loader.clips._pool._processes]
    assert len(workers) == 2
    for pid in workers:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    for _ in range(8):
        next(loader)
    assert [process.pid for process in loader.clips._pool._processes] == workers
    loader.close()
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_loading_leaves_the_callers_random_state_alone():
    before = torch.get_rng_state()
    take(DataConfig(), 1, num_workers=1)
    assert torch.equal(before, torch.get_rng_state())


def test_wrong_input_is_refused_before_anything_is_written(tmp_path, folder):
    root = tmp_path / "videos"
    write_video(root / "loose.mp4", grey_clip(6))
    with pytest.raises(InputError, match="lie in no class subfolder"):
        open_clips(DataConfig(path=str(root)), **SIZE, num_classes=5)
    assert [path.name for path in root.iterdir()] == ["loose.mp4"]
    assert open_clips(DataConfig(path=str(root)), **SIZE)[0][1] == -1

    (folder / INDEX_NAME).unlink(missing_ok=True)
    with pytest.raises(InputError, match="has 2 classes, but the model only 1"):
        open_clips(DataConfig(path=str(folder)), **SIZE, num_classes=1)
    with pytest.raises(InputError, match="has 12 classes"):
        open_clips(DataConfig(), **SIZE, num_classes=len(CLASS_NAMES) - 1)
    assert not (folder / INDEX_NAME).exists()
    with pytest.raises(InputError, match="8 too short for 50 frames"):
        open_clips(DataConfig(path=str(folder)), **{**SIZE, "frames": 50})


@pytest.mark.parametrize(
    "options",
    [
        {"layout": "flat"},
        {"split": 4},
        {"part": "val"},
        {"start": "last"},
        {"short": "pad"},
        {"stride": 0},
        {"fps": 0.0},
        {"fps": float("nan")},
        {"num_workers": -1},
        {"procedural_videos": 0},
    ],
)
def test_configuration_is_checked(options):
    with pytest.raises(InputError, match=f"data.{next(iter(options))}"):
        DataConfig(**options)


def test_every_process_needs_a_clip():
    with pytest.raises(InputError, match="batch of 3 leaves some of 4 processes without a clip"):
        make_loader(DataConfig(), **SIZE, batch=3, world_size=4)


def test_default_workers_leave_a_core_to_each_process(monkeypatch):
    for cores, local, expected in ((2, 1, 0), (4, 1, 3), (4, 2, 0), (64, 8, 7), (64, 1, 8)):
        monkeypatch.setattr("hpdm.data.loader.available_cores", lambda cores=cores: cores)
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
        assert default_workers() == expected


def test_profile_counts_clips_and_takes_the_stream_further():
    delivered = Counter()

    class Slow(TrainingClips):
        def request(self, number):
            delivered["clips"] += 1
            return super().request(number)

    clips = Slow(open_clips(DataConfig(), **SIZE).source, seed=3)
    loader = make_loader(DataConfig(), **SIZE, batch=2, num_workers=0, clips=clips)
    assert profile_loader(loader, 3) > 0 and delivered["clips"] == 8
