"""The command ``fastretina parity``: the proof that a loader equals plain PIL."""
