"""The likelihood gap before and after noise, against the theory; see `__main__`."""
