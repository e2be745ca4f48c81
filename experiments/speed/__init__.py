"""How fast the flows, the memory bank and the detection path are; see `__main__`."""
