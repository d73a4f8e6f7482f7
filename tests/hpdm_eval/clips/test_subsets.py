"""Where more clips are there than wanted: drawn at random and balanced over classes, said in labels and records."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis.strategies import integers, lists

from hpdm.data.procedural import procedural_clip
from hpdm.support.errors import InputError
from hpdm_eval.clips.selection import class_of, order, source_of, sources_of, subset_entry
from hpdm_eval.commands.entry import main
from hpdm_eval.protocols import list_protocols
from hpdm_eval.records.record import load_record
from hpdm_eval.report.tables import text_table


def candidates(*sizes):
    """Clips in class folders, in natural order: c0/0.mp4 ..."""
    return [
        SimpleNamespace(name=f"c{label}/{index}.mp4", file=f"c{label}/{index}.mp4", label=f"c{label}")
        for label, size in enumerate(sizes)
        for index in range(size)
    ]


def test_a_subset_of_9999_clips_has_all_101_classes():
    """The first 2,048 by name hold 21 of them."""
    clips = candidates(*[99] * 101)
    prefix = {clip.label for clip in order(clips, "sorted", 0, 2048)[:2048]}
    balanced = [clip.label for clip in order(clips, "class-balanced", 0, 2048)[:2048]]
    assert len(prefix) == 21 and len(set(balanced)) == 101
    assert {balanced.count(label) for label in set(balanced)} == {20, 21}
    entry = subset_entry(order(clips, "sorted", 0, 2048), [], 2048)["classes"]
    assert (entry["available"], entry["of"], entry["taken"], len(entry["lost"])) == (9999, 101, 21, 80)


@given(sizes=lists(integers(1, 9), min_size=1, max_size=9), wanted=integers(1, 80), seed=integers(0, 3))
def test_a_draw_is_balanced_seeded_and_whole(sizes, wanted, seed):
    clips = candidates(*sizes)
    drawn = order(clips, "class-balanced", seed, wanted)
    assert sorted(clip.name for clip in drawn) == sorted(clip.name for clip in clips)
    assert drawn == order(clips[::-1][::-1], "class-balanced", seed, wanted)
    counts = [sum(clip.label == f"c{label}" for clip in drawn[:wanted]) for label in range(len(sizes))]
    # no class has two clips fewer than another unless it has no more
    assert all(count == size or count >= max(counts) - 1 for count, size in zip(counts, sizes))
    places = [clips.index(clip) for clip in drawn[:wanted]]
    assert places == sorted(places)  # cells of one sheet stay neighbours
    if wanted >= len(clips):
        assert drawn == clips and subset_entry(drawn, [], len(clips)) == {}


def test_seeds_draw_other_clips_and_other_classes_get_the_odd_one():
    clips = candidates(*[20] * 10)
    draws = [frozenset(clip.name for clip in order(clips, "class-balanced", seed, 25)[:25]) for seed in range(4)]
    assert len(set(draws)) == 4
    odd = {
        label
        for draw in draws
        for label in {name[:2] for name in draw}
        if sum(name.startswith(label) for name in draw) == 3
    }
    assert len(odd) > 5


def test_unusable_clips_are_replaced_from_their_class_turn():
    clips = candidates(3, 3)
    drawn = order(clips, "class-balanced", 0, 2)
    rejected = [{"path": drawn[0].name, "reason": "x"}]
    entry = subset_entry(drawn, rejected, 2)["classes"]
    assert entry["available"] == 5 and entry["of"] == 2


@pytest.mark.parametrize(
    "name, label, expected",
    [
        ("Punch/a.avi", "Punch", "Punch"),
        ("v_Punch_g08_c01.avi", None, "Punch"),
        ("00012_c003.mp4", None, "003"),
        ("a.npy#7", None, ""),
        ("x_c003_y.mp4", None, ""),
        ("sub/v_BabyCrawling_g11_c02.mp4#3", None, "BabyCrawling"),
    ],
)
def test_classes_without_folders(name, label, expected):
    assert class_of(SimpleNamespace(name=name, file=name.partition("#")[0], label=label)) == expected


def test_sources_of_clips():
    assert source_of("Punch/v_Punch_g08_c01.avi") == "v_Punch_g08" and source_of("Punch/00001.mp4") is None
    ucf = [f"Punch/v_Punch_g{group:02d}_c{clip:02d}.avi" for group in (1, 2) for clip in (1, 2, 3)]
    assert len(set(sources_of(ucf))) == 2 and sources_of(ucf, "none") is None
    mixed = sources_of([*ucf, "a.mp4", "b.mp4"])
    assert len(set(mixed)) == 4
    assert sources_of(["a.mp4", "b.mp4"]) is None and sources_of(["v_Punch_g01_c01.avi", "v_Punch_g02_c01.avi"]) is None
    films = ["one-shot1.mp4", "one-shot2.mp4", "two-shot1.mp4", "other.mp4"]
    assert len(set(sources_of(films, r"^(.*)-shot"))) == 3
    assert len(set(sources_of(["x/1.mp4", "x/2.mp4", "y/1.mp4#0"], "folder"))) == 2
    with pytest.raises(InputError, match="regular expression"):
        sources_of(films, "(")
    with pytest.raises(InputError, match="no name matches, the first is one-shot1"):
        sources_of(films, "^film")


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """`long`: 12 class folders of 12 clips; `short`: 4 of each. One generator, sorted by class."""
    root = tmp_path_factory.mktemp("sets")
    for name, seed, each in (("real", 0, 8), ("long", 1, 12), ("short", 2, 4)):
        for label in range(12):
            (root / name / f"c{label:02d}").mkdir(parents=True)
            for index in range(each):
                clip = procedural_clip(seed, 12 * index + label, 8, 32, 32, label=label)[0]
                np.save(root / name / f"c{label:02d}" / f"{index}.npy", clip)
    return root, ["--backbone", "shapes3d"]


def run(sets, command, *words):
    root, network = sets
    return CliRunner().invoke(
        main,
        list(map(str, [command, "--reference", root / "real", "--workers", "0", "--device", "cpu", *network, *words])),
    )


def test_two_sets_of_one_generator_are_not_told_apart_by_their_order(sets):
    root, _ = sets
    words = [
        "--samples",
        f"long={root / 'long'}",
        "--samples",
        f"short={root / 'short'}",
        "--metrics",
        "fvd",
        "--protocol",
        "native",
        "--json",
    ]
    result = run(sets, "compare", *words)
    assert result.exit_code == 0, result.output
    records = {record["name"]: record for record in json.loads(result.stdout)}
    assert records["long"]["num_samples"] == records["short"]["num_samples"] == 48
    assert records["long"]["samples"]["classes"] == {"available": 144, "of": 12, "taken": 12, "lost": []}
    (pair,) = records["long"]["pairs"]
    prefix = {
        record["name"]: record
        for record in json.loads(run(sets, "compare", *words, "--samples-selection", "sorted").stdout)
    }
    assert prefix["long"]["pairs"][0]["p_value"] < pair["p_value"] / 1e3 and pair["p_value"] > 1e-3
    assert len(prefix["long"]["samples"]["classes"]["lost"]) == 8


@pytest.mark.parametrize("command", ["fvd", "kvd", "prdc"])
def test_every_command_draws_and_says_what_is_lost(sets, command):
    root, _ = sets
    words = ["--samples", root / "long", "--protocol", "native", "--num-samples", "24", "--json", "--quiet"]
    record = json.loads(run(sets, command, *words).stdout)
    assert record["samples"]["classes"]["taken"] == 12
    lost = json.loads(run(sets, command, *words, "--samples-selection", "sorted").stdout)
    assert lost["samples"]["classes"]["taken"] == 2 and "(samples: the first 24 by name)" in lost["label"]
    text = run(sets, command, *words[:-2], "--samples-selection", "sorted", "--quiet").stdout
    assert "2 of 12 classes are in these samples" in text and "and 5 more" in text and "first 24 by name" in text


def test_pixels_are_drawn_alike(sets):
    root, _ = sets
    result = CliRunner().invoke(
        main,
        ["dead-tokens", "--samples", str(root / "long"), "--num-samples", "24", "--workers", "0", "--json", "--quiet"],
    )
    assert json.loads(result.stdout)["samples"]["classes"]["taken"] == 12


@pytest.mark.parametrize(
    "name", [protocol.name for protocol in list_protocols() if protocol.split and protocol.stride == 1]
)
def test_a_split_that_was_not_applied_is_in_table_and_record(sets, name, tmp_path):
    root, _ = sets
    words = ["--samples", root / "short", "--protocol", name, "--resolution", "32", "--frames", "8", "--quiet"]
    result = run(sets, "fvd", *words, "--record", tmp_path / "records")
    assert result.exit_code == 0, result.output
    assert "(split not applied" in result.stdout and result.stderr == ""
    (path,) = (tmp_path / "records").iterdir()
    record = load_record(path)
    assert "split not applied" in record.extra["label"] and record.reference["split"] is None
    assert any(text.startswith("split not applied: ") for text in record.warnings)
    assert "(split not applied" in text_table([record])
    none = json.loads(run(sets, "fvd", *words, "--split", "none", "--json").stdout)
    assert "split not applied" not in none.get("label", "") and none["protocol"]["split"] is None


def test_the_default_says_nothing_of_ucf101(sets):
    root, _ = sets
    result = run(sets, "fvd", "--samples", root / "short", "--frames", "8", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["protocol"]["name"] == "generic-16f" and record["protocol"]["split"] is None
    assert "ucf" not in json.dumps({**record, "samples": None, "reference": None, "command": None}).lower()


def test_statistics_without_the_split_say_so(sets, tmp_path):
    root, network = sets
    words = [
        "stats",
        "--data",
        root / "real",
        "--protocol",
        "hpdm-16f",
        "--resolution",
        "32",
        "--frames",
        "8",
        "--workers",
        "0",
        "--out",
        tmp_path / "s.npz",
        "--quiet",
        *network,
    ]
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 0 and "(split not applied)" in result.stdout
    figure = run(
        (root, network),
        "fvd",
        "--samples",
        root / "short",
        "--reference",
        tmp_path / "s.npz",
        "--protocol",
        "hpdm-16f",
        "--resolution",
        "32",
        "--frames",
        "8",
        "--quiet",
    )
    assert "(split not applied)" in figure.stdout
