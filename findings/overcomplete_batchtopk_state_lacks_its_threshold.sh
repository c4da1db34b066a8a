#!/usr/bin/env bash
# overcomplete 0.3.0: the state of a BatchTopKSAE lacks the threshold that its codes need.
#
# In evaluation a BatchTopKSAE keeps the codes from running_threshold up, a mean over the batches of its training. That is
# a plain attribute and no buffer, so state_dict leaves it out, and load_state_dict finds all keys in place. The SAE that
# was loaded so cannot encode: AssertionError. In training mode it can, by the top_k largest codes of that one batch, and
# the next evaluation then uses the threshold of that batch and not that of the training. Who saves the state has to save
# sae.running_threshold beside it, or the whole SAE.
#
# Seen: Python 3.11, torch 2.13.0 on a CPU, d 16, 64 features, 4 a vector:
#   trained: threshold 0.91, 4.0 features a vector; keys of its state with "threshold": []
#   loaded: <All keys matched successfully>, then AssertionError: Running threshold is not initialized.
#   after one batch of vectors of half the length in training mode: threshold 0.50, 12.9 features a vector
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 overcomplete==0.3.0
"$work/venv/bin/python" - <<'PYTHON'
import sys
from types import ModuleType

import torch

# Networks and drawings, which are not used here: they need a torchvision for this torch, and a matplotlib before 3.9.
for name in ("models", "visualization"):
    left_out = sys.modules[f"overcomplete.{name}"] = ModuleType(name)
    left_out.__getattr__ = lambda name: None
from overcomplete.sae import BatchTopKSAE

torch.manual_seed(0)
x = torch.randn(256, 16)


def features_a_vector(sae):
    with torch.no_grad():
        return (sae.encode(x)[1] > 0).sum(1).float().mean().item()


trained = BatchTopKSAE(16, 64, top_k=4 * 256).train()
for _ in range(50):
    trained.encode(torch.randn(256, 16))
trained.eval()
state = trained.state_dict()
keys = [key for key in state if "threshold" in key]
count = features_a_vector(trained)
threshold = trained.running_threshold.item()
print(f'trained: threshold {threshold:.2f}, {count:.1f} features a vector; keys of its state with "threshold": {keys}')
assert not keys, "the state has a threshold now"

loaded = BatchTopKSAE(16, 64, top_k=4 * 256)
answer = loaded.load_state_dict(state)
loaded.eval()
try:
    features_a_vector(loaded)
except AssertionError as error:
    print(f"loaded: {answer}, then AssertionError: {error}")
else:
    raise SystemExit("the loaded SAE encodes now")
loaded.train().encode(x / 2)
loaded.eval()
more = features_a_vector(loaded)
threshold = loaded.running_threshold.item()
print(f"after one batch of vectors of half the length in training mode: threshold {threshold:.2f}, {more:.1f} features a vector")
assert more > 2 * count, "the threshold of one batch is that of the training now"
PYTHON
