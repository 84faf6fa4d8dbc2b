"""A data set on its way into a run: labels, splits, preparation, loading."""
