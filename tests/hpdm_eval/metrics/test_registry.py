"""The registry of metrics: what commands, `all`, `compare` and `ls` go by."""

import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import hpdm_eval.metrics.registry as registry
from hpdm.data.procedural import procedural_clip
from hpdm.support.errors import InputError
from hpdm_eval.commands.entry import SUBCOMMANDS, main
from hpdm_eval.evaluation.api import evaluate
from hpdm_eval.metrics.builtin import BUILTIN
from hpdm_eval.metrics.registry import MetricOption, get_metric, metric_names, register_metric
from hpdm_eval.records.record import parse_record
from tests.support.paths import ROOT


@pytest.fixture
def clean(monkeypatch):
    """Metrics that a test registers are gone after it."""
    monkeypatch.setattr(registry, "_registered", {})


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Folders of 12 samples and 12 real clips of 16 frames of 32x32 pixels."""
    root = tmp_path_factory.mktemp("sets")
    for number, name in enumerate(("samples", "real")):
        (root / name).mkdir()
        for index in range(12):
            np.save(root / name / f"{index}.npy", procedural_clip(number, index, 16, 32, 32)[0])
    return root


def words(sets, *more):
    return ["--samples", sets / "samples", "--reference", sets / "real", "--device", "cpu", "--workers", 0, *more]


def run(*arguments):
    return CliRunner().invoke(main, list(map(str, arguments)))


def flicker(clips):
    return [float(np.abs(np.diff(clip.video.astype(float), axis=0)).mean()) for clip in clips]


def test_what_is_built_in_can_be_computed():
    for info in BUILTIN.values():
        assert info.needs in registry.NEEDS and info.summary and info.caveat and info.cost, info.name
        assert not info.extracts or callable(info.function())
        assert all(option.help for option in info.options), info.name


def test_defaults_are_those_of_the_functions():
    from hpdm_eval.metrics.inception_score import SPLITS
    from hpdm_eval.metrics.prdc import NEIGHBOURS

    assert get_metric("prdc").defaults() == {"neighbours": NEIGHBOURS} and SPLITS == 10


def test_a_metric_on_clips_is_a_command_and_in_all_and_in_python(clean, sets):
    @register_metric("flicker", needs="clips", higher_is_better=False, unit="grey levels", caveat="still is best")
    def measure(samples, reference, settings):
        """How much neighbouring frames differ."""
        assert reference is not None and settings.seed == 0
        return flicker(samples)

    result = run("flicker", *words(sets, "--json"))
    assert result.exit_code == 0, result.output
    record = parse_record(json.loads(result.stdout), "stdout")
    expected = np.mean(
        [np.abs(np.diff(procedural_clip(0, i, 16, 32, 32)[0].astype(float), axis=0)).mean() for i in range(12)]
    )
    assert record.value == pytest.approx(expected, rel=1e-12) and record.ci95[0] < expected < record.ci95[1]
    assert record.unit == "grey levels" and record.num_samples == record.num_reference == 12
    assert evaluate(sets / "samples", sets / "real", "flicker", "native", workers=0)["flicker"].value == record.value
    everything = run(
        "all", *words(sets, "--protocol", "native", "--backbone", "shapes3d", "--json", "--metrics", "kvd,flicker")
    )
    assert [entry["metric"] for entry in json.loads(everything.stdout)] == ["kvd", "flicker"], everything.output
    listed = json.loads(run("ls", "metrics", "--json").stdout)
    assert {"metric": "flicker", "better": "lower"}.items() <= listed[-1].items()
    assert "flicker" in run("--help").stdout and "still is best" in run("flicker", "--help").stdout


def test_a_metric_on_features_with_options_of_its_own(clean, sets):
    @register_metric(
        "spread",
        needs="features",
        higher_is_better=True,
        options=(MetricOption(name="power", default=2, minimum=1, help="."),),
    )
    def spread(samples, reference, settings):
        return float((samples.features.std(axis=0) ** settings["power"]).mean())

    common = words(sets, "--protocol", "native", "--backbone", "shapes3d", "--json")
    first, second = (json.loads(run("spread", *common, "--power", power).stdout) for power in (2, 1))
    assert first["settings"] == {"power": 2} and first["value"] != second["value"]
    assert run("spread", *common, "--power", 0).exit_code == 2
    found = evaluate(
        sets / "samples",
        sets / "real",
        ["spread", "fvd"],
        "native",
        backbone="shapes3d",
        workers=0,
        options={"spread": {"power": 1}},
    )
    assert found["spread"].value == second["value"] and found["fvd"].record.backbone["name"] == "shapes3d"
    assert "spread --samples" in found["spread"].record.command and "--power 1" in found["spread"].record.command
    assert json.loads(run(*found["fvd"].record.command.split()[1:], "--json").stdout)["value"] == found["fvd"].value


@pytest.mark.parametrize(
    "returned, expected",
    [("text", "returned str"), (np.zeros((2, 2)), "shape [2, 2]"), ({"ci95": None}, 'without "value"'),
     (float("nan"), "is nan"), (np.array([]), "shape [0]")],
)  # fmt: skip
def test_what_a_metric_returns_is_checked(clean, sets, returned, expected):
    register_metric("odd", needs="clips", higher_is_better=True)(lambda *_: returned)
    with pytest.raises(InputError, match="metric odd") as raised:
        evaluate(sets / "samples", None, "odd", "native", workers=0) if False else evaluate(
            sets / "samples", sets / "real", "odd", "native", workers=0
        )
    assert expected in str(raised.value)


def test_names_are_taken_once(clean):
    def measure(samples, reference, settings):
        return 0.0

    register_metric("mine", needs="clips", higher_is_better=True)(measure)
    register_metric("mine", needs="clips", higher_is_better=True)(measure)  # a module that is imported again
    with pytest.raises(InputError, match="fvd is there already, from hpdm"):
        register_metric("fvd", needs="clips", higher_is_better=True)(measure)
    with pytest.raises(InputError, match="expected one of features"):
        register_metric("other", needs="videos", higher_is_better=True)(measure)
    with pytest.raises(InputError, match="unknown metric 'fvdd'; there are fvd, "):
        get_metric("fvdd")
    assert "mine" in metric_names()


def test_unknown_settings_and_options_are_named(sets):
    with pytest.raises(InputError, match="unknown setting 'resolutoin'"):
        evaluate(sets / "samples", sets / "real", "fvd", resolutoin=64)
    with pytest.raises(InputError, match="fvd has no option 'att'; it has at, interval"):
        evaluate(sets / "samples", sets / "real", "fvd", options={"fvd": {"att": 1}})
    with pytest.raises(InputError, match="compares with real clips"):
        evaluate(sets / "samples", metrics="fvd")


def test_a_quick_look_is_recorded_as_one(sets):
    result = run("fvd", *words(sets, "--protocol", "native", "--backbone", "shapes3d", "--limit", 10, "--json"))
    record = json.loads(result.stdout)
    assert record["num_samples"] == record["num_reference"] == record["limit"] == 10
    assert any("limited to 10 clips" in text for text in record["warnings"])


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["fvd", "--sampels", "x"], ["kdv"], *([name, "--help"] for name in SUBCOMMANDS)],
    ids=" ".join,
)
def test_help_and_typing_mistakes_are_light(arguments):
    """No numerical library is imported, and less than 80 MB of memory is taken, whatever the subcommand."""
    code = (
        "import sys\nfrom hpdm_eval.commands.entry import main\ntry:\n    main(sys.argv[1:], prog_name='hpdm-eval')\n"
        "finally:\n    heavy = {'torch', 'numpy', 'av', 'matplotlib', 'scipy', 'pandas'}\n"
        "    from pathlib import Path; status = Path('/proc/self/status')\n"
        "    words = status.read_text().split() if status.exists() else ['VmHWM:', '0']\n"
        "    most = int(words[words.index('VmHWM:') + 1])  # KiB\n"
        "    print(sorted(heavy & set(sys.modules)), most < 80_000, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert done.stderr.splitlines()[-1] == "[] True", done.stderr[-2000:]
    assert done.returncode == (0 if "-" in arguments[-1][:1] and arguments[-1] != "x" else 2)


def test_without_a_protocol_it_is_that_of_the_metric_s_command(clean, sets):
    register_metric("still", needs="clips", higher_is_better=True)(lambda samples, *_: flicker(samples))
    found = evaluate(sets / "samples", sets / "real", ["fvd", "still"], backbone="shapes3d", workers=0, start="first")
    assert found["fvd"].record.protocol["name"] == "generic-16f"
    assert found["still"].record.protocol["name"] == "native"
    words = ["--samples", sets / "samples", "--patch", "8x16x16", "--lossless", "--workers", 0, "--json"]
    seams = evaluate(
        sets / "samples", metrics="seams", options={"seams": {"patch": "8x16x16", "lossless": True}}, workers=0
    )
    assert json.loads(run("seams", *words).stdout)["value"] == seams["seams"].value


def test_the_list_of_subcommands_says_what_their_help_says():
    for name, place in SUBCOMMANDS.items():
        if place is not None:
            assert main.get_command(None, name).get_short_help_str(300) == place.summary, name


def test_statistics_of_a_quick_look_say_so_in_every_figure_from_them(sets):
    common = ["--protocol", "native", "--backbone", "shapes3d", "--device", "cpu", "--workers", 0]
    made = run("stats", "--data", sets / "real", "--out", sets / "few.npz", "--limit", 9, *common)
    assert made.exit_code == 0, made.output
    words = ["fvd", "--samples", sets / "samples", "--reference", sets / "few.npz", *common, "--json"]
    record = json.loads(run(*words).stdout)
    assert record["reference"]["clips"] == record["reference"]["limit"] == 9 and record["num_samples"] == 12
    assert any("was made with --limit 9" in text for text in record["warnings"])
