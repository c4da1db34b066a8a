#!/usr/bin/env bash
# diffusers 0.42.1: with timestep_spacing="trailing" some numbers of steps give one timestep more than asked for.
#
# np.arange(1000, 0, -1000 / n) counts down with rounding; for n = 61, 103, 121, 122 ... the last value is a little above
# 0 instead of 0, is kept, and becomes timestep -1. The pipeline then runs n + 1 passes, the last of them at timestep -1,
# and anything that acts "in step k of n" by counting passes is off. Euler, Euler ancestral, DDIM, DPM++ and UniPC all
# build their timesteps in this way. "leading" and "linspace" give n for every n.
#
# Seen: Python 3.11, torch 2.13.0 on a CPU, numpy 2.4.6:
#   trailing EulerDiscreteScheduler [61, 103, 121, 122]
#   leading EulerDiscreteScheduler []
#   ... (the same for the other four)
#   last timesteps of 61 steps: [15, -1]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 diffusers==0.42.1 transformers==5.24.0
"$work/venv/bin/python" - <<'PYTHON'
import diffusers

KINDS = (
    "EulerDiscreteScheduler EulerAncestralDiscreteScheduler DDIMScheduler DPMSolverMultistepScheduler "
    "UniPCMultistepScheduler"
).split()


def timesteps(kind, spacing, steps):
    scheduler = getattr(diffusers, kind)(timestep_spacing=spacing)
    scheduler.set_timesteps(steps)
    return scheduler.timesteps.tolist()


for spacing, expected in (("trailing", [61, 103, 121, 122]), ("leading", [])):
    for kind in KINDS:
        wrong = [steps for steps in range(1, 130) if len(timesteps(kind, spacing, steps)) != steps]
        print(spacing, kind, wrong)
        assert wrong == expected, "the number of timesteps has changed"
last = [round(value) for value in timesteps("EulerDiscreteScheduler", "trailing", 61)[-2:]]
print("last timesteps of 61 steps:", last)
assert last[-1] == -1, "the surplus timestep has changed"
PYTHON
