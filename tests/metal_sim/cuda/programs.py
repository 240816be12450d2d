"""What the table of cases lacks of the device's kernels: optimizers, selections, and whole steps of graph."""

PROGRAMS: dict = {}
