"""Training of HPDM: `loop.train` is the whole of it, read from top to bottom; the files beside it are its parts.

`request` says what a caller may choose (`hpdm.config.training` what can be set), `loss` what is minimised, `optimizer`
and `ema` how weights move, `distributed` how processes share the work, `precision` in which numbers a pass runs and
whether its gradients arrive, `saving` and `hpdm.checkpoint` how a run is kept, `resume` how it is continued, `sheets`
what one looks at, `plan` what a run will cost. Every random number is a function of (seed, step, position in the global
batch): a run continues exactly where it stopped, and how many processes share it makes no difference.
"""
