#!/usr/bin/env bash
# dictionary-learning 0.1.0: a BatchTopKSAE saved in the first 1,000 steps of its training encodes as a ReLU SAE.
#
# On single vectors a BatchTopK SAE keeps the features above a threshold, which BatchTopKTrainer begins to estimate after
# threshold_start_step steps, 1,000 unless given. Until then the threshold is -1, and encode, which uses it unless told
# otherwise, keeps every positive feature: of a dictionary with k = 4 about 26 features of 64 are active. Nothing warns,
# k is in the file, and the dense codes rebuild better than those of the finished dictionary. So checkpoints of
# the first thousand steps, and short trainings, look like good dictionaries of the wrong sparsity. With
# use_threshold=False the k * batch largest features of a batch are kept, also then.
#
# Seen: Python 3.11, torch 2.13.0 on a CPU, d 16, 64 features, k 4, normal vectors:
#   900 steps: threshold -1.00, k 4; 26.2 features active, 4.0 with use_threshold=False; error 0.12 of the variance
#   1100 steps: threshold 1.12, k 4; 3.8 features active, 4.0 with use_threshold=False; error 0.32 of the variance
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 dictionary-learning==0.1.0 nnsight==0.3.7 transformers==5.24.0 datasets==5.2.0
"$work/venv/bin/pip" uninstall --quiet --yes torchvision  # comes along, is not used here, and not always fits
"$work/venv/bin/python" - "$work/ae.pt" <<'PYTHON'
import sys

import torch
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE, BatchTopKTrainer

path = sys.argv[1]
active = {}
for steps in (900, 1100):
    torch.manual_seed(0)
    trainer = BatchTopKTrainer(
        steps=1200, activation_dim=16, dict_size=64, k=4, layer=0, lm_name="none", device="cpu", warmup_steps=100
    )
    for step in range(steps):
        trainer.update(step, torch.randn(64, 16))
    torch.save(trainer.ae.state_dict(), path)
    dictionary, x = BatchTopKSAE.from_pretrained(path), torch.randn(512, 16)
    with torch.no_grad():
        active[steps] = (dictionary.encode(x) > 0).sum(1).float().mean().item()
        of_batch = (dictionary.encode(x, use_threshold=False) > 0).sum(1).float().mean().item()
        error = ((dictionary(x) - x).square().mean() / x.var()).item()
    print(
        f"{steps} steps: threshold {dictionary.threshold.item():.2f}, k {dictionary.k.item()}; {active[steps]:.1f} features "
        f"active, {of_batch:.1f} with use_threshold=False; error {error:.2f} of the variance"
    )
assert active[900] > 20, "an early dictionary is sparse now"
assert active[1100] < 6, "a later dictionary is dense now"
PYTHON
