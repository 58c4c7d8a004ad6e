"""The configuration tree, all of it: the place to import a section from.

Every default is written once, in the `Field` of its key. A component receives its own section, never the tree.
"""
# ruff: noqa: F401

from couplet.configs.adapt import AdaptConfig, ShapeConfig, StageConfig
from couplet.configs.errors import ConfigError, require
from couplet.configs.generation import RolloutConfig, SamplerConfig, WeightsConfig
from couplet.configs.judging import RewardConfig, SandboxConfig
from couplet.configs.learning import AdapterConfig, EstimatorConfig, LearnerConfig, ObjectiveConfig, OptimizerConfig
from couplet.configs.problems import EvaluationConfig, ProblemsConfig, ReplayConfig
from couplet.configs.run import ModelConfig, RunConfig
from couplet.configs.section import Section
from couplet.configs.system import AutoscaleConfig, CheckpointConfig, RayConfig
