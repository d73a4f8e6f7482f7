"""The version of the installed package."""

from importlib import metadata

try:
    __version__ = metadata.version("hpdm")
except metadata.PackageNotFoundError:  # run from a checkout
    __version__ = "unknown"
