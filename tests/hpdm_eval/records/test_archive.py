"""Archives of records: exact, equal byte for byte, read as they are, and refused when damaged."""

import gzip
import json
from contextlib import suppress
from dataclasses import replace

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from hpdm.support.errors import InputError
from hpdm_eval.commands.entry import main
from hpdm_eval.records.archive import Entry, is_archive, layout, read_archive, split_place, write_archive
from hpdm_eval.records.record import load_record, save_record
from hpdm_eval.report.collect import collect_records
from tests.support.paths import ROOT
from tests.support.report_records import base_record, save_records, study_record

REPORTS = ROOT / "reports"
COMMITTED = sorted(
    path for path in REPORTS.rglob("*.jsonl") if is_archive(path)
)  # the others are results of the GPU benchmark


def call(*words):
    return CliRunner().invoke(main, [*map(str, words)])


def packed(folder, suffix=".jsonl"):
    """An archive beside a folder of records."""
    archive = folder.with_name(folder.name + suffix)
    result = call("records", "pack", folder, "--out", archive, "--quiet")
    assert result.exit_code == 0, result.output
    return archive


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def nested(inner):
    return st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)


plain_values = (
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False) | st.text()
)
json_values = st.recursive(plain_values, nested, max_leaves=8)
names = st.from_regex(r"[A-Za-z0-9_é-]{1,8}(/[A-Za-z0-9_. -]{1,8}x)?\.json", fullmatch=True)


@given(st.dictionaries(names, json_values, max_size=4), st.sampled_from([".jsonl", ".jsonl.gz"]), st.data())
def test_every_file_comes_back_to_the_last_byte(tmp_path_factory, values, suffix, data):
    """Also files in another layout than the project's own, which are kept as text."""
    contents = {
        name: data.draw(
            st.sampled_from(
                [layout(value), json.dumps(value).encode(), json.dumps(value, indent=1).encode() + b"\r\n \n"]
            )
        )
        for name, value in values.items()
    }
    archive = tmp_path_factory.mktemp("a") / f"records{suffix}"
    write_archive(archive, contents)
    first = archive.read_bytes()
    entries = read_archive(archive)
    assert {entry.name: entry.content for entry in entries} == contents
    assert {entry.name: entry.values for entry in entries} == values
    write_archive(archive, dict(reversed(contents.items())))
    assert archive.read_bytes() == first  # whatever the order, and at another time


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_pack_and_unpack(tmp_path, suffix):
    odd = replace(base_record(), samples={**base_record().samples, "path": "bad\udcff/naïve\u2028"})
    folder = save_records(tmp_path / "records", [study_record(value=value) for value in (1.0, 1e-300, 3.0)])
    save_record(odd, folder / "below")
    (folder / "by-hand.json").write_text(json.dumps(base_record().to_dict()))
    (folder / "samples.json").write_text('{"schema": 1, "samples": []}')
    archive = packed(folder, suffix)
    again = packed(folder, suffix)
    assert archive.read_bytes() == again.read_bytes()
    result = call("records", "unpack", archive, "--out", tmp_path / "new")
    assert result.exit_code == 0 and "5 records" in result.stderr
    assert files(tmp_path / "new") == {name: own for name, own in files(folder).items() if name != "samples.json"}
    assert call("records", "unpack", archive, "--out", tmp_path / "new").exit_code == 2  # it holds files
    lines = call("records", "list", archive).stdout.splitlines()
    assert len(lines) == 2 + 5 and any(line.startswith("000.json") for line in lines)


def test_pack_refuses_what_it_cannot_make(tmp_path):
    folder = save_records(tmp_path / "records", [base_record()])
    for words, message in (
        ([folder, "--out", tmp_path / "a.zip"], "ends in .jsonl"),
        ([tmp_path / "none", "--out", tmp_path / "a.jsonl"], "does not exist"),
    ):
        result = call("records", "pack", *words)
        assert result.exit_code == 2 and message in result.stderr
    (tmp_path / "empty").mkdir()
    result = call("records", "pack", tmp_path / "empty", "--out", tmp_path / "a.jsonl")
    assert result.exit_code == 2 and "no record" in result.stderr and not (tmp_path / "a.jsonl").exists()
    with pytest.raises(InputError, match="leads out"):
        write_archive(tmp_path / "a.jsonl", {"../x.json": b"{}"})
    with pytest.raises(InputError, match="not a readable record"):
        write_archive(tmp_path / "a.jsonl", {"x.json": b"{"})


def test_records_of_an_archive_are_those_of_the_folder(tmp_path):
    """Whether the archive is named, or the folder that holds it, or another place besides."""
    folder = save_records(tmp_path / "study" / "records", [study_record(repeat=n) for n in range(3)])
    save_records(tmp_path / "other" / "records", [study_record("shallow")])
    loose, below = collect_records([folder]), collect_records([tmp_path / "study"])
    several = collect_records([folder, tmp_path / "other" / "records"])
    archive = packed(folder)
    assert collect_records([archive]) == loose
    assert collect_records([tmp_path / "study"]) == below  # the same records, packed and loose
    for path in folder.iterdir():
        path.unlink()
    assert collect_records([tmp_path / "study"]) == below
    assert collect_records([archive, tmp_path / "study"]) == below and len(collect_records([archive, archive])) == 3
    assert collect_records([archive, tmp_path / "other" / "records"]) == several
    assert [item.name for item in several] == ["other/records/000.json"] + [
        f"study/records/00{n}.json" for n in range(3)
    ]
    single = collect_records([tmp_path / "other" / "records" / "000.json"])
    assert [item.name for item in single] == ["000.json"]


def test_a_newer_loose_record_takes_the_place_of_the_packed_one(tmp_path, capsys):
    folder = save_records(tmp_path / "records", [study_record(value=1.0), study_record(value=2.0)])
    archive = packed(folder)
    save_records(folder, [study_record(value=9.0, created="2027-01-01T00:00:00Z")])
    assert [item.record.value for item in collect_records([tmp_path])] == [9.0, 2.0]
    assert "records/000.json is there twice" in capsys.readouterr().err
    save_records(folder, [study_record(value=9.0, created="2020-01-01T00:00:00Z")])
    assert [item.record.value for item in collect_records([tmp_path])] == [1.0, 2.0]
    assert len(read_archive(archive)) == 2


def test_report_of_an_archive_is_that_of_the_folder(tmp_path):
    folder = save_records(tmp_path / "records", [study_record(repeat=n, level=2) for n in range(2)])
    assert call("report", "--records", folder, "--out", tmp_path / "loose").exit_code == 0
    assert call("report", "--records", packed(folder, ".jsonl.gz"), "--out", tmp_path / "packed").exit_code == 0
    assert files(tmp_path / "loose") == files(tmp_path / "packed")


def test_one_record_of_an_archive(tmp_path):
    command = "hpdm-eval fvd --samples a/generated --reference b"
    records = [study_record(value=1.0, command=command), study_record(value=2.0, metric="kvd")]
    folder = save_records(tmp_path / "records", records)
    archive = packed(folder)
    assert load_record(f"{archive}#001.json") == load_record(f"{archive}#001") == load_record(folder / "001.json")
    assert load_record(archive, metric="kvd").value == 2.0
    for place, metric, message in (
        (archive, None, "2 records; name one as .*#NAME: 000.json, 001.json"),
        (f"{archive}#7", None, "no record 7 among 2"),
        (archive, "fid", "no record of fid among 2"),
        (f"{archive}#000", "kvd", "no record 000 of kvd"),
        (folder / "000.json", "kvd", "a record of fvd, not of kvd"),
        (f"{tmp_path}/none.jsonl#000", None, "cannot be read"),
    ):
        with pytest.raises(InputError, match=message):
            load_record(place, metric=metric)
    save_records(tmp_path / "a#b", [base_record()])
    assert load_record(tmp_path / "a#b" / "000.json") == base_record()  # a # in a path is no mark
    assert split_place(tmp_path / "a#b" / "000.json")[1] is None
    result = call("reproduce", f"{archive}#000", "--folder", tmp_path)
    assert result.exit_code == 2 and "a/generated" in result.stderr  # its inputs, not the archive


def test_reproduce_takes_a_record_of_an_archive(tmp_path, monkeypatch):
    """As it takes the file: the same record, and inputs are looked for where the archive lies."""
    folder = save_records(tmp_path / "study" / "records", [study_record(value=1.0), study_record(metric="kvd")])
    archive = packed(folder)
    calls = []

    def run_again(record, run, **options):
        calls.append((record, options["near"]))
        raise InputError("enough")

    monkeypatch.setattr("hpdm_eval.commands.reproduce.run_again", run_again)
    for words in ([f"{archive}#000.json"], [f"{archive}#000"], [archive, "--metric", "fvd"], [folder / "000.json"]):
        assert "enough" in call("reproduce", *words).stderr
    assert [record for record, _ in calls] == [load_record(folder / "000.json")] * 4
    assert [near for _, near in calls] == [archive.parent] * 3 + [folder]


def damaged(content):
    """(how, bytes) of an archive's usual accidents."""
    header, *lines = content.splitlines(keepends=True)
    yield "cut off", content[:-10]
    yield "a line lost", header + b"".join(lines[:-1])
    yield "a line twice", content + lines[0]
    yield "only the header", header
    yield "a figure changed", content.replace(b'"value":1.0', b'"value":1.1')
    yield "no JSON", header + b"{\n" + b"".join(lines[1:])
    yield "no UTF-8", content.replace(b"fvd", b"fv\xff")
    yield "another version", content.replace(b'"version": 1', b'"version": 2')
    yield "out of the folder", content.replace(b'"000.json"', b'"../0.json"')


def test_damage_is_one_clear_message(tmp_path):
    content = packed(save_records(tmp_path / "records", [study_record(value=float(n)) for n in range(3)])).read_bytes()
    (tmp_path / "d").mkdir()
    for how, damage in damaged(content):
        for name, data in (("a.jsonl", damage), ("a.jsonl.gz", gzip.compress(damage))):
            path = tmp_path / "d" / name
            path.write_bytes(data)
            result = call("report", "--records", path, "--out", tmp_path / "out")
            assert result.exit_code == 2 and result.stderr.count("\n") == 1 and name in result.stderr, how
            assert result.stderr.startswith("error: ")
            with pytest.raises(InputError):
                collect_records([tmp_path / "d"])
            path.unlink()
    whole = gzip.compress(content)
    for cut in (whole[:-1], whole[: len(whole) // 2], whole[:40] + bytes(20) + whole[60:], whole[:12]):
        path = tmp_path / "d" / "a.jsonl.gz"
        path.write_bytes(cut)
        with pytest.raises(InputError, match="a.jsonl.gz"):
            read_archive(path)
    for content in (b"", b"[1]\n", b"{}\n", b"\x00" * 100):
        (tmp_path / "x.jsonl").write_bytes(content)
        with pytest.raises(InputError, match="not an archive of records"):
            read_archive(tmp_path / "x.jsonl")
    with pytest.raises(InputError, match="none.jsonl: cannot be read"):
        read_archive(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="cannot be read"):
        read_archive(tmp_path)


@given(st.sampled_from([".jsonl", ".jsonl.gz"]), st.integers(0, 10**6), st.binary(max_size=4), st.integers(0, 4))
def test_changed_bytes_are_noticed(tmp_path_factory, suffix, place, new, removed):
    """Wherever they are: the records come back as they were, or there is one clear error."""
    folder = tmp_path_factory.mktemp("a")
    write_archive(folder / f"a{suffix}", {f"{n}.json": layout({"value": n / 7}) for n in range(4)})
    entries = read_archive(folder / f"a{suffix}")
    content = (folder / f"a{suffix}").read_bytes()
    place %= len(content)
    (folder / f"b{suffix}").write_bytes(content[:place] + new + content[place + removed :])
    try:
        assert read_archive(folder / f"b{suffix}") == entries
    except InputError as error:
        assert f"b{suffix}: " in str(error)
    with suppress(OSError, ValueError):
        is_archive(folder / f"b{suffix}")


def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HPDM_EVAL_MAX_UNPACKED", "1M")
    header = {"format": "hpdm-eval-records", "version": 1, "records": 1, "sha256": "0"}
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(header).encode() + b"\n" + bytes(5 << 20), 9))
    with pytest.raises(InputError, match="a.jsonl.gz: .*decompression bomb"):
        read_archive(path)
    assert call("report", "--records", path, "--out", tmp_path / "out").exit_code == 2
    monkeypatch.setenv("HPDM_EVAL_MAX_UNPACKED", "16M")
    with pytest.raises(InputError, match="cut off"):
        read_archive(path)


def test_other_json_lines_are_passed_over(tmp_path, capsys):
    save_records(tmp_path / "records", [base_record()])
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    (tmp_path / "odd.jsonl").write_text('{"step": 1\n')
    (tmp_path / "odd.jsonl.gz").write_bytes(b"\x1f\x8b\x08")
    (tmp_path / "folder.jsonl").mkdir()
    assert len(collect_records([tmp_path])) == 1
    notes = capsys.readouterr().err
    assert notes.count("left out") == 2 and "log.jsonl" not in notes


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.parent.relative_to(ROOT).as_posix())
def test_the_committed_archives_are_whole(path, tmp_path):
    """And no record lies loose beside them."""
    entries = read_archive(path)
    assert entries and all(isinstance(entry, Entry) for entry in entries)
    write_archive(tmp_path / "again.jsonl", {entry.name: entry.content for entry in entries})
    assert (tmp_path / "again.jsonl").read_bytes() == path.read_bytes()
    assert not [other for other in path.parent.glob("*.json") if "schema" in json.loads(other.read_text())]
