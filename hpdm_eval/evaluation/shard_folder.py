"""Where shards are kept; here, so that a command's help imports nothing."""

FOLDER = "shards"  # where none is named
