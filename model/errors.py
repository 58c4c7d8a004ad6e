"""Errors in a model folder, which the user must fix."""

from couplet.configs.errors import UserError


class ModelFolderError(UserError):
    """A model folder that cannot be used: missing, broken, or not of a masked-diffusion model."""
