"""Folders that do not fit a model, and models without the default blocks of their entry; without weights."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest

import riebench
from riebench.ablation.ablation_request import resolve_ablation
from riebench.cli import main
from riebench.engine.request import resolve
from riebench.engine.run_options import RunOptions
from riebench.instruments.loading import Instruments
from riebench.models import entry_named
from riebench.models.diffusers_entry import DiffusersEntry
from riebench.models.entries import named_model
from riebench.models.sites import default_blocks
from riebench.pairs import Pair
from riebench.settings.settings import Settings, parse_settings
from riebench.training.capture import resolve_capture
from riebench.util.errors import UserError
from riebench.weights import locate

PAIR = Pair(
    id="p",
    editing_type_id=1,
    original_prompt="a [cat]",
    editing_prompt="a [dog]",
    original_gsam_prompt="cat",
    editing_gsam_prompt="dog",
)


def folder_of(folder: Path, name: str, **denoiser: Any) -> Path:
    """A folder with the published configurations of a model, and some of its denoiser's values changed."""
    entry = entry_named(name)
    assert isinstance(entry, DiffusersEntry)
    for component, published in entry.published.items():
        changed = {**published, **denoiser} if component == entry.denoiser else published
        (folder / component).mkdir(parents=True)
        (folder / component / "config.json").write_text(json.dumps(changed))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": entry.pipeline_class}))
    return folder


def command(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(list(words))
    return int(left.value.code or 0), *capsys.readouterr()


@pytest.mark.parametrize(
    ("preferred", "blocks", "default"),
    [
        (("block.12",), 24, ("block.12",)),
        (("block.3", "block.1", "block.9"), 4, ("block.1", "block.3")),
        (("block.12",), 5, ("block.2",)),
        ((), 2, ("block.1",)),
        ((), 1, ("block.0",)),
        ((), 0, ()),
    ],
)
def test_default_blocks_are_those_that_exist_or_the_middle(
    preferred: tuple[str, ...], blocks: int, default: tuple[str, ...]
) -> None:
    sites = [site for n in range(blocks) for site in (f"block.{n}/attention", f"block.{n}", f"block.{n}/text")]
    assert default_blocks(preferred, sites) == default


def test_all_of_a_pruned_model_is_its_middle_block(
    mini: Instruments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a run, an ablation, a data set and a list of blocks."""
    pruned = folder_of(tmp_path / "pruned", "sd3.5-medium", num_layers=2)
    (tmp_path / "prompts.txt").write_text("a cat\n")
    how: dict[str, Any] = {"model": str(pruned), "settings": {"model.size": 64}}
    request, _ = resolve(RunOptions("steering", "all", pairs=[PAIR], **how))
    assert [condition.sites for condition in request.conditions] == [("block.1",)]
    with pytest.raises(UserError, match=r"block\.0/text is of the text, and a run, which scores a region, needs"):
        resolve(RunOptions("steering", "block.0/text", pairs=[PAIR], **how))
    with pytest.raises(UserError, match=r"no block was named; give --block, as --block block\.1 or --block all$"):
        resolve(RunOptions("steering", pairs=[PAIR], **how))
    assert list(resolve_capture(prompts=tmp_path / "prompts.txt", **how).sites) == ["block.1"]
    ablated = resolve_ablation(blocks="default", prompts=tmp_path / "prompts.txt", scorers=mini.scorers, **how)
    assert ablated.sets == (("block.1",),)
    code, out, _ = command(capsys, "blocks", "--model", str(pruned))
    assert code == 0
    assert "block.1 *" in out
    assert "block.0 *" not in out


def text(content: str) -> Callable[[Path], object]:
    return lambda file: file.write_text(content)


@pytest.mark.parametrize(
    ("name", "file", "wrong", "said"),
    [
        ("sd3.5-medium", "transformer/config.json", text("[]"), "config.json holds a list; expected an object"),
        ("sd3.5-medium", "transformer/config.json", text("{"), "config.json cannot be read (Expecting property name"),
        ("sd3.5-medium", "transformer/config.json", Path.unlink, "config.json cannot be read (No such file"),
        ("sd3.5-medium", "vae/config.json", text("null"), "vae/config.json holds null; expected an object"),
        (
            "sd3.5-medium",
            "vae/config.json",
            text("{}"),
            "vae/config.json has no 'block_out_channels'; expected a v",
        ),
        ("sd3.5-medium", "model_index.json", Path.unlink, "has no model_index.json that names a pipeline"),
        ("sd3.5-medium", "model_index.json", text("[]"), "has no model_index.json that names a pipeline"),
        (
            "sd3.5-medium",
            "model_index.json",
            text('{"_class_name": "PRXPipeline"}'),
            "model_index.json names a PRXPipeline, and sd3.5-medium takes a StableDiffusion3Pipeline; give another",
        ),
        (
            "krea2",
            "model_index.json",
            text('{"_class_name": "Krea2Pipeline", "is_distilled": true}'),
            "is_distilled=True, and krea2 expects False; give another",
        ),
        ("sd1.5", "scheduler", lambda file: file.mkdir(), ""),
        ("flux-dev", "transformer/config.json", text("7"), "config.json holds a int; expected an object"),
    ],
)
def test_files_that_do_not_fit_are_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, file: str, wrong: Callable[[Path], object], said: str
) -> None:
    folder = folder_of(tmp_path / "pipe", name)
    wrong(folder / file)
    code, _, err = command(capsys, "blocks", "--model", name, "--set", f"model.location={folder}")
    assert (code, said in err, err.count("\n")) == ((2, True, 1) if said else (0, True, 0)), err
    assert not said or str(folder) in err or "is_distilled" in said


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("sd3.5-medium", {"num_layers": "two"}, """has "two" as 'num_layers'; expected a value as the published 24"""),
        ("sd3.5-medium", {"num_layers": None}, "has null as 'num_layers'"),
        ("sd3.5-medium", {"num_layers": -1}, "has -1 as 'num_layers'"),
        ("sd3.5-medium", {"num_layers": 2.5}, "has 2.5 as 'num_layers'"),
        ("sd3.5-medium", {"num_layers": True}, "has true as 'num_layers'"),
        ("sd3.5-medium", {"num_layers": 0}, "has no blocks"),
        ("sd3.5-medium", {"attention_head_dim": "8"}, """has "8" as 'attention_head_dim'"""),
        ("sd3.5-medium", {"sample_size": "64"}, """has "64" as 'sample_size'"""),
        ("sd3.5-medium", {"sample_size": [64, 64]}, "has [64, 64] as 'sample_size'"),
        ("sdxl-base", {"block_out_channels": []}, "has [] as 'block_out_channels'"),
        ("sdxl-base", {"block_out_channels": [320]}, "are none of sdxl-base"),
        ("sdxl-base", {"down_block_types": [1, 2]}, "has [1, 2] as 'down_block_types'"),
        ("sdxl-base", {"transformer_layers_per_block": [0, [2, 2], [4]]}, "are none of sdxl-base"),
        ("sdxl-base", {"transformer_layers_per_block": [0, [2, "a"], 4]}, """has [0, [2, "a"], 4] as 'transformer_l"""),
        ("flux-dev", {"guidance_embeds": "yes"}, """has "yes" as 'guidance_embeds'"""),
        ("prx", {"mlp_ratio": float("nan")}, "has NaN as 'mlp_ratio'"),
    ],
)
def test_values_that_do_not_fit_are_refused_by_name(
    tmp_path: Path, name: str, values: dict[str, Any], said: str
) -> None:
    folder = folder_of(tmp_path / "pipe", name, **values)
    with pytest.raises(UserError) as refused:
        entry_named(name).sites(parse_settings({"model.location": str(folder)}))
    assert said in str(refused.value)
    assert str(folder) in str(refused.value)
    assert "put the pipeline's own file back, or give another folder" in str(refused.value)


def test_a_size_that_does_not_fit_is_refused_before_weights_are_read(tmp_path: Path) -> None:
    for name, unit in {"sd3.5-medium": 16, "sd1.5": 8}.items():
        with pytest.raises(UserError, match=f"the picture size is 1030; expected a multiple of {unit}"):
            riebench.load(folder_of(tmp_path / name, name), size=1030)


def test_a_u_net_without_a_middle_stage_has_no_sites_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pruned = folder_of(tmp_path / "pipe", "sd1.5", mid_block_type=None)
    code, out, _ = command(capsys, "blocks", "--model", str(pruned))
    assert code == 0
    assert "mid.0" not in out
    assert re.search(r"up\.\d\.\d \*", out)  # the default is in the middle of what there is


def test_a_folder_with_a_model_needs_no_download_of_that_model(tmp_path: Path) -> None:
    parts, pipe = entry_named("sd3.5-medium").parts, folder_of(tmp_path / "pipe", "sd3.5-medium")
    others = "".join(f" --part {name}" for name in ("detector", "text-encoder", "segmenter", "clip", "lpips"))
    for own, some in ({"model.location": str(pipe)}, others), ({}, ""):
        with pytest.raises(UserError, match=f"get them with 'riebench fetch sd3.5-medium{some}'"):
            locate("sd3.5-medium", parts, parse_settings({"weights": str(tmp_path), **own}))


def test_every_pipeline_with_perturbed_attention_is_refused_with_the_reason(tmp_path: Path) -> None:
    kinds = [name for name in dir(diffusers) if "PAG" in name and name.endswith("Pipeline")]
    assert len(kinds) >= 17
    for kind in kinds:
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
        with pytest.raises(UserError, match=f"is a {kind}, which is not run: its batches have a perturbed part"):
            named_model(tmp_path, Settings())


@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_of_the_list_of_models_is_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    if terminal:
        for name, value in {"FORCE_COLOR": "1", "COLUMNS": "120"}.items():
            monkeypatch.setenv(name, value)
    code, out, _ = command(capsys, "models")
    assert code == 0
    assert "…" not in out
    rows = {row.split()[1]: row for row in out.splitlines() if row.startswith("│ ")}
    assert {"mini", "sdxl-base", "hunyuanimage-distilled"} <= rows.keys()
    if terminal:
        return
    assert "black-forest-labs/FLUX.1-dev" in rows["flux-dev"]
    assert "double single │ attention mlp-input neurons mlp output text" in rows["flux-dev"]
    sizes = {"mini": "128; multiples of 8", "sdxl-base": "1024; multiples of 8", "sdxl-turbo": "512; multiples of 8"}
    sizes |= {"mini-flux": "128; multiples of 8", "kolors": "1024; multiples of 8"}
    for name, size in sizes.items():
        assert f"│ {size}" in rows[name], rows[name]


def test_the_published_shapes_are_those_of_each_size(capsys: pytest.CaptureFixture[str]) -> None:
    for name, grid in {"sdxl-base": "64 x 64", "sdxl-turbo": "32 x 32"}.items():
        out = command(capsys, "blocks", "--model", name, "--set", "weights=nowhere")[1]
        assert grid in next(row for row in out.splitlines() if "down.1.0" in row)
