"""The command ``fastretina demo``: made-up photographs to try everything with."""
