"""Published figures: complete, sourced, and refused where a key is wrong."""

import re

import pytest
import yaml

from baselines.published import METRICS, PAPER, load_published, parse_published, published_names
from hpdm.support.errors import InputError


def figure_of(table, **wanted):
    found = [
        figure
        for figure in load_published(table).figures
        if all(getattr(figure, key) == value for key, value in wanted.items())
    ]
    assert len(found) == 1, found
    return found[0].value


def test_all_tables_of_the_paper_are_there():
    assert published_names() == ["figure8", *(f"table{number}" for number in range(1, 8))]
    counts = {name: len(load_published(name).figures) for name in published_names()}
    # full resolution 2 x 2, pyramids 4 rows of 4; table 2 has 20 cells less one; 5 rows of 4; 8 overlaps at 2 levels
    assert counts == {
        "figure8": 0,
        "table1": 20,
        "table2": 19,
        "table3": 20,
        "table4": 16,
        "table5": 4,
        "table6": 33,
        "table7": 19,
    }
    assert load_published("figure8").findings


@pytest.mark.parametrize(
    "table, wanted, value",
    [
        ("table1", {"variant": "small-patch-adaptive", "metric": "throughput", "clip": "64x256x256"}, 6.71),
        ("table1", {"variant": "full", "metric": "memory", "clip": "64x512x512"}, None),
        ("table2", {"method": "HPDM-L", "metric": "is"}, 87.68),
        ("table3", {"variant": "deep", "level": 2}, 378.2),
        ("table3", {"variant": "not-adaptive", "metric": "throughput"}, 2.73),
        ("table4", {"variant": "fh", "level": 1}, 360.46),
        ("table5", {"method": "HPDM-T2V-1K", "metric": "fvd"}, 447.5),
        ("table6", {"method": "HPDM-M", "clip": "64x256x256", "samples": 2048}, 324.72),
        ("table7", {"method": "PYoCo", "metric": "is"}, 47.46),
    ],
)
def test_single_figures(table, wanted, value):
    assert figure_of(table, **wanted) == value


def test_tables_agree_where_they_print_the_same():
    """Table 2 rounds what table 6 prints for 10,000 samples."""
    for size in "SML":
        for metric in ("fvd", "is"):
            exact = figure_of("table6", method=f"HPDM-{size}", clip="16x256x256", samples=10000, metric=metric)
            assert figure_of("table2", method=f"HPDM-{size}", metric=metric) == pytest.approx(exact, abs=0.05)


def test_sample_counts_of_table_2_are_those_of_the_same_figures_in_table_6():
    """DIGAN's Inception Score has none: table 6 prints another value there."""
    printed = {
        (figure.method, figure.metric, figure.samples): figure.value
        for figure in load_published("table6").figures
        if figure.clip.startswith("16x")
    }
    counted = [figure for figure in load_published("table2").figures if figure.samples is not None]
    assert len(counted) == 14
    for figure in counted:
        assert figure.value == pytest.approx(printed[figure.method, figure.metric, figure.samples], abs=0.05)


def test_table_1_names_no_size_that_the_paper_does_not():
    assert "does not say which size" in load_published("table1").setting


def test_every_figure_says_where_it_is_from():
    for name in published_names():
        table = load_published(name)
        assert re.fullmatch(r"(Table|Figure) \d", table.table) and "2406.07792" in table.citation
        for figure in table.figures:
            assert figure.paper == PAPER and figure.table == table.table and figure.metric in METRICS
            assert figure.data and figure.protocol
            if figure.metric in ("fvd", "is"):
                assert figure.pretrained in (True, False)
                assert figure.value > 0 or figure.note


def example(**changes):
    figure = {"method": "A", "metric": "fvd", "value": 1.5, "data": "UCF-101", "protocol": "train split"}
    table = {
        "title": "t",
        "table": "Table 9",
        "setting": "s",
        "rows": ["method"],
        "columns": ["metric"],
        "figures": [figure],
    }
    figure.update(changes.pop("figure", {}))
    return yaml.safe_dump({**table, **changes})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"figure": {"sample": 5}}, "unknown key 'sample'"),
        ({"colums": ["metric"]}, "unknown key 'colums'"),
        ({"figure": {"metric": "psnr"}}, "metric 'psnr'"),
        ({"figure": {"value": "1.5"}}, "not a number"),
        ({"figure": {"value": None}}, "needs a note"),
        ({"figure": {"clip": "256"}}, "clip '256'"),
        ({"rows": ["colour"]}, "spanned by 'colour'"),
        ({"figures": [{"method": "A"}]}, "metric is missing"),
    ],
)
def test_wrong_files_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        parse_published("mine", example(**changes))


def test_a_figure_is_given_once():
    twice = yaml.safe_load(example())
    twice["figures"] *= 2
    with pytest.raises(InputError, match="two figures for A"):
        parse_published("mine", yaml.safe_dump(twice))


def test_unknown_table():
    with pytest.raises(InputError, match="there are figure8, table1"):
        load_published("table9")
