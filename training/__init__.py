"""The training loop, the parts it is built from, and the run folder."""
