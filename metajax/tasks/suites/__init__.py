"""Tasks of other packages' environments, one file a suite."""
