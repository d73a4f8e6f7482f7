"""`torchrun -m hpdm.training` is `hpdm-train` on several processes."""

from hpdm.training.cli import train

train(prog_name="hpdm-train")
