"""Samples as the published code of other methods leaves them, in small: each is read whole, once, and as it is."""

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from hpdm.data.procedural import procedural_clip
from hpdm.support.errors import InputError
from hpdm_eval.commands.entry import main
from hpdm_eval.protocols import load_protocol
from tests.support.reading import CODECS, random_clips, read, reasons, save_frames
from tests.support.small_network import random_shapes3d
from tests.support.video_files import LEVELS, grey_clip, write_video


def numbers(video, first=0):
    """Numbers of the frames of a clip [T, H, W, 3] of `grey_clip`."""
    return (np.rint(video.mean((1, 2, 3)) / LEVELS).astype(int) - first).tolist()


def sheet_of(clips, rows, columns, padding=0):
    """A contact sheet [T, height, width, 3] of clips [N, T, H, W, 3], row by row; cells without a clip stay black."""
    _, frames, height, width, _ = clips.shape
    sheet = np.zeros((frames, rows * (height + padding) + padding, columns * (width + padding) + padding, 3), np.uint8)
    for k, clip in enumerate(clips):
        top, left = padding + k // columns * (height + padding), padding + k % columns * (width + padding)
        sheet[:, top : top + height, left : left + width] = clip
    return sheet


def test_stylegan_v_folders_of_jpeg_frames(tmp_path):
    """generate.py: OUT/000000/000000.jpg and so on, counted from --time_offset."""
    clips = np.stack([grey_clip(12, 32, 32, first=10 * k) for k in range(3)])
    for k, clip in enumerate(clips):
        folder = tmp_path / f"{k:06d}"
        save_frames(folder, clip, "jpg", "frame{}")
        for t in range(12, 0, -1):
            (folder / f"frame{t}.jpg").rename(folder / f"{t + 7:06d}.jpg")
    _, found = read(tmp_path)
    assert list(found) == ["000000", "000001", "000002"]
    for k, clip in enumerate(found.values()):
        assert numbers(clip.video, 10 * k) == list(range(12))


def test_stylegan_v_videos(tmp_path):
    """generate.py --save_as_mp4: OUT/000000.mp4."""
    for k in range(3):
        write_video(tmp_path / f"{k:06d}.mp4", grey_clip(5, first=k))
    _, found = read(tmp_path)
    assert [numbers(clip.video, k) for k, clip in enumerate(found.values())] == [list(range(5))] * 3


def test_digan_a_gif_without_padding(tmp_path):
    """generate_videos.py: one gif, a square of clips edge to edge."""
    clips = np.stack([grey_clip(6, 16, 16, first=5 * k) for k in range(9)])
    write_video(tmp_path / "generate_videos.gif", sheet_of(clips, 3, 3), codec="gif", pixel_format="gray")
    _, found = read(tmp_path, grid="3x3")
    assert list(found) == [f"generate_videos.gif#{k}" for k in range(9)]
    for k, clip in enumerate(found.values()):
        assert clip.video.shape == (6, 16, 16, 3)
        assert numbers(clip.video, 5 * k) == list(range(6))


def test_pvdm_a_gif_beside_the_same_as_mp4_and_the_real_ones(tmp_path):
    """eval.py: real_N.gif, generated_N.gif, and each once more as mp4; only the generated count, and once."""
    sheets = {
        name: sheet_of(np.stack([grey_clip(4, 16, 16, first=first + k) for k in range(16)]), 4, 4)
        for name, first in (("generated_2000", 0), ("real_2000", 30))
    }
    for name, sheet in sheets.items():
        write_video(tmp_path / f"{name}.mp4", sheet)
        write_video(tmp_path / f"{name}.gif", sheet, codec="gif", pixel_format="gray")
    _, found = read(tmp_path, grid="4x4", match="generated_*")
    assert list(found) == [f"generated_2000.mp4#{k}" for k in range(16)]
    assert [numbers(clip.video)[0] for clip in found.values()] == list(range(16))
    assert len(read(tmp_path, grid="4x4")[1]) == 32
    (tmp_path / "generated_2000.mp4").unlink()
    assert list(read(tmp_path, grid="4x4", match="generated_*")[1])[0] == "generated_2000.gif#0"


def test_tats_an_array_and_sheets_with_a_line_and_empty_cells(tmp_path):
    """sample_vqgan_transformer_short_videos.py: [N, T, H, W, 3] in numpy_files/, sheets of a batch as avi."""
    clips = random_clips(5, 16, 8, 8, 3)
    (tmp_path / "numpy_files" / "ucf101").mkdir(parents=True)
    np.save(tmp_path / "numpy_files" / "ucf101" / "topp0.80_topk2048_run0_eval.npy", clips)
    _, found = read(tmp_path / "numpy_files")
    assert [np.array_equal(clip.video, clips[k]) for k, clip in enumerate(found.values())] == [True] * 5

    sheet = sheet_of(np.stack([grey_clip(16, 65, 65, first=10 + k) for k in range(7)]), 3, 3, padding=1)
    write_video(tmp_path / "videos" / "generation_3_0.avi", sheet[:, :-1, :-1], **CODECS[".avi"])
    write_video(tmp_path / "videos" / "generation_3_1.avi", sheet, **CODECS[".avi"])
    source, found = read(tmp_path / "videos", grid="3x3+1")
    assert list(found) == [f"generation_3_1.avi#{k}" for k in range(7)]
    assert "do not divide" in reasons(source)["generation_3_0.avi#0"]
    assert reasons(source)["generation_3_1.avi#8"] == "an empty cell of the contact sheet"


def test_an_empty_clip_of_its_own_is_a_sample(tmp_path):
    """Black videos are what a model made of them; only cells that nothing was put into are left out."""
    np.save(tmp_path / "a.npy", np.zeros((2, 4, 8, 8, 3), np.uint8))
    assert len(read(tmp_path)[1]) == 2


def test_mocogan_hd_two_videos_of_each_sample(tmp_path):
    """evaluate.py: NAME_EPOCH_0.mp4 and NAME_EPOCH_0_noise.mp4; one kind is to be judged, not both."""
    for k in range(3):
        for suffix, first in (("", 0), ("_noise", 20)):
            write_video(tmp_path / f"ucf_best_{k}{suffix}.mp4", grey_clip(4, first=first + k))
    assert len(read(tmp_path)[1]) == 6
    _, found = read(tmp_path, match="*_noise.mp4")
    assert list(found) == [f"ucf_best_{k}_noise.mp4" for k in range(3)]
    assert list(read(tmp_path, match="*_[0-9].mp4")[1]) == [f"ucf_best_{k}.mp4" for k in range(3)]
    with pytest.raises(InputError, match="none of the 6 clips .* fits, the first is ucf_best_0.mp4"):
        read(tmp_path, match="*.avi")


def test_vidm_a_gif_for_each_video(tmp_path):
    """video_generation_CLEVRER.py: Pillow's gif of a single video."""
    for k in range(2):
        frames = [Image.fromarray(frame) for frame in grey_clip(6, 32, 32, first=3 * k)]
        path = tmp_path / f"clevrer_result{k}.gif"
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, loop=1)
    _, found = read(tmp_path)
    assert [numbers(clip.video, 3 * k) for k, clip in enumerate(found.values())] == [list(range(6))] * 2


def test_folders_of_png_frames_by_class(tmp_path):
    """Frames without leading zeros, class folders above them."""
    for label in ("Archery", "Punch"):
        save_frames(tmp_path / label / "sample_1", grey_clip(11, 16, 16), name="{}")
    _, found = read(tmp_path)
    assert [(clip.name, clip.label) for clip in found.values()] == [
        ("Archery/sample_1", "Archery"),
        ("Punch/sample_1", "Punch"),
    ]
    assert all(numbers(clip.video) == list(range(11)) for clip in found.values())
    assert list(read(tmp_path, match="Punch/*")[1]) == ["Punch/sample_1"]


def test_npz_with_labels_beside_the_videos(tmp_path):
    """As guided-diffusion and its descendants save samples: arr_0 and arr_1."""
    clips = random_clips(4, 3, 8, 8, 3)
    np.savez(tmp_path / "samples_4x3x8x8x3.npz", clips, np.arange(4))
    _, found = read(tmp_path)
    assert [np.array_equal(clip.video, clips[k]) for k, clip in enumerate(found.values())] == [True] * 4


@pytest.mark.parametrize(
    ("file", "grid", "size", "protocol"),
    [
        ("provided-pvdm-16.mp4", "1x8", (16, 256, 256, 3), "pvdm-16f"),
        ("provided-digan-128.mp4", "1x8+2", (16, 128, 128, 3), "digan-16f"),
    ],
)
def test_sheets_that_were_published(shared, file, grid, size, protocol):
    """The protocol that the paper used, on what its authors show."""
    path = shared / "data" / "published-samples" / file
    _, found = read(path, load_protocol(protocol, resolution=None), grid=grid)
    shapes = {clip.video.shape for clip in found.values()}
    assert len(found) == 8 and len(shapes) == 1
    frames, height, width, channels = shapes.pop()
    assert frames == size[0] and height == width and channels == 3
    assert len({clip.digest for clip in found.values()}) == 8


def test_methods_with_their_own_grids_are_compared(tmp_path):
    clips = {
        name: np.stack([procedural_clip(seed, k, 8, 32, 32)[0] for k in range(48)])
        for seed, name in enumerate(("sheet", "loose", "real"))
    }
    (tmp_path / "sheet").mkdir()
    np.save(tmp_path / "sheet" / "a.npy", np.stack([sheet_of(part, 2, 4, 3) for part in np.split(clips["sheet"], 6)]))
    for name in ("loose", "real"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "a.npy", clips[name])
    words = [
        "--samples",
        f"a={tmp_path / 'sheet'}",
        "--samples",
        f"b={tmp_path / 'loose'}",
        "--reference",
        str(tmp_path / "real"),
        "--protocol",
        "native",
        "--workers",
        "0",
        "--device",
        "cpu",
        "--metrics",
        "fvd",
        *random_shapes3d(tmp_path / "weights.safetensors"),
    ]
    result = CliRunner().invoke(main, ["compare", *words, "--grid-of", "a=2x4+3"])
    assert result.exit_code == 0, result.output
    assert "48 samples of each set" in result.stdout
    result = CliRunner().invoke(main, ["compare", *words, "--grid-of", "c=2x4"])
    assert result.exit_code == 2 and "one of the names a, b" in result.stderr
