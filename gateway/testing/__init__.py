"""Test material that ships: worlds of evidence under roots of our own, for the reference node and for tests.

Nothing in here proves anything about a machine, and nothing that serves imports it (`tests/test_import_hygiene.py`).
Whoever wants verdicts over it has to name its root in the settings as a test root; they then say `root=TEST`.
"""
