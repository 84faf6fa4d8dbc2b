"""A run or an experiment as one page that needs nothing else: figures and tables."""
