"""Records of a made-up study, for tests of the report."""

from dataclasses import replace
from functools import cache

import numpy as np

from hpdm.support.files import write_json
from hpdm_eval.report.collect import NamedRecord
from tests.support.example_records import some_record

MEANS = {"deep": (280.0, 370.0, 380.0), "shallow": (300.0, 372.0, 470.0), "not-adaptive": (281.0, 371.0, 381.0)}
HARDWARE = "AMD EPYC, 2 cores, 2 threads"


@cache
def base_record():
    """`some_record()` without what changes from call to call; made once, since it asks git and the packages."""
    record = some_record()
    sources = {"samples": {**record.samples, "rejected": []}, "reference": {**record.reference, "rejected": []}}
    return replace(record, hardware=HARDWARE, created="2026-03-01T10:00:00Z", git="a" * 40, seconds=1.0, **sources)


def study_record(variant="deep", metric="fvd", value=1.0, repeat=0, **changes):
    """A record of table 3, tier cpu; `changes` are fields of the record or further keys."""
    record = replace(base_record(), metric=metric, value=value)
    own = {key: changes.pop(key) for key in list(changes) if hasattr(record, key)}
    extra = {"study": "table3", "variant": variant, "tier": "cpu", "repeat": repeat, **changes}
    return replace(record, **own, extra={key: value for key, value in extra.items() if value is not None})


def found(records):
    return [NamedRecord(name=f"{index:03d}.json", record=record) for index, record in enumerate(records)]


def study_records(repeats=3, spread=2.0):
    """FVD on three levels, throughput, parameters and seams of three variants, some trainings each."""
    records = []
    random = np.random.default_rng(5)
    for variant, means in MEANS.items():
        for repeat in range(repeats):
            for level, mean in enumerate(means):
                records.append(
                    study_record(variant, value=mean + spread * random.standard_normal(), repeat=repeat, level=level)
                )
            counted = {"backbone": None, "reference": None, "num_reference": None, "num_samples": 0}
            records.append(
                study_record(
                    variant,
                    "throughput",
                    40 + random.random(),
                    repeat,
                    unit="videos/s",
                    higher_is_better=True,
                    **counted,
                )
            )
            records.append(study_record(variant, "parameters", 402_412, repeat, **counted))
            records.append(
                study_record(variant, "seams", 0.1, repeat, **seam_figures(random), **counted | {"num_samples": 12})
            )
    return records


def seam_figures(random):
    """Details and profiles as `hpdm-eval seams` writes them."""
    details, profiles = [], []
    for axis, statistic in (("w", "step"), ("w", "coherent-step"), ("f", "step")):
        excess = float(0.1 * random.random())
        details.append(
            {
                "axis": axis,
                "period": 8,
                "statistic": statistic,
                "excess": excess,
                "ci95": [excess - 0.05, excess + 0.05],
                "p_value": 0.2,
                "significant": excess > 0.05,
            }
        )
        values = [round(float(value), 4) for value in 0.02 * random.standard_normal(9)]
        profiles.append({"axis": axis, "period": 8, "statistic": statistic, "first": -4, "values": values})
    return {"details": tuple(details), "profiles": profiles}


def save_records(folder, records):
    for index, record in enumerate(records):
        write_json(folder / f"{index:03d}.json", record.to_dict())
    return folder
