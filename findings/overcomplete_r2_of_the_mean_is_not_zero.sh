#!/usr/bin/env bash
# overcomplete 0.3.0: r2_score gives the mean vector as a reconstruction 0.96, not 0, where dimensions differ in mean.
#
# "A score of 0 indicates that the reconstruction is as good as the mean", says its docstring; train_sae prints and
# logs it for each epoch. The mean it takes is one number over all vectors and dimensions, so the differences between
# the means of the dimensions count as variance to be explained, which the mean vector alone explains. The values
# inside networks have such means: one dimension of 16 with a mean of 20 lifts the score of the mean vector to 0.96,
# and that of a reconstruction with half of the variance to 0.98. scikit-learn's, weighted by variance, is 0 and 0.5.
# With the mean vector taken off the vectors before training, both agree.
#
# Seen: Python 3.11, torch 2.13.0 on a CPU, 1,000 normal vectors of 16 dimensions, overcomplete and scikit-learn:
#   mean 0 in each dimension: mean vector 0.00 and 0.00; half of the variance 0.50 and 0.50
#   mean 20 in one dimension: mean vector 0.96 and 0.00; half of the variance 0.98 and 0.50
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 scikit-learn==1.9.1 overcomplete==0.3.0
"$work/venv/bin/python" - <<'PYTHON'
import sys
from types import ModuleType

import sklearn.metrics
import torch

# Networks and drawings, which are not used here: they need a torchvision for this torch, and a matplotlib before 3.9.
for name in ("models", "visualization"):
    left_out = sys.modules[f"overcomplete.{name}"] = ModuleType(name)
    left_out.__getattr__ = lambda name: None
from overcomplete.metrics import r2_score

torch.manual_seed(0)
normal = torch.randn(1000, 16)
normal -= normal.mean(0)


def scores(x, reconstruction):
    weighted = sklearn.metrics.r2_score(x, reconstruction, multioutput="variance_weighted")
    return r2_score(x, reconstruction).item(), weighted


for mean, expected in ((0, 0.0), (20, 0.96)):
    x = normal.clone()
    x[:, 0] += mean
    of_mean = scores(x, x.mean(0).expand_as(x))
    of_half = scores(x, x.mean(0) + (1 - 0.5**0.5) * (x - x.mean(0)))
    print(
        f"mean {mean} in {'one' if mean else 'each'} dimension: "
        f"mean vector {of_mean[0]:.2f} and {abs(of_mean[1]):.2f}; "
        f"half of the variance {of_half[0]:.2f} and {of_half[1]:.2f}"
    )
    assert abs(of_mean[0] - expected) < 0.01, "the score of the mean vector has changed"
PYTHON
