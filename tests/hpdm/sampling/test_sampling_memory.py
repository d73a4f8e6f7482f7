"""How many videos and tiles go through the network at once: as many as the memory at hand takes."""

import dataclasses

import pytest
import torch

from hpdm.config import load_config
from hpdm.model.network import HPDM
from hpdm.sampling import memory
from hpdm.sampling.memory import GIB, SHARE, choose_batch, choose_tile_batch, estimate_memory

PLAN = {"levels": 3, "use_cache": True, "offload": False}


@pytest.fixture(scope="module")
def networks():
    found = {}
    for size in ("nano", "S"):
        config = load_config(size)
        with torch.device("meta"):
            found[size] = HPDM(config.network, config.pyramid), config.sampling
    return found


def chosen(networks, size, gib, monkeypatch, device="cuda", at_least=None, **settings):
    network, sampling = networks[size]
    sampling = dataclasses.replace(sampling, **settings)
    at_least = at_least or {"nano": 16}.get(size, 1)
    monkeypatch.setattr(memory, "free_memory", lambda device: gib * GIB)
    batch = choose_batch(network, sampling, device=device, at_least=at_least, **PLAN)
    tiles = choose_tile_batch(network, sampling, batch=batch, device=device, at_least=at_least, **PLAN)
    needed = estimate_memory(network, sampling, batch=batch, tile_batch=tiles, **PLAN).needed
    return batch, tiles, needed / GIB


@pytest.mark.parametrize("size", ["nano", "S"])
def test_videos_at_once_follow_the_memory(networks, size, monkeypatch):
    batches = []
    for gib in (6, 12, 24, 40, 80, 141, 2000):
        batch, tiles, needed = chosen(networks, size, gib, monkeypatch)
        assert needed <= gib or batch == 1
        batches.append(batch)
    assert batches == sorted(batches)
    assert batches[-1] == {"nano": 256, "S": 16}[size]  # beyond that a call gains nothing
    if size != "nano":
        assert batches[0] == 1 and batches[4] > 1


def test_twice_the_batch_would_not_have_fitted(networks, monkeypatch):
    batch, _, _ = chosen(networks, "S", 80, monkeypatch)
    assert 1 < batch < 16
    twice = estimate_memory(*networks["S"], batch=2 * batch, tile_batch=1, **PLAN).needed
    assert twice > SHARE * 80 * GIB


def test_fewer_tiles_leave_room_for_more_videos(networks, monkeypatch):
    paper, _, _ = chosen(networks, "S", 80, monkeypatch)
    fast, _, _ = chosen(networks, "S", 80, monkeypatch, tilings=2, tiling_borders="kept")
    none, _, _ = chosen(networks, "S", 80, monkeypatch, overlap="none")
    assert paper < fast <= none


def test_a_processor_gains_nothing_from_more_videos(networks, monkeypatch):
    assert [chosen(networks, size, 4000, monkeypatch, device="cpu")[:2] for size in ("nano", "S")] == [(16, 16), (1, 1)]
