"""What of a model folder the user must fix."""

from couplet.configs.errors import UserError


class ModelFolderError(UserError):
    """A model folder that cannot be used: missing, broken, or of a model that is no masked-diffusion model."""
