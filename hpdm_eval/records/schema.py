"""The published JSON Schema of records, `record.schema.json`; `check_record` asks for the same."""

from importlib import resources
from typing import Any

from hpdm.support.files import parse_json


def record_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a record, as a dict."""
    return parse_json(resources.files(__package__).joinpath("record.schema.json").read_bytes())
