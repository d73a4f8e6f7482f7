"""Hierarchical Patch Diffusion Models for video (HPDM, CVPR 2024): training and sampling.

model = hpdm.load("nano")                                                   # or a run, a file, "user/name" on the hub
videos = model.sample(num=8, classes=[0, 3], seed=0, steps=(32, 16, 16))    # uint8 [N, T, H, W, 3]
result = hpdm.train("nano", "runs/nano", data="UCF-101/")
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpdm.api import HPDM, TrainingResult, load, train
    from hpdm.config import Config, load_config
    from hpdm.sampling.request import SampleRequest
    from hpdm.sampling.sampler import Sampler

__all__ = [
    "HPDM",
    "Config",
    "SampleRequest",
    "Sampler",
    "TrainingResult",
    "__version__",
    "load",
    "load_config",
    "train",
]

# Where each name is; nothing is imported before it is used, so that `import hpdm` imports no torch.
_MODULES = {
    "HPDM": "hpdm.api",
    "Config": "hpdm.config",
    "SampleRequest": "hpdm.sampling.request",
    "Sampler": "hpdm.sampling.sampler",
    "TrainingResult": "hpdm.api",
    "load": "hpdm.api",
    "load_config": "hpdm.config",
    "train": "hpdm.api",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from hpdm.support.environment import own_version

        value: Any = own_version()
    elif name in _MODULES:
        value = getattr(importlib.import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
