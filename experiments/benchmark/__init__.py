"""Every detector on every pair of data sets; see `__main__`."""
