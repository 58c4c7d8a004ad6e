"""What the user must fix, as one class of errors; everything else that is raised is a defect of ours."""


class UserError(ValueError):
    """A mistake of the user: one line that names the field or file, its value and the remedy. Exit code 2.

    Every package derives its own from it: `ConfigError`, `SourceError`, `ProblemFileError`, `RowError`,
    `SampleFileError`, `EndpointError`, `CheckpointError`, ...
    """
