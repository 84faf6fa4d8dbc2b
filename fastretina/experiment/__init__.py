"""Experiments of many runs: what is trained, how it is kept, and what it says."""
