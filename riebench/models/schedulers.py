"""What a pipeline's scheduler must keep to: one pass of the denoiser a step, and noise from each row's own generator.

Importing it needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

from riebench.util.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TRIAL_STEPS = 4
"""Schedulers with more than one pass a step differ from others from two steps on."""
MEND = (
    "give the pipeline one that fits (EulerDiscreteScheduler for a U-Net, FlowMatchEulerDiscreteScheduler for FLUX), "
    "with pipeline.scheduler = CLASS.from_config(pipeline.scheduler.config) or in scheduler/scheduler_config.json"
)
"""The end of a message that refuses a scheduler."""
SetTimesteps = Callable[[Any, int, "torch.device"], None]
"""Prepares a scheduler for a number of steps on a device, as the family's pipeline does as its call begins."""


def check_scheduler(pipeline: Any, set_timesteps: SetTimesteps) -> None:
    """Refuse a scheduler whose steps cannot be counted, or whose noise the seed of a row does not decide.

    A copy makes a trial on the CPU: its passes are counted, and two of its steps are made.

    Args:
        pipeline: with the scheduler, which stays as it is.
        set_timesteps: of the family.

    Raises:
        UserError: if the scheduler takes several passes for a step, draws noise from elsewhere, or fails.
    """
    check_steps(pipeline.scheduler, set_timesteps, TRIAL_STEPS)
    name = type(pipeline.scheduler).__name__
    try:
        both, alone = _trial_latents(pipeline, set_timesteps, (1, 2)), _trial_latents(pipeline, set_timesteps, (2,))
    except Exception as error:  # noqa: BLE001 - each scheduler fails in its own way
        raise _failed(name, error) from None
    if not both[1].allclose(alone[0], equal_nan=True):
        wrong = f"the scheduler {name} draws noise that the seed does not decide"
        raise UserError(f"{wrong} (its settings say so, as stochastic_sampling); {MEND}")


def check_steps(scheduler: Any, set_timesteps: SetTimesteps, steps: int) -> None:
    """Refuse a number of steps for which a scheduler takes another number of passes of the denoiser.

    Of some numbers diffusers itself makes one more: with "trailing" timesteps 62 of 61 steps (rounding).

    Args:
        scheduler: stays as it is.
        set_timesteps: of the family.
        steps: denoising steps.

    Raises:
        UserError: if the numbers differ, or the scheduler cannot make so many steps.
    """
    import torch

    name = type(scheduler).__name__
    try:
        trial = deepcopy(scheduler)
        set_timesteps(trial, steps, torch.device("cpu"))
        passes = len(trial.timesteps)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - assertions too: each scheduler refuses in its own way
        raise _failed(name, error) from None
    if passes != steps:
        mend = MEND if steps == TRIAL_STEPS else f"choose another number of steps, or {MEND}"
        wrong = f"the scheduler {name} makes {passes} passes of the denoiser for {steps} steps"
        raise UserError(f"{wrong}; expected one a step; {mend}")


def _failed(name: str, error: Exception) -> UserError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(f"the scheduler {name} cannot make the steps of this pipeline: {reason}; {MEND}")


def _trial_latents(pipeline: Any, set_timesteps: SetTimesteps, seeds: Sequence[int]) -> Tensor:
    """The latents ``[rows, 4, 4, 4]`` after two steps of a copy of the scheduler, with a generator for each row.

    Torch's global generator stands elsewhere for each number of rows, and is put back afterwards.
    """
    import torch

    scheduler = deepcopy(pipeline.scheduler)
    set_timesteps(scheduler, TRIAL_STEPS, torch.device("cpu"))
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    latents, scales, more = torch.ones(len(seeds), 4, 4, 4), hasattr(pipeline, "prepare_extra_step_kwargs"), {}
    if scales:  # FLUX's pipeline hands no generator to its scheduler, and lets it scale nothing
        # Pipelines of U-Nets ask every scheduler for it.
        sigma = scheduler.init_noise_sigma if hasattr(pipeline, "unet") else getattr(scheduler, "init_noise_sigma", 1.0)
        latents, more = latents * sigma, pipeline.prepare_extra_step_kwargs(generators, 0.0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(len(seeds))
        for time in scheduler.timesteps[:2]:
            scaled = scales and hasattr(scheduler, "scale_model_input")
            predicted = (scheduler.scale_model_input(latents, time) if scaled else latents) / 2
            latents = scheduler.step(predicted, time, latents, **more, return_dict=False)[0]
    return latents
