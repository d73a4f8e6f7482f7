"""Contact sheets as other code saves them: clips are found by what the pixels show, wrong grids are named."""

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hpdm_eval.clips.frames import Rejected, parse_grid
from hpdm_eval.clips.sheets import layouts
from hpdm_eval.commands.entry import main
from tests.support.reading import CODECS, read, reasons
from tests.support.video_files import write_video


def clips_of(count, size, frames=2, seed=0):
    """uint8 [N,T,H,W,3]: smooth colours, each clip with a tint of its own."""
    rng = np.random.default_rng(seed)
    clips = np.empty((count, frames, size, size, 3), np.uint8)
    for clip in clips:
        coarse = rng.normal(rng.uniform(80, 180, 3), 35, (frames, max(size // 8, 2), max(size // 8, 2), 3))
        for t, frame in enumerate(coarse.clip(1, 255).astype(np.uint8)):
            clip[t] = np.asarray(Image.fromarray(frame).resize((size, size), Image.BICUBIC))
    return clips


def sheet_of(clips, rows, columns, padding, lead, colour=0):
    """As `make_grid` (lead = padding) and as `save_video_grid` of VideoGPT and TATS (lead = 0) lay clips out."""
    _, frames, size, _, _ = clips.shape
    sheet = np.full(
        (frames, rows * size + (rows + 1) * padding, columns * size + (columns + 1) * padding, 3), colour, np.uint8
    )
    for k, clip in enumerate(clips):
        top, left = lead + k // columns * (size + padding), lead + k % columns * (size + padding)
        sheet[:, top : top + size, left : left + size] = clip
    return sheet


def scaled(sheet, block=16):
    """As imageio writes it: every side scaled up to a multiple of 16."""
    height, width = (-(-side // block) * block for side in sheet.shape[1:3])
    return np.stack([np.asarray(Image.fromarray(frame).resize((width, height), Image.BICUBIC)) for frame in sheet])


@settings(max_examples=20)
@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    padding=st.integers(1, 3),
    leads=st.booleans(),
    size=st.integers(8, 20),
    colour=st.sampled_from([0, 255, 128]),
    seed=st.integers(0, 3),
)
def test_clips_are_found_with_a_border_before_the_first_and_without(rows, columns, padding, leads, size, colour, seed):
    clips = clips_of(rows * columns, size, frames=2, seed=seed)
    sheet = sheet_of(clips, rows, columns, padding, padding * leads, colour)
    grid = parse_grid(f"{rows}x{columns}+{padding}")
    assert all(np.array_equal(grid.cut(sheet, k), clip) for k, clip in enumerate(clips))


def test_tats_s_sheet_of_517_pixels():
    clips = clips_of(16, 128)
    sheet = sheet_of(clips, 4, 4, 1, 0)
    assert sheet.shape[1:3] == (517, 517)
    grid = parse_grid("4x4+1")
    assert all(np.array_equal(grid.cut(sheet, k), clip) for k, clip in enumerate(clips))


@pytest.mark.parametrize("lead", [0, 1])
@pytest.mark.parametrize("rows, columns, size", [(4, 4, 128), (3, 3, 65), (2, 5, 100)])
def test_sheets_that_imageio_scaled(rows, columns, size, lead):
    clips = clips_of(rows * columns, size)
    sheet = scaled(sheet_of(clips, rows, columns, 1, lead))
    grid = parse_grid(f"{rows}x{columns}+1")
    for k, clip in enumerate(clips):
        cell = grid.cut(sheet, k)
        # the same picture: against the clip at the cell's size, and nothing of the border in it
        size = cell.shape[2:0:-1]
        like = np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.BICUBIC)) for frame in clip])
        assert np.abs(cell.astype(float) - like).mean() < 12
        assert cell[:, [0, -1]].mean() > 40 and cell[:, :, [0, -1]].mean() > 40


def test_517_becomes_528_and_128_stays_128():
    assert scaled(np.zeros((1, 517, 517, 3), np.uint8)).shape[1:3] == (528, 528)
    assert parse_grid("4x4+1").cell_size(528, 528) == (128, 128)
    assert {layout.clip for layout in layouts(528, 4, 1)} == {128}


@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".gif"])
def test_through_a_codec(tmp_path, suffix):
    """TATS writes avi: mpeg4, with single dark lines that it blurs."""
    clips = clips_of(9, 90, frames=5)
    sheet = scaled(sheet_of(clips, 3, 3, 1, 0))
    write_video(tmp_path / f"s{suffix}", sheet, **CODECS[suffix])
    source, found = read(tmp_path, grid="3x3+1")
    assert len(found) == 9, reasons(source)
    for k, clip in enumerate(found.values()):
        assert clip.video.shape[1:3] == (92, 92)
        assert np.abs(clip.video.mean((0, 1, 2)) - clips[k].mean((0, 1, 2))).max() < 12


@pytest.mark.parametrize(
    "padding, lead, given, right",
    [(2, 0, "2x2", "2x2+2"), (2, 2, "2x2", "2x2+2"), (1, 1, "2x2+3", "2x2+1"), (4, 4, "2x2+2", "2x2+4")],
)
def test_a_border_left_in_the_clips_is_an_error_that_names_the_grid(padding, lead, given, right):
    sheet = sheet_of(clips_of(4, 60), 2, 2, padding, lead)
    with pytest.raises(Rejected, match=f"--grid {right.replace('+', '[+]')} fits"):
        parse_grid(given).cut(sheet, 0)


@pytest.mark.parametrize(
    "true, given",
    [
        ("1x8+2", "2x4+2"),
        ("1x8+2", "1x4+2"),
        ("1x8+2", "1x2+2"),
        ("4x4+1", "2x2+1"),
        ("4x4+1", "4x2+1"),
        ("2x4+3", "4x2+3"),
        ("2x6+2", "3x4+2"),
        ("2x4+2", "8x1"),
    ],
)
@pytest.mark.parametrize("leads", [True, False])
def test_a_grid_of_other_counts_is_an_error_that_names_the_right_one(true, given, leads):
    right, wrong = parse_grid(true), parse_grid(given)
    for size in range(24, 56):  # one that the wrong grid divides
        sides = [count * (size + right.padding) + right.padding for count in (right.rows, right.columns)]
        if all(layouts(side, count, wrong.padding) for side, count in zip(sides, (wrong.rows, wrong.columns))):
            sheet = sheet_of(
                clips_of(len(right), size), right.rows, right.columns, right.padding, right.padding * leads
            )
            break
    else:
        pytest.skip("no size at which both divide")
    right.locate(sheet)
    with pytest.raises(Rejected, match=f"--grid {true[:-2]}.{true[-1]} fits"):
        wrong.locate(sheet)


def test_the_error_reaches_the_user(tmp_path):
    np.save(tmp_path / "s.npy", scaled(sheet_of(clips_of(16, 128), 4, 4, 1, 0))[None])
    result = CliRunner().invoke(
        main,
        [
            "features",
            "--samples",
            str(tmp_path),
            "--grid",
            "4x4",
            "--backbone",
            "shapes3d",
            "--out",
            str(tmp_path / "f.npz"),
            "--workers",
            "0",
            "--quiet",
        ],
    )
    assert result.exit_code == 2 and "--grid 4x4+1 fits" in result.stderr and "Traceback" not in result.output


@pytest.mark.parametrize("bars", [0, 2, 4])
def test_letterboxes_are_no_borders(bars):
    """Clips with black bars, edge to edge: nothing is said, nothing is cut off."""
    clips = clips_of(8, 64)
    clips[:, :, :bars] = clips[:, :, 64 - bars :] = 0
    sheet = sheet_of(clips, 1, 8, 0, 0)
    assert all(np.array_equal(parse_grid("1x8").cut(sheet, k), clip) for k, clip in enumerate(clips))
    padded = sheet_of(clips, 2, 4, 2, 2)
    assert all(np.array_equal(parse_grid("2x4+2").cut(padded, k), clip) for k, clip in enumerate(clips))


def test_a_scaled_sheet_without_visible_padding_is_not_guessed_at():
    sheet = clips_of(1, 528)[0]
    with pytest.raises(Rejected, match="no padding is seen"):
        parse_grid("4x4+1").cut(sheet, 0)
