"""The smallest network that can stand behind an FVD: thumbnails."""

import hpdm_eval


@hpdm_eval.register_backbone(
    "thumbnails", dimension=48, frames=(1, None), size=(32, 32), license="Apache 2.0", caveat="blind to motion"
)
def thumbnails(device):
    """Colours on a grid of 4 x 4, averaged over time."""
    from torch import nn  # here, so that listing the network imports nothing

    return nn.Sequential(nn.AdaptiveAvgPool3d((1, 4, 4)), nn.Flatten()).to(device)
