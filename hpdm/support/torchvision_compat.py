"""Importing torchvision next to a CPU build of torch.

The registry's torchvision wheels carry compiled operators that load only beside the CUDA build of torch. Beside a CPU
build those operators are silently missing, and `import torchvision` stops at the first place that registers a
meta kernel for one of them: `RuntimeError: operator torchvision::nms does not exist`. With it fail torch-fidelity,
timm and the T5 encoder of transformers, none of which calls such an operator.

Declaring the operators' signatures, without any kernel, is enough for the import. Calling one still fails, as it
should. Once torchvision imports by itself the first line succeeds and nothing here has an effect.
"""

import importlib
import sys
from types import ModuleType

import torch

MISSING_OPERATORS = ("nms", "qnms")
SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

_library = None  # the declarations live as long as this object


def import_torchvision() -> ModuleType:
    """Import torchvision and return the module; call it before anything that imports torchvision, once per process.

    Raises ImportError where torchvision is not installed, RuntimeError where it fails for another reason.
    """
    global _library
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if _library is not None or "torchvision::" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for name in MISSING_OPERATORS:
        _library.define(name + SIGNATURE)
    return importlib.import_module("torchvision")
