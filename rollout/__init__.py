"""Generation: the diffusion sampler, the worker around it and the accounting of what it produced."""
