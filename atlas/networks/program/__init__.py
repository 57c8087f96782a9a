"""A network written out as a list of operations, which can be fused and run again."""
