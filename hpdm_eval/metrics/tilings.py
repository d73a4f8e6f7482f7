"""Words for the tilings of a sampler; here, so that options and help import nothing."""

OVERLAPS = ("none", "w", "h", "hw", "f", "fw", "fh", "fhw")  # axes on which tiles overlap by half
TILES = 4  # drawn from each position of a clip
