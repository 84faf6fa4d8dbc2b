"""The command ``fastretina audit``: what is wrong with a data set before training."""
