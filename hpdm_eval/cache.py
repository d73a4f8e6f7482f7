"""Features of clips that were seen before: one small file per clip and network.

A file's name says what its content is a function of: the digest of the clip's pixels as the network gets them, which is
after the protocol has chosen, cut and resized the frames, and a hash of everything else that moves features: the
network (weights, precision, epsilon, resize rule), the processor and the size of a call, the source text of our code
that pixels go through from there on, and the versions of the libraries below it. So two protocols share what they have
in common and nothing else, nothing in the cache can be out of date, and what is read is what would be computed, to the
last bit.

Files appear under their name whole or not at all, and two processes that make the same file make the same content: any
number of runs may share the cache, and be killed at any moment. A damaged file counts as absent. The folder may be
deleted at any time.
"""

import json
import os
from hashlib import sha256
from pathlib import Path

import numpy as np

from hpdm.environment import package_versions, processor
from hpdm.errors import InputError
from hpdm.files import atomic_file, expand_user
from hpdm_eval.backbones.weights import user_cache
from hpdm_eval.npz import read_npz

LAYOUT = 2  # of the files, and the way clips go through a network, see `calls`
# modules of `backbones` that pixels go through or that decide how; the others say where files come from
COMPUTES = ("backbone.py", "c3d.py", "i3d.py", "loading.py", "preprocess.py", "scripted.py", "shapes3d.py",
            "transformers.py")
LIBRARIES = ("torch", "transformers", "torch-fidelity")  # the last two bring networks of their own
# entries of `Backbone.describe()` that say where weights came from, not what they compute
OF_ORIGIN = ("file", "verified", "trust")


def code_version(folder=None):
    """SHA-256 of the source text of COMPUTES in `folder`, by default the one of the running program."""
    folder = folder or Path(__file__).parent / "backbones"
    return sha256(b"".join(sha256((folder / name).read_bytes()).digest() for name in COMPUTES)).hexdigest()


CODE = code_version()  # when the program starts: what it imports then does not change with the files


def cache_folder():
    """Folder of cached features: $HPDM_EVAL_CACHE, else hpdm-eval/features in the platform's cache folder."""
    if chosen := os.environ.get("HPDM_EVAL_CACHE"):
        return expand_user(chosen)
    return user_cache() / "features"


class FeatureCache:
    """Features and probabilities of one backbone by clip digest.

    backbone: anything with `describe()` and a `device`; folder: by default `cache_folder()`; calls: clips in a call of
    the network, which its last bits depend on.
    """

    def __init__(self, backbone, folder=None, calls=1):
        self._arguments, self.calls = (backbone, folder), calls
        identity = {key: value for key, value in backbone.describe().items() if key not in OF_ORIGIN}
        identity |= {"device": backbone.device.type, "processor": processor(backbone.device), "calls": calls,
                     "layout": LAYOUT, "code": CODE, "libraries": package_versions(LIBRARIES)}
        key = sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
        self.folder = (folder or cache_folder()) / f"{backbone.name}-{key}"
        self._writable = True

    def for_calls(self, calls):
        """The cache of the same network in calls of another size."""
        return self if calls == self.calls else FeatureCache(*self._arguments, calls=calls)

    def path(self, digest):
        """Where the features of the clip with this digest are, if they are."""
        return self.folder / digest[:2] / f"{digest}.npz"

    def get(self, digest):
        """(features, probabilities) as float32 arrays, or None."""
        try:
            arrays = read_npz(self.path(digest))
            return arrays["features"], arrays["probabilities"]
        except (InputError, KeyError):
            return None

    def put(self, digest, features, probabilities):
        """Store float32 arrays; where the folder cannot be written, no more is tried and nothing is lost."""
        if not self._writable:
            return
        try:
            with atomic_file(self.path(digest)) as file:
                np.savez(file, features=features, probabilities=probabilities)
        except OSError:
            self._writable = False
