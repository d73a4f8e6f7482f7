"""The published JSON Schema of records, `record.schema.json`; `check_record` asks for the same."""

import json
from importlib import resources
from typing import Any


def record_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a record, as a dict."""
    return json.loads(resources.files(__package__).joinpath("record.schema.json").read_text(encoding="utf-8"))
