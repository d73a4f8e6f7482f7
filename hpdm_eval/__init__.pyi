from .backbones.loading import load_backbone as load_backbone
from .backbones.registry import register_backbone as register_backbone
from .clips.source import open_clips as open_clips
from .evaluation.api import evaluate as evaluate
from .evaluation.figure import Figure as Figure, Result as Result
from .evaluation.torch_metrics import (
    FID as FID,
    FVD as FVD,
    KVD as KVD,
    PRDC as PRDC,
    InceptionScore as InceptionScore,
)
from .metrics.registry import MetricOption as MetricOption, register_metric as register_metric
from .protocols import load_protocol as load_protocol
from .records.record import Record as Record
from .support.version import __version__ as __version__
