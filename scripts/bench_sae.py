"""Time a training step against the same step written densely, and a grid of six SAEs against six single trainings.

The sides of each ratio take turns, so that other work on the machine slows all; the ratio is that of the medians, with
the range over the repeats. Beside them stands the floor: the dense products of the encoders alone, one for each SAE
that is not the same as another, since SAEs of different weights share no product. With ``--peers``, which
``scripts/bench_trainers`` gives, a step takes turns with those of other libraries and with the dense product of its
encoder alone, the floor of all of them.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from riebench.training.learner import Learner, Start, TopKLearner
from riebench.training.one_pass import learners_of, step_all
from riebench.training.training_plan import Axes, GridPoint, SAESettings, grid_points
from riebench.util.freed_memory import keep_freed_memory

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
    keep_freed_memory()  # as a training does
    size = f"d {arguments.width}, n {arguments.width * arguments.expansion}"
    print(f"{size}, batch {arguments.batch}, {arguments.threads} threads")
    x = torch.randn(arguments.batch, arguments.width)
    if arguments.peers is not None:
        return beside_peers(x, arguments)
    start, settings = Start(torch.zeros(arguments.width), torch.tensor(1.0)), SAESettings(batch=arguments.batch)
    dense = Dense(arguments.width, arguments.width * arguments.expansion, arguments.k)
    point = GridPoint(site=SITE, k=arguments.k, expansion=arguments.expansion, aux=True, seed=0)
    ours = TopKLearner([point], arguments.width, start, settings, torch.device("cpu"))
    single = compare(
        {
            f"k {arguments.k}: dense step": lambda: dense.step(x),
            "this step": lambda: ours.step(x, 1e-4),
            "encoder product": lambda: products(x, [ours]),
        },
        flops(arguments),
        arguments.repeats,
    )
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

        together()  # which may add learners
        six = compare(
            {
                f"six SAEs, {when}: one by one": one_by_one,
                "together": together,
                f"{len(grid)} encoder products": lambda grid=grid: products(x, grid),
            },
            len(grid) * flops(arguments),
            arguments.repeats,
        )
        print(f"a step of the six takes {six / single:.2f} of a single one, {len(grid)} of its products")
    return 0


def flops(arguments: argparse.Namespace) -> int:
    """The operations of an encoder's product."""
    return 2 * int(arguments.batch) * int(arguments.width) ** 2 * int(arguments.expansion)


@torch.no_grad()
def products(x: Tensor, learners: Sequence[Learner]) -> None:
    """The dense products of the encoders of some learners, into one place."""
    pre = torch.empty(len(x), len(learners[0].W_enc))
    for learner in learners:
        torch.mm(x, learner.W_enc.T, out=pre)


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
    print(f"riebench {step:.3f} s a step")
    for name, seconds in clock.items():
        ratios = [mine / theirs for mine, theirs in zip(clock["riebench"], seconds, strict=True)]
        middle, span = statistics.median(seconds), f"{min(ratios):.2f} to {max(ratios):.2f}"
        rate = f", {flops(arguments) / middle / 1e9:.0f} GFLOP/s" if name == "encoder product" else ""
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


def compare(works: Mapping[str, Callable[[], object]], operations: int, repeats: int) -> float:
    """Time functions in turns and print the ratios of their medians, by the clock and in processor time.

    Args:
        works: name to function: the other way, this way, and the products that this way cannot do without.
        operations: of these products.
        repeats: of each.

    Returns:
        The median of this way, in seconds.
    """
    for work in works.values():
        work()
    clock: dict[str, list[float]] = {name: [] for name in works}
    processor: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            by_clock, by_processor = timed(work)
            clock[name].append(by_clock)
            processor[name].append(by_processor)
    (first, a), (second, b), (floor, c) = ((name, statistics.median(seconds)) for name, seconds in clock.items())
    ratios = [x / y for x, y in zip(clock[first], clock[second], strict=True)]
    busy = statistics.median(processor[first]) / statistics.median(processor[second])
    speedup = f"{a / b:.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f}), {busy:.2f} in processor time"
    shares = [x / y for x, y in zip(clock[floor], clock[second], strict=True)]
    least = f"{c / b:.0%} ({min(shares):.0%} to {max(shares):.0%}) of it are the {floor}"
    print(f"{first} {a:.3f} s, {second} {b:.3f} s: {speedup}; {least}, {operations / c / 1e9:.0f} GFLOP/s", flush=True)
    return b


if __name__ == "__main__":
    sys.exit(main())
