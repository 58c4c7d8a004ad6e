"""Configuration: the validated schema, its loader and the recipes."""
