"""Judging a folder of samples: `python examples/judge_a_folder.py [SAMPLES REFERENCE]`.

Without arguments it draws two small sets and judges them by the shipped network `shapes3d`, which needs no download and
knows drawn clips alone. With two folders of videos, or a file of statistics as the second, I3D judges; its weights come
by `hpdm-eval weights fetch`.
"""

import sys
import tempfile
from pathlib import Path

import hpdm_eval
from hpdm.data.procedural import procedural_clip
from hpdm.video.writer import write_video


def judge(samples, reference, **settings):
    """Figures, their records and a table of both sets."""
    result = hpdm_eval.evaluate(samples, reference, metrics=["fvd", "kvd", "prdc"], **settings)
    print(result)
    for name, figure in result.items():
        print(f"{name}: {figure.value:.3f}, 95 % interval {figure.ci95}")
    return result


def main():
    if len(sys.argv) == 3:
        judge(*sys.argv[1:])
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, seed in (("samples", 0), ("real", 1)):
            for index in range(44):
                write_video(Path(folder, name, f"{index:03d}.mp4"), procedural_clip(seed, index, 8, 32, 32)[0])
        result = judge(Path(folder, "samples"), Path(folder, "real"), backbone="shapes3d", frames=8, workers=0)
        saved = result.save(Path(folder, "records"))
        print("records:", ", ".join(path.name for path in saved))
        print("made again by:", result["fvd"].record.command.replace(folder, "..."))


if __name__ == "__main__":
    main()
