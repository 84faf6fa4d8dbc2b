"""The command ``fastretina doctor``: what limits training on this machine."""
