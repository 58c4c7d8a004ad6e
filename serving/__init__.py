"""Completion servers: a client of the completions protocol, and vLLM as a child process."""
