"""Time a training step against the same step written densely, and a grid of six SAEs against six single trainings.

The two sides of each ratio take turns, so that other work on the machine slows both; the ratio is that of the medians,
with the range over the repeats. With ``--peers``, which ``scripts/bench_trainers`` gives, a step takes turns with those
of other libraries and with the dense product of its encoder alone, the floor of all of them.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from riebench.training.learner import Learner, Start, TopKLearner
from riebench.training.one_pass import learners_of, step_all
from riebench.training.training_plan import Axes, GridPoint, SAESettings, grid_points

SITE = "site"
SIX = Axes(k=(5, 10, 20), aux=(True, False))


class Dense:
    """The published step as its formulas stand: dense codes, dense products, plain Adam."""

    def __init__(self, d_model: int, n_features: int, k: int) -> None:
        self.k = k
        directions = normalize(torch.randn(n_features, d_model), dim=1)
        self.weights = [directions.clone(), directions, torch.zeros(d_model), torch.zeros(n_features)]
        for weight in self.weights:
            weight.requires_grad_()
        self.optimizer = torch.optim.Adam(self.weights, lr=1e-4, eps=6.25e-10)

    def step(self, x: Tensor) -> None:
        """One step on vectors ``[batch, d]``."""
        W_enc, W_dec, pre_bias, latent_bias = self.weights
        values, indices = ((x - pre_bias) @ W_enc.T + latent_bias).topk(self.k, dim=1)
        codes = torch.zeros(len(x), len(W_enc)).scatter(1, indices, values.relu())
        loss = (codes @ W_dec + pre_bias - x).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            assert W_dec.grad is not None
            W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec
            self.optimizer.step()
            W_dec /= W_dec.norm(dim=1, keepdim=True)


def main() -> int:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    for name, value in (("width", 1280), ("expansion", 4), ("k", 20), ("batch", 4096), ("repeats", 5), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--peers", type=Path, help="folder with an environment for each library")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    size = f"d {arguments.width}, n {arguments.width * arguments.expansion}"
    print(f"{size}, batch {arguments.batch}, {arguments.threads} threads")
    x = torch.randn(arguments.batch, arguments.width)
    if arguments.peers is not None:
        return beside_peers(x, arguments)
    start, settings = Start(torch.zeros(arguments.width), torch.tensor(1.0)), SAESettings(batch=arguments.batch)
    dense = Dense(arguments.width, arguments.width * arguments.expansion, arguments.k)
    point = GridPoint(site=SITE, k=arguments.k, expansion=arguments.expansion, aux=True, seed=0)
    ours = TopKLearner([point], arguments.width, start, settings, torch.device("cpu"))
    compare(f"k {arguments.k}: dense step", lambda: dense.step(x), "this step", lambda: ours.step(x, 1e-4), arguments)
    points = grid_points(SIX.model_copy(update={"expansion": (arguments.expansion,)}), {SITE: arguments.width})
    for alive, when in ((True, "before a feature has died"), (False, "after")):
        grid = learners_of(points, arguments.width, start, settings, torch.device("cpu"))
        alone = [TopKLearner([p], arguments.width, start, settings, torch.device("cpu")) for p in points]
        if not alive:
            for learner in [*grid, *alone]:
                learner.silent[:32] = settings.dead_after + 1

        def one_by_one(alone: list[TopKLearner] = alone) -> None:
            for learner in alone:
                learner.step(x.half().float(), 1e-4)

        def together(grid: list[Learner] = grid) -> None:
            step_all(grid, x.half().float(), 1e-4)

        compare(f"six SAEs, {when}: one by one", one_by_one, "together", together, arguments)
    return 0


def beside_peers(x: Tensor, arguments: argparse.Namespace) -> int:
    """Print the seconds of a step of each library and of the product, and the ratios of ours to them."""
    width, n_features = arguments.width, arguments.width * arguments.expansion
    start = Start(torch.zeros(width), torch.tensor(1.0))
    point = GridPoint(site=SITE, k=arguments.k, expansion=arguments.expansion, aux=True, seed=0)
    ours = TopKLearner([point], width, start, SAESettings(batch=arguments.batch), torch.device("cpu"))
    W_enc, pre = ours.W_enc.detach().T, torch.empty(len(x), n_features)
    works: dict[str, Callable[[], tuple[float, float]]] = {
        "riebench": lambda: timed(lambda: ours.step(x, 1e-4)),
        "encoder product": lambda: timed(lambda: torch.mm(x, W_enc, out=pre)),
    }
    sizes = [str(n) for n in (width, n_features, arguments.k, arguments.batch, arguments.threads)]
    side, peers = Path(__file__).with_name("trainer_side.py"), []
    for environment in sorted(path for path in arguments.peers.iterdir() if (path / "bin" / "python").exists()):
        words = [environment / "bin" / "python", side, environment.name, *sizes]
        peer = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={}
        )
        peers.append(peer)
        works[environment.name] = lambda peer=peer: answer(peer)  # type: ignore[misc]
    for work in works.values():
        work()
    clock: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(arguments.repeats):
        for name, work in works.items():
            clock[name].append(work()[0])
        print(", ".join(f"{name} {seconds[-1]:.3f} s" for name, seconds in clock.items()), file=sys.stderr, flush=True)
    for peer in peers:
        peer.communicate()
    step = statistics.median(clock["riebench"])
    flops = 2 * len(x) * width * n_features
    print(f"riebench {step:.3f} s a step")
    for name, seconds in clock.items():
        ratios = [mine / theirs for mine, theirs in zip(clock["riebench"], seconds, strict=True)]
        middle, span = statistics.median(seconds), f"{min(ratios):.2f} to {max(ratios):.2f}"
        rate = f", {flops / middle / 1e9:.0f} GFLOP/s" if name == "encoder product" else ""
        if name != "riebench":
            print(f"{name:20} {middle:.3f} s{rate}: riebench takes {step / middle:.2f} of it ({span})")
    return 0


def answer(peer: subprocess.Popen[str]) -> tuple[float, float]:
    """The time of a step that another process does (RuntimeError if it has ended)."""
    assert peer.stdin is not None
    assert peer.stdout is not None
    peer.stdin.write("step\n")
    peer.stdin.flush()
    line = peer.stdout.readline().split()
    if len(line) != 2:
        raise RuntimeError(f"{' '.join(map(str, peer.args))} ended; run it to see why")  # type: ignore[arg-type]
    return float(line[0]), float(line[1])


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """The seconds of a function by the clock, and in processor time."""
    began, used = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - used


def compare(
    first: str,
    first_work: Callable[[], object],
    second: str,
    second_work: Callable[[], object],
    arguments: argparse.Namespace,
) -> None:
    """Time two functions in turns and print the ratios of their medians, by the clock and in processor time."""
    first_work(), second_work()
    clock: tuple[list[float], list[float]] = [], []
    processor: tuple[list[float], list[float]] = [], []
    for _ in range(arguments.repeats):
        for number, work in enumerate((first_work, second_work)):
            by_clock, by_processor = timed(work)
            clock[number].append(by_clock)
            processor[number].append(by_processor)
    a, b = map(statistics.median, clock)
    ratios = [x / y for x, y in zip(*clock, strict=True)]
    span = f"{min(ratios):.2f} to {max(ratios):.2f}"
    busy = statistics.median(processor[0]) / statistics.median(processor[1])
    speedup = f"{a / b:.2f} times as fast ({span}), {busy:.2f} in processor time"
    print(f"{first} {a:.3f} s, {second} {b:.3f} s: {speedup}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
