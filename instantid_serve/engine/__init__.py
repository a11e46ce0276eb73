"""Step-level continuous batching by rows: the scheduler decides, the runner computes, the loop owns the device."""
