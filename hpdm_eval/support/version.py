"""The version of the package, for `hpdm_eval.__version__`."""

from hpdm.support.environment import own_version

__version__ = own_version()
