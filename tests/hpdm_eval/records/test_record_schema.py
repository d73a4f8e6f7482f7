"""The published schema of records: all records keep to it, and it refuses what reading refuses."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from hpdm.support.errors import InputError
from hpdm_eval.records.archive import is_archive, read_archive
from hpdm_eval.records.record import CHECKS, REQUIRED, parse_record
from hpdm_eval.records.schema import record_schema
from tests.support.example_records import some_record
from tests.support.paths import ROOT, TESTS
from tests.support.report_records import study_records

SCHEMA = record_schema()
VALIDATOR = Draft202012Validator(SCHEMA)

FULL = some_record(
    ci95=(60.0, 70.5),
    unit="videos/s",
    details=({"figure": "fvd", "value": 1.5, "ci95": [1, None]}, {"axis": "w", "excess": None, "ci95": None}),
    warnings=("few clips",),
).to_dict()


def is_read(values):
    try:
        parse_record(values, "record.json")
    except InputError:
        return False
    return True


def test_the_schema_is_one_and_names_what_reading_asks_for():
    Draft202012Validator.check_schema(SCHEMA)
    assert set(SCHEMA["required"]) == {"schema", *REQUIRED}
    assert set(SCHEMA["properties"]) == {"schema", *CHECKS}
    assert list(FULL)[: len(SCHEMA["properties"])] == list(SCHEMA["properties"])  # the same order, to read side by side


def test_all_committed_records_keep_to_the_schema():
    archives = [path for path in sorted((ROOT / "reports").rglob("*.jsonl")) if is_archive(path)]
    records = [(f"{path}#{entry.name}", entry.values) for path in archives for entry in read_archive(path)]
    records += [(path, json.loads(path.read_text())) for path in (TESTS / "records").glob("*.json")]
    assert len(records) > 100
    for place, values in records:
        assert VALIDATOR.is_valid(values), place
        assert parse_record(values, place).to_dict() == {"details": [], "warnings": [], **values}, place


def test_records_made_by_tests_keep_to_the_schema():
    for record in [some_record(), *study_records()]:
        VALIDATOR.validate(json.loads(json.dumps(record.to_dict())))


odd_numbers = st.sampled_from([0, -1, 1, 12.0, 2.5, -0.0, 1e308, float("inf"), float("-inf"), 10**400, True, False])
values_of_json = st.recursive(
    st.none() | st.text(max_size=3) | odd_numbers | st.sampled_from(["", "Z", "Z\n", "2026-01-31T12:00:00Z", "fvd"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "sha256", "path", "clips", "value", "ci95", "figure"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


def places(values, path=()):
    """Every place in a JSON value, as a path of keys."""
    if path:
        yield path
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in inner:
        yield from places(value, (*path, key))


READ = [path for path in places(FULL) if path[0] not in ("versions", "extra") and path[:2] != ("protocol", "notes")]


def mutated(path, change, value):
    record = copy.deepcopy(FULL)
    holder = record
    for key in path[:-1]:
        holder = holder[key]
    if change == "replace":
        holder[path[-1]] = value
    elif change == "delete":
        del holder[path[-1]]
    elif isinstance(holder, list):
        holder.append(value)
    else:
        holder["new"] = value
    return record


@given(st.sampled_from(READ), st.sampled_from(["replace", "replace", "delete", "add"]), values_of_json)
def test_a_changed_record_is_accepted_by_both_or_by_neither(path, change, value):
    record = mutated(path, change, value)
    assert is_read(record) == VALIDATOR.is_valid(record)


@pytest.mark.parametrize(
    "path, value, good",
    [
        (("schema",), True, False),
        (("schema",), 1.0, True),
        (("schema",), 2, False),
        (("num_samples",), 12.0, True),
        (("num_samples",), True, False),
        (("samples", "clips"), 3.0, True),
        (("value",), float("inf"), False),
        (("value",), 10**400, False),
        (("ci95",), [1.0, None], False),
        (("details", 0, "ci95"), [1.0, None], True),
        (("details", 0, "figure"), None, False),
        (("created",), "Z\n", False),
        (("higher_is_better",), 0, False),
        (("unit",), "", False),
    ],
)
def test_values_on_the_border(path, value, good):
    record = mutated(path, "replace", value)
    assert is_read(record) == VALIDATOR.is_valid(record) == good


def test_a_count_with_a_decimal_point_is_a_count():
    record = parse_record(mutated(("num_samples",), "replace", 12.0), "record.json")
    assert repr(record.num_samples) == "12"
