"""`torchrun -m hpdm.sampling --` is `hpdm-sample` on several processes."""

from hpdm.support.launch import launch

launch("hpdm.commands.sample", "sample", "hpdm-sample")
