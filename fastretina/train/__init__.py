"""The command ``fastretina train``: start, loop and finish of a run."""
