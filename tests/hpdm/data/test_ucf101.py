"""UCF-101's split lists, as files with the archive's format and as the real ones."""

import pytest

from hpdm.data.loader import DataConfig, open_clips
from hpdm.support.errors import InputError
from hpdm.video.ucf101 import LISTS_FOLDER, find_lists, read_split, video_key
from tests.support.video_files import grey_clip, write_video

SIZE = {"frames": 8, "height": 32, "width": 32, "seed": 0, "quiet": True}


def write_lists(folder):
    folder.mkdir(parents=True)
    classes = ("Archery", "BabyCrawling", "HandstandPushups", "Punch")
    (folder / "classInd.txt").write_bytes("".join(f"{i} {name}\r\n" for i, name in enumerate(classes, 1)).encode())
    for split in (1, 2, 3):
        train = [f"Punch/v_Punch_g0{split + 3}_c01.avi 4", "HandstandPushups/v_HandStandPushups_g08_c01.avi 3"]
        (folder / f"trainlist0{split}.txt").write_bytes("".join(f"{line}\r\n" for line in train).encode())
        (folder / f"testlist0{split}.txt").write_bytes(f"Punch/v_Punch_g0{split}_c01.avi\r\n\r\n".encode())
    return folder


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_lists(tmp_path / LISTS_FOLDER)
    root = tmp_path / "UCF-101"
    for group in (1, 4, 5):
        write_video(root / "Punch" / f"v_Punch_g0{group}_c01.avi", grey_clip(8 + group), codec="mpeg4")
    # A copy that was re-encoded, in the upper case of the archive's own file names.
    write_video(root / "HandstandPushups" / "v_HandstandPushups_g08_c01.mp4", grey_clip(9))
    return root


def test_split_decides_which_videos_and_class_file_decides_their_ids(folder):
    def chosen(**options):
        source = open_clips(DataConfig(path=str(folder), **options), **SIZE, num_classes=4).source
        return {video_key(video.path): label for video, label in zip(source.videos, source.labels, strict=True)}

    assert chosen() == {"v_punch_g04_c01": 3, "v_handstandpushups_g08_c01": 2}
    assert chosen(split=2) == {"v_punch_g05_c01": 3, "v_handstandpushups_g08_c01": 2}
    assert chosen(part="test") == {"v_punch_g01_c01": 3}
    assert chosen(part="all") == chosen() | chosen(part="test")
    with_names = open_clips(DataConfig(path=str(folder), layout="folders"), **SIZE).source
    assert with_names.class_names == ("HandstandPushups", "Punch") and len(with_names) == 4


def test_names_match_whatever_their_case(folder, tmp_path):
    """In lists, folders and files, each in a case of its own."""
    lists = tmp_path / LISTS_FOLDER
    (lists / "trainlist01.txt").write_text(
        "punch/v_PUNCH_g04_C01.AVI 4\nHANDSTANDPUSHUPS/v_HandStandPushups_g08_c01.avi 3\n"
    )
    (folder / "Punch").rename(folder / "PUNCH")
    source = open_clips(DataConfig(path=str(folder)), **SIZE, num_classes=4).source
    assert {video.path: label for video, label in zip(source.videos, source.labels, strict=True)} == {
        "PUNCH/v_Punch_g04_c01.avi": 3,
        "HandstandPushups/v_HandstandPushups_g08_c01.mp4": 2,
    }
    assert source.describe()["not_listed"] == 2


def test_description_counts_what_is_listed_and_missing(folder):
    about = open_clips(DataConfig(path=str(folder), split=2, start="first"), **SIZE).describe()
    assert about["layout"] == "ucf101" and about["split"] == "train, split 02"
    assert (about["listed"], about["listed_present"], about["videos"]) == (2, 2, 2)
    assert (about["classes"], about["classes_present"]) == (4, 2)


def test_lists_are_found_in_or_beside_the_videos(folder, tmp_path):
    assert find_lists(folder) == find_lists(tmp_path) == tmp_path / LISTS_FOLDER
    assert find_lists(folder / "Punch") is None
    named = DataConfig(path=str(folder / "Punch"), split_lists=str(tmp_path / LISTS_FOLDER))
    assert len(open_clips(named, **SIZE).source) == 1


def test_missing_or_malformed_lists_are_named(folder, tmp_path):
    with pytest.raises(InputError, match="needs the folder ucfTrainTestlist"):
        open_clips(DataConfig(path=str(folder / "Punch"), layout="ucf101"), **SIZE)
    lists = tmp_path / LISTS_FOLDER
    (lists / "trainlist03.txt").unlink()
    with pytest.raises(InputError, match=r"trainlist03\.txt is missing"):
        open_clips(DataConfig(path=str(folder), split=3), **SIZE)
    (lists / "trainlist01.txt").write_text("Punch/v_Punch_g04_c01.avi 4\nPunch/v_Punch_g05_c01.avi 3\n")
    with pytest.raises(InputError, match="line 2"):
        read_split(lists)
    (lists / "classInd.txt").write_text("1 Archery\n3 Punch\n")
    with pytest.raises(InputError, match="expected '2 ClassName'"):
        read_split(lists)
    assert not (folder / ".hpdm-index.json").exists()


def test_class_count_is_that_of_the_class_file(folder):
    with pytest.raises(InputError, match="has 4 classes, but the model only 3"):
        open_clips(DataConfig(path=str(folder)), **SIZE, num_classes=3)
    assert not (folder / ".hpdm-index.json").exists()


def test_a_folder_without_listed_videos_is_refused(folder, tmp_path):
    write_video(tmp_path / "other" / "A" / "x.mp4", grey_clip(9))
    with pytest.raises(InputError, match="none of the videos listed"):
        open_clips(DataConfig(path=str(tmp_path / "other")), **SIZE)


def test_official_lists(shared):
    lists = shared / "data" / "ucf101-mini" / LISTS_FOLDER
    train, test = read_split(lists), read_split(lists, part="test")
    assert (len(train.labels), len(test.labels), len(train.class_names)) == (9537, 3783, 101)
    assert not train.labels.keys() & test.labels.keys()
    assert len(read_split(lists, split=2, part="all").labels) == 13320
    assert train.class_names[0] == "ApplyEyeMakeup" and train.labels["v_punch_g08_c01"] == 70


def test_real_clips_by_official_split(shared, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    mini = shared / "data" / "ucf101-mini"
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "Punch").symlink_to(mini / "videos" / "Punch")
    (tmp_path / LISTS_FOLDER).symlink_to(mini / LISTS_FOLDER)
    about = {}
    for part in ("train", "test"):
        clips = open_clips(DataConfig(path=str(tmp_path / "videos"), part=part), **SIZE, num_classes=101)
        about[part] = clips.describe()
        groups = {int(video.path.split("_g")[1][:2]) for video in clips.source.videos}
        assert groups <= (set(range(8, 26)) if part == "train" else set(range(1, 8)))
        assert set(clips.source.labels) == {70}
    assert about["train"]["listed_present"] + about["test"]["listed_present"] == 32
    video, label = open_clips(DataConfig(path=str(tmp_path / "videos")), **SIZE)[0]
    assert video.shape == (3, 8, 32, 32) and label == 70
