"""`hpdm-eval bench gpu`: what this code does on the GPU at hand, within a number of minutes.

plan.py          the items, most valuable first, each with what it may cost
everything.py    a whole run
run.py           the loop over items: budget, records as they come, what was left out
worker.py        the process that measures; replaced when it hangs, dies or loses its device
bench.py         what an item gets: device, precisions, clock, memory; failures that become records
agreement.py roof.py training.py gradients.py table1.py sampling.py backbones.py   one subject each
tables.py        records → markdown
"""
