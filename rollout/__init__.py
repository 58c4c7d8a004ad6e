"""Generation: the diffusion sampler and the worker around it."""
