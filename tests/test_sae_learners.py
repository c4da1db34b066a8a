"""Training SAEs of the kinds beside TopK: formulas by hand, what is saved, what they learn."""

from __future__ import annotations

import json
import math
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from riebench.cli import main
from riebench.instruments.loading import Instruments
from riebench.paint import BrushMask, Layer, State
from riebench.prompts import read_prompts
from riebench.records import read_records
from riebench.sae.saelens import save_for_saelens
from riebench.sae.store import load_sae, save_sae
from riebench.sae.variance import explained_variance
from riebench.training.collect_values import collect
from riebench.training.kinds import (
    BatchTopKLearner,
    GatedLearner,
    Jump,
    JumpReLULearner,
    PenalisedLearner,
    Step,
    largest,
    learner_of,
)
from riebench.training.learner import Learner, Start
from riebench.training.one_pass import rates_of, start_of
from riebench.training.training_plan import Axes, GridPoint, SAESettings, grid_points, settings_and_axes
from riebench.util.errors import UserError

D, BATCH = 6, 64
UNIT = (2 * D) ** 0.5
"""Root mean squared distance from the mean of vectors of variance 2."""
CPU = torch.device("cpu")
SPARSITY: dict[str, dict[str, Any]] = {
    "batchtopk": {"k": 3},
    "matryoshka": {"k": 3},
    "jumprelu": {"l0": 0.02},
    "relu": {"l1": 0.3},
    "gated": {"l1": 0.3},
}


def point(kind: str, **more: Any) -> GridPoint:
    aux = kind in ("batchtopk", "matryoshka")
    return GridPoint(**{"site": "mid.0", "kind": kind, "expansion": 4, "aux": aux, "seed": 0} | SPARSITY[kind] | more)


def learner(kind: str, **settings: Any) -> Learner:
    """One with random weights, on vectors of variance 2."""
    generator = torch.Generator().manual_seed(5)
    start = Start(torch.randn(D, generator=generator), torch.tensor(2.0))
    made = learner_of([point(kind)], D, start, SAESettings(batch=BATCH, **settings), CPU)
    with torch.no_grad():
        for name, value in made.parameters.items():
            if name not in ("W_dec", "pre_bias"):
                value.add_(torch.randn(value.shape, generator=generator) / 5)
    return made


def vectors(seed: int = 1, count: int = BATCH) -> Tensor:
    return torch.randn(count, D, generator=torch.Generator().manual_seed(seed)) * 3 + 1


def weights(made: Learner) -> dict[str, Tensor]:
    return {name: value.detach().clone().requires_grad_() for name, value in made.parameters.items()}


def check_gradients(made: Learner, wanted: dict[str, Tensor]) -> None:
    """After a step: the gradients are these, that of ``W_dec`` without its part along the rows."""
    for name, value in made.parameters.items():
        assert value.grad is not None
        assert torch.allclose(value.grad, wanted[name], atol=1e-5), name


def gradients(total: Tensor, by_name: dict[str, Tensor]) -> dict[str, Tensor]:
    found = dict(zip(by_name, torch.autograd.grad(total, list(by_name.values())), strict=True))
    rows = by_name["W_dec"].detach()
    return found | {"W_dec": found["W_dec"] - (found["W_dec"] * rows).sum(1, keepdim=True) * rows}


def test_straight_through_derivatives_by_hand() -> None:
    pre = torch.tensor([[0.30, 1.02, 2.0], [0.52, 0.98, 3.0]], requires_grad=True)
    threshold = torch.tensor([0.5, 1.0, 2.5], requires_grad=True)
    codes, active = Jump.apply(pre, threshold, 0.1), Step.apply(pre, threshold, 0.1)
    assert codes.tolist() == torch.tensor([[0, 1.02, 0], [0.52, 0, 3.0]]).tolist()
    assert active.tolist() == [[0, 1, 0], [1, 0, 1]]
    of_codes = torch.autograd.grad(codes.sum(), (pre, threshold), retain_graph=True)
    # Within 0.05 of their thresholds are one of the first feature and both of the second: -threshold / 0.1 for each.
    assert of_codes[0].tolist() == [[0, 1, 0], [1, 0, 1]]
    assert torch.allclose(of_codes[1], torch.tensor([-5.0, -20.0, 0.0]))
    (of_active,) = torch.autograd.grad(active.sum(), threshold)
    assert torch.allclose(of_active, torch.tensor([-10.0, -20.0, 0.0]))


def test_largest_of_a_batch_by_hand() -> None:
    codes, least = largest(torch.tensor([[5.0, 4, 0], [0, 1, 3]]), 3)
    assert codes.tolist() == [[5, 4, 0], [0, 0, 3]]
    assert least == 3
    assert largest(torch.tensor([[5.0, 0, 0]]), 2)[1] == 5  # not the 0 that is kept beside it
    assert largest(torch.zeros(2, 3), 2)[1] == 0


def test_a_step_of_relu() -> None:
    made, x = learner("relu"), vectors()
    own, scaled = weights(made), x / UNIT
    codes = ((scaled - own["pre_bias"]) @ own["W_enc"].T + own["latent_bias"]).relu()
    loss = (scaled - codes @ own["W_dec"] - own["pre_bias"]).square().sum(1).mean()
    seen = made.step(x, 1e-3, 0.5)
    check_gradients(made, gradients(loss + 0.5 * 0.3 * codes.sum(1).mean(), own))
    assert seen.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    assert seen.auxiliary.item() == pytest.approx(codes.sum(1).mean().item(), rel=1e-5)


def test_a_step_of_gated() -> None:
    made, x = learner("gated"), vectors()
    assert isinstance(made, GatedLearner)
    own, scaled = weights(made), x / UNIT
    centred = scaled - own["pre_bias"]
    gates = centred @ own["W_enc"].T + own["gate_bias"]
    # Two encoders, whose rows differ by a factor.
    magnitudes = centred @ (own["log_scale"].exp()[:, None] * own["W_enc"]).T + own["latent_bias"]
    codes = torch.where(gates > 0, magnitudes.relu(), 0)
    loss = (scaled - codes @ own["W_dec"] - own["pre_bias"]).square().sum(1).mean()
    by_gates = scaled - gates.relu() @ own["W_dec"].detach() - own["pre_bias"].detach()
    seen = made.step(x, 1e-3)
    total = loss + by_gates.square().sum(1).mean() + 0.3 * gates.relu().sum(1).mean()
    check_gradients(made, gradients(total, own))
    assert seen.loss.item() == pytest.approx(loss.item(), rel=1e-5)


def test_a_step_of_jumprelu() -> None:
    made, x, width = learner("jumprelu", bandwidth=0.2, threshold=0.1), vectors(), 0.2
    assert isinstance(made, JumpReLULearner)
    with torch.no_grad():
        made.threshold.abs_()
    own, scaled = weights(made), x / UNIT
    pre = ((scaled - own["pre_bias"]) @ own["W_enc"].T + own["latent_bias"]).relu()
    threshold = own["threshold"]
    on, near = pre > threshold, ((pre - threshold).abs() < width / 2).float()
    # Surrogates with the true values, whose derivatives are the published ones.
    moved = threshold - threshold.detach()
    codes = pre * on - (threshold / width).detach() * near * moved
    count = (on.float() - near / width * moved).sum(1).mean()
    loss = (scaled - codes @ own["W_dec"] - own["pre_bias"]).square().sum(1).mean()
    seen = made.step(x, 1e-3)
    check_gradients(made, gradients(loss + 0.02 * count, own))
    assert seen.auxiliary.item() == seen.l0.item() == pytest.approx(on.sum().item() / BATCH)
    made.step(x, 10.0)
    assert made.threshold.min() == 0


@pytest.mark.parametrize("kind", ["batchtopk", "matryoshka"])
def test_a_step_of_batchtopk(kind: str) -> None:
    made, x = learner(kind, prefixes=(0.5, 0.25), dead_after=1000, auxk=2), vectors()
    assert isinstance(made, BatchTopKLearner)
    made.silent[20:] = 1001
    own = weights(made)
    pre = ((x - own["pre_bias"]) @ own["W_enc"].T + own["latent_bias"]).relu()
    least = pre.flatten().sort(descending=True).values[3 * BATCH - 1]
    codes = torch.where(pre >= least, pre, 0)
    total = torch.zeros(())
    for count in (24, 12, 6) if kind == "matryoshka" else (24,):
        residual = x - codes[:, :count] @ own["W_dec"][:count] - own["pre_bias"]
        total = total + residual.square().mean() / 2
    kept = (x - codes @ own["W_dec"] - own["pre_bias"]).detach()
    among = (x - own["pre_bias"]) @ own["W_enc"][20:].T + own["latent_bias"][20:]
    floor = among.sort(dim=1, descending=True).values[:, [1]]
    rebuilt = torch.where(among >= floor, among, 0).relu() @ own["W_dec"][20:]
    auxiliary = (rebuilt - kept).square().mean() / (kept - kept.mean(0)).square().mean()
    seen = made.step(x, 1e-3)
    check_gradients(made, gradients(total + auxiliary / 32, own))
    assert seen.loss.item() == pytest.approx(kept.square().mean().item() / 2, rel=1e-5)
    assert seen.auxiliary.item() == pytest.approx(auxiliary.item(), rel=1e-5)
    assert seen.l0.item() == 3
    assert made.least.item() == pytest.approx(least.item())
    made.step(x, 0.0)
    again = made.sae().pre_activations(x).relu().flatten().sort(descending=True).values[3 * BATCH - 1]
    assert made.least.item() == pytest.approx(0.99 * least.item() + 0.01 * again.item(), rel=1e-5)


@pytest.mark.parametrize("kind", SPARSITY)
def test_what_is_saved_is_what_was_trained(kind: str, tmp_path: Path) -> None:
    """In the files of two layouts; its codes are those of a step, where these do not depend on the batch."""
    made, x = learner(kind, threshold=0.5), vectors()
    sae, seen = made.sae(), made.step(x, 1e-9)
    if "topk" not in kind and kind != "matryoshka":
        assert explained_variance(sae, x) == pytest.approx(seen.explained.item(), abs=1e-5)
        assert (sae.encode(x) > 0).sum().item() == seen.l0.item() * BATCH
    sae = made.sae()
    assert sae.kind == kind
    save_sae(sae, tmp_path / "both", point(kind).facts())
    save_for_saelens(sae, tmp_path / "both", "mini", "mid.0")
    save_for_saelens(sae, tmp_path / "theirs", "mini", "mid.0")
    for folder in ("both", "theirs"):
        read = load_sae(tmp_path / folder)
        assert torch.equal(read.encode(x), sae.encode(x))
        assert torch.equal(read(x), sae(x))
    assert load_sae(tmp_path / "both").kind == kind
    config = json.loads((tmp_path / "theirs" / "cfg.json").read_text())
    assert config["architecture"] == ("standard" if kind == "relu" else "jumprelu")
    assert {name: config_of(tmp_path, "both").get(name) for name in SPARSITY[kind]} == SPARSITY[kind]


def config_of(folder: Path, name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / name / "config.json").read_text())
    return config


@pytest.mark.parametrize("kind", SPARSITY)
def test_training_finds_sparse_directions(kind: str) -> None:
    generator = torch.Generator().manual_seed(1)
    truth = torch.nn.functional.normalize(torch.randn(16, 8, generator=generator), dim=1)
    codes = torch.rand(20000, 16, generator=generator) * (torch.rand(20000, 16, generator=generator) < 0.08)
    x = codes @ truth + 0.5
    settings = SAESettings(batch=512, auxk=8, dead_after=20_000)
    one = GridPoint(site="mid.0", kind=kind, k=2, expansion=4, aux="topk" in kind or kind == "matryoshka", seed=0)
    made = learner_of([one], 8, start_of(x), settings, CPU)
    steps = 1200 if kind == "jumprelu" else 800  # until its number of active features has settled
    for step in range(steps):
        rates = rates_of(settings.model_copy(update={"lr": 3e-3}), step, steps)
        made.step(x[torch.randint(len(x), (512,), generator=generator)], *rates)
    sae = made.sae()
    active = (sae.encode(x) > 0).float().sum(1).mean()
    assert explained_variance(sae, x) > (0.7 if kind == "relu" else 0.8)  # its penalty makes all codes smaller
    assert 1.6 < active < 2.4
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(32), atol=1e-5)


@pytest.mark.parametrize("kind", ["relu", "gated", "jumprelu"])
def test_penalties_are_steered_to_the_number_of_active_features(kind: str) -> None:
    """By the logarithm of the ratio of both a hundred steps ahead; a weight that is given stays."""
    made = learner(kind)
    assert isinstance(made, PenalisedLearner)
    given = made.weight.item()
    made.step(vectors(), 1e-3)
    assert (made.weight.item(), made.found()) == (given, {})
    made.points = [GridPoint(site="mid.0", kind=kind, k=5, expansion=4, aux=False, seed=0)]
    ratios, trend, wanted = [], 0.0, given
    for seed in range(4):
        ratios.append(math.log(made.step(vectors(seed), 0.01).l0.item() / 5))
        trend += 0.1 * ((ratios[-1] - ratios[-2] if seed else 0) - trend)
        wanted *= math.exp(min(0.005, max(-0.005, 0.02 * (ratios[-1] + 100 * trend))))
        assert list(made.found().values()) == [pytest.approx(wanted, rel=1e-4)], seed


def test_a_frozen_decoder_of_every_kind() -> None:
    for kind in SPARSITY:
        made = learner(kind)
        made.points = [point(kind, frozen=True)]
        before = made.W_dec.detach().clone()
        for seed in range(3):
            made.step(vectors(seed), 1e-2)
        assert torch.allclose(made.W_dec, before), kind
        assert made.points[0].name.endswith(f"{kind}_frozen_seed0")


def test_the_grid_of_several_kinds() -> None:
    kinds = ("topk", "batchtopk", "relu", "jumprelu")
    axes = Axes(kind=kinds, k=(4, 8), l1=(0.1, 0.2), l0=(1e-5,), aux=(True, False), seeds=(0,))
    assert [point.name for point in grid_points(axes, {"up.0.0": 8})] == [
        *(f"up.0.0_k{k}_x4_aux-{aux}_seed0" for k in (4, 8) for aux in ("on", "off")),
        *(f"up.0.0_k{k}_x4_aux-{aux}_batchtopk_seed0" for k in (4, 8) for aux in ("on", "off")),
        "up.0.0_l1-0.1_x4_relu_seed0",
        "up.0.0_l1-0.2_x4_relu_seed0",
        "up.0.0_l0-1e-05_x4_jumprelu_seed0",
    ]
    steered = grid_points(Axes(kind=("gated", "jumprelu"), k=(4, 8), l0=(0.1,)), {"up.0.0": 8})
    assert [(point.k, point.l1, point.l0) for point in steered] == [(4, None, None), (8, None, None), (None, None, 0.1)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kind": ("topk", "jumpreli")}, "unknown kind 'jumpreli'; did you mean 'jumprelu'"),
        ({"kind": ("relu", "relu")}, "kind is relu,relu; expected different kinds"),
        ({"kind": ()}, "kind is empty"),
        ({"kind": "jump"}, "unknown kind 'jump'"),
        ({"l1": (0.1,)}, "l1 acts on SAEs of the kind relu or gated, not on topk; leave it out"),
        ({"kind": ("relu",), "k": (5,), "l1": (0.1,)}, "k is 5, but the weights of the penalties decide"),
        ({"kind": ("relu",), "l1": ()}, "l1 is empty"),
        ({"kind": ("jumprelu",), "aux": (False,)}, "aux acts on"),
        (
            {"kind": ("relu", "gated"), "bandwidth": 0.1},
            "bandwidth acts on SAEs of the kind jumprelu, not on relu,gated",
        ),
        ({"kind": ("relu",), "l1": (-1.0,)}, "l1 is -1.0"),
        ({"kind": ("relu",), "l1": (float("nan"),)}, "l1 is nan"),
        ({"kind": ("relu",), "l1": (0.1, 0.1)}, "l1 is 0.1,0.1; expected different numbers"),
        ({"kind": ("matryoshka",), "prefixes": (0.5, 1.0)}, "prefixes is 1.0"),
        ({"kind": ("jumprelu",), "threshold": 0.0}, "threshold is 0.0"),
        ({"bandwith": 0.1}, "unknown setting 'bandwith'; did you mean 'bandwidth'"),
    ],
)
def test_options_of_kinds_that_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        grid_points(settings_and_axes(None, options)[1], {"mid.0": 8})


def test_penalties_rise_over_the_first_part() -> None:
    shares = [rates_of(SAESettings(warmup=0.4), step, 10)[1] for step in range(6)]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
    assert rates_of(SAESettings(warmup=0.0), 0, 10)[1] == 1


def test_a_state_of_every_kind_is_restored() -> None:
    for kind in SPARSITY:
        made, again = learner(kind), learner(kind)
        for seed in range(3):
            made.step(vectors(seed), 1e-2)
        again.restore(deepcopy(made.state()))
        for one in (made, again):
            one.step(vectors(7), 1e-2)
        first, second = made.sae().state_dict(), again.sae().state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first), kind


KINDS = ("relu", "gated", "jumprelu", "batchtopk")


@pytest.fixture
def folders(
    mini: Instruments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> dict[str, Path]:
    """Kind to the folder of an SAE that ``sae train`` has made of mini's values."""
    monkeypatch.chdir(tmp_path)
    collect(mini.model, ["up.0.0"], prompts="grammar", count=8, out="values", quiet=True)
    words = ["--kind", ",".join(KINDS), "--k", "8", "--l0", "0.01", "--steps", "60", "--batch", "256"]
    command("sae", "train", "values", *words, "--expansion", "1", "--bandwidth", "0.05", "--out", "saes")
    told = capsys.readouterr()
    assert "up.0.0_l0-0.01_x1_jumprelu_seed0 " in told.out
    # In as few steps the weight is on its way only.
    assert re.search(r"up.0.0_k8_x1_gated_seed0 has an L0 of [\d.]+, not 8; give more --steps", told.err)
    found_weight = config_of(Path("saes"), "up.0.0_k8_x1_gated_seed0")["l1"]
    assert 0 < abs(math.log(found_weight / 0.3)) < 60 * 0.005
    found = {config_of(path, ".")["kind"]: path for path in Path("saes").iterdir() if path.is_dir()}
    return {kind: found[kind] for kind in KINDS}


def command(*words: str) -> None:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    assert left.value.code == 0, words


def test_every_command_takes_every_kind(mini: Instruments, folders: dict[str, Path]) -> None:
    few = ("--features", "1", "--best", "1", "--pictures", "1", "--downstream", "1", "--fit", "4")
    command(
        "sae", "score", *map(str, folders.values()), "--count", "6", *few, "--baseline", "random", "--out", "scores"
    )
    scores = {(facts := json.loads(path.read_text()))["name"]: facts for path in Path("scores").glob("*.json")}
    runs = mini.model.runs(read_prompts("grammar", 6, "held-out"), 1, ["up.0.0"])
    values = torch.cat([run.values["up.0.0"][0] for run in runs])
    baselines = {name for name, facts in scores.items() if facts["kind"] == "random"}
    for kind, folder in folders.items():
        active = (load_sae(folder).encode(values) > 0).float().sum(1).mean().item()
        summary = {name: entry["value"] for name, entry in scores[folder.name]["summary"].items()}
        assert summary["l0"] == pytest.approx(active, rel=1e-3)
        assert math.isfinite(summary["explained_variance"])
        assert any(name.startswith("up.0.0-random-n96-k") for name in baselines), kind
    command("sae", "index", str(folders["jumprelu"]), "--count", "6", "--out", "index")
    command("sae", "show", "index", "3")
    layer = Layer(site="up.0.0", feature=3, unit=100.0, strength=4.0, mask=BrushMask.of(np.ones((8, 8), bool)))
    Path("state.json").write_text(State(prompt="a red heart in a meadow", seed=3, layers=[layer]).model_dump_json())
    command("paint", "--headless", "state.json", "--sae", str(folders["gated"]), "--out", "painted.png")
    assert Path("painted.png").stat().st_size > 1000
    few = ("--category", "colour", "--limit", "1", "--strength", "1", "--keep-images", "0")
    chosen = ("--set", "sae.folder=saes", "--set", "sae.name=relu")  # not jumprelu
    command("run", "--method", "sae", "--block", "up.0.0", *chosen, *few, "--out", "run")
    [record] = read_records(Path("run"))
    assert record.notes["sae up.0.0"] == "relu"
    lines = [json.loads(line) for line in Path("saes/log.jsonl").read_text().splitlines()]
    assert {line["sae"] for line in lines} == {folder.name for folder in folders.values()}
    assert all(math.isfinite(line[name]) for line in lines for name in ("explained", "l0", "dead"))
