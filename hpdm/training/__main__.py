"""`torchrun -m hpdm.training --` is `hpdm-train` on several processes."""

from hpdm.launch import launch

launch("hpdm.training.cli", "train", "hpdm-train")
