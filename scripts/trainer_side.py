"""Run by the Python that has a library of SAEs: a step of its TopK training for each line of stdin, timed.

    python trainer_side.py LIBRARY D N K BATCH THREADS

Each answer is one line: the seconds of the step by the clock, and in processor time; one step before them is not timed.
The steps are those of each library's own training loop, with torch's Adam, on one batch of random vectors.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

Step = Callable[[Tensor], object]


def sparsify(d: int, n: int, k: int) -> Step:
    from sparsify import SparseCoder, SparseCoderConfig

    sae = SparseCoder(d, SparseCoderConfig(num_latents=n, k=k))
    optimizer, silent = torch.optim.Adam(sae.parameters(), lr=1e-4), torch.zeros(n, dtype=torch.long)

    def step(x: Tensor) -> None:
        nonlocal silent
        sae.set_decoder_norm_to_unit_norm()
        out = sae(x=x, y=x, dead_mask=None, total_variance=(x - x.mean(0)).pow(2).sum())
        fired = torch.zeros(n, dtype=torch.bool)
        fired[out.latent_indices.flatten()] = True
        out.fvu.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        silent = torch.where(fired, 0, silent + len(x))

    return step


def saelens(d: int, n: int, k: int) -> Step:
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=d, d_sae=n, k=k))
    optimizer, silent = torch.optim.Adam(sae.parameters(), lr=1e-4), torch.zeros(n)

    def step(x: Tensor) -> None:
        dead = torch.zeros(n, dtype=torch.bool)
        out = sae.training_forward_pass(TrainStepInput(x, {}, dead, 0, is_logging_step=False))
        with torch.no_grad():
            fired = out.feature_acts.bool().float().sum(-2).bool()
            fired = fired.to_dense() if fired.is_sparse else fired
            silent.add_(1)
            silent[fired] = 0
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def dictionary_learning(d: int, n: int, k: int) -> Step:
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer: Any = TopKTrainer(10_000, d, n, k, 0, "none", lr=1e-4, device="cpu", seed=0)
    count = iter(range(1, 10_000))  # step 0 takes the median
    return lambda x: trainer.update(next(count), x)


def overcomplete(d: int, n: int, k: int) -> Step:
    # Left out: parts beside its SAEs that need a torchvision for this PyTorch and an old matplotlib.
    for name in ("models", "visualization"):
        left_out = sys.modules[f"overcomplete.{name}"] = ModuleType(name)
        left_out.__getattr__ = lambda name: None  # type: ignore[method-assign]
    from overcomplete.sae import TopKSAE
    from overcomplete.sae.trackers import DeadCodeTracker

    sae = TopKSAE(d, n, top_k=k)
    optimizer, tracker = torch.optim.Adam(sae.parameters(), lr=1e-4), DeadCodeTracker(n, "cpu")

    def step(x: Tensor) -> None:
        optimizer.zero_grad()
        _, codes, rebuilt = sae(x)
        loss = (rebuilt - x).square().mean()
        tracker.update(codes)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()

    return step


LIBRARIES = {
    "eai-sparsify": sparsify,
    "sae-lens": saelens,
    "dictionary-learning": dictionary_learning,
    "overcomplete": overcomplete,
}


def main(library: str, d: int, n: int, k: int, batch: int, threads: int) -> None:
    """Answer each line with the time of one step."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    answers, sys.stdout = sys.stdout, sys.stderr  # some print on import
    step, x = LIBRARIES[library](d, n, k), torch.randn(batch, d)
    step(x)
    for _ in sys.stdin:
        began, used = time.perf_counter(), time.process_time()
        step(x)
        print(time.perf_counter() - began, time.process_time() - used, file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
