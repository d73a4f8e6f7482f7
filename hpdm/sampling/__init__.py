"""Sampling whole videos: level by level, tile by tile.

request.py    what a caller may choose
settings.py   from a checkpoint and a request to the settings that samples are made with
sampler.py    `Sampler`: a checkpoint, a request, and videos by their numbers
folder.py     samples into a folder, by one process or several
tiled.py      tiles of a level denoised together and averaged on one canvas
groups.py     tiles that share a call of the network
steps.py      the plan of a level: noise levels, tiles, cost
cache.py      what finished levels leave behind for finer ones
calls.py      how many tiles go through the network at once without changing a bit of the result
memory.py     what a run needs, before it starts
precision.py  the arithmetic of the network
prompts.py    what samples are conditioned on
writer.py     the samples folder
sheet.py      contact sheets

Settings that decide what a sample looks like are in `hpdm.config.sampling`, checkpoints in `hpdm.checkpoint`.
"""
