"""The DeepSpeed engine: ZeRO 0 to 3, offload, float32 or bfloat16, on gloo or NCCL. The only import of deepspeed.

Nothing is compiled at start-up: the optimiser is torch's AdamW, and the shared-memory communication op (a C++ build of
half a minute on CPU) is switched off.

What is not covered: NVMe offload, pipeline and tensor parallelism.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.checkpoint.ds_to_universal import main as convert_to_universal
from deepspeed.utils import logger, safe_get_full_fp32_param, safe_get_local_fp32_param
from torch import Tensor

from couplet.configs.schema import LearnerConfig, OptimizerConfig
from couplet.learner.checkpoint import CheckpointError
from couplet.learner.engine import DTYPES, EngineState, Setup, adamw, check_norm, decay_groups, own_settings
from couplet.learner.process_group import join
from couplet.model.adapters import trained_parameters

# torch renames collectives faster than DeepSpeed follows; one line per call would flood a run's log.
warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)

TAG = "state"
UNIVERSAL = "universal"
RECORD = "engine.json"


class DeepSpeedEngine(EngineState):
    """A `learner.engine.Engine` on DeepSpeed."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        learner, optimizer = self.config, setup.optimizer
        self._stage = zero_stage(learner)
        logger.setLevel(logging.ERROR)
        join(self.rank, self.ranks, self.device, learner.timeout)
        if self.device.type == "cpu":
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        os.environ.setdefault("LOCAL_RANK", str(self.device.index or 0))
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)
        policy = setup.policy.to(DTYPES[learner.dtype]).train()
        self._every: dict[str, Any] = dict(policy.named_parameters())
        self._trained: dict[str, Any] = dict(trained_parameters(policy))
        self._parameters: list[Any] = list(self._trained.values())
        groups = decay_groups(list(self._trained.items()), optimizer.weight_decay)
        with redirect_stdout(StringIO()):  # stage 1 in bfloat16 prints its memory
            self._engine, self._optimizer, _, _ = deepspeed.initialize(
                model=policy, optimizer=adamw(groups, optimizer), config=settings(optimizer, learner, self.ranks)
            )
        self.module: Any = self._engine

    def backward(self, loss: Tensor, last: bool) -> None:
        self._engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed averages over the ranks; an engine sums.
        self._engine.backward(loss * self.ranks, scale_wrt_gas=False)

    def step(self) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate
        if self._stage == 0:  # DeepSpeed then clips without reporting the norm
            norm = float(torch.nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None]))
            check_norm(norm, self.updates)
            self._engine.step()
        else:
            self._engine.step()  # leaves the weights unchanged if a gradient is infinite
            norm = float(self._engine.get_global_grad_norm())
            check_norm(norm, self.updates)
        self.updates += 1
        return norm

    def named_weights(self, frozen: bool = False) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in (self._every if frozen else self._trained).items():
            if not self._sharded:
                yield name, parameter.detach()
                continue
            with deepspeed.zero.GatheredParameters([parameter]):
                full = parameter.detach().clone() if self.rank == 0 else parameter.detach()
            yield name, full

    @torch.no_grad()
    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        for name, parameter in self._trained.items():
            if not self._sharded:
                parameter.copy_(state[name])
                continue
            with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
                if self.rank == 0:
                    parameter.copy_(state[name])

    def shards(self) -> list[Tensor]:
        return [parameter.ds_tensor if self._sharded else parameter for parameter in self._parameters]

    def exact_shards(self) -> Iterator[Tensor]:
        for parameter, shard in zip(self._parameters, self.shards(), strict=True):
            if shard.dtype == torch.float32:
                yield shard.detach()
            elif self._sharded:
                yield safe_get_local_fp32_param(parameter)
            else:
                yield safe_get_full_fp32_param(parameter)

    def settle(self) -> None:
        if self._sharded:
            self._optimizer.empty_partition_cache()

    def save(self, folder: Path) -> None:
        self._engine.save_checkpoint(str(folder), tag=TAG, exclude_frozen_parameters=self._has_frozen)
        if self.rank == 0:
            record = {"updates": self.updates, "ranks": self.ranks, "zero_stage": self._stage}
            (folder / RECORD).write_text(json.dumps(record))
        dist.barrier()

    def restore(self, folder: Path) -> None:
        """Load what `save` wrote, with the same or another number of ranks.

        Raises:
            ValueError: no such checkpoint, or one of another ZeRO stage.
        """
        path = folder / RECORD
        if not path.is_file():
            raise CheckpointError(f"{path} does not exist: the checkpoint was not written by learner.engine: deepspeed")
        record = json.loads(path.read_text())
        if record["zero_stage"] != self._stage:
            raise CheckpointError(
                f"learner.zero_stage = {self._stage}: the checkpoint was written with {record['zero_stage']}, and "
                "stages do not read each other's optimiser state; resume with the same stage"
            )
        if self._stage > 0 and record["ranks"] != self.ranks:
            self._restore_universal(folder)
        else:
            self._load(folder, TAG)
        self.updates = record["updates"]

    def _restore_universal(self, folder: Path) -> None:
        """Through DeepSpeed's universal format, which fits any number of ranks; removed afterwards."""
        target = folder / UNIVERSAL
        if self.rank == 0:
            shutil.rmtree(target, ignore_errors=True)
            with redirect_stdout(StringIO()):
                convert_to_universal(
                    Namespace(
                        input_folder=str(folder / TAG),
                        output_folder=str(target),
                        num_extract_workers=1,
                        num_merge_workers=1,
                        keep_temp_folder=False,
                        strict=True,
                        inject_missing_state=True,
                    )
                )
        dist.barrier()
        self._engine._config.load_universal_checkpoint = True
        try:
            self._load(folder, UNIVERSAL)
        finally:
            self._engine._config.load_universal_checkpoint = False
        dist.barrier()
        if self.rank == 0:
            shutil.rmtree(target)
            (folder / "latest_universal").unlink(missing_ok=True)

    def _load(self, folder: Path, tag: str) -> None:
        with own_settings(self._optimizer):
            loaded, _ = self._engine.load_checkpoint(
                str(folder), tag=tag, load_module_strict=not self._has_frozen, load_lr_scheduler_states=False
            )
        if loaded is None:
            raise CheckpointError(f"{folder / tag} does not hold a checkpoint that DeepSpeed can read")
        # A universal checkpoint gives all parts of a stage-3 optimiser one shared step counter: each needs its own.
        for state in getattr(self._optimizer, "optimizer", self._optimizer).state.values():
            if "step" in state:
                state["step"] = torch.as_tensor(state["step"]).clone()

    @property
    def _has_frozen(self) -> bool:
        return len(self._trained) < len(self._every)

    @property
    def _sharded(self) -> bool:
        return self._stage == 3


def zero_stage(learner: LearnerConfig) -> int:
    """The stage DeepSpeed runs with: its stage 0 clips wrongly in bfloat16 and is replaced by stage 1."""
    return 1 if learner.dtype == "bfloat16" and learner.zero_stage == 0 else learner.zero_stage


def settings(optimizer: OptimizerConfig, learner: LearnerConfig, ranks: int) -> dict[str, Any]:
    """DeepSpeed's configuration. Accumulation is controlled here: its batch sizes only have to be consistent."""
    zero: dict[str, Any] = {"stage": zero_stage(learner)}
    if learner.offload in ("optimizer", "all"):
        zero["offload_optimizer"] = {"device": "cpu"}
    if learner.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    return {
        "train_batch_size": ranks,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": optimizer.grad_norm,
        "steps_per_print": None,
        "bf16": {"enabled": learner.dtype == "bfloat16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
