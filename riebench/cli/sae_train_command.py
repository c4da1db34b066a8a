"""``riebench sae train``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from riebench.cli.sae_collect_command import Column, Count, Prompts, Split
from riebench.cli.shared_options import Batch, with_settings
from riebench.util.errors import UserError

SWITCH, DECODERS = {"on": True, "off": False}, {"trained": False, "frozen": True}


@with_settings
def sae_train_command(
    out: Annotated[Path, typer.Option(help="Folder of the SAE folders, for --set sae.folder=DIR of 'riebench run'.")],
    data: Annotated[Path | None, typer.Argument(help="Folder that 'riebench sae collect' has filled.")] = None,
    site: Annotated[
        list[str] | None, typer.Option(help="Site; may be repeated. Default: all sites of the data.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="mini (the default), paper (RIEBench, k 160), paper-v1 (first release, k 10).")
    ] = None,
    kind: Annotated[
        str | None, typer.Option(help="topk (the default), batchtopk, matryoshka, jumprelu, relu, gated, or several.")
    ] = None,
    k: Annotated[
        str | None,
        typer.Option(
            help="Active features, as 5,10,20: of each vector for topk, else their mean number. The penalties of relu, "
            "gated, jumprelu are steered to it where --l1 and --l0 are not given."
        ),
    ] = None,
    l1: Annotated[
        str | None,
        typer.Option(
            help="Weight of the sum of the codes, of relu, gated, as 0.1,0.3, in place of --k. Unit of codes: root "
            "mean squared distance of the vectors from their mean."
        ),
    ] = None,
    l0: Annotated[
        str | None,
        typer.Option(help="Weight of the number of active features, of jumprelu, as 0.002,0.005, in place of --k."),
    ] = None,
    expansion: Annotated[str | None, typer.Option(help="Features per dimension, as 4,8.")] = None,
    aux: Annotated[str | None, typer.Option(help="Auxiliary loss of the kinds with k: on, off, or on,off.")] = None,
    decoder: Annotated[
        str | None, typer.Option(help="trained, frozen (it stays random: a baseline), or trained,frozen.")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds of the start, as 0,1,2.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Vectors in a step.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=0, help="Steps; 0 for one pass over the data; 3000 for mini, 0 for paper.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Adam's learning rate.")] = None,
    eps: Annotated[float | None, typer.Option(help="Adam's epsilon.")] = None,
    decay: Annotated[
        float | None, typer.Option(help="Share of the steps in which the learning rate falls to 0.")
    ] = None,
    auxk: Annotated[int | None, typer.Option(help="Dead features that reconstruct the residual.")] = None,
    aux_weight: Annotated[float | None, typer.Option(help="Weight of the auxiliary loss.")] = None,
    dead_after: Annotated[
        int | None, typer.Option(help="Vectors without an activation after which a feature is dead.")
    ] = None,
    buffer: Annotated[int | None, typer.Option(help="Vectors of each site that are shuffled together.")] = None,
    shuffle_seed: Annotated[int | None, typer.Option(help="Seed of the order of the vectors.")] = None,
    warmup: Annotated[
        float | None, typer.Option(help="Share of the steps in which the weights of --l1 and --l0 rise from 0.")
    ] = None,
    bandwidth: Annotated[
        float | None, typer.Option(help="Width of jumprelu's kernel, in the unit of --l1's codes.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Threshold at which jumprelu starts, in the unit of --l1's codes.")
    ] = None,
    prefixes: Annotated[
        str | None, typer.Option(help="Shares of the features that reconstruct alone, of matryoshka, as 0.25,0.5.")
    ] = None,
    log_every: Annotated[int, typer.Option(min=1, help="Steps between lines of log.jsonl.")] = 50,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 500,
    model: Annotated[
        str | None, typer.Option(help="Model that generates the values while it is trained, instead of DATA.")
    ] = None,
    prompts: Prompts = None,
    count: Count = None,
    column: Column = None,
    split: Split = "train",
    run_steps: Annotated[int, typer.Option(help="Denoising steps of each run of --model.")] = 1,
    positions: Annotated[
        int | None, typer.Option(help="Positions drawn from each step of each run of --model. Default: all.")
    ] = None,
    rows: Batch = 8,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write events for TensorBoard, where it is installed.")
    ] = False,
    *,
    settings: Mapping[str, Any],
) -> int:
    """Train SAEs: every combination of kind, sparsity, expansion, auxiliary loss and seed, in one pass over the data.

    The same command with the same --out goes on from the last checkpoint.

    Examples:

      riebench sae train values --k 5,10,20 --aux on,off --out saes

      riebench sae train values --kind batchtopk,jumprelu,relu --k 10 --out saes

      riebench sae train --model mini --prompts grammar --count 20000 --steps 0 --out saes
    """
    from riebench.training.train_saes import train

    live = {
        "model": model,
        "prompts": prompts,
        "count": count,
        "column": column,
        "split": split,
        "steps": run_steps,
        "positions": positions,
        "batch": rows,
        "settings": settings,
    }
    trained = train(
        data,
        out=out,
        site=site or "all",
        preset=preset,
        live=_checked(live),
        device=settings.get("device", "auto"),
        log_every=log_every,
        checkpoint_every=checkpoint_every,
        tensorboard=tensorboard,
        kind=None if kind is None else tuple(kind.split(",")),
        k=_numbers("k", k),
        l1=_shares("l1", l1),
        l0=_shares("l0", l0),
        expansion=_numbers("expansion", expansion),
        seeds=_numbers("seeds", seeds),
        aux=_words("aux", aux, SWITCH),
        frozen=_words("decoder", decoder, DECODERS),
        batch=batch,
        lr=lr,
        eps=eps,
        decay=decay,
        auxk=auxk,
        aux_weight=aux_weight,
        dead_after=dead_after,
        buffer=buffer,
        shuffle_seed=shuffle_seed,
        steps=steps,
        warmup=warmup,
        bandwidth=bandwidth,
        threshold=threshold,
        prefixes=_shares("prefixes", prefixes),
    )
    if trained.signal is not None:
        return 128 + trained.signal
    _print_measured(trained.measured)
    plural = "s" * (len(trained.folders) != 1)
    print(f"{len(trained.folders)} SAE{plural} in {out}; the curves are in {out / 'learning.png'}")
    return 0


def _print_measured(measured: Mapping[str, Mapping[str, Any]]) -> None:
    """Print explained variance, L0 and share of dead features of each SAE, as of its last step."""
    width = max(map(len, measured), default=0)
    print(f"{'SAE':{width}}  explained      L0    dead")
    for name, line in measured.items():
        print(f"{name:{width}}  {line['explained']:9.4g}  {line['l0']:6.1f}  {line['dead']:6.3f}")


def _checked(live: dict[str, Any]) -> dict[str, Any] | None:
    """The model that generates the values, with its options; None without one.

    Raises:
        UserError: for a model without prompts, and for its options without a model.
    """
    if live["model"] is not None and live["prompts"] is None:
        raise UserError("no prompts were named; give a file with --prompts, or --prompts grammar --count 4000")
    if live["model"] is not None:
        return live
    of_model = {name: live[name] for name in ("prompts", "count", "column", "positions")} | live["settings"]
    of_model |= {
        "run-steps": None if live["steps"] == 1 else live["steps"],
        "split": None if live["split"] == "train" else live["split"],
    }
    for name, value in of_model.items():
        if value is not None and name != "device":
            flag = f"--{name}" if "." not in name else f"--set {name}"
            raise UserError(f"{flag} belongs to --model; leave it out or name a model that generates the values")
    return None


def _numbers(name: str, words: str | None) -> tuple[int, ...] | None:
    if words is None:
        return None
    try:
        return tuple(int(word) for word in words.split(","))
    except ValueError:
        raise UserError(f"{name} is {words!r}; expected whole numbers, as 5,10,20") from None


def _shares(name: str, words: str | None) -> tuple[float, ...] | None:
    if words is None:
        return None
    try:
        return tuple(float(word) for word in words.split(","))
    except ValueError:
        raise UserError(f"{name} is {words!r}; expected numbers, as 0.1,0.3") from None


def _words(name: str, words: str | None, known: Mapping[str, bool]) -> tuple[bool, ...] | None:
    if words is None:
        return None
    for word in words.split(","):
        if word not in known:
            both = list(known)
            raise UserError(f"{name} is {words!r}; expected {both[0]}, {both[1]}, or {','.join(both)}")
    return tuple(known[word] for word in words.split(","))
