"""Names of the backbones; nothing here imports torch, so that a command's help is quick."""

I3D, SHAPES3D, C3D, INCEPTION = "i3d-kinetics400", "shapes3d", "c3d-ucf101", "inception-v3"
SHORT_NAMES = {"i3d": I3D, "c3d": C3D, "inception": INCEPTION}
BACKBONES = (I3D, SHAPES3D, C3D, INCEPTION)
KNOWN = ("i3d", "shapes3d", "c3d", "inception", "videomae:WHERE", "vjepa:WHERE")  # as a person calls them
TRANSFORMERS = ("videomae", "vjepa")  # words before the colon
