"""An evaluation suite for video generators: FVD and its kin from Python, with records that say how each was made.

    result = hpdm_eval.evaluate("samples/", reference="UCF-101/", metrics=["fvd", "kvd"], protocol="hpdm-16f")
    fvd = hpdm_eval.FVD("ucf101.npz", protocol="hpdm-16f")  # in a training loop: update, compute, reset

Names are imported when they are used (PEP 562); `__init__.pyi` lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
