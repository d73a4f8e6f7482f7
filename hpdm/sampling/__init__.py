"""Sampling whole videos: level by level, tile by tile.

config.py   what a sample depends on
tiled.py    the sampler: tiles of a level denoised together and averaged on one canvas
cache.py    what finished levels leave behind for finer ones
calls.py    how many tiles go through the network at once without changing a bit of the result
memory.py   what a run needs, before it starts
load.py     checkpoints
writer.py   the samples folder
sheet.py    contact sheets for looking
cli.py      hpdm-sample
"""
