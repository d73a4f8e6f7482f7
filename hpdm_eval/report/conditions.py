"""Under which conditions a figure was made, and in what two figures that share a column differ.

What differs is marked, so that no figure passes for one of another network, protocol, data set, number of samples or
machine. Training seeds are not conditions: figures are means over them.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from hpdm_eval.protocols import DESCRIPTION
from hpdm_eval.records.labels import metric_label, protocol_label
from hpdm_eval.records.record import Record
from hpdm_eval.report.aggregate import Figure
from hpdm_eval.report.collect import NamedRecord

OF_COUNTS = ("num_samples", "num_reference")  # of a protocol: what it asks for; a record says what there was
TIMED = ("throughput", "sampling", "memory")  # figures of the machine
OF_NETWORK = ("precision", "epsilon", "mean_sha256")  # of a backbone, beside its name and weights
BESIDE = ("at", "extrapolate", "subsets", "subset_size")  # settings that add figures and leave the value alone
SETTING = "setting: "


def conditions(item: NamedRecord) -> dict[str, Any]:
    """{what: value} of one `NamedRecord` that another figure in its column must share to be compared with it."""
    record = item.record
    known: dict[str, Any] = {}
    if record.num_samples:
        settings = {
            key: value for key, value in record.protocol.items() if key not in (*DESCRIPTION, *OF_COUNTS, "hash")
        }
        known |= {f"protocol: {key}": _plain(value) for key, value in settings.items()}
        known |= {"samples": record.num_samples, "reference clips": record.num_reference}
        known["reference"] = record.reference and record.reference["sha256"][:12]
    if record.backbone:
        known |= {"backbone": record.backbone["name"], "weights": record.backbone["sha256"][:12]}
        known |= {f"the backbone's {key}": record.backbone[key] for key in OF_NETWORK if record.backbone.get(key)}
        known |= {SETTING + key: value for key, value in _own_settings(record).items()}
    if record.metric in TIMED and item.get("basis") != "computed":
        known["hardware"] = record.hardware
    return known


def differences(own: Mapping[str, Any], usual: Mapping[str, Any]) -> str:
    """How conditions differ from the usual ones of a column, in words; "" where they do not."""
    words = []
    for key in usual.keys() | own.keys():
        mine, theirs = own.get(key), usual.get(key)
        if key.startswith(SETTING) and (key not in own or key not in usual):
            continue  # earlier versions did not write it
        if mine != theirs:
            name = key.removeprefix("protocol: ").removeprefix(SETTING)
            words.append(
                "another set of reference clips"
                if key == "reference"
                else f"{name} {_word(mine)} where others have {_word(theirs)}"
            )
    return "; ".join(sorted(words))


def usual(figures: Iterable[Figure]) -> dict[str, Any]:
    """The conditions that most of the `Figure`s were made under; the first of equally frequent ones."""
    counted = Counter(
        tuple(sorted(conditions(item).items(), key=lambda entry: entry[0]))
        for figure in figures
        for item in figure.records
    )
    return dict(counted.most_common(1)[0][0]) if counted else {}


def describe(figures: Iterable[Figure]) -> str | None:
    """A sentence on how the figures of a column were judged; None for figures that judge no samples."""
    record = next((figure.record for figure in figures if figure.record.num_samples), None)
    if record is None:
        return None
    text = f"{metric_label(record)}: protocol {record.protocol['name']}, {record.num_samples:,} samples"
    if record.num_reference:
        text += f" against {record.num_reference:,} real clips"
    return text


def question(record: Record) -> tuple[Any, ...]:
    """What a record outside of studies is about: records share a table where this is equal."""
    settings = {
        key: value
        for key, value in record.protocol.items()  # later versions add settings that are null
        if key not in (*DESCRIPTION, *OF_COUNTS, "hash") and value is not None
    }
    backbone = tuple(str((record.backbone or {}).get(key, "")) for key in ("name", "sha256", *OF_NETWORK))
    reference = record.reference["sha256"] if record.reference else ""
    own = {key: value for key, value in _own_settings(record).items() if record.backbone and key != "interval_over"}
    return (
        record.metric,
        backbone,
        protocol_label(record).split("@")[0],
        repr(sorted(settings.items())),
        repr(sorted(own.items())),
        reference,
    )


def _own_settings(record: Record) -> dict[str, Any]:
    return {key: _plain(value) for key, value in (record.extra.get("settings") or {}).items() if key not in BESIDE}


def _plain(value: Any) -> Any:
    return tuple(map(_plain, value)) if isinstance(value, list) else value


def _word(value: Any) -> str:
    if value is None:
        return "none"
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
