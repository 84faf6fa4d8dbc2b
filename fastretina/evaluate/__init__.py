"""The command ``fastretina evaluate``: a run's evaluation, repeated."""
