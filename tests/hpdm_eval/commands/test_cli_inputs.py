"""`hpdm-eval` on inputs that went wrong once: real ones of the developers' folder of cases, and generated ones."""

import json

import av
import numpy as np
import pytest
from click.testing import CliRunner

from hpdm.data.procedural import procedural_clip
from hpdm_eval.commands.entry import main
from hpdm_eval.features.extraction import FeatureSet
from hpdm_eval.features.moments import Moments
from hpdm_eval.metrics.frechet import frechet_distance
from hpdm_eval.protocols import load_protocol
from tests.support.reading import read, reasons
from tests.support.small_network import draw_clips, random_shapes3d
from tests.support.video_files import grey_clip, write_video


@pytest.fixture
def cases(shared):
    if not (shared / "cases").is_dir():
        pytest.skip("the developers' folder of cases is not at hand")
    return shared / "cases"


@pytest.fixture
def run(tmp_path):
    weights = random_shapes3d(tmp_path / "weights.safetensors")

    def call(command, *words, protocol="native"):
        shared = ["--protocol", protocol, "--workers", "0", "--device", "cpu", *weights]
        return CliRunner().invoke(main, [command, *map(str, words), *shared])

    return call


def record_of(result):
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def write_b_frames(path, frames):
    """H.264 with B frames, one key frame in 25, in the container of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"crf": "20", "bf": "3", "g": "25", "b-adapt": "0"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())


def write_copy(path, source):
    """The frames of `source`, decoded one after the other, without loss."""
    with av.open(str(source)) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    write_video(path, np.stack(frames), codec="ffv1", pixel_format="bgr0")


@pytest.fixture(params=["case", "made"])
def copies(request, tmp_path):
    """(folder of H.264 videos in AVI, folder of their frames stored without loss)."""
    if request.param == "case":
        cases = request.getfixturevalue("cases")
        return cases / "seek" / "h264avi", cases / "seek" / "h264ffv1"
    for k in range(3):
        clip = np.concatenate([procedural_clip(k, part, 16, 64, 96)[0] for part in range(5)])
        write_b_frames(tmp_path / "lossy" / f"{k}.avi", clip)
        write_copy(tmp_path / "lossless" / f"{k}.mkv", tmp_path / "lossy" / f"{k}.avi")
    return tmp_path / "lossy", tmp_path / "lossless"


@pytest.mark.parametrize(
    "words",
    [["--start", "center", "--samples-frames", "center"], ["--stride", "4", "--samples-stride", "4"], ["--fps", "10"]],
)
def test_a_lossless_copy_is_at_distance_zero(run, copies, words):
    lossy, lossless = copies
    record = record_of(
        run("fvd", "--samples", lossy, "--reference", lossless, "--frames", "16", "--json", "--quiet", *words)
    )
    assert record["value"] == 0 and record["samples"]["sha256"] == record["reference"]["sha256"]


def test_frames_of_h264_in_avi_are_those_asked_for(cases):
    path = cases / "seek" / "h264_g25.avi"
    with av.open(str(path)) as file:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])
    _, found = read(path, load_protocol("native", frames=16, samples_stride=4))
    assert np.array_equal(found[path.name].video, frames[0:64:4])
    _, found = read(path, load_protocol("native", frames=16, samples_frames="center"))
    first = (len(frames) - 16) // 2
    assert np.array_equal(found[path.name].video, frames[first : first + 16])


def test_a_variable_frame_rate_goes_by_time(cases):
    path = cases / "variable-frame-rate" / "vfr2.mp4"
    _, whole = read(path)
    _, found = read(path, load_protocol("native", samples_fps=10))
    expected = [0, 5, 10, 15, 20, 21, 22, 24, 25, 26, 27, 29]
    video = found[path.name].video[: len(expected)]
    assert np.array_equal(video, whole[path.name].video[expected])


def test_hidden_frames_are_not_counted(cases):
    _, found = read(cases / "stream-copy-hang")
    assert [len(clip.video) for clip in found.values()] == [100] * 4
    assert all(len(np.unique(clip.video.reshape(100, -1)[:, ::997], axis=0)) > 90 for clip in found.values())


@pytest.mark.parametrize(
    "folder, count, passed_over",
    [("suffixes/sfx", 12, 0), ("sidecar-arrays/sib", 6, 6), ("sidecar-arrays/sib2", 6, 6), ("hash-in-name/s", 2, 0)],
)
def test_real_folders_are_read_whole(cases, folder, count, passed_over):
    source, found = read(cases / folder)
    assert len(found) == count and not source.rejected
    assert sum(source.summary().get("passed_over", {}).values()) == passed_over


def test_real_names(cases, run, tmp_path):
    folder = cases / "hash-in-name" / "s"
    for pattern, count in (("*.mp4", 2), ("a #1*", 1)):
        result = run("features", "--samples", folder, "--match", pattern, "--out", tmp_path / "f.npz", "--quiet")
        assert result.exit_code == 0, result.output
        assert len(FeatureSet.load(tmp_path / "f.npz").names) == count


def test_damaged_real_videos_cost_themselves(cases):
    source, found = read(cases / "dropped-videos" / "drop", load_protocol("native", frames=16))
    assert list(found) == ["c2/0000.mp4", "c2/0001.mp4"]
    assert sorted(reasons(source)) == [f"c1/000{k}.mp4" for k in range(4)] + ["c2/trunc_nomoov.mp4"]
    assert all("--short loop" in reasons(source)[f"c1/000{k}.mp4"] for k in range(4))
    looped = load_protocol("native", frames=16, short="loop")
    assert len(read(cases / "dropped-videos" / "drop", looped)[1]) == 6
    source, found = read(cases / "unknown-codec" / "data")
    assert list(found) == ["c/good.mp4"] and list(reasons(source)) == ["c/bad.mp4"]


def test_statistics_of_another_tool(run, tmp_path):
    draw_clips(tmp_path / "a", 6)
    draw_clips(tmp_path / "b", 7, seed=1)
    features = []
    for name in "ab":
        assert run("features", "--samples", tmp_path / name, "--out", tmp_path / f"{name}.npz").exit_code == 0
        features.append(FeatureSet.load(tmp_path / f"{name}.npz").features)
    mean, covariance = features[1].astype(np.float64).mean(0), np.cov(features[1].astype(np.float64), rowvar=False)
    np.savez(tmp_path / "bare.npz", mu=mean, sigma=covariance)
    np.savez(tmp_path / "counted.npz", mu=mean, sigma=covariance, num=7)
    expected = frechet_distance(features[0], Moments.of(features[1]))
    words = ["--samples", tmp_path / "a", "--json", "--no-interval", "--reference"]
    refused = run("fvd", *words, tmp_path / "bare.npz")
    assert refused.exit_code == 2 and "--num-reference" in refused.stderr and "n=..." in refused.stderr
    for name, more in (("bare", ["--num-reference", "7"]), ("counted", [])):
        result = run("fvd", *words, tmp_path / f"{name}.npz", *more)
        record = record_of(result)
        assert record["value"] == pytest.approx(expected, rel=1e-9) and record["num_reference"] == 7
        assert record["reference"]["made_by"] == "another tool" and "nothing in it says" in result.stderr
    np.savez(tmp_path / "other.npz", mu=np.zeros(2048), sigma=np.eye(2048), n=50)
    result = run("fvd", *words, tmp_path / "other.npz")
    assert result.exit_code == 2 and "is of 2048 features, shapes3d makes 128" in result.stderr
    (tmp_path / "fvd_stats.pkl").write_bytes(b"\x80\x04N.")
    result = run("fvd", *words, tmp_path / "fvd_stats.pkl")
    assert result.exit_code == 2 and "is a pickle" in result.stderr and "mu=mean" in result.stderr


def test_clips_of_both_sets_and_copies_are_remarked_on(run, tmp_path):
    draw_clips(tmp_path / "a", 6)
    draw_clips(tmp_path / "b", 5, seed=1)
    (tmp_path / "b" / "seen.mp4").write_bytes((tmp_path / "a" / "03.mp4").read_bytes())
    (tmp_path / "b" / "copy.mp4").write_bytes((tmp_path / "b" / "00.mp4").read_bytes())
    words = ["--samples", tmp_path / "a", "--reference", tmp_path / "b"]
    record = record_of(run("fvd", *words, "--json"))
    assert "1 of 6 samples are reference clips too, pixel for pixel" in record["warnings"]
    assert "1 of 7 reference clips equal another one of them, pixel for pixel" in record["warnings"]
    assert record["reference"]["duplicates"] == 1 and "duplicates" not in record["samples"]
    table = run("fvd", *words, "--quiet").stdout
    assert "1 of 6 samples are reference clips too" in table and "1 of 7 reference clips equal another" in table
    (tmp_path / "b" / "seen.mp4").unlink()
    (tmp_path / "b" / "copy.mp4").unlink()
    assert not any("pixel for pixel" in text for text in record_of(run("fvd", *words, "--json"))["warnings"])


def test_too_short_for_the_network_names_the_way(run, tmp_path):
    write_video(tmp_path / "set" / "a.mp4", grey_clip(2))
    words = ["features", "--samples", tmp_path / "set", "--out", tmp_path / "f.npz"]
    result = run(*words)
    assert result.exit_code == 2 and "--frames 4 --short loop" in result.stderr
    assert run(*words, "--frames", "4", "--short", "loop").exit_code == 0


def test_lists_and_shards_through_a_command(run, tmp_path):
    draw_clips(tmp_path / "a", 3)
    (tmp_path / "list.txt").write_text("a/00.mp4\na/02.mp4\na/gone.mp4\n")
    result = run("features", "--samples", tmp_path / "list.txt", "--out", tmp_path / "f.npz", "--json")
    manifest = record_of(result)
    assert FeatureSet.load(tmp_path / "f.npz").names == ["a/00.mp4", "a/02.mp4"]
    assert [entry["path"] for entry in manifest["samples"]["rejected"]] == ["a/gone.mp4"]
    assert "rejected a/gone.mp4: no such file" in result.stderr
