"""Task distributions on the environments of other packages. Each module is one suite."""
