"""Signing needs coincurve, which has no wheel for Python 3.14: there these tests are not collected."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("coincurve") else ["test_*.py"]
