"""Everything that needs Ray: the driver, and thin actors around the plain classes."""
