"""The command ``fastretina report``: a run or an experiment as one page."""
