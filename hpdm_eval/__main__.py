"""`torchrun -m hpdm_eval --` is `hpdm-eval` on several processes."""

from hpdm.launch import launch

launch("hpdm_eval.cli", "main", "hpdm-eval")
