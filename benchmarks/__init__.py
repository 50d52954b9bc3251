"""Benchmarks: each compares two ways of doing the same work side by side, in one run, and states a target.

``python -m benchmarks.NAME`` runs one, ``python -m benchmarks.run_all`` all but the long comparison with small-text.
"""
