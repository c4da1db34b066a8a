"""Methods, metrics and masks of a user that write into what they are handed: nothing else's numbers differ by it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import riebench
from riebench.instruments.loading import Instruments, saes_fingerprint
from riebench.masks.user_masks import regions_of_user_masks
from riebench.methods import Plan, method
from riebench.methods.registry import METHODS
from riebench.metrics import Reference, metric
from riebench.metrics.catalogue import METRICS
from riebench.metrics.scoring import score_images
from riebench.pairs import Pair
from riebench.sae.given import as_sae
from riebench.util.errors import PairError, UserError
from riebench.util.tensor_bits import Untouched

HARM_OF_METRICS: dict[str, Callable[[Any], Any]] = {
    "embedding": lambda seen: seen.clip.mul_(0.5),
    "embedding through numpy": lambda seen: seen.clip_base.numpy().fill(0.0),
    "picture": lambda seen: torch.from_numpy(seen.pictures[0]).zero_(),
    "source picture": lambda seen: torch.from_numpy(seen.reference.source).zero_(),
    "region": lambda seen: torch.from_numpy(seen.reference.region).fill_(True),
    "order of numbers": lambda seen: seen.lpips_base.reverse(),
}


@pytest.mark.parametrize("name", HARM_OF_METRICS)
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_a_metric_that_writes_into_what_metrics_share(
    mini: Instruments, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    @metric("harmful", "what it spoils")
    def harmful(seen: Any) -> list[float]:
        HARM_OF_METRICS[name](seen)
        return [0.0] * len(seen.pictures)

    measured = METRICS.pop("harmful")  # so that the metrics of other tests are without it
    monkeypatch.setitem(METRICS, "harmful", measured)
    base, source, *edited = rng.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    region = np.zeros((64, 64), dtype=np.bool_)
    region[:20] = True
    reference = Reference(base, source, "a red heart in a meadow", "a blue heart in a meadow", region)
    with pytest.raises(PairError, match="'harmful' changes pictures, embeddings or numbers"):
        score_images(mini.scorers, reference, edited, ["clip_text_edit", "lpips_base", "harmful"])


HARM_OF_METHODS: dict[str, Callable[[Any], Any]] = {
    "values": lambda seen: seen.base["up.0.0"].numpy().fill(0.0),
    "mask": lambda seen: seen.base_masks["up.0.0"].numpy().fill(True),
    "SAE": lambda seen: seen.saes["up.0.0"].decoder.weight.detach().numpy().fill(0.0),
    "picture": lambda seen: torch.from_numpy(seen.pictures["base"]).zero_(),
}


@pytest.mark.parametrize("name", HARM_OF_METHODS)
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_a_method_that_writes_into_what_methods_share(
    mini: Instruments, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(METHODS, "registered", dict(METHODS.registered))

    @method("harmful", needs_sae=True)
    class Harmful:
        """A method that spoils what others see."""

        def plan(self, seen: Any) -> Plan:
            HARM_OF_METHODS[name](seen)
            return Plan({})

    shared: dict[str, Any] = {"model": mini.model, "scorers": mini.scorers, "category": "colour", "limit": 1}
    try:
        (record,) = riebench.run("harmful", "up.0.0", strength=1, out="out", quiet=True, **shared).records
    finally:
        mini.model.forget_saes()
    assert record.status == "failed"
    assert "'harmful' changes the values, masks, pictures or SAEs" in record.reason


class Fading:
    """A change that depends on how often it was called."""

    def __init__(self) -> None:
        self.factor = 8.0
        self.known: dict[int, float] = {}

    def fading(self, now: torch.Tensor, step: int) -> torch.Tensor:
        self.factor /= 2
        return now * self.factor

    def caching(self, now: torch.Tensor, step: int) -> torch.Tensor:
        return now * self.known.setdefault(step, 0.5)


def counting() -> Callable[[torch.Tensor, int], torch.Tensor]:
    calls = 0

    def change(now: torch.Tensor, step: int) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return now * calls

    return change


def blending() -> Callable[[torch.Tensor, int], torch.Tensor]:
    mean = torch.zeros(96)

    def change(now: torch.Tensor, step: int) -> torch.Tensor:
        mean.numpy()[:] += now.mean(0).numpy()
        return mean

    return change


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda: Fading().fading, "failed"),
        (lambda: Fading().caching, "ok"),
        (counting, "failed"),
        (blending, "failed"),
    ],
)
def test_a_change_that_keeps_something_from_call_to_call(
    mini: Instruments, monkeypatch: pytest.MonkeyPatch, change: Any, status: str
) -> None:
    monkeypatch.setattr(METHODS, "registered", dict(METHODS.registered))

    @method("stateful")
    class Stateful:
        """A method whose change is a function."""

        def plan(self, seen: Any) -> Plan:
            return Plan({site: change() for site in seen.sites})

    shared: dict[str, Any] = {"model": mini.model, "scorers": mini.scorers, "category": "colour", "limit": 1}
    (record,) = riebench.run("stateful", "up.0.0", strength=1, out="out", quiet=True, **shared).records
    assert record.status == status
    assert status == "ok" or "keeps something from call to call" in record.reason


def test_steps_of_a_method_that_changes_nothing_inside_the_denoiser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "registered", dict(METHODS.registered))

    @method("outside")
    class Outside:
        """A method with a picture."""

        acts_outside: ClassVar[bool] = True

        def plan(self, seen: Any) -> Plan:
            return Plan(prompt="a red heart")

    with pytest.raises(
        UserError, match="'outside' changes nothing inside the denoiser, so that on_steps has no effect"
    ):
        riebench.run(["steering", "outside"], "up.0.0", steps=2, on_steps=0)


def test_saes_are_told_apart_by_more_than_their_weights(mini: Instruments) -> None:
    sae = mini.model.sae("mid.0")
    few, many = (copy.deepcopy(sae) for _ in range(2))
    few.k = 2  # type: ignore[misc]
    files = {site: held for site, held in mini.model.saes.items() if site != "mid.0"}
    both = [saes_fingerprint({"mid.0": few}), saes_fingerprint({"mid.0": many})]
    beside = [saes_fingerprint({**files, "mid.0": few}), saes_fingerprint({**files, "mid.0": many})]
    assert len({*both, *beside, saes_fingerprint(files)}) == 5


class Threshold:
    """A stranger's SAE whose numbers are attributes."""

    def __init__(self, threshold: float, largest: float) -> None:
        self.threshold, self.W = threshold, torch.eye(4)
        self.W[0, 0] = largest

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.W) * (x @ self.W > self.threshold)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z


def test_small_changes_of_an_object_are_told_apart() -> None:
    numbers = [(0.5, 1.0), (0.5001, 1.0), (0.5, 1.0001), (0.5, 1.0)]
    prints = [saes_fingerprint({"mid.0": as_sae(Threshold(*each), 4, "it")}) for each in numbers]
    assert prints[0] == prints[3]
    assert len(set(prints)) == 3
    prints += [saes_fingerprint({"mid.0": as_sae(Around(*each), 4, "it")}) for each in numbers]
    assert prints[4] == prints[7]
    assert len(set(prints)) == 6


class Around:
    """A wrapper as our messages advise, which holds all that decides inside another object."""

    def __init__(self, threshold: float, largest: float) -> None:
        self.held = [Threshold(threshold, largest)]
        self.again = self

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        return self.held[0].encode(x)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return z @ self.held[0].W


def test_directions_of_an_object_follow_its_tensors() -> None:
    theirs = Threshold(0.5, 1.0)
    theirs.decode = lambda z: z @ theirs.W  # type: ignore[method-assign]
    sae = as_sae(theirs, 4, "it")
    assert torch.equal(sae.W_dec, torch.eye(4))
    theirs.W.mul_(2)
    assert torch.equal(sae.W_dec, 2 * torch.eye(4))
    around = Around(0.5, 1.0)
    sae = as_sae(around, 4, "it")
    assert torch.equal(sae.W_dec, torch.eye(4))
    around.held[0].W.mul_(2)
    assert torch.equal(sae.W_dec, 2 * torch.eye(4))


def test_a_mask_function_may_draw_on_its_pictures_and_use_an_array_again() -> None:
    words = {"original_prompt": "a cat", "editing_prompt": "a dog"}
    phrases = {"original_gsam_prompt": "cat", "editing_gsam_prompt": "dog"}
    pair = Pair.model_validate({"id": "a", "editing_type_id": 1, **words, **phrases})
    used = np.zeros((4, 4), dtype=np.bool_)

    def masks(pair: Pair, base: Any, source: Any) -> Any:
        base[:], used[0] = 0, True
        return used, used

    base, source = np.full((2, 4, 4, 3), 9, dtype=np.uint8)
    region, _ = regions_of_user_masks(masks)(pair, base, source)
    used[:] = True
    assert base.min() == 9
    assert region.pixels().sum() == 4


def test_what_is_untouched() -> None:
    kept = {"a": torch.ones(3)}
    numbers = [1.0, 2.0]
    shared = Untouched(kept, numbers, [np.ones(3)])
    kept["b"] = torch.ones(2)
    assert not shared.changed()
    numbers.append(3.0)
    assert shared.changed()


def test_what_a_model_hands_out_is_a_caller_s_to_change(mini: Instruments, caplog: pytest.LogCaptureFixture) -> None:
    finished = mini.model.finished("a red heart in a meadow", 3, 2)
    kept = finished.clone()
    finished.zero_()
    assert torch.equal(mini.model.finished("a red heart in a meadow", 3, 2), kept)
    sae = mini.model.sae("mid.0")
    kept = sae.W_dec.clone()
    sae.W_dec.data.mul_(2)
    assert torch.equal(mini.model.sae("mid.0").W_dec, kept)
    assert "the SAE of mid.0 was changed in memory" in caplog.text
