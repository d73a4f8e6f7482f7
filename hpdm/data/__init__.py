"""Training data: clips of fixed length and size, with a class each, for any source.

`loader` is the entrance: `open_clips` and `make_loader` of a `DataConfig` (`hpdm.config.data`). Behind it, `index`
knows what lies in a folder of videos and `shards` what lies in tar files, as a `table` of columns in a memory-mapped
file; `folders` says which of them are the data and of what class, `captions` which have texts; `videos` and
`procedural` make clips, as `jobs` in worker processes, from files or from `members` of shards; `store` finds shards,
`addresses` reads those behind an address; `quarantine` lists files that failed; `accounts` says what is used and left
out, and `ranges` converts between stored bytes and the model's range. `indexing` and `pack` are what `hpdm-data` does.
"""
