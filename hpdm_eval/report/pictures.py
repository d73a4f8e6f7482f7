"""Which figures the records of a study, or loose records, give, and with what data."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from hpdm_eval.records.labels import metric_label, protocol_label
from hpdm_eval.report import figures
from hpdm_eval.report.collect import NamedRecord
from hpdm_eval.report.layouts import Column
from hpdm_eval.report.model import Picture, Table
from hpdm_eval.report.single import label_samples
from hpdm_eval.report.studies import Study

SINGLE_DOT = "The bar through a value is its 95 % interval."


def study_pictures(study: Study) -> list[Picture]:
    """Pictures of a `Study`: curves where its columns are of sample counts or steps, bars of the others, seams."""
    pictures = [*_study_curves(study), *_study_bars(study)]
    by_seed = sorted(study.records, key=lambda item: item.get("repeat") or 0)
    seams = [
        (label, item)
        for variant, label in study.lines
        for item in by_seed
        if item.record.metric == "seams" and str(item.get("variant")) == variant
    ]
    first = dict(reversed(seams))
    several = (
        " These are single trainings, not the means of the table. Of several trainings the first."
        if len({item.get("repeat") for _, item in seams}) > 1
        else ""
    )
    return pictures + seam_pictures(
        study.name, {label: first[label] for label in dict.fromkeys(own for own, _ in seams)}, several
    )


def single_pictures(records: Sequence[NamedRecord], table: Table) -> list[Picture]:
    """Pictures of the records of one table outside of studies."""
    metric = records[0].record.metric
    if metric == "seams":
        labels = label_samples(records)
        settings = {item.name: "/".join(row.heads[:-3]) for item, row in zip(records, table.rows, strict=True)}
        names = labels if len(set(labels.values())) == len(records) else settings
        return seam_pictures(table.name, {names[item.name]: item for item in records})
    lines = {}
    labels = label_samples(records)
    for item in records:
        if points := _sample_counts(item):
            lines[labels[item.name]] = points
    if not lines:
        return []
    title = f"{metric_label(records[0].record)}, {protocol_label(records[0].record)}"
    caption = f"{title}, over the number of samples. A bar through a point is twice the spread over random subsets."
    return [
        Picture(
            name=f"{table.name}-counts",
            caption=caption,
            draw=partial(figures.curves, [(title, lines)], across="samples", ylabel="distance", log=True),
        )
    ]


def seam_pictures(name: str, records: Mapping[str, NamedRecord], remark: str = "") -> list[Picture]:
    """Excesses and, from records that hold them, phase profiles. records: {label: `NamedRecord` of metric seams}.

    remark: a sentence that captions end with.
    """
    pictures = []
    panels: dict[tuple[str, int, str], list[Any]] = {}
    profiles: dict[tuple[str, int, str], dict[str, Any]] = {}
    for label, item in records.items():
        for entry in item.record.details:
            if {"axis", "period", "statistic", "excess"} <= set(entry):
                interval = tuple(entry["ci95"]) if entry.get("ci95") else None
                panels.setdefault((entry["axis"], entry["period"], entry["statistic"]), []).append(
                    (label, entry["excess"], interval, bool(entry.get("significant")))
                )
        for entry in item.get("profiles") or ():
            moves = range(entry["first"], entry["first"] + len(entry["values"]))
            values = [float("nan") if value is None else value for value in entry["values"]]
            profiles.setdefault((entry["axis"], entry["period"], entry["statistic"]), {})[label] = (moves, values)
    if panels:
        pictures.append(
            Picture(
                name=f"{name}-seams",
                draw=partial(figures.excesses, list(records), sorted(panels.items(), key=_seam_order)),
                caption="Contrast at the borders of patches in excess of comparable positions, with 95 % intervals "
                "over clips. Dotted: what is not called a seam. A diamond is a lattice that the test calls one."
                f"{remark}",
            )
        )
    if profiles:
        pictures.append(
            Picture(
                name=f"{name}-phases",
                draw=partial(figures.profiles, sorted(profiles.items(), key=_seam_order)),
                caption="Contrast with the lattice of borders moved aside. A seam is a peak at 0, where the marker is; "
                f"peaks elsewhere are of the codec or the content.{remark}",
            )
        )
    return pictures


def _study_curves(study: Study) -> list[Picture]:
    """Curves of the columns that differ in `step` or `num_samples` alone."""
    axes = {"step": "training step", "num_samples": "samples"}
    groups: dict[tuple[str, tuple], list[tuple[dict[str, Any], Column]]] = {}
    for column in study.columns:
        where = dict(column.where)
        place = {key: where.pop(key) for key in axes if key in where}
        if place:
            groups.setdefault((column.metric, tuple(sorted(where.items()))), []).append((place, column))
    pictures = []
    for (metric, others_of), columns in groups.items():
        across = next((key for key in axes if len({place.get(key) for place, _ in columns}) > 1), None)
        if across is None:
            continue
        lines: dict[str, list[tuple]] = {}
        for variant, label in study.lines:
            for place, column in columns:
                figure = study.figure(variant, column)
                if figure:
                    others = [
                        f"{value:,} samples" if key == "num_samples" else f"step {value:,}"
                        for key, value in place.items()
                        if key != across
                    ]
                    name = ", ".join(([label] if len(study.lines) > 1 or not others else []) + others)
                    lines.setdefault(name, []).append((place[across], figure.value, figure.interval))
        if any(len(points) > 1 for points in lines.values()):
            title = " ".join([metric, *(f"{key} {value}" for key, value in others_of)])
            pictures.append(
                Picture(
                    name=f"{study.name}-{metric}-curve",
                    caption=f"{study.title}: {title} over the {axes[across]}. {SINGLE_DOT}",
                    draw=partial(
                        figures.curves,
                        [("", {name: sorted(points) for name, points in lines.items()})],
                        across=axes[across],
                        ylabel=title,
                        log=across == "num_samples",
                    ),
                )
            )
    return pictures


def _study_bars(study: Study) -> list[Picture]:
    """Bars of all columns that are no points of a curve and have two rows to compare."""
    panels = []
    for column in study.columns:
        if {"step", "num_samples"} & set(dict(column.where)):
            continue
        rows = [(label, figure) for variant, label in study.lines if (figure := study.figure(variant, column))]
        if len(rows) > 1:
            panels.append(
                (
                    column.heading,
                    [(label, figure.value, None if figure.exact else figure.interval) for label, figure in rows],
                )
            )
    if not panels:
        return []
    labels = [label for _, label in study.lines if any(label == own for _, rows in panels for own, *_ in rows)]
    return [
        Picture(
            name=f"{study.name}-bars",
            draw=partial(figures.bars, labels, panels),
            caption=f"{study.title}. The dark bar is the row that others are compared with; black lines are "
            "95 % intervals, where there are any.",
        )
    ]


def _sample_counts(item: NamedRecord) -> list[tuple[int, float, tuple[float, float] | None]]:
    """[(number of samples, distance, interval or None)] from a record's further figures."""
    points: dict[int, tuple[float, tuple[float, float] | None]] = {}
    for entry in item.record.details:
        name = str(entry.get("figure", ""))
        if name.startswith("fvd@"):
            spread = entry.get("spread")
            interval = (entry["value"] - spread, entry["value"] + spread) if spread else None
            points[int(name.removeprefix("fvd@"))] = (entry["value"], interval)
    if points and item.record.metric == "fvd":
        points[item.record.num_samples] = (item.record.value, item.record.ci95)
    return [(size, *points[size]) for size in sorted(points)] if len(points) > 1 else []


def _seam_order(item: tuple[tuple[str, int, str], Any]) -> tuple[int, int, bool]:
    axis, period, statistic = item[0]
    return "whf".index(axis), period, statistic != "step"
