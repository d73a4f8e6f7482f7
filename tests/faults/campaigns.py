"""Campaigns of faults: damage, kills, lost writes. Each tries many faults and counts how they ended.

A campaign is a function of (effort, seed, folder) and returns `Tally`s. The gate runs them with little effort
(test_campaigns.py); `python tests/faults/run.py` runs them at length and writes reports/reliability.md.
"""

from tests.faults.damaged import damaged_clips, damaged_results, damaged_runs, damaged_texts
from tests.faults.killed import killed_evaluation, killed_rank, killed_sampling, killed_training
from tests.faults.storage import clock_going_back, lost_power, many_files, stale_views, unsteady_server
from tests.faults.tally import BAD, GOOD, Tally, damage, mutate

__all__ = ["BAD", "CAMPAIGNS", "GOOD", "Tally", "damage", "mutate"]

CAMPAIGNS = {
    # name: (function, effort in the gate, effort at length)
    "Damaged files of training runs": (damaged_runs, 25, 500),
    "Damaged configurations, protocols, prompts and manifests": (damaged_texts, 25, 500),
    "Damaged records, statistics, features and weights": (damaged_results, 25, 500),
    "Damaged clips": (damaged_clips, 3, 300),
    "Killed training": (killed_training, 1, 40),
    "Killed sampling": (killed_sampling, 2, 30),
    "Killed evaluation": (killed_evaluation, 1, 20),
    "Killed processes of several": (killed_rank, 0, 2),
    "Lost writes": (lost_power, 1, 1),
    "Unsteady servers of files": (unsteady_server, 1, 40),
    "Old listings of folders": (stale_views, 1, 40),
    "Clocks": (clock_going_back, 1, 20),
    "Many files": (many_files, 1, 25),
}
