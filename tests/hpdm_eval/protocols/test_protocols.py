import hashlib
import json
import re
from dataclasses import fields, replace

import pytest

from hpdm.support.errors import InputError
from hpdm_eval.protocols import DEFAULT, DESCRIPTION, Protocol, list_protocols, load_protocol

NAMES = {
    "hpdm-16f",
    "hpdm-16f-2048",
    "hpdm-16f-subsampled",
    "hpdm-64f",
    "hpdm-64f-2048",
    "styleganv-16f",
    "pvdm-16f",
    "native",
}


def test_all_protocols_load_and_have_hashes_of_their_own():
    protocols = list_protocols()
    assert {protocol.name for protocol in protocols} >= NAMES
    assert len({protocol.hash() for protocol in protocols}) == len(protocols)
    for protocol in protocols:
        assert protocol.title and protocol.notes and protocol.overrides == ()
        assert Protocol.from_dict(json.loads(json.dumps(protocol.to_dict()))) == protocol


def test_published_settings():
    hpdm, styleganv, pvdm = (load_protocol(name) for name in ("hpdm-16f", "styleganv-16f", "pvdm-16f"))
    assert (hpdm.frames, hpdm.num_samples, hpdm.num_reference, hpdm.split) == (16, 10000, None, "ucf101-train-01")
    assert (hpdm.resolution, hpdm.crop, hpdm.fps, hpdm.samples_frames) == ((256, 256), "center", 25, "first")
    assert load_protocol("hpdm-64f-2048").differences(hpdm) == {"frames": (64, 16), "num_samples": (2048, 10000)}
    assert (styleganv.selection, styleganv.num_reference, styleganv.start) == ("sorted", 2048, "random")
    assert (pvdm.split, pvdm.backbone_resize, pvdm.num_reference) == ("ucf101-train-01", "short-side", 2048)
    assert load_protocol("native").frames is None and load_protocol("native").resolution is None


@pytest.mark.parametrize(
    "name, ddof, root, epsilon",
    [
        ("styleganv-16f", 0, "scipy-sqrtm", 1e-3),
        ("pvdm-16f", 1, "fp32-svd", 1e-5),
        ("hpdm-64f-2048", 0, "scipy-sqrtm", 1e-3),
        ("larp-16f", 0, "fp64-svd", 1e-3),
    ],
)
def test_a_paper_s_name_is_its_figure_and_exact_changes_rounding_alone(name, ddof, root, epsilon):
    published, exact = load_protocol(name), load_protocol(name, numerics="exact")
    assert (published.ddof, published.root, published.bn_epsilon) == (ddof, root, epsilon)
    assert published == load_protocol(name, numerics="legacy") and published.overrides == ()
    assert exact.differences(published) == {"root": ("qr-nuclear", root), "numerics": ("exact", "legacy")}
    assert exact.hash() != published.hash() and "+numerics=exact" in exact.label
    assert load_protocol(name, numerics="legacy", ddof=1 - ddof).ddof == 1 - ddof
    with pytest.raises(InputError, match="no legacy numerics"):
        load_protocol("native", numerics="legacy")


def test_no_packaged_protocol_calls_more_than_rounding_numerics():
    for protocol in list_protocols():
        if protocol.numerics == "legacy":
            assert set(load_protocol(protocol.name, numerics="exact").differences(protocol)) == {"root", "numerics"}


def test_the_default_claims_nothing_of_the_data():
    default = load_protocol(DEFAULT)
    assert (default.split, default.resolution, default.fps, default.crop) == (None, None, None, "none")
    assert (default.frames, default.num_samples, default.num_reference) == (16, None, None)
    assert "ucf" not in json.dumps(default.to_dict()).lower()


def test_notes_name_file_and_line_of_the_public_code():
    """Of every protocol that is named after published code; HPDM has none, and its variants inherit."""
    for protocol in list_protocols():
        if protocol.name.startswith(("hpdm", "generic", "native")):
            continue
        assert re.search(r"github\.com/[\w.-]+/[\w.-]+, commit [0-9a-f]{8}:", protocol.notes), protocol.name
        assert re.search(r"[\w/]+\.\w+ lines? \d+", protocol.notes), protocol.name


def test_prefixes_are_in_the_label():
    assert load_protocol("styleganv-16f").label.endswith("(reference: the first 2048 by name)")
    assert "by name" not in load_protocol("styleganv-16f", selection="class-balanced").label
    for name in ("pvdm-16f", "hpdm-16f", "native", "generic-16f", "latte-16f"):
        assert "by name" not in load_protocol(name, num_samples=5, num_reference=5).label
    both = load_protocol("native", samples_selection="sorted", num_samples=5, selection="sorted")
    assert both.label.endswith("(samples: the first 5 by name)")


def test_hash_is_of_the_settings_and_of_them_alone():
    protocol = load_protocol("hpdm-16f")
    values = {
        key: value
        for key, value in protocol.to_dict().items()
        if key not in ("name", "title", "citation", "notes", "overrides")
    }
    canonical = json.dumps(values, sort_keys=True, separators=(",", ":"))
    assert protocol.hash() == hashlib.sha256(canonical.encode()).hexdigest()[:12]
    assert replace(protocol, name="x", title="x", citation="x", notes="x", overrides=("x",)).hash() == protocol.hash()
    others = {
        "frames": 8,
        "start": "first",
        "stride": 2,
        "fps": 30,
        "short": "loop",
        "crop": "none",
        "resize": "area",
        "resolution": [64, 64],
        "antialias": False,
        "value_range": "0..1",
        "selection": "shuffled",
        "split": None,
        "num_reference": 9,
        "num_samples": 9,
        "samples_selection": "shuffled",
        "samples_frames": "center",
        "samples_stride": 2,
        "samples_fps": 8,
        "clips_per_video": 2,
        "samples_clips_per_video": 2,
        "backbone": "x",
        "backbone_resize": "short-side",
        "bn_epsilon": 1,
        "numerics": "exact",
        "ddof": 1,
        "root": "fp32-svd",
        "is_splits": 9,
        "is_loops": 9,
    }
    assert set(others) == {item.name for item in fields(Protocol)} - set(DESCRIPTION)
    bilinear = load_protocol("hpdm-16f", resize="bilinear")
    hashes = {replace(bilinear, **{key: value}).hash() for key, value in others.items()}
    assert len(hashes) == len(others) and bilinear.hash() not in hashes
    assert load_protocol("hpdm-16f", fps=25.0).hash() == protocol.hash() == load_protocol("hpdm-16f", fps=25).hash()


def test_overrides_are_noted_where_they_change_something():
    protocol = load_protocol("hpdm-16f", num_samples=64, resolution=[64, 48], frames=16, fps=None, antialias=True)
    assert set(protocol.overrides) == {"num_samples=64", "resolution=64x48", "fps=null"}
    assert protocol.label == "hpdm-16f +fps=null +resolution=64x48 +num_samples=64 [" + protocol.hash() + "]"
    assert protocol.hash() != load_protocol("hpdm-16f").hash()


def test_differences_by_role():
    one = load_protocol("pvdm-16f")
    two = load_protocol("pvdm-16f", num_samples=7, numerics="exact", stride=3, samples_stride=2)
    assert one.differences(two)["stride"] == (1, 3)
    assert set(one.differences(two, role="reference")) == {"stride"}
    assert one.differences(one) == {}
    whole = load_protocol("hpdm-16f")
    assert not whole.differences(replace(whole, selection="sorted"), role="reference")  # all are taken
    assert whole.differences(replace(whole, selection="sorted")) and one.differences(
        replace(one, selection="sorted"), role="reference"
    )


def test_yaml_files_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("extends: pvdm-16f\nframes: 32\nlegacy: {ddof: 0}\n")
    mine = load_protocol(path)
    assert mine.name == "mine" and mine.differences(load_protocol("pvdm-16f")) == {"frames": (32, 16), "ddof": (0, 1)}
    exact = load_protocol(path, numerics="exact")
    assert (mine.root, exact.ddof, exact.root) == ("fp32-svd", 1, "qr-nuclear")
    path.write_text("extends: " + str(path))
    with pytest.raises(InputError, match="extends itself"):
        load_protocol(path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("frame: 16", "unknown setting 'frame'; known are"),
        ("frames: many", "frames is 'many', expected a whole number"),
        ("frames: 0", "whole number from 1"),
        ("frames: true", "whole number"),
        ("start: middle", "one of first, random"),
        ("resolution: 256", "height, width"),
        ("resolution: [256]", "height, width"),
        ("fps: -1", "positive number"),
        ("antialias: 1", "true or false"),
        ("split: ucf101-train-04", "unknown split"),
        ("ddof: 2", "0 or 1"),
        ("resize: lanczos", "needs antialias"),
        ("samples_frames: subsampled\nsamples_stride: 2", "samples_stride 1"),
        ("- 1", "fields and values"),
        ("a: [", "not valid YAML"),
        ("legacy: {x: 1}", "unknown setting 'x'"),
        ("extends: nothing", "unknown protocol 'nothing'"),
        ("legacy: 5", "legacy is 5"),
        ("overrides: 5", "list of texts"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_protocol(path)


def test_unknown_names_and_overrides():
    with pytest.raises(InputError, match="unknown protocol 'fvd'.*hpdm-16f"):
        load_protocol("fvd")
    with pytest.raises(InputError, match="no such file"):
        load_protocol("nowhere.yaml")
    with pytest.raises(InputError, match="unknown setting 'frame'"):
        load_protocol("native", frame=3)
