"""The commands `hpdm-train`, `hpdm-sample` and `hpdm-info`; each lives with its subject."""

from hpdm.training.cli import train

__all__ = ["train"]
