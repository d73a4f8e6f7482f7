"""`torchrun -m hpdm_eval --` is `hpdm-eval` on several processes."""

from hpdm.support.launch import launch

launch("hpdm_eval.commands.entry", "main", "hpdm-eval")
