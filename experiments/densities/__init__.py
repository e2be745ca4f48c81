"""Densities of several families for equal CPU time, and the paradox on each; see `__main__`."""
