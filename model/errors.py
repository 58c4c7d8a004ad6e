"""Errors in a model folder, which the user must fix."""

from couplet.configs.errors import UserError


class ModelFolderError(UserError):
    """A model folder that is missing, broken, inconsistent, of an unknown family, or not of a diffusion model."""
