"""`torchrun -m hpdm.sampling --` is `hpdm-sample` on several processes."""

from hpdm.launch import launch

launch("hpdm.sampling.cli", "sample", "hpdm-sample")
