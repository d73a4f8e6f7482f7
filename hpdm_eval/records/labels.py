"""How figures are called: a metric with its network, a protocol with the hash of its settings and what they hide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpdm_eval.records.record import Record


def metric_label(record: Record) -> str:
    """`fvd[i3d-kinetics400]`: the metric and the network behind it; the bare metric where there is none."""
    return f"{record.metric}[{record.backbone['name']}]" if record.backbone else record.metric


def protocol_label(record: Record) -> str:
    """`hpdm-16f@0123456789ab`: the protocol's name and the hash of its settings.

    In brackets what the name alone would not let a reader expect: `(split not applied)`, `(exact numerics)`, prefixes.
    """
    name, digest = record.protocol["name"], record.protocol.get("hash")
    label = f"{name}@{digest}" if digest else name
    remarks = "; ".join(label_remarks(record.protocol, record.reference))
    return f"{label} ({remarks})" if remarks else label


def label_remarks(protocol: Mapping[str, Any], reference: Mapping[str, Any] | None) -> Iterator[str]:
    """What belongs into the label of a figure, in words. protocol, reference: as a record holds them."""
    if split_is_missing(protocol, reference):
        yield "split not applied"
    if "numerics=exact" in (protocol.get("overrides") or ()):
        yield "exact numerics"
    yield from subset_remarks(protocol)


def subset_remarks(protocol: Mapping[str, Any]) -> Iterator[str]:
    """Words on each side of which a protocol, as a dict, takes a prefix: "reference: the first 2048 by name"."""
    for name, rule, count in (
        ("reference", "selection", "num_reference"),
        ("samples", "samples_selection", "num_samples"),
    ):
        if protocol.get(rule) == "sorted" and protocol.get(count):
            yield f"{name}: the first {protocol[count]} by name"


def split_is_missing(protocol: Mapping[str, Any], reference: Mapping[str, Any] | None) -> bool:
    """Whether a protocol wants an official split that nothing has picked the reference by; no where it is unknown."""
    return bool(protocol.get("split") and reference and "split" in reference and not reference["split"])


def format_value(value: float) -> str:
    """Two decimals from 1 up, three significant digits below."""
    return f"{value:.2f}" if abs(value) >= 1 or value == 0 else f"{value:.3g}"
