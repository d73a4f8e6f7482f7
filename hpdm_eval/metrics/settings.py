"""What a metric's function gets beside the two sets."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hpdm_eval.protocols import Protocol


@dataclass(frozen=True, kw_only=True)
class MetricSettings:
    """Protocol, seed, and the metric's own options by name: `settings["splits"]`."""

    protocol: Protocol
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.options[name]
