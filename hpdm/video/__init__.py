"""Videos in and out, for training, sampling and evaluation alike; nothing here imports torch.

`reader` reads the frames that a player shows, by number; `timeline` says when they are shown and resamples; `packets`
is what both rest on; `pixels` holds the one rule from any samples to 8-bit RGB, and reads pictures; `formats` says
which files are videos; `walk` lists folders; `writer` writes files; `workers` decodes in processes that may crash or
hang; `ucf101` reads that data set's lists.
"""
