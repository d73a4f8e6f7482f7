"""The metrics that come with the package. Their code is imported when they are computed; this imports nothing."""

from hpdm_eval.metrics.registry import FigureInfo, MetricInfo, MetricOption
from hpdm_eval.metrics.tilings import OVERLAPS, TILES

DEFAULT_CLIP = "openai/clip-vit-base-patch32"
I3D_LICENSE = "I3D on Kinetics-400: Apache 2.0 (kinetics-i3d)"
EVALUATION = "hpdm_eval.evaluation"

FVD_TEXT = """\
The figure depends on how clips are cut, resized and counted and on the network, so it is printed with the protocol's \
name and hash and the network's name, and compares only to figures that share them.

The interval says where the mean figure of other samples lies, as many as these. The figure itself is biased upwards, \
on both sides, the more the fewer clips there are: `corrected` subtracts both biases where there are five clips a \
feature and the reference's features are known, and says "against this reference" where only the samples' bias could \
be subtracted. What the intervals cover, and on which data they do not, is in reports/intervals.md."""

KVD_TEXT = """\
The squared maximum mean discrepancy of the features with a polynomial kernel. Its estimate is unbiased, so it can \
be used on few clips and may come out below 0."""

PRDC_TEXT = """\
Precision and density say how real the samples look, recall and coverage how much of the real variety they have. The \
record's value is the coverage; all four depend on the number of clips on both sides."""

IS_TEXT = """\
Published scores of UCF-101 look through c3d, which sees 16 frames, and differ in numbers of samples and splits: \
--protocol tgan2 (2,048 samples in one split, mean of ten sets), styleganv (2,048 in ten splits), hpdm (10,000 in ten \
splits, inferred). Fewer samples or more splits score lower, so n and splits are printed with the figure."""

FID_TEXT = """\
Every frame that the protocol picks counts as an image. inception is the network of FID; it needs its weights \
(`hpdm-eval weights fetch weights-inception-2015-12-05-6726825d.pth`, or --weights). A network of clips can stand in \
for it and sees each frame as a still clip."""

PATCH = MetricOption(
    name="patch", kind=str, metavar="TxHxW", help="Size of the sampler's tiles. [from the samples' samples.json]"
)
OVERLAP = MetricOption(
    name="overlap",
    kind=str,
    choices=OVERLAPS,
    help="Axes on which tiles overlap by half. [from samples.json, else none]",
)

_METRICS = (
    MetricInfo(
        name="fvd",
        needs="features",
        higher_is_better=False,
        measure="hpdm_eval.metrics.fvd:fvd",
        figures={"fvd": FigureInfo(higher_is_better=False, low=0)},
        summary="Fréchet video distance of samples from real clips: lower is better, 0 for identical sets.",
        text=FVD_TEXT,
        cost="seconds for the interval; minutes with --extrapolate",
        license=I3D_LICENSE,
        caveat="biased upwards by the number of clips; blind to much of motion; compares only under one protocol",
        options=(
            MetricOption(
                name="at",
                default=(),
                kind="sizes",
                metavar="N,N,...",
                help="Also the distance of random subsets of so many samples: mean and spread.",
            ),
            MetricOption(
                name="interval",
                default=True,
                flags=("--interval/--no-interval",),
                help="95 % interval and standard error by a grouped jackknife.",
            ),
            MetricOption(
                name="over",
                default="samples",
                flags=("--interval-over",),
                choices=("samples", "both"),
                help="Sets to resample: the samples against this reference, or both.",
            ),
            MetricOption(
                name="extrapolate", default=False, help="Also FVD-infinity, the infinite-sample limit of both sides."
            ),
        ),
    ),
    MetricInfo(
        name="kvd",
        needs="features",
        higher_is_better=False,
        measure="hpdm_eval.metrics.kernel:kvd",
        summary="Kernel video distance of samples from real clips: lower is better, about 0 for sets alike.",
        text=KVD_TEXT,
        cost="seconds",
        license=I3D_LICENSE,
        caveat="a small difference of large sums: look at its interval in `compare`",
        options=(
            MetricOption(
                name="variant",
                default="kvd",
                choices=("kvd", "jedi"),
                help="kvd: unbiased, degree 3, coef 1; jedi: biased, degree 2, coef 0, times 100.",
            ),
            MetricOption(name="subsets", kind=int, minimum=1, help="Also mean and spread over so many random subsets."),
            MetricOption(name="subset_size", default=1000, minimum=2, help="Clips in such a subset."),
        ),
    ),
    MetricInfo(
        name="prdc",
        needs="features",
        higher_is_better=True,
        unit="coverage",
        measure="hpdm_eval.metrics.prdc:prdc_figures",
        figures={
            "precision": FigureInfo(higher_is_better=True, low=0, high=1, headline=False),
            "recall": FigureInfo(higher_is_better=True, low=0, high=1, headline=False),
            "density": FigureInfo(higher_is_better=True, low=0, headline=False),
            "coverage": FigureInfo(higher_is_better=True, low=0, high=1),
        },
        summary="Precision, recall, density and coverage of samples against real clips: higher is better.",
        text=PRDC_TEXT,
        cost="seconds; grows with the product of the two numbers of clips",
        license=I3D_LICENSE,
        caveat="all four depend on the number of clips on both sides",
        options=(
            MetricOption(
                name="neighbours",
                default=5,
                minimum=1,
                flags=("--neighbours", "-k"),
                help="The neighbour that the ball of a clip reaches to.",
            ),
        ),
    ),
    MetricInfo(
        name="is",
        needs="probabilities",
        higher_is_better=True,
        measure="hpdm_eval.metrics.inception_score:inception_figures",
        reference=False,
        backbone="c3d",
        figures={"is": FigureInfo(higher_is_better=True, low=1)},
        summary="Inception Score of samples: higher is better, at most the number of classes.",
        text=IS_TEXT,
        cost="a pass of C3D",
        license="C3D on UCF-101: none is stated with the weights",
        caveat="sees no reference: videos of one good clip per class score best",
        options=(
            MetricOption(
                name="splits",
                kind=int,
                minimum=1,
                overrides="is_splits",
                help="Parts over which the score is averaged. [the protocol's, or 10]",
            ),
        ),
    ),
    MetricInfo(
        name="fid",
        needs="frames",
        higher_is_better=False,
        measure="hpdm_eval.metrics.fid:fid",
        backbone="inception",
        figures={"fid": FigureInfo(higher_is_better=False, low=0)},
        summary="Fréchet distance of the frames of samples from those of real clips: lower is better, blind to motion.",
        text=FID_TEXT,
        cost="a pass of Inception over all frames",
        license="Inception-v3 on ImageNet: Apache 2.0 (TensorFlow)",
        caveat="blind to motion; frames of one clip are no independent draws",
    ),
    MetricInfo(
        name="seams",
        needs="tilings",
        higher_is_better=False,
        unit="log contrast",
        reference=False,
        measure=f"{EVALUATION}.seams:evaluate_seams",
        summary="Steps where the patches of a tiled sampler meet.",
        cost="a pass over the pixels",
        caveat="needs to know the sampler's tiles; says `no verdict` where it cannot tell",
        options=(
            PATCH,
            OVERLAP,
            MetricOption(
                name="levels",
                kind=int,
                minimum=1,
                help="Levels of the sampler's pyramid; tiles of coarser levels are looked for too. "
                "[from samples.json, else 2: the finest tiles alone]",
            ),
            MetricOption(
                name="lossless",
                default=False,
                help="The clips never went through a codec or JPEG, so there are no blocks to mistake for seams. "
                "[from samples.json]",
            ),
        ),
    ),
    MetricInfo(
        name="dead-tokens",
        needs="tilings",
        higher_is_better=False,
        unit="per million tokens",
        reference=False,
        measure=f"{EVALUATION}.dead_tokens:evaluate_dead_tokens",
        figures={"dead-tokens": FigureInfo(higher_is_better=False, low=0)},
        summary="Broken blocks on the lattice of a model's tokens.",
        cost="a pass over the pixels",
        caveat="about two in a million blocks of real video look like one",
        options=(
            MetricOption(
                name="token", default="1x4x4", metavar="TxHxW", help="Samples of the video that one token makes."
            ),
        ),
    ),
    MetricInfo(
        name="positions",
        needs="tilings",
        higher_is_better=False,
        unit="FVD",
        measure=f"{EVALUATION}.positions:evaluate_positions",
        summary="FVD and seams at corners, edges, faces and the inside of the video.",
        cost="a pass of the network over tiles of both sets",
        license=I3D_LICENSE,
        caveat="compares positions and models, not whole videos",
        options=(
            PATCH,
            OVERLAP,
            MetricOption(
                name="lossless", default=False, help="The clips never went through a codec. [from samples.json]"
            ),
            MetricOption(
                name="tiles",
                default=TILES,
                minimum=1,
                help="Tiles that are drawn at random from each position of a clip for FVD.",
            ),
        ),
    ),
    MetricInfo(
        name="pyramid",
        needs="levels",
        higher_is_better=True,
        unit="dB",
        reference=False,
        measure=f"{EVALUATION}.pyramid:evaluate_pyramid",
        summary="Whether the levels of a sampled pyramid agree with each other.",
        cost="a pass over the pixels of every level",
        caveat="agreement, not quality",
        options=(MetricOption(name="levels", default=3, minimum=2, help="Levels to compare."),),
    ),
    MetricInfo(
        name="clipsim",
        needs="pairs",
        higher_is_better=True,
        reference=False,
        measure=f"{EVALUATION}.clip_similarity:evaluate_clip_similarity",
        summary="How close videos are to the texts they were made from, by CLIP.",
        cost="a pass of CLIP over all frames",
        license="CLIP: MIT (openai/CLIP)",
        caveat="rewards frames that show the words, not motion",
        options=(
            MetricOption(
                name="clip",
                default=DEFAULT_CLIP,
                metavar="FOLDER|ID",
                help="CLIP network, as transformers saves it or from the hub.",
            ),
        ),
    ),
)

BUILTIN = {info.name: info for info in _METRICS}
