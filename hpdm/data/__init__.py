"""Training data: clips of fixed length and size, with a class each, for any source.

`loader` is the entrance: `DataConfig` and `make_loader`. Behind it, `index` knows what lies in a folder of videos,
`ucf101` reads that data set's split lists, `decoding` opens video files, `videos` and `procedural` make clips,
and `ranges` converts between stored bytes and the model's range.
"""
