import gc
import hashlib
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from hpdm.support.errors import InputError
from hpdm_eval.clips.source import open_clips
from hpdm_eval.protocols import load_protocol
from tests.support.reading import CODECS, NATIVE, random_clips, read, reasons, save_frames
from tests.support.video_files import frame_numbers, grey_clip, write_video


@pytest.mark.parametrize("suffix", CODECS)
def test_every_video_format(tmp_path, suffix):
    path = write_video(tmp_path / f"a{suffix}", 3 * grey_clip(20), **CODECS[suffix])
    _, found = read(path)
    video = found[f"a{suffix}"].video
    assert video.shape == (20, 48, 64, 3) and video.dtype == np.uint8
    if suffix != ".gif":  # eight-bit palettes do not keep grey levels apart
        assert frame_numbers(video.astype(float) / 3)[:, 0].tolist() == list(range(20))


def test_frame_folders_in_natural_order(tmp_path):
    video = random_clips(12, 8, 10, 3)
    save_frames(tmp_path / "set" / "jump" / "clip2", video)
    save_frames(tmp_path / "set" / "jump" / "clip10", video[::-1], "jpg")
    _, found = read(tmp_path / "set")
    assert list(found) == ["jump/clip2", "jump/clip10"]
    assert np.array_equal(found["jump/clip2"].video, video) and found["jump/clip2"].label == "jump"
    assert found["jump/clip10"].video.shape == video.shape
    assert np.array_equal(read(tmp_path / "set" / "jump" / "clip2")[1]["clip2"].video, video)


def test_frame_folders_that_are_broken(tmp_path):
    save_frames(tmp_path / "sizes", random_clips(2, 8, 8, 3))
    Image.fromarray(random_clips(8, 10, 3)).save(tmp_path / "sizes" / "frame3.png")
    save_frames(tmp_path / "mislabelled", random_clips(2, 8, 8, 3))
    Image.fromarray(random_clips(8, 8, 3)).save(tmp_path / "mislabelled" / "frame2.png", format="jpeg")
    save_frames(tmp_path / "deep", random_clips(1, 8, 8, 3))
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "deep" / "frame2.tiff")
    save_frames(tmp_path / "fine", random_clips(2, 8, 8, 3))
    source, found = read(tmp_path)
    assert list(found) == ["fine"]
    found = reasons(source)
    assert found["sizes"] == "frame3.png is 8x10 px, earlier frames are 8x8 px"
    assert "frame2.png is not a readable PNG" in found["mislabelled"] and "neither 8 nor 16 bits" in found["deep"]


@pytest.mark.parametrize("kind", ["npy", "npy-channels-first", "npz", "npz-compressed", "pt", "pt-old", "float", "zip"])
def test_arrays(tmp_path, kind):
    clips = random_clips(3, 5, 8, 6, 3)
    if kind == "npy":
        np.save(path := tmp_path / "a.npy", clips)
    elif kind == "npy-channels-first":
        np.save(path := tmp_path / "a.npy", clips.transpose(0, 4, 1, 2, 3))
    elif kind.startswith("npz"):
        save = np.savez_compressed if kind.endswith("compressed") else np.savez
        save(path := tmp_path / "a.npz", videos=clips, labels=np.arange(3))
    elif kind.startswith("pt"):
        torch.save(torch.from_numpy(clips), path := tmp_path / "a.pt", _use_new_zipfile_serialization=kind == "pt")
    elif kind == "float":
        clips[0] = 140  # one clip without dark pixels must not be told apart by itself
        torch.save({"videos": torch.from_numpy(clips).float() / 127.5 - 1}, path := tmp_path / "a.pt")
    else:
        np.save(tmp_path / "a.npy", clips)
        with zipfile.ZipFile(path := tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(tmp_path / "a.npy", "set/a.npy")
    _, found = read(path)
    name = "a.npy" if kind == "zip" else path.name
    assert list(found) == [f"{name}#{k}" for k in range(3)]
    for k, clip in enumerate(found.values()):
        assert np.array_equal(clip.video, clips[k])


@pytest.mark.parametrize("kind", ["float8", "sparse", "meta"])
def test_tensors_that_are_no_arrays_are_rejected_alone(tmp_path, kind):
    tensor = torch.zeros(2, 5, 8, 6, 3)
    torch.save(
        {
            "float8": lambda: tensor.to(torch.float8_e4m3fn),
            "sparse": tensor.to_sparse,
            "meta": lambda: tensor.to("meta"),
        }[kind](),
        tmp_path / "a.pt",
    )
    np.save(tmp_path / "b.npy", random_clips(2, 5, 8, 6, 3))
    source, found = read(tmp_path)
    assert list(found) == ["b.npy#0", "b.npy#1"]
    assert [entry["path"] for entry in source.summary()["rejected"]] == ["a.pt"]


def test_an_array_of_one_clip_and_several_in_one_file(tmp_path):
    one, two = random_clips(5, 8, 6, 3), random_clips(4, 8, 6, 3, seed=1)
    np.savez(tmp_path / "a.npz", one=one, two=two[None])
    np.save(tmp_path / "b.npy", one)
    _, found = read(tmp_path)
    assert list(found) == ["a.npz/one", "a.npz/two#0", "b.npy"]
    assert np.array_equal(found["a.npz/two#0"].video, two) and np.array_equal(found["b.npy"].video, one)


def test_arrays_that_disagree_about_their_range(tmp_path):
    np.save(tmp_path / "a.npy", np.linspace(-1, 1, 5 * 4 * 4 * 3, dtype=np.float32).reshape(5, 4, 4, 3))
    np.save(tmp_path / "b.npy", np.linspace(0.2, 1, 5 * 4 * 4 * 3, dtype=np.float32).reshape(5, 4, 4, 3))
    with pytest.raises(InputError, match="a.npy holds values in -1..1, b.npy in 0..1.*--range"):
        read(tmp_path)
    _, found = read(tmp_path, load_protocol("native", value_range="-1..1"))
    assert found["b.npy"].video.min() == round(1.2 * 127.5)


def test_zip_is_read_like_the_folder_it_was_made_of(tmp_path):
    for k in range(3):
        write_video(tmp_path / "set" / f"class{k % 2}" / f"{k}.mp4", random_clips(4, 16, 16, 3, seed=k))
    save_frames(tmp_path / "set" / "class1" / "frames", random_clips(4, 16, 16, 3))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in (tmp_path / "set").rglob("*.*"):
            archive.write(file, file.relative_to(tmp_path).as_posix())
    folder, from_folder = read(tmp_path / "set")
    archive, from_zip = read(tmp_path / "set.zip")
    assert [(clip.name, clip.label) for clip in from_zip.values()] == [(c.name, c.label) for c in from_folder.values()]
    assert archive.summary()["sha256"] == folder.summary()["sha256"]
    folders = list(archive._scratch.folders)
    assert folders and all(folder.is_dir() for folder in folders)
    del archive
    gc.collect()
    assert not any(folder.exists() for folder in folders)


def test_grid(tmp_path):
    cells = random_clips(6, 4, 10, 12, 3)
    sheet = np.zeros((4, 2 * 10 + 3 * 2, 3 * 12 + 4 * 2, 3), np.uint8)
    for k, cell in enumerate(cells):
        top, left = 2 + k // 3 * 12, 2 + k % 3 * 14
        sheet[:, top : top + 10, left : left + 12] = cell
    save_frames(tmp_path / "sheet", sheet)
    np.save(tmp_path / "odd.npy", random_clips(4, 25, 44, 3))
    source, found = read(tmp_path, grid="2x3+2")
    assert list(found) == [f"sheet#{k}" for k in range(6)]
    assert all(np.array_equal(clip.video, cell) for clip, cell in zip(found.values(), cells))
    assert len(source.rejected) == 6 and "25x44 px do not divide into a grid of 2x3+2" in reasons(source)["odd.npy#0"]


def test_order_pixels_and_rejections_do_not_depend_on_workers(tmp_path):
    for k in range(12):
        write_video(tmp_path / f"{k}.mp4", random_clips(5 + 3 * (k % 4), 16, 16, 3, seed=k))
    protocol = load_protocol(
        "native", frames=8, samples_frames="random", resolution=[12, 12], samples_selection="shuffled"
    )
    answers = []
    for workers in (0, 1, 3):
        source = open_clips(tmp_path, protocol, workers=workers, num=6, quiet=True)
        for _ in range(2):
            clips = [(clip.name, clip.digest) for clip in source]
            answers.append((clips, source.rejected, source.summary()))
    assert all(answer == answers[0] for answer in answers)
    assert len(answers[0][0]) == 6 == len(source)


def test_random_starts_do_not_depend_on_other_files(tmp_path):
    protocol = load_protocol("native", frames=3, samples_frames="random")
    for k in range(4):
        write_video(tmp_path / f"{k}.mp4", grey_clip(20))
    before = {name: clip.digest for name, clip in read(tmp_path, protocol)[1].items()}
    (tmp_path / "1.mp4").unlink()
    after = {name: clip.digest for name, clip in read(tmp_path, protocol)[1].items()}
    assert after == {name: digest for name, digest in before.items() if name != "1.mp4"}
    assert len(set(before.values())) > 1
    assert after != {name: clip.digest for name, clip in read(tmp_path, protocol, seed=1)[1].items()}


def test_fps_stride_and_roles(tmp_path):
    write_video(tmp_path / "a.mp4", grey_clip(40), fps=50)
    protocol = load_protocol("native", frames=5, fps=25, stride=2)

    def numbers(role):
        return frame_numbers(read(tmp_path, protocol, role=role)[1]["a.mp4"].video)[:, 0].tolist()

    assert numbers("reference") == [0, 4, 8, 12, 16] and numbers("samples") == [0, 1, 2, 3, 4]


def test_digests(tmp_path):
    clips = random_clips(3, 5, 8, 6, 3)
    np.save(tmp_path / "a.npy", clips)
    source, found = read(tmp_path)
    digests = [hashlib.sha256(np.array([5, 8, 6, 3], "<i8").tobytes() + clip.tobytes()).hexdigest() for clip in clips]
    assert [clip.digest for clip in found.values()] == digests
    lines = "".join(f"{digest}\n" for digest in sorted(digests))
    assert source.summary() == {
        "path": str(tmp_path),
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
        "clips": 3,
        "rejected": [],
        "split": None,
    }
    source = open_clips(tmp_path, NATIVE, workers=0)
    next(iter(source))
    with pytest.raises(RuntimeError, match="whole iteration"):
        source.summary()


def test_selection_is_balanced_and_unusable_clips_are_replaced(tmp_path):
    for label, count in (("a", 9), ("b", 3), ("c", 5)):
        (tmp_path / label).mkdir()
        for k in range(count):
            np.save(tmp_path / label / f"{k}.npy", random_clips(4, 4, 4, 3))
    (tmp_path / "a" / "0.npy").write_bytes(b"broken")

    def labels(**options):
        protocol = replace(NATIVE, frames=4, samples_selection="class-balanced")
        return "".join(clip.label for clip in read(tmp_path, protocol, **options)[1].values())

    assert sorted(labels(num=9)) == sorted("aaabbbccc")
    assert sorted(labels()) == sorted("a" * 8 + "bbb" + "c" * 5)
    everything = read(tmp_path, replace(NATIVE, samples_selection="shuffled"))[1]
    assert list(everything) != sorted(everything)
    assert len(read(tmp_path, NATIVE, num=16)[1]) == 16


def test_split_lists_with_windows_line_ends(tmp_path):
    for name in ("Punch/v_Punch_g01_c01.avi", "Punch/v_Punch_g08_c01.avi", "Diving/v_Diving_g09_c02.avi"):
        write_video(tmp_path / "videos" / name, grey_clip(4), codec="mpeg4")
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "trainlist01.txt").write_bytes(
        b"Diving/v_Diving_g09_c02.avi 26\r\nPunch/v_Punch_g08_c01.avi 71\r\nPunch/v_Punch_g08_c02.avi 71\r\n\r\n"
    )
    (lists / "testlist01.txt").write_bytes(b"Punch/v_Punch_g01_c01.avi\r\n")
    train, test = (load_protocol("native", split=f"ucf101-{part}-01") for part in ("train", "test"))
    source, found = read(tmp_path / "videos", train, role="reference", split_lists=lists)
    assert list(found) == ["Diving/v_Diving_g09_c02.avi", "Punch/v_Punch_g08_c01.avi"]
    split = source.summary()["split"]
    assert (split["name"], split["listed"], split["present"]) == ("ucf101-train-01", 3, 2)
    _, found = read(tmp_path / "videos/Punch", test, role="reference", split_lists=lists)
    assert list(found) == ["v_Punch_g01_c01.avi"]
    assert len(read(tmp_path / "videos", train, role="samples", split_lists=lists)[1]) == 3
    assert read(tmp_path / "videos", train, role="reference")[0].summary()["split"] is None
    lists.rename(tmp_path / "ucfTrainTestlist")
    assert len(read(tmp_path / "videos", train, role="reference")[1]) == 2
    with pytest.raises(InputError, match="none of 1 videos"):
        read(tmp_path / "videos/Diving", test, role="reference", split_lists=tmp_path / "ucfTrainTestlist")


def test_a_video_beside_its_array_counts_once(tmp_path):
    np.save(tmp_path / "0_c1.npy", random_clips(4, 16, 16, 3))
    write_video(tmp_path / "0_c1.mp4", random_clips(4, 16, 16, 3))
    assert list(read(tmp_path)[1]) == ["0_c1.npy"]


@pytest.mark.parametrize(
    "name, grid, shape",
    [("provided-pvdm-16.mp4", "1x8", (16, 256, 256, 3)), ("provided-digan-128.mp4", "1x8+2", (128, 256, 256, 3))],
)
def test_published_contact_sheets(shared, name, grid, shape):
    source, found = read(shared / "data" / "published-samples" / name, grid=grid, workers=1)
    assert [clip.video.shape for clip in found.values()] == [shape] * 8
    # A cell that is cut a few pixels off shows its neighbour's edge, or the padding, along its own.
    for clip in found.values():
        middle = clip.video[:, 1:-1, 1:-1].astype(float).mean((0, 1, 3))
        assert abs(middle[0] - middle[1]) < 30 and abs(middle[-1] - middle[-2]) < 30
    assert source.accepted == 8


def test_real_clips_and_metadata_that_is_not_text(shared):
    punch = shared / "data" / "ucf101-mini" / "videos" / "Punch"
    _, found = read(punch, load_protocol("hpdm-16f"), role="reference", num=3)
    assert all(clip.video.shape == (16, 256, 256, 3) for clip in found.values()) and len(found) == 3
    assert len(read(shared / "data" / "odd-files")[1]) == 1
