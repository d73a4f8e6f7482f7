"""The fault campaigns with little effort; `python tests/faults/run.py` makes them longer."""

import pytest

from tests.faults.campaigns import CAMPAIGNS, mutate


@pytest.mark.parametrize("name", [name for name, (_, effort, _) in CAMPAIGNS.items() if effort])
def test_nothing_is_lost(name, tmp_path):
    campaign, effort, _ = CAMPAIGNS[name]
    for tally in campaign(effort, 0, tmp_path / "faults"):
        assert tally.tried and not tally.bad, f"{tally.name}: {dict(tally.counts)}; {tally.examples}"


def test_the_campaigns_would_notice():
    """A fault that is not noticed is counted as lost: a mutation really changes something, most of the time."""
    import random

    content, chance = bytes(range(256)) * 4, random.Random(0)
    assert sum(mutate(content, chance) != content for _ in range(200)) > 180
