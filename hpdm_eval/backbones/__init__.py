"""Networks that turn clips into features: `load_backbone("i3d")`, `load_backbone("shapes3d")`.

i3d.py and shapes3d.py hold the networks, loading.py finds their weights and makes a `Backbone` (backbone.py) of them;
weights.py and download.py look after the files, preprocess.py after range and size.
"""

from hpdm_eval.backbones.backbone import Backbone
from hpdm_eval.backbones.loading import BACKBONES, backbone_name, load_backbone
from hpdm_eval.backbones.weights import WeightsInfo

__all__ = ["BACKBONES", "Backbone", "WeightsInfo", "backbone_name", "load_backbone"]
