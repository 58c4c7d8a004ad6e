"""The command line: one file per sub-command, with its options, its help and its driver."""

from couplet.commands.cli import main

__all__ = ["main"]
