"""Networks that turn clips into features: `load_backbone("i3d")`, "shapes3d", "c3d", "inception".

names.py says which there are; i3d.py, shapes3d.py and c3d.py hold the networks, loading.py finds their weights and
makes a `Backbone` (backbone.py) of them; weights.py and download.py look after the files, preprocess.py after range and
size.
"""

import time
from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from hpdm_eval.backbones.backbone import Backbone, PerFrame
    from hpdm_eval.backbones.loading import backbone_name, load_backbone
    from hpdm_eval.backbones.names import BACKBONES
    from hpdm_eval.backbones.weights import WeightsInfo

IMPORTED_AT = time.time()  # before any module of this package is read, see `features.cache.running_code`

__all__ = ["BACKBONES", "Backbone", "PerFrame", "WeightsInfo", "backbone_name", "load_backbone"]

__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "names": ["BACKBONES"],
        "backbone": ["Backbone", "PerFrame"],
        "weights": ["WeightsInfo"],
        "loading": ["backbone_name", "load_backbone"],
    },
)
