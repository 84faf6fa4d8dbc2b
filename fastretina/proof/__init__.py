"""The evidence of ``fastretina.parity``: a witness, what differs from it, and why."""
