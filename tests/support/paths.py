"""Places that tests start from."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of the repository
TESTS = ROOT / "tests"
SUPPORT = TESTS / "support"
