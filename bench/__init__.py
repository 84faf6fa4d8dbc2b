"""Benchmarks of loaders, to the same finish lines: see ``bench/README.md``."""
