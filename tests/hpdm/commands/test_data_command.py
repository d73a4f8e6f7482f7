"""`hpdm-data index`: what it keeps, what it opens again, kills, limits; tables in files."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import hpdm.data.index as index
from hpdm.data.folders import choose_videos
from hpdm.data.index import INDEX_NAME, IndexedVideo, build_index, list_videos
from hpdm.data.loader import DataConfig, open_clips
from hpdm.data.table import BrokenFile, VideoTable
from hpdm.data.videos import ClipSampling
from hpdm.support.columns import DamagedTable, Texts, read_columns, write_columns
from hpdm.support.errors import InputError
from hpdm.training.data import fingerprint, fingerprint_of
from tests.support.paths import ROOT
from tests.support.small_data import clips_of, in_process, learn, run_data, write_classes
from tests.support.small_text import write_captioned, write_rows
from tests.support.video_files import grey_clip, write_video

SIZE = {"frames": 4, "height": 16, "width": 16, "seed": 3, "quiet": True}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


NAMES = st.text(st.characters(exclude_characters="\0"), max_size=12)


@given(st.lists(NAMES, max_size=40), st.data())
def test_texts_are_a_sequence_of_strings(tmp_path_factory, strings, drawn):
    file = tmp_path_factory.mktemp("texts") / "a.safetensors"
    strings = [text.encode("utf-8", "replace").decode() for text in strings] + ["odd \udcff name"]
    numbers = np.arange(len(strings), dtype=np.int32)
    write_columns(file, {"name": Texts.of(strings), "number": numbers}, {"what": ["ü"]})
    columns, about = read_columns(file)
    assert list(columns["name"]) == strings and about == {"what": ["ü"]}
    assert [columns["name"][row] for row in range(-1, len(strings))] == [strings[-1], *strings]
    assert columns["number"].tolist() == numbers.tolist() and columns["number"].flags.aligned
    rows = np.array(sorted(drawn.draw(st.sets(st.sampled_from(numbers.tolist())))), np.int64)
    assert list(columns["name"].chosen(rows)) == [strings[row] for row in rows]


@given(st.integers(0, 400), st.integers(0, 255))
def test_damaged_tables_are_known_for_what_they_are(tmp_path_factory, place, byte):
    file = tmp_path_factory.mktemp("texts") / "a.safetensors"
    write_columns(file, {"name": Texts.of(["a", "bc"]), "number": np.arange(2)}, {})
    content = file.read_bytes()
    for damaged in (content[: place % len(content)], content[:-1]):
        file.write_bytes(damaged)
        with pytest.raises(DamagedTable):
            read_columns(file)
    changed = bytearray(content)
    changed[place % len(content)] = byte
    file.write_bytes(changed)
    try:  # what is said of the whole may change; nothing but DamagedTable is raised
        read_columns(file)
    except DamagedTable:
        pass


def entries_for(paths, frames=9):
    return [
        IndexedVideo(path=path, size=1, mtime=2, frames=frames, fps=25.0, seconds=0.3, even=True, height=8, width=8)
        for path in sorted(paths)
    ]


def test_a_table_returns_its_entries(tmp_path):
    broken = BrokenFile(path="c.avi", size=0, mtime=3, reason="empty", fatal=True)
    entries = [*entries_for(["b.mp4", "a/ü.mp4"]), broken]
    VideoTable.of(entries, {"made": "now"}).write(tmp_path / "t")
    table = VideoTable.read(tmp_path / "t")
    assert list(table.entries()) == entries == [table.entry(row) for row in range(3)]
    assert table.broken.tolist() == [False, False, True] and table.about["made"] == "now"


@given(
    st.lists(
        st.lists(NAMES.map(lambda text: text.encode("utf-8", "replace").decode()), max_size=3), min_size=1, max_size=20
    ),
    st.data(),
)
def test_captions_are_read_by_row_and_in_blocks_alike(captions, drawn):
    table = VideoTable.of(entries_for([f"{number:03d}.mp4" for number in range(len(captions))]))
    table.columns["caption"] = Texts.of(text for several in captions for text in several)
    table.columns["caption_ends"] = np.cumsum([len(several) for several in captions])
    rows = np.array(sorted(drawn.draw(st.sets(st.sampled_from(range(len(captions)))))), np.int64)
    expected = [captions[row] for row in rows]
    assert [table.captions_of(row) for row in rows.tolist()] == list(table.captions_chosen(rows)) == expected


PATHS = st.lists(st.sampled_from(["train", "test", "a", "b/c", "a0", "a-", "é"]), max_size=2).map("/".join)


@given(
    st.lists(st.tuples(PATHS, st.integers(0, 3), st.sampled_from([".mp4", ".png"])), min_size=1, max_size=30),
    st.sampled_from(["auto", "folders"]),
    st.sampled_from(["train", "all"]),
    st.booleans(),
)
def test_classes_by_runs_are_those_of_every_path_by_itself(names, layout, part, in_file):
    """Against the rule applied to each path."""
    paths = sorted({f"{folder}/{number}{suffix}".lstrip("/") for folder, number, suffix in names})
    table = VideoTable.of(entries_for(paths))
    if not in_file:
        table.columns["path"] = paths
    videos = [path for path in paths if path.endswith(".mp4")]
    config = DataConfig(path="x", layout=layout, part=part)
    tops = [path.split("/")[0] if "/" in path else None for path in videos]
    place, chosen = 0, videos
    if videos and layout == "auto" and all(top in ("train", "test") for top in tops):
        place, chosen = 1, [path for path, top in zip(videos, tops, strict=True) if part in ("all", top)]
    if not chosen:
        with pytest.raises(InputError):
            choose_videos(config, table)
        return
    deep = {path: path.split("/") for path in chosen}
    name = {path: parts[place] if len(parts) > place + 1 else None for path, parts in deep.items()}
    classes = sorted(set(name.values()) - {None})
    found = choose_videos(config, table)
    assert found.class_names == tuple(classes)
    assert found.labels == {path: classes.index(name[path]) if name[path] else -1 for path in chosen}


@given(
    st.lists(
        st.tuples(
            st.integers(1, 9),
            st.sampled_from([0.0, 10.0, 25.0]),
            st.booleans(),
            st.integers(4, 6),
            st.sampled_from([0.0, 5.0, 25.0]),
            st.booleans(),
        ),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from([None, 10.0]),
    st.sampled_from(["drop", "loop"]),
    st.sampled_from([0.0, 0.9]),
)
def test_many_videos_are_refused_as_each_by_itself(videos, fps, short, kept):
    sampling = ClipSampling(frames=4, height=8, width=8, fps=fps, short=short, least_kept=kept)
    entries = [
        IndexedVideo(
            path=f"{number:03d}",
            size=1,
            mtime=1,
            frames=frames,
            fps=rate,
            seconds=frames / (rate or 1),
            even=even,
            height=height,
            width=6,
        )
        for number, (frames, rate, even, height, _, _) in enumerate(videos)
    ]
    own, still = np.array([video[4] for video in videos]), np.array([video[5] for video in videos])
    codes, reasons = sampling.refusals(VideoTable.of(entries), np.arange(len(entries)), fps=own, still=still)
    expected = [
        sampling.refusal_of_shape(entry) if picture else sampling.refusal(entry, rate or None)
        for entry, rate, picture in zip(entries, own.tolist(), still, strict=True)
    ]
    assert [reasons[code] or None for code in codes] == expected


def opened_files(monkeypatch):
    opened = []
    probed = index.probed
    monkeypatch.setattr(
        index,
        "probed",
        lambda jobs, *rest, **options: probed((opened.append(job[0].path) or job for job in jobs), *rest, **options),
    )
    return opened


def test_an_index_is_trusted_until_the_command_runs_again(tmp_path, monkeypatch):
    root = write_classes(tmp_path / "videos", 4)
    (root / "odd" / "bad.mp4").write_text("no video")
    (root / "notes.txt").touch()
    before, _ = clips_of(root)
    result = run_data("index", "--data", root, "--jobs", "2")
    assert result.exit_code == 0 and "4 files, 1 broken; 0 opened now" in result.stdout
    assert "broken: odd/bad.mp4: not a video" in result.stderr and "passed over: 1 .txt" in result.stderr

    # Nothing is listed and nothing is looked at, not even whether a file is there.
    for name in ("walk", "find_file", "probed"):
        monkeypatch.setattr(index, name, lambda *_, **__: pytest.fail("was looked at"))
    clips = open_clips(DataConfig(path=str(root)), **SIZE)
    about = clips.describe()
    assert (about["videos"], about["classes"], len(about["broken"])) == (4, 2, 1) and about["index"]["made"]
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    again, _ = clips_of(root)
    assert (before == again).all()

    write_video(root / "odd" / "new.mp4", grey_clip(6, 24, 32))
    (root / "even" / "0.mp4").unlink()
    assert open_clips(DataConfig(path=str(root)), **SIZE).describe()["videos"] == 4
    assert open_clips(DataConfig(path=str(root), recheck=True), **SIZE).describe()["videos"] == 4  # one more, one less
    opened = opened_files(monkeypatch)
    assert "4 files, 1 broken; 1 opened now" in run_data("index", "--data", root).stdout
    assert opened == ["odd/new.mp4"]
    names = [video.path for video in open_clips(DataConfig(path=str(root)), **SIZE).source.videos]
    assert names == ["even/2.mp4", "odd/1.mp4", "odd/3.mp4", "odd/new.mp4"]


def test_a_start_of_training_refuses_to_open_too_many(tmp_path):
    root = write_classes(tmp_path / "videos", 3, frames=6)
    refused = learn(tmp_path, root, "--set", "data.index_limit=2")
    assert refused.exit_code == 2 and "Traceback" not in refused.output and not (tmp_path / "run").exists()
    assert f"hpdm-data index --data {root}" in refused.stderr and "more than 2 files" in refused.stderr
    assert run_data("index", "--data", root, "--jobs", "1").exit_code == 0
    assert open_clips(DataConfig(path=str(root), index_limit=2), **SIZE).describe()["videos"] == 3
    # What is new counts, not what is known.
    write_video(root / "even" / "new.mp4", grey_clip(6, 24, 32))
    config = DataConfig(path=str(root), index_limit=2, recheck=True)
    assert open_clips(config, **SIZE).describe()["videos"] == 4
    with pytest.raises(InputError, match="data.index_limit"):
        open_clips(DataConfig(path=str(root), index_limit=0, recheck=True), **SIZE)


def test_an_index_in_a_file_of_its_own(tmp_path):
    root = write_classes(tmp_path / "videos", 2, frames=6)
    file = tmp_path / "kept" / "videos.safetensors"
    assert run_data("index", "--data", root, "--out", file, "--jobs", "1").exit_code == 0
    assert not (root / INDEX_NAME).exists() and len(VideoTable.read(file)) == 2
    config = DataConfig(path=str(root), index=str(file), index_limit=0)
    assert open_clips(config, **SIZE).describe()["videos"] == 2
    for content, said in ((b"other", "no table of columns"), (None, "No such file")):
        file.unlink()
        if content:
            file.write_bytes(content)
        with pytest.raises(InputError, match=said):
            open_clips(config, **SIZE)
    VideoTable.of(entries_for(["a.mp4"])).write(file)
    with pytest.raises(InputError, match="was not made by hpdm-data index"):
        open_clips(config, **SIZE)


def test_the_index_of_earlier_versions_is_taken_over(tmp_path, monkeypatch):
    root = write_classes(tmp_path / "videos", 2, frames=6)
    rows = [
        {
            "path": video.path,
            "size": video.size,
            "mtime": video.mtime,
            "frames": 6,
            "fps": 25.0,
            "seconds": 0.2,
            "even": True,
            "height": 24,
            "width": 32,
        }
        for video in list_videos(root).files
    ]
    (root / ".hpdm-index.json").write_text(json.dumps({"version": 2, "videos": rows, "broken": []}))
    opened = opened_files(monkeypatch)
    assert len(build_index(root, quiet=True).videos) == 2 and not opened
    assert "2 files, 0 broken; 0 opened now" in run_data("index", "--data", root).stdout
    (root / ".hpdm-index.json").write_text(json.dumps({"version": 1, "videos": rows, "broken": []}))
    (root / INDEX_NAME).unlink()
    assert len(build_index(root, quiet=True).videos) == 2 and len(opened) == 2


def test_captions_of_an_index_are_those_of_the_list(tmp_path, monkeypatch):
    rows = write_captioned(tmp_path, videos=3, images=2)
    rows += [
        {"path": rows[1]["path"], "caption": "b"},
        {"path": rows[1]["path"], "caption": "b"},
        {"path": "gone.mp4", "caption": "x"},
        {"path": rows[0]["path"], "caption": " "},
    ]
    rows[2]["fps"] = 10
    write_rows(tmp_path / "captions.jsonl", rows)
    config = DataConfig(path=str(tmp_path), captions="auto", image_share=0.5)

    def made():
        clips = in_process(open_clips(config, **SIZE))
        got = [
            (clips[number][0].sum().item(), clips[number][1]["caption"], clips[number][1]["measures"].tolist())
            for number in range(8)
        ]
        return got, fingerprint_of(clips), clips.describe()

    without = made()
    result = run_data("index", "--data", tmp_path, "--jobs", "1")
    assert result.exit_code == 0 and "5 files, 0 broken, 6 captions" in result.stdout
    monkeypatch.setattr(index, "find_file", lambda *_: pytest.fail("was looked at"))
    monkeypatch.setattr("hpdm.data.captions.find_file", lambda *_: pytest.fail("was looked at"))
    assert made() == without
    monkeypatch.undo()
    # A list that has changed is read again.
    write_rows(tmp_path / "captions.jsonl", [{**row, "caption": "new"} for row in rows[:5]])
    assert {caption for _, caption, _ in made()[0]} == {"new"}
    plain = run_data("index", "--data", tmp_path, "--captions", "none", "--jobs", "1")
    assert plain.exit_code == 0 and "3 files, 0 broken; 0 opened" in plain.stdout


def start_index(root, *words):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-c", SLOW, "index", "--data", str(root), "--jobs", "1", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


SLOW = """
import time
import hpdm.data.index as index
index.KEEP_EVERY = (1, 0.0)
entry = index._entry
index._entry = lambda *rest: time.sleep(0.2) or entry(*rest)
from hpdm.commands.entry import data
data()
"""


def test_a_killed_index_goes_on_where_it_was(tmp_path, monkeypatch):
    root = write_classes(tmp_path / "videos", 12, frames=5)
    process = start_index(root)
    kept = root / (INDEX_NAME + ".progress")
    deadline = time.monotonic() + 120
    while not (kept.exists() and kept.read_text().count("\n") >= 3):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with open(kept, "a") as file:
        file.write('{"path": "cut o')
    assert not (root / INDEX_NAME).exists()
    opened = opened_files(monkeypatch)
    result = run_data("index", "--data", root, "--jobs", "1")
    assert result.exit_code == 0 and "12 files, 0 broken" in result.stdout
    assert 0 < len(opened) <= 9 and not kept.exists()
    assert list(VideoTable.read(root / INDEX_NAME).entries()) == list(build_index(root, quiet=True).table.entries())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["index", "--data", "{tmp}/absent"], "is not a folder"),
        (["index", "--data", "{tmp}/empty"], "holds no video files"),
        (["index", "--data", "{tmp}/notes"], "holds no video files"),
        (["index", "--data", "{tmp}/broken"], "none of the 1 video files"),
        (["index", "--data", "{tmp}/videos", "--captions", "{tmp}/none.jsonl"], "no list of captions"),
        (["index", "--data", "{tmp}/videos", "--out", "{tmp}/videos"], "is a directory"),
        (["index", "--data", "gopher://x/y"], "gopher"),
        (["index", "--data", "memory://nothing-here"], "there is no such folder"),
        (["pack", "--data", "{tmp}/absent", "--out", "{tmp}/out"], "is not a folder"),
        (["pack", "--data", "{tmp}/empty", "--out", "{tmp}/out"], "holds no video files"),
        (["pack", "--data", "{tmp}/broken", "--out", "{tmp}/out"], "none of the 1 video files"),
        (["pack", "--data", "{tmp}/videos", "--out", "{tmp}/videos/out"], "name a folder outside"),
        (["pack", "--data", "{tmp}/videos", "--out", "{tmp}/notes"], "is not empty"),
        (["pack", "--data", "{tmp}/videos", "--out", "memory://out"], "folders of this machine"),
        (["pack", "--data", "{tmp}/videos", "--out", "{tmp}/out", "--shard-size", "12 parsecs"], "number of bytes"),
        (["pack", "--data", "{tmp}/videos", "--out", "{tmp}/out", "--shrink", "8x8"], "3 whole numbers"),
        (["pack", "--data", "{tmp}/videos", "--out", "{tmp}/out", "--shrink", "8x0x8"], "3 whole numbers"),
        (["pack", "--data", "{tmp}/videos", "--out", "{tmp}/out", "--shrink", "8x8x8"], "no video of"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, words, said):
    for name in ("empty", "notes", "broken", "videos"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    (tmp_path / "broken" / "a.mp4").write_text("no video")
    write_video(tmp_path / "videos" / "a.mp4", grey_clip(5, 16, 16))
    result = run_data(*[word.format(tmp=tmp_path) for word in words], "--jobs", "1", "--quiet")
    assert result.exit_code == 2 and said in result.stderr and "Traceback" not in result.output
    assert sum(line.startswith(("error:", "Error:")) for line in result.stderr.split("\n")) == 1
    assert not list(tmp_path.glob("out/*.tar"))


@given(st.lists(st.tuples(NAMES, st.integers(0, 2**40), st.integers(1, 999), NAMES), max_size=30))
def test_the_fingerprint_is_that_of_earlier_versions(rows):
    """Runs that they made are resumed."""
    rows = sorted(rows)
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    assert fingerprint(iter(rows)) == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize("command", [[], ["index"], ["pack"]])
def test_help_shows_commands_to_copy(command):
    result = run_data(*command, "--help")
    assert result.exit_code == 0 and f"hpdm-data {(command or ['pack'])[0]} --data" in result.output
