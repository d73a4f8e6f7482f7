"""`torchrun -m hpdm.training --` is `hpdm-train` on several processes."""

from hpdm.support.launch import launch

launch("hpdm.commands.train", "train", "hpdm-train")
