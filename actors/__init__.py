"""The training loop, its two wirings (one process, or Ray) and the thin actor shells around the plain classes."""
