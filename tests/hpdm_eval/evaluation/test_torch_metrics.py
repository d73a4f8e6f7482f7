"""Metric classes against evaluations of the same clips in files: the same figures, digests and records."""

import copy
import doctest
import json
import multiprocessing
import pickle

import pytest
import torch
import torch.distributed as dist
from click.testing import CliRunner

import hpdm_eval
from hpdm.support.errors import InputError
from hpdm_eval.backbones.backbone import Shapes3DBackbone
from hpdm_eval.commands.entry import main
from hpdm_eval.evaluation import incoming, torch_metrics
from hpdm_eval.evaluation.torch_metrics import FID, FVD, KVD, PRDC, InceptionScore  # before torchmetrics itself
from tests.support.small_sets import SMALL, draw, save, without_surroundings

from torchmetrics import MetricCollection  # isort: skip

CLASSES = {"fvd": FVD, "kvd": KVD, "prdc": PRDC, "fid": FID, "is": InceptionScore}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """(samples uint8 [42, 7, 26, 22, 3], their folder, reference, its folder)."""
    folder = tmp_path_factory.mktemp("sets")
    samples, reference = draw(seed=1), draw(seed=2)
    return samples, save(folder / "samples", samples), reference, save(folder / "reference", reference)


@pytest.fixture(scope="module")
def few(sets, tmp_path_factory):
    """The first ten of each, as `sets`: too few for an interval, and quick."""
    folder = tmp_path_factory.mktemp("few")
    samples, reference = sets[0][:10], sets[2][:10]
    return samples, save(folder / "samples", samples), reference, save(folder / "reference", reference)


@pytest.fixture
def network_calls(monkeypatch):
    """Number of clips in each call of the network."""
    calls = []
    run = Shapes3DBackbone.run

    def counted(self, video):
        calls.append(len(video))
        return run(self, video)

    monkeypatch.setattr(Shapes3DBackbone, "run", counted)
    incoming._extractors.clear()
    return calls


def in_batches(metric, videos, **options):
    """Update a metric with all videos, in batches of 5, 1 and whatever is left."""
    for start, stop in ((0, 5), (5, 6), (6, None)):
        metric.update(videos[start:stop], **options)
    return metric


@pytest.mark.parametrize("name", CLASSES)
def test_equals_the_evaluation_of_files(sets, few, name):
    samples, folder, _, reference = sets if name == "fvd" else few
    metric = InceptionScore(**SMALL) if name == "is" else CLASSES[name](reference, workers=0, **SMALL)
    figure = in_batches(metric, torch.from_numpy(samples)).compute()
    of_files = hpdm_eval.evaluate(folder, None if name == "is" else reference, name, workers=0, **SMALL)[name]
    assert figure.value == of_files.value and figure.ci95 == of_files.ci95
    assert name != "fvd" or figure.ci95
    assert without_surroundings(figure.record) == without_surroundings(of_files.record)
    assert figure.record.samples["path"] == "<memory>"


def test_equals_the_command(few):
    samples, folder, real, reference = few
    words = [
        "fvd",
        "--samples",
        folder,
        "--reference",
        reference,
        "--protocol",
        "generic-16f",
        "--backbone",
        "shapes3d",
    ]
    words += [
        "--frames",
        "6",
        "--resolution",
        "24x20",
        "--start",
        "first",
        "--workers",
        "0",
        "--device",
        "cpu",
        "--json",
    ]
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 0, result.output
    command = json.loads(result.stdout)
    metric = FVD(**SMALL)
    in_batches(metric, torch.from_numpy(samples))
    in_batches(metric, torch.from_numpy(real), real=True)
    assert without_surroundings(metric.compute().record) == without_surroundings(command)


@pytest.mark.parametrize("value_range, low, high", [("auto", -1, 1), ("0..1", 0, 1), ("0..255", 0, 255)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_floats_are_read_as_uint8(few, value_range, low, high, dtype):
    samples, _, reference, _ = few
    floats = torch.from_numpy(samples).to(dtype).permute(0, 4, 1, 2, 3) / 255 * (high - low) + low
    as_bytes, as_floats = FVD(**SMALL), FVD(**SMALL, value_range=value_range)
    for metric, videos in ((as_bytes, torch.from_numpy(samples)), (as_floats, floats)):
        metric.update(videos[:9])
        metric.update(reference[:9], real=True)
    figures = as_bytes.compute(), as_floats.compute()
    assert figures[0].value == figures[1].value
    assert figures[0].record.samples["sha256"] == figures[1].record.samples["sha256"]


def test_a_network_sees_each_clip_once(few, network_calls):
    samples, _, reference, _ = few
    collection = MetricCollection([FVD(**SMALL), KVD(**SMALL), PRDC(**SMALL)])
    for _ in range(2):
        for start in range(0, 10, 4):
            collection.update(torch.from_numpy(samples[start : start + 4]))
            collection.update(torch.from_numpy(reference[start : start + 4]), real=True)
        figures = collection.compute()
        assert sum(network_calls) == 20
        network_calls.clear()
        collection.reset()
        incoming._extractors.clear()
        for metric in collection.values(copy_state=False):
            metric._extractor = None
    assert collection.compute_groups == {0: ["FVD", "KVD", "PRDC"]}
    alone = [cls(**SMALL) for cls in (FVD, KVD, PRDC)]
    for metric in alone:
        metric.update(samples)
        metric.update(reference, real=True)
    assert sum(network_calls) == 20
    assert [metric.compute().value for metric in alone] == [figure.value for figure in figures.values()]


def test_a_buffer_that_is_filled_again_is_looked_at_again(few):
    samples, _, reference, _ = few
    buffer = torch.empty(5, *samples.shape[1:], dtype=torch.uint8)
    used, fresh = FVD(**SMALL), FVD(**SMALL)
    for videos, real in ((samples[:5], False), (samples[5:], False), (reference[:5], True)):
        buffer.numpy()[:] = videos
        used.update(buffer, real=real)
        fresh.update(videos, real=real)
    assert used.compute().value == fresh.compute().value


def test_groups_of_a_collection_look_at_clips_alike(few):
    samples, _, reference, _ = few
    collection = MetricCollection(
        {name: FVD(**{**SMALL, "frames": 4, "samples_frames": name}) for name in ("first", "center")}
    )
    collection.update(samples[:5, :4])  # of four frames, where first and center are the same
    collection.update(reference, real=True)
    collection.update(samples[5:])
    figures = collection.compute()
    assert figures["first"].value != figures["center"].value
    assert len(collection.compute_groups) == 2


def ddp_worker(rank, place, shares, reference, queue):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=len(shares))
    try:
        collection = MetricCollection([FVD(reference, workers=0, **SMALL), PRDC(reference, workers=0, **SMALL)])
        for batch in shares[rank]:
            collection.update(torch.from_numpy(batch))
        first = collection.compute()
        local = [int(metric.seen) for metric in collection.values(copy_state=False)]
        queue.put((rank, {name: figure.record.to_dict() for name, figure in first.items()}, local))
    except Exception as error:
        queue.put((rank, repr(error), None))
        raise
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("alone", [False, True], ids=["shared", "all of one process"])
def test_two_processes_make_the_figure_of_one(few, tmp_path, alone):
    samples, _, _, reference = few
    shares = [[samples[0::2][:2], samples[0::2][2:]], [samples[1::2]]] if not alone else [[samples], []]
    context = multiprocessing.get_context("fork")  # which imports nothing again
    queue = context.Queue()
    arguments = (tmp_path / "meeting", shares, reference, queue)
    processes = [context.Process(target=ddp_worker, args=(rank, *arguments), daemon=True) for rank in (0, 1)]
    for process in processes:
        process.start()
    answers = {rank: answer for rank, *answer in (queue.get(timeout=100) for _ in processes)}
    for process in processes:
        process.join(timeout=30)
    for name, cls in (("FVD", FVD), ("PRDC", PRDC)):
        metric = cls(reference, workers=0, **SMALL)
        metric.update(samples)
        one = without_surroundings(metric.compute().record)
        for rank in (0, 1):
            records, seen = answers[rank]
            assert without_surroundings(records[name]) == one
            assert seen == [sum(map(len, shares[rank]))] * 2  # each process goes on with its own


def test_state_can_be_copied_kept_and_reset(few, tmp_path):
    samples, _, reference, _ = few
    metric = FVD(**SMALL)
    metric.update(samples[:9])
    metric.update(reference[:9], real=True)
    value = metric.compute().value
    for other in (copy.deepcopy(metric), metric.clone(), pickle.loads(pickle.dumps(metric))):
        assert other._extractor is None or other is metric
        assert other.compute().value == value
        other.update(samples[9:])
        assert other.compute().value != value
    assert metric.compute().value == value
    assert metric.state_dict() == {} and list(metric.parameters()) == []
    metric.persistent(True)
    torch.save(metric.state_dict(), tmp_path / "state.pt")
    restored = FVD(**SMALL)
    restored.persistent(True)
    restored.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert restored.compute().value == value
    metric.reset()
    with pytest.raises(InputError, match="no clips among the samples"):
        metric.compute()


def test_real_videos_may_stay(few):
    samples, _, reference, _ = few
    collection = MetricCollection([FVD(**SMALL, reset_real_features=False), KVD(**SMALL, reset_real_features=False)])
    collection.update(reference, real=True)
    collection.update(samples)
    before = {name: figure.value for name, figure in collection.compute().items()}
    collection.reset()
    collection.update(samples[:5])
    collection.update(samples[5:])
    assert {name: figure.value for name, figure in collection.compute().items()} == before


def test_autocast_and_gradients_of_a_loop_change_nothing(few):
    samples, _, reference, _ = few
    plain, within = FVD(**SMALL), FVD(**SMALL)
    floats = torch.from_numpy(samples[:9]).permute(0, 4, 1, 2, 3) / 127.5 - 1
    plain.update(floats)
    plain.update(reference[:9], real=True)
    incoming._extractors.clear()
    within._extractor = None
    with torch.autocast("cpu", torch.bfloat16):
        within.update(floats.requires_grad_())
        within.update(reference[:9], real=True)
    assert within.compute().value == plain.compute().value


def test_short_clips_are_counted(few):
    samples, _, reference, _ = few
    metric = FVD(**SMALL)
    metric.update([samples[0], samples[1][:3], *samples[2:9]])
    metric.update(reference[:9], real=True)
    entry = metric.compute().record.samples
    assert entry["clips"] == 8
    assert [item["path"] for item in entry["rejected"]] == ["<memory>#1"] and "too short" in entry["rejected"][0][
        "reason"
    ]


@pytest.mark.parametrize("wanted, first", [(7, True), (10, False), (20, False)])
def test_the_first_clips_count_and_the_record_says_so(few, network_calls, wanted, first):
    samples, _, reference, _ = few
    metric = FVD(**SMALL, num_samples=wanted)
    in_batches(metric, samples)
    metric.update(reference, real=True)
    record = metric.compute().record
    taken = FVD(**SMALL)
    taken.update(samples[:wanted])
    taken.update(reference, real=True)
    assert record.value == taken.compute().value and record.num_samples == min(wanted, 10)
    assert ("samples_selection=sorted" in record.protocol["overrides"]) == first
    assert record.protocol["samples_selection"] == ("sorted" if first else "class-balanced")
    assert record.samples.get("classes", {}).get("available") == (10 if first else None)


def test_a_range_that_is_not_used_is_remarked(few):
    samples, _, reference, _ = few
    metric = FVD(**SMALL)
    metric.update(torch.from_numpy(samples[:9]) / 255.0)
    metric.update(reference[:9], real=True)
    assert any('value_range="0..1"' in warning for warning in metric.compute().record.warnings)


def test_figures_for_loggers(few):
    samples, _, reference, _ = few
    metric = FVD(**SMALL, as_tensor=True)
    assert metric(samples[:9]) is None  # forward is an update
    metric.update(reference[:9], real=True)
    value = metric.compute()
    assert isinstance(value, torch.Tensor) and value.shape == () and float(metric.figure) == pytest.approx(float(value))
    assert float(metric.figure.tensor()) == float(value)
    assert not metric.higher_is_better and PRDC.higher_is_better and not metric.full_state_update


def test_a_score_without_reference_passes_over_real_videos(few):
    samples, _, reference, _ = few
    score = InceptionScore(**SMALL, splits=2)
    score.update(samples[:9])
    score.update(reference[:9], real=True)
    assert score.compute().record.num_samples == 9


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"foo": 1}, "unknown setting 'foo'"),
        ({"match": "*.mp4"}, "match is a setting of samples in files"),
        ({"backbone": "nope"}, "unknown backbone"),
        ({"reference": "does/not/exist"}, "does not exist"),
        ({"at": 3, "protocol": "nope"}, "unknown protocol"),
        ({"over": "neither"}, "over is 'neither'"),
        ({"frames": 2}, "needs at least 4 frames"),
        ({"value_range": "0..2"}, "value_range"),
        ({"trained_with": ("shapes3d",)}, "trained with features"),
    ],
)
def test_mistakes_are_said_at_once(settings, message):
    with pytest.raises(InputError, match=message) as error:
        FVD(**{**SMALL, **settings})
    assert "\n" not in str(error.value)


def test_mistakes_of_updates(few):
    samples, _, _, reference = few
    metric = FVD(reference, workers=0, **SMALL)
    with pytest.raises(InputError, match="leave out real=True"):
        metric.update(samples, real=True)
    with pytest.raises(InputError, match="not finite"):
        metric.update(torch.full((2, 3, 7, 8, 8), float("nan")))
    with pytest.raises(InputError, match="shape"):
        metric.update(torch.zeros(4))
    strict = FVD(reference, workers=0, strict=True, **SMALL)
    with pytest.raises(InputError, match="too short.*strict"):
        strict.update(samples[:, :3])


def test_statistics_are_a_reference(few, tmp_path):
    samples, _, _, reference = few
    path = tmp_path / "reference.npz"
    words = ["stats", "--data", reference, "--out", path, "--protocol", "generic-16f", "--backbone", "shapes3d"]
    words += ["--frames", "6", "--resolution", "24x20", "--start", "first", "--workers", "0", "--keep-features"]
    result = CliRunner().invoke(main, list(map(str, words)))
    assert result.exit_code == 0, result.output
    figures = [in_batches(FVD(where, workers=0, **SMALL), samples).compute() for where in (path, reference)]
    assert figures[0].value == pytest.approx(figures[1].value, rel=1e-9)
    with pytest.raises(InputError, match="frames is 6 there and 5 here"):
        FVD(path, **{**SMALL, "frames": 5})


def test_examples_in_docstrings():
    found = doctest.testmod(torch_metrics)
    assert found.attempted >= 6 and not found.failed
