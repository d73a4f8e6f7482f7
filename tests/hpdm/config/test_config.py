"""Configurations: the named sizes, overrides, and errors that name what is wrong."""

import pytest
import yaml

from hpdm.config import config_from_dict, config_to_dict, load_config, override_config, save_config, sizes
from hpdm.support.errors import InputError


@pytest.mark.parametrize("size", ["S", "M", "L", "nano"])
def test_sizes_load_and_survive_yaml(size, tmp_path):
    config = load_config(size)
    assert config.size == size and size in sizes()
    save_config(config, tmp_path / "config.yaml")
    assert config_from_dict(yaml.safe_load((tmp_path / "config.yaml").read_text())) == config
    assert load_config(tmp_path / "config.yaml") == config


def test_published_settings():
    large = load_config("L")
    assert large.pyramid.resolution(2) == (64, 256, 256)
    assert large.network.levels_per_block == (1, 1, 2, 2, 3, 3)
    assert (large.training.steps, large.training.batch, large.training.warmup) == (65_000, 768, 10_000)
    assert (large.training.optimizer, large.training.lr, large.training.weight_decay) == ("lamb", 0.005, 0.01)
    assert [large.diffusion.scale_in(level) for level in range(3)] == pytest.approx([4, 4 * 2**1.5, 32])


def test_overrides_with_and_without_section():
    config = load_config(
        "nano", ["training.lr=1e-3", "fusion=shallow", "pyramid.patch=[4, 16, 16]", "micro_batch=null"]
    )
    assert config.training.lr == 0.001 and config.network.fusion == "shallow"
    assert config.pyramid.patch == (4, 16, 16) and config.training.micro_batch is None
    assert override_config(config, ["training.lr=2"]).training.lr == 2.0


@pytest.mark.parametrize(
    "override, words",
    [
        ("lr", ["key=value", "'lr'"]),
        ("learning_rate=1", ["learning_rate", "unknown"]),
        ("training.learning_rate=1", ["training.learning_rate", "training has", "lr"]),
        ("nowhere.lr=1", ["sections are", "training"]),
        ("training.lr=fast", ["training", "lr", "float", "fast"]),
        ("network.num_classes=1.5", ["num_classes", "int"]),
        ("network.fusion=mean", ["fusion", "deep", "shallow"]),
        ("network.levels_per_block=[1, 3, 2]", ["levels_per_block", "never fall"]),
        ("network.levels_per_block=[1, 1, 2]", ["levels_per_block", "pyramid.levels"]),
        ("pyramid.patch=[4, 9, 8]", ["pyramid.patch", "network.token"]),
        ("diffusion.p_mean=[1, 2]", ["p_mean", "3 levels"]),
        ("training.lr=[", ["YAML"]),
    ],
)
def test_bad_overrides_say_what_is_wrong(override, words):
    with pytest.raises(InputError) as error:
        load_config("nano", [override])
    assert all(word in str(error.value) for word in words), str(error.value)


def test_unknown_sizes_files_and_keys(tmp_path):
    with pytest.raises(InputError, match="XL.*nano"):
        load_config("XL")
    with pytest.raises(InputError, match="cannot read"):
        load_config(tmp_path / "absent.yaml")
    (tmp_path / "odd.yaml").write_text("size: odd\npyramid: {levels: 1, patch: [2, 4, 4]}\nnetwrk: {}\n")
    with pytest.raises(InputError, match="odd.yaml.*netwrk"):
        load_config(tmp_path / "odd.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(InputError, match="sections"):
        load_config(tmp_path / "list.yaml")
    (tmp_path / "code.yaml").write_text("!!python/object/apply:os.getcwd []\n")
    with pytest.raises(InputError, match="not valid YAML"):
        load_config(tmp_path / "code.yaml")


def test_missing_keys_are_named():
    with pytest.raises(InputError, match="pyramid is missing"):
        config_from_dict({"size": "x"})


def test_dictionary_holds_every_field():
    values = config_to_dict(load_config("nano"))
    assert set(values) == {"size", "pyramid", "network", "diffusion", "sampling", "training", "data", "text", "method"}
    assert values["network"]["levels_per_block"] == [1, 1, 2, 3]
