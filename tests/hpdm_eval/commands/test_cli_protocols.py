import json

import click
import pytest
from click.testing import CliRunner

from hpdm.support.console import Command, common_options
from hpdm_eval.commands.entry import main
from hpdm_eval.commands.options import metric_options, take_evaluation
from hpdm_eval.protocols import list_protocols, load_protocol


def run(*arguments):
    return CliRunner().invoke(main, ["protocols", *arguments])


def test_table_lists_every_protocol():
    result = run()
    assert result.exit_code == 0
    rows = {line.split()[0]: line for line in result.stdout.splitlines()[2:]}
    assert set(rows) == {protocol.name for protocol in list_protocols()}
    for protocol in list_protocols():
        assert protocol.hash() in rows[protocol.name]


def test_json():
    result = run("--json")
    assert result.exit_code == 0 and result.stderr == ""
    values = json.loads(result.stdout)
    assert [value["name"] for value in values] == [protocol.name for protocol in list_protocols()]
    one = json.loads(run("pvdm-16f", "--json").stdout)
    assert one == {**load_protocol("pvdm-16f").to_dict(), "hash": load_protocol("pvdm-16f").hash()}


def test_one_protocol_shows_every_setting():
    result = run("hpdm-64f")
    shown = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert set(load_protocol("hpdm-64f").settings()) <= set(shown)
    assert "[256, 256]" in shown["resolution"] and load_protocol("hpdm-64f").hash() in result.stdout


def test_unknown_protocol_is_bad_input():
    result = run("hpdm-17f")
    assert result.exit_code == 2
    assert "unknown protocol 'hpdm-17f'" in result.stderr and "hpdm-16f" in result.stderr and result.stdout == ""


@click.command(cls=Command)
@metric_options("pvdm-16f")
@common_options
def metric(**options):
    evaluation = take_evaluation(options, samples="a", reference="b")
    reading = {role: evaluation.reading(role) for role in ("samples", "reference")}
    left = {"backbone": evaluation.protocol.backbone, "batch": evaluation.batch, **options}
    click.echo(json.dumps({"protocol": evaluation.protocol.to_dict(), "options": left, **reading}))


def resolve(*arguments):
    result = CliRunner().invoke(metric, arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_without_options_the_protocol_is_the_named_one():
    answer = resolve()
    assert answer["protocol"] == load_protocol("pvdm-16f").to_dict()
    assert answer["options"]["backbone"] == "i3d" and answer["options"]["batch"] == 8
    assert "protocol" not in answer["options"] and "frames" not in answer["options"]


def test_every_override_is_recorded():
    answer = resolve(
        "--protocol",
        "hpdm-16f",
        "--num-samples",
        "64",
        "--num-reference",
        "32",
        "--frames",
        "all",
        "--resolution",
        "48x64",
        "--fps",
        "12.5",
        "--crop",
        "none",
        "--resize",
        "area",
        "--no-antialias",
        "--range",
        "0..1",
        "--selection",
        "shuffled",
        "--split",
        "none",
        "--short",
        "loop",
        "--backbone",
        "shapes3d",
    )
    expected = {
        "num_samples": 64,
        "num_reference": 32,
        "frames": None,
        "resolution": [48, 64],
        "fps": 12.5,
        "samples_fps": 12.5,
        "crop": "none",
        "resize": "area",
        "antialias": False,
        "value_range": "0..1",
        "selection": "shuffled",
        "split": None,
        "short": "loop",
        "backbone": "shapes3d",
    }
    assert {key: answer["protocol"][key] for key in expected} == expected
    assert {entry.split("=")[0] for entry in answer["protocol"]["overrides"]} == set(expected)
    assert answer["options"]["backbone"] == "shapes3d"


def test_cuts_apply_to_both_roles_unless_samples_have_their_own():
    both = resolve("--stride", "3", "--start", "center", "--fps", "native")["protocol"]
    assert (both["stride"], both["samples_stride"], both["start"], both["samples_frames"]) == (3, 3, "center", "center")
    own = resolve("--stride", "3", "--samples-stride", "1", "--samples-frames", "first")["protocol"]
    assert (own["stride"], own["samples_stride"], own["samples_frames"]) == (3, 1, "first")


def test_reading_options():
    answer = resolve("--grid", "1x8+2", "--strict", "--workers", "3", "--seed", "5", "--quiet")
    common = {"strict": True, "workers": 3, "split_lists": None, "seed": 5, "quiet": True}
    assert answer["samples"] == {**common, "grid": "1x8+2", "match": None}
    assert answer["reference"] == {**common, "grid": None}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--resolution", "big"),
        ("--frames", "some"),
        ("--frames", "0"),
        ("--stride", "0"),
        ("--fps", "-3"),
        ("--crop", "left"),
        ("--split", "kinetics"),
        ("--numerics", "fast"),
        ("--workers", "-1"),
        ("--batch", "0"),
        ("--weights", "nowhere.pt"),
    ],
)
def test_bad_values_are_bad_input(arguments):
    result = CliRunner().invoke(metric, arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert "Traceback" not in result.stderr


def test_help_says_of_each_setting_what_it_is():
    text = " ".join(CliRunner().invoke(main, ["fvd", "--help"], terminal_width=200).output.split())
    assert "Whether shrinking widens the filter." in text and "Range of float arrays." in text
    assert text.count("Clips to judge:") == 1
