"""A figure and a set of figures, as Python gets them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpdm_eval.evaluation.settings import Place
from hpdm_eval.records.labels import format_value, metric_label, protocol_label
from hpdm_eval.records.record import Record, save_record

if TYPE_CHECKING:
    import pandas
    import torch


class Figure:
    """One metric of one set of samples; `float(figure)` is its value."""

    def __init__(
        self, record: Record
    ) -> None:  # no dataclass: torchmetrics goes through the fields of those, and copies them
        self.record = record

    @property
    def value(self) -> float:
        """The headline figure."""
        return self.record.value

    @property
    def ci95(self) -> tuple[float, float] | None:
        """Its 95 % confidence interval, where the metric has one."""
        return self.record.ci95

    def tensor(self, device: Any = None) -> "torch.Tensor":
        """The value as a float32 tensor without axes, for loggers that take tensors alone."""
        import torch

        return torch.tensor(float(self), dtype=torch.float32, device=device)

    def __repr__(self) -> str:
        return f"Figure({self.record.metric}={float(self):.4g})"

    def __eq__(self, other: object) -> bool:
        return self.record == other.record if isinstance(other, Figure) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # records hold dicts

    def __float__(self) -> float:
        return float(self.record.value)

    def __str__(self) -> str:
        interval = "" if self.ci95 is None else " [{}, {}]".format(*map(format_value, self.ci95))
        record = self.record
        return f"{metric_label(record)} {format_value(record.value)}{interval} under {protocol_label(record)}"


class Result(Mapping[str, Figure]):
    """Figures by the name of their metric: `result["fvd"].value`; in the order in which they were computed."""

    def __init__(self, records: Mapping[str, Record], missing: Mapping[str, str] | None = None) -> None:
        self._figures = {name: Figure(record) for name, record in records.items()}
        self.missing = dict(
            missing or {}
        )  # {metric: why it could not be had}, of metrics that nobody asked for by name

    def __getitem__(self, name: str) -> Figure:
        return self._figures[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._figures)

    def __len__(self) -> int:
        return len(self._figures)

    @property
    def records(self) -> list[Record]:
        """The records behind the figures."""
        return [figure.record for figure in self._figures.values()]

    def to_frame(self) -> "pandas.DataFrame":
        """A row for every figure, details included; see `hpdm_eval.records.frame.to_frame`."""
        from hpdm_eval.records.frame import to_frame  # pandas takes half a second to import

        return to_frame(self.records)

    def save(self, place: Place) -> list[Path]:
        """Write the records, and return where: into a folder as JSON, a file each; a name that ends in .csv, .parquet
        or .jsonl gets one table of all."""
        place = Path(place)
        if place.suffix.lower() in (".csv", ".parquet", ".json", ".jsonl"):
            from hpdm_eval.records.frame import save_table

            save_table(self.records, place)
            return [place]
        return [Path(save_record(record, place)) for record in self.records]

    def __str__(self) -> str:
        return "\n".join(map(str, self.values()))

    def __repr__(self) -> str:
        return f"Result({', '.join(f'{name}={float(figure):.4g}' for name, figure in self.items())})"
