"""Accounting of the replay queue: no clock, no payload, no Ray."""
