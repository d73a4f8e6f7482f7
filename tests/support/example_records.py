"""A record for tests that need one."""

import time

from hpdm_eval.protocols import load_protocol
from hpdm_eval.records.record import make_record


def some_record(**changes):
    protocol = load_protocol("hpdm-16f", resolution=(64, 64))
    source = {
        "path": "a/generated",
        "sha256": "0" * 64,
        "clips": 12,
        "rejected": [{"path": "x.mp4", "reason": "empty"}],
    }
    return make_record(
        **{
            "started": time.time() - 2,
            "metric": "fvd",
            "value": 66.25,
            "higher_is_better": False,
            "protocol": {**protocol.to_dict(), "hash": protocol.hash()},
            "num_samples": 12,
            "num_reference": 20,
            "samples": source,
            "reference": {**source, "path": "b/real clips.npz", "sha256": "1" * 64, "clips": 20},
            "backbone": {"name": "shapes3d", "sha256": "2" * 64, "verified": True},
            "seed": 3,
            **changes,
        }
    )
