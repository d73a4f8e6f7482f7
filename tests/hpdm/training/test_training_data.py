"""What a run says of its data and keeps of it: what is used, classes and their names, layouts, resuming."""

import csv
import json
import shutil

import av
import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from hpdm.checkpoint.folder import CONFIG_FILE, MANIFEST_FILE, read_config, read_weights
from hpdm.commands.entry import sample, train
from hpdm.config import config_from_dict, config_to_dict
from hpdm.config.data import DataConfig
from hpdm.data.accounts import summary
from hpdm.data.captions import read_captions
from hpdm.data.folders import choose_videos
from hpdm.data.loader import open_clips
from hpdm.sampling.prompts import read_prompts
from hpdm.support.errors import InputError
from hpdm.training.data import DATA_FILE, FILES_FILE, class_names_of, with_classes_of_data
from tests.support.small_text import write_captioned, write_rows
from tests.support.small_training import SMALL, write_small
from tests.support.video_files import grey_clip, write_video

SIXTEEN = ("--set", "pyramid.patch=[8,4,4]", "--set", "data.num_workers=1")  # clips of 16 frames, 8x8 pixels


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def case(shared, tmp_path):
    """A case's folder, copied to where an index can be written."""

    def copied(name):
        if not (shared / "cases" / name).exists():
            pytest.skip(f"needs the case {name}")
        shutil.copytree(shared / "cases" / name, tmp_path / name, copy_function=shutil.copyfile)
        return tmp_path / name

    return copied


def learn(tmp_path, data, *options, steps=1, run="run", command=SIXTEEN):
    size = write_small(tmp_path / "small.yaml")
    return CliRunner().invoke(
        train,
        [
            "--size",
            str(size),
            "--data",
            str(data),
            "--out",
            str(tmp_path / run),
            "--steps",
            str(steps),
            "--batch",
            "2",
            "--device",
            "cpu",
            *command,
            *map(str, options),
        ],
    )


def generated(root):
    """The case dropped-videos once more, with other names and numbers: 3 too short, 1 empty, 2 good."""
    for k in range(3):
        write_video(root / "no longer" / f"{k}.mkv", grey_clip(7 + k, 16, 16))
    for k in range(2):
        write_video(root / "é sports" / f"{k}.mp4", grey_clip(20 + k, 16, 16))
    (root / "é sports" / "nothing.mp4").touch()
    for name in ("notes.txt", "more.txt", "sums.md5"):
        (root / name).touch()
    return root


@pytest.mark.parametrize("real", [True, False])
def test_what_is_used_and_left_out_is_said_and_kept_and_names_the_samples(tmp_path, real, request):
    if real:
        data, lost, name, short, used = request.getfixturevalue("case")("dropped-videos") / "drop", "c1", "c2", 4, 2
    else:
        data, lost, name, short, used = generated(tmp_path / "data"), "no longer", "é sports", 3, 2
    result = learn(tmp_path, data)
    assert result.exit_code == 0, result.output
    total = short + used + 1
    assert (
        f"data: {used} of {total} used, {short} too short for 16 frames (data.short=loop repeats them), 1 broken, "
        f"class {lost} has no video left"
    ) in result.stderr
    if not real:
        assert "passed over: 2 .txt, 1 .md5" in result.stderr
    about = json.loads((tmp_path / "run" / DATA_FILE).read_text())
    assert (about["videos_found"], about["videos"]) == (total, used)
    assert about["dropped"] == {"too short for 16 frames": short}
    assert about["per_class"][lost] == {"found": short, "used": 0, "left_out": {"too short for 16 frames": short}}
    assert about["per_class"][name] == {"found": used + 1, "used": used, "left_out": {"broken": 1}}
    assert sorted(about["left_out"].values()) == ["broken", *["too short for 16 frames"] * short]
    assert len(about["broken"]) == 1 and about["class_names"] == [lost, name]
    with open(tmp_path / "run" / FILES_FILE, newline="") as file:
        assert [row["class"] for row in csv.DictReader(file)] == [f"1 {name}"] * used
    _, config, _ = read_weights(tmp_path / "run" / "latest" / "ema.safetensors")
    assert config.trained_on.class_names == (lost, name) and config.trained_on.classes == (1,)
    assert config.network.num_classes == 2

    words = ["--checkpoint", str(tmp_path / "run"), "--steps", "1,1", "--overlap", "none", "--device", "cpu"]
    made = CliRunner().invoke(sample, [*words, "--num", "2", "--out", str(tmp_path / "out"), "--sheet"])
    assert made.exit_code == 0 and f"classes: 1 {name}, of 2" in made.stderr
    manifest = json.loads((tmp_path / "out" / "samples.json").read_text())
    assert [(entry["file"], entry["class"]) for entry in manifest["samples"]] == [
        ("00000_c001.mp4", name),
        ("00001_c001.mp4", name),
    ]
    for number, classes in enumerate(("all", f"{lost},1")):
        out = tmp_path / f"out{number}"
        made = CliRunner().invoke(sample, [*words, "--num=2", "--out", str(out), "--format=npy", "--classes", classes])
        assert made.exit_code == 0
        assert {path.name for path in out.glob("*.npy")} == {"00000_c000.npy", "00001_c001.npy"}
    # What is repeated is not dropped.
    looped = open_clips(DataConfig(path=str(data), short="loop"), frames=16, height=8, width=8, seed=0, quiet=True)
    assert looped.describe()["videos"] == short + used


def test_names_are_written_below_the_samples_of_a_sheet():
    from hpdm.sampling.sheet import _named

    clip = np.full((3, 32, 32, 3), 90, np.uint8)
    plain, named, long = (_named(clip, name) for name in ("", "Archery", "a name " * 20))
    assert plain.shape == named.shape == long.shape == (3, *plain.shape[1:]) and plain.shape[2] == 96
    assert (plain[:, :96] == 90).all() and (plain[:, 96:] == 255).all()
    assert (named[:, 96:] < 128).any() and (named[:, :96] == plain[:, :96]).all()
    assert not np.array_equal(named, long) and (long[:, :, -2:] == plain[:, :, -2:]).all()


def test_old_configurations_load_and_start_methods_are_forgotten():
    old = config_to_dict(config_from_dict(SMALL))
    assert "trained_on" not in old
    old["data"]["start_method"] = "spawn"
    assert config_from_dict(old) == config_from_dict(SMALL)
    with pytest.raises(InputError, match="unknown key"):
        config_from_dict({**SMALL, "data": {"start_mehtod": "spawn"}})


def test_classes_are_as_many_as_the_data_have(tmp_path):
    """Without any video being opened: 3, 0, the number that is asked for, and that of a run that is continued."""
    config = config_from_dict(SMALL)
    for name in ("a/1.mp4", "b/1.mp4", "c/x/1.mp4"):
        (tmp_path / "three" / name).parent.mkdir(parents=True)
        (tmp_path / "three" / name).touch()
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "1.mp4").touch()
    with_data = {
        name: config_from_dict({**SMALL, "data": {"path": str(tmp_path / name)}}) for name in ("three", "flat")
    }
    assert with_classes_of_data(with_data["three"]).network.num_classes == 3
    assert with_classes_of_data(with_data["flat"]).network.num_classes == 0
    assert with_classes_of_data(config).network.num_classes == 12
    (tmp_path / "three" / "loose.mp4").touch()
    with pytest.raises(InputError, match=r"1 videos lie in no class subfolder.*--set network.num_classes=0"):
        class_names_of(with_data["three"].data)
    # A dry run needs no data.
    gone = config_from_dict({**SMALL, "data": {"path": str(tmp_path / "gone")}})
    assert with_classes_of_data(gone, must_exist=False) == gone
    with pytest.raises(InputError, match="not a folder"):
        with_classes_of_data(gone)


def test_a_folder_without_classes_trains_without_and_a_number_that_is_set_stays(tmp_path):
    for k in range(2):
        write_video(tmp_path / "flat" / f"{k}.mp4", grey_clip(16, 16, 16))
    assert learn(tmp_path, tmp_path / "flat").exit_code == 0
    config = read_config(tmp_path / "run" / CONFIG_FILE)
    assert (config.network.num_classes, config.trained_on.class_names) == (0, ())
    words = ["--checkpoint", str(tmp_path / "run"), "--steps", "1,1", "--overlap", "none", "--device", "cpu"]
    made = CliRunner().invoke(sample, [*words, "--num", "1", "--out", str(tmp_path / "out"), "--format", "npy"])
    assert made.exit_code == 0 and (tmp_path / "out" / "00000_c000.npy").exists()
    refused = learn(tmp_path, tmp_path / "flat", "--set", "num_classes=4", run="other")
    assert refused.exit_code == 2 and "lie in no class subfolder" in refused.stderr
    assert learn(tmp_path, "procedural", "--set", "network.num_classes=20", run="more").exit_code == 0
    config = read_config(tmp_path / "more" / CONFIG_FILE)
    assert config.network.num_classes == 20 and len(config.trained_on.class_names) == 12
    assert config.trained_on.classes == tuple(range(12))


def test_files_that_used_to_hang_or_crash_train(case, tmp_path):
    folder = case("stream-copy-hang")
    result = learn(tmp_path, folder, "--set", "data.fps=12.5")
    assert result.exit_code == 0 and "data: 4 of 4 used" in result.stderr, result.output
    assert "quarantine" not in result.output and not (tmp_path / "run" / "quarantine.jsonl").exists()
    clips = open_clips(DataConfig(path=str(folder), start="first"), frames=100, height=72, width=96, seed=0, quiet=True)
    video, _ = clips[0]
    assert (np.abs(np.diff(video.numpy().astype(int), axis=1)).mean((0, 2, 3)) > 0).all()  # none repeated
    clips.close()


def test_streams_cut_between_key_frames_train_with_what_is_shown(tmp_path):
    """The kind of stream-copy-hang, made here: an edit list hides the packets before the cut."""
    whole = write_video(tmp_path / "whole.mp4", grey_clip(50, 16, 16))
    (tmp_path / "cut").mkdir()
    with av.open(str(whole)) as source, av.open(str(tmp_path / "cut" / "a.mp4"), "w") as cut:
        stream = source.streams.video[0]
        copy, shift = cut.add_stream_from_template(stream), int(20 / stream.average_rate / stream.time_base)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                cut.mux(packet)
    clips = open_clips(
        DataConfig(path=str(tmp_path / "cut"), start="first"), frames=30, height=16, width=16, seed=0, quiet=True
    )
    levels = np.rint(clips[0][0].numpy().mean((0, 2, 3)) / 4).astype(int)
    assert levels.tolist() == list(range(20, 50))
    clips.close()


def test_a_stream_without_codec_is_named_as_broken(case, tmp_path):
    result = learn(tmp_path, case("unknown-codec") / "data")
    assert result.exit_code == 0, result.output
    assert "1 of 2 used, 1 broken" in result.stderr and "c/bad.mp4" in result.stderr


def test_all_suffixes_train(case, tmp_path):
    result = learn(tmp_path, case("suffixes") / "sfx", "--set", "data.start=first")
    assert result.exit_code == 0 and "data: 12 of 12 used" in result.stderr, result.output
    passed = learn(tmp_path, case("sidecar-arrays"), "--set", "data.short=loop", run="arrays")
    assert passed.exit_code == 0 and "passed over: 6 .npy, 6 .pt" in passed.stderr, passed.output


# ------------------------------------------------------------------------------------ resuming


def test_the_same_data_elsewhere_continues_and_other_data_are_named(tmp_path, monkeypatch):
    root = tmp_path / "data"
    for k in range(3):
        write_video(root / "ab"[k % 2] / f"{k}.mp4", grey_clip(16 + k, 16, 16, first=k))
    monkeypatch.chdir(tmp_path)
    assert learn(tmp_path, root, steps=5, command=(*SIXTEEN, "--stop-after", "1")).exit_code == 0

    def goes_on(data, stop):
        result = learn(tmp_path, data, steps=5, command=(*SIXTEEN, "--stop-after", str(stop)))
        return result.exit_code == 0 and "continuing from" in result.stderr, result.output

    assert goes_on("data", 2)[0]  # relative
    shutil.move(root, tmp_path / "moved")
    assert goes_on(tmp_path / "moved", 3)[0]
    shutil.copytree(tmp_path / "moved", tmp_path / "scratch" / "job", copy_function=shutil.copyfile)  # times of now
    (tmp_path / "scratch" / "job" / "a" / "empty.mp4").touch()  # what is not used makes no difference
    assert goes_on(tmp_path / "scratch" / "job", 4)[0]

    before = sorted(path.name for path in (tmp_path / "run").rglob("*"))
    job = tmp_path / "scratch" / "job"
    (job / "a" / "2.mp4").unlink()
    write_video(job / "a" / "0.mp4", grey_clip(19, 16, 16))
    for k in range(2):
        write_video(job / "b" / f"new{k}.mp4", grey_clip(16, 16, 16))
    went_on, output = goes_on(job, 5)
    assert not went_on and "Traceback" not in output
    assert "2 added (such as b/new0.mp4), 1 removed (such as a/2.mp4), 1 changed (such as a/0.mp4)" in output
    write_video(job / "new class" / "0.mp4", grey_clip(16, 16, 16))
    went_on, output = goes_on(job, 5)
    assert not went_on and "was trained on other data" in output and "3 added (such as b/new0.mp4)" in output
    went_on, output = goes_on("procedural", 5)
    assert not went_on and "data.path was" in output
    assert sorted(path.name for path in (tmp_path / "run").rglob("*")) == before


def test_runs_of_versions_without_fingerprint_continue_at_the_same_place_alone(tmp_path, monkeypatch):
    write_video(tmp_path / "data" / "a" / "0.mp4", grey_clip(16, 16, 16))
    monkeypatch.chdir(tmp_path)
    command = (*SIXTEEN, "--stop-after", "1", "--set", "num_classes=12")
    assert learn(tmp_path, "data", steps=3, command=command).exit_code == 0
    for file in (tmp_path / "run" / CONFIG_FILE, tmp_path / "run" / "latest" / CONFIG_FILE):
        old = yaml.safe_load(file.read_text())
        del old["trained_on"]
        file.write_text(yaml.safe_dump(old | {"data": old["data"] | {"start_method": None}}))
        (file.parent / MANIFEST_FILE).unlink(missing_ok=True)  # nor did they write checksums
    # The number of classes is the run's, not that of the data.
    assert learn(tmp_path, tmp_path / "data", steps=3, command=(*SIXTEEN, "--stop-after", "2")).exit_code == 0
    for file in (tmp_path / "run" / CONFIG_FILE, tmp_path / "run" / "latest" / CONFIG_FILE):
        old = yaml.safe_load(file.read_text())
        file.write_text(yaml.safe_dump(old | {"trained_on": {}}))
        (file.parent / MANIFEST_FILE).unlink(missing_ok=True)
    shutil.copytree(tmp_path / "data", tmp_path / "elsewhere")
    refused = learn(tmp_path, tmp_path / "elsewhere", steps=3)
    assert refused.exit_code == 2 and "data.path was" in refused.stderr


# ------------------------------------------------------------------------------------ layouts


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return DataConfig(path=str(root))


@pytest.mark.parametrize("names", [("train", "test", "val"), ("Train", "TEST"), ("training", "validation"), ("train",)])
def test_parts_above_the_classes_are_recognised(tmp_path, names):
    files = (f"{part}/{name}/{k}.mp4" for part in names for name in ("Dive", "Archery") for k in range(2))
    config = touch(tmp_path, *files)
    chosen = choose_videos(config)
    assert chosen.class_names == ("Archery", "Dive") and class_names_of(config) == ("Archery", "Dive")
    assert {path.split("/")[0] for path in chosen.labels} == {names[0]} and len(chosen.files) == 4
    assert chosen.labels[f"{names[0]}/Dive/0.mp4"] == 1
    assert chosen.about["part"] == "train" and chosen.about["parts"]["train"] == 4
    everything = choose_videos(DataConfig(path=str(tmp_path), part="all"))
    assert len(everything.files) == 4 * len(names) and everything.class_names == ("Archery", "Dive")
    as_classes = choose_videos(DataConfig(path=str(tmp_path), layout="folders"))
    assert as_classes.class_names == tuple(sorted(names))


def test_parts_that_are_not_there_are_named_and_similar_names_are_classes(tmp_path):
    config = touch(tmp_path / "held-out", "test/a/1.mp4", "val/a/1.mp4")
    with pytest.raises(InputError, match=r"the parts test, val, but none is data.part=train.*data.layout=folders"):
        choose_videos(config)
    # A train is also a vehicle.
    assert choose_videos(touch(tmp_path / "things", "train/1.mp4", "boat/1.mp4")).class_names == ("boat", "train")
    assert choose_videos(touch(tmp_path / "flat", "train/1.mp4", "val/2.mp4")).class_names == ()


def test_parts_are_said_at_the_start(tmp_path):
    for part in ("train", "val"):
        write_video(tmp_path / "data" / part / "Dive" / "0.mp4", grey_clip(16, 16, 16))
    result = learn(tmp_path, tmp_path / "data")
    assert result.exit_code == 0 and "data: 1 of 1 used" in result.stderr, result.output
    assert "data: part train of the folders that hold 1 train, 1 val videos" in result.stderr
    assert read_config(tmp_path / "run" / CONFIG_FILE).trained_on.class_names == ("Dive",)


# ------------------------------------------------------------------------------------ captions and prompts


def test_captions_of_the_cases(case):
    folder = case("captions")
    assert [row.caption for row in read_captions(folder / "multiline.csv")] == ["A dog runs. Then it sleeps."]
    assert [row.path for row in read_captions(folder / "u2028.jsonl")] == ["0000.mp4", "0001.mp4"]
    with pytest.raises(InputError, match=r"comma\.csv, line 2: 3 fields where the header has 2"):
        read_captions(folder / "comma.csv")


@pytest.mark.parametrize(
    ("name", "text", "rows"),
    [
        (
            "a.csv",
            'path,caption\r\nx.mp4,"one, \r\n ""two"""\r\n\r\ny.mp4,z\r\n',
            [("x.mp4", 'one, "two"'), ("y.mp4", "z")],
        ),
        ("a.CSV", "caption,path\na\x0bb,x.mp4", [("x.mp4", "a b")]),
        ("a.csv", "\ufeffpath,caption,fps\nx.mp4,a\u2028b\x85c,\n", [("x.mp4", "a b c")]),
        (
            "a.jsonl",
            '{"path": "x.mp4", "caption": "a\u2029b\x85c d"}\r\n\n{"path": "y.mp4", "caption": "e"}',
            [("x.mp4", "a b c d"), ("y.mp4", "e")],
        ),
    ],
)
def test_lines_end_where_the_formats_say(tmp_path, name, text, rows):
    (tmp_path / name).write_bytes(text.encode())
    assert [(row.path, row.caption) for row in read_captions(tmp_path / name)] == rows


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", 'path,caption\nx.mp4,"two\nlines"\ny.mp4,a,b\n', "line 4: 3 fields where the header has 2"),
        ("a.csv", "path,caption,fps\nx.mp4,a\n", "line 2: 2 fields where the header has 3"),
        ("a.csv", 'path,caption\nx.mp4,a\ny.mp4,"never closed\nz.mp4,b\n', "line 3: a quote is never closed"),
        ("a.csv", f'path,caption\nx.mp4,"{"long " * 300_000}', "line 2: a field of more than 1,048,576 characters"),
        ("a.csv", 'path,caption\nx.mp4,"a"b\n', "line 2"),
        ("a.csv", "", "is empty"),
        ("a.csv", "path,caption,caption\nx,y,z\n", "each once"),
        ("a.jsonl", '{"path": "x.mp4", "caption": "\\ud800"}', "line 1: the caption is not valid Unicode"),
        ("a.jsonl", "[" * 100_000, "line 1"),
    ],
)
def test_rows_that_are_not_as_they_should_be_are_named(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        read_captions(tmp_path / name)
    assert said in str(caught.value) and name in str(caught.value) and len(str(caught.value)) < 400


def test_long_captions_are_read_whole(tmp_path):
    text = "word " * 40_000
    write_rows(tmp_path / "a.csv", [{"path": "x.mp4", "caption": text}])
    assert read_captions(tmp_path / "a.csv")[0].caption == text.strip()


def test_prompts_end_at_line_feeds_alone(tmp_path):
    (tmp_path / "prompts.txt").write_bytes("a\u2028b\r\n\nc\x0bd\x85e\n".encode())
    assert read_prompts(tmp_path / "prompts.txt").texts == ("a b", "c d e")


def test_missing_files_and_empty_captions_are_counted_and_said(tmp_path):
    rows = write_captioned(tmp_path, videos=2, images=1)
    rows += [{"path": "gone.mp4", "caption": "a"}, {"path": rows[0]["path"], "caption": " \u2028 "}]
    rows += [{"path": rows[1]["path"], "caption": ""}]
    write_rows(tmp_path / "captions.jsonl", rows)
    config = DataConfig(path=str(tmp_path), captions="auto", image_share=0.5)
    about = open_clips(config, frames=4, height=8, width=8, seed=0, quiet=True).describe()
    assert summary(about)[0] == "data: 3 of 4 used, 2 empty caption, 1 listed, but not there"
