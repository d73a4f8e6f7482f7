"""The files of studies and tiers; here, so that the command's help imports nothing."""

from importlib import resources
from typing import Any

import yaml


def read_settings(name: str) -> dict[str, Any]:
    """What a YAML file of the package holds."""
    return yaml.safe_load((resources.files("hpdm_eval.studies") / name).read_text(encoding="utf-8"))


def tier_names() -> list[str]:
    """The tiers that there are, the smallest first."""
    return list(read_settings("tiers.yaml"))
