#!/usr/bin/env bash
# diffusers 0.42.1: Lumina2Pipeline's guidance scales each row of the latents by norms over the picture's width.
#
# With cfg_normalization=True, its default, the guided prediction [batch, channels, height, width] is multiplied by the
# ratio of two norms over the last dimension, so there is one factor for each channel and row of cells. Where the
# prediction with the prompt changes in one cell, as by an edit or an intervention at one token, all cells of its row
# change with it. With cfg_normalization=False the change stays in its cell. Who asks how far an intervention reaches
# in a guided Lumina 2 has to turn the normalisation off.
#
# Seen: Python 3.11, torch 2.13.0 on a CPU, a transformer of random weights, 1 step, cell (3, 5) of 8 x 8 changed:
#   cfg_normalization=False: (row, column) of changed cells [(3, 5)]
#   cfg_normalization=True: (row, column) of changed cells [(3, 0), (3, 1), (3, 2), (3, 3), (3, 4), (3, 5), (3, 6), (3, 7)]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 diffusers==0.42.1 transformers==5.24.0
"$work/venv/bin/python" - <<'PYTHON'
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, Lumina2Pipeline, Lumina2Transformer2DModel

torch.manual_seed(0)
transformer = Lumina2Transformer2DModel(
    sample_size=8, patch_size=2, in_channels=4, hidden_size=24, num_layers=1, num_refiner_layers=1,
    num_attention_heads=3, num_kv_heads=1, multiple_of=2, axes_dim_rope=(4, 2, 2), axes_lens=(64, 16, 16),
    cap_feat_dim=8,
).eval()
vae = AutoencoderKL(latent_channels=4, block_out_channels=(32,), norm_num_groups=32)
pipeline = Lumina2Pipeline(transformer, FlowMatchEulerDiscreteScheduler(), vae, None, None)
pipeline.vae_scale_factor = 8
pipeline.set_progress_bar_config(disable=True)


def latents(change, **options):
    calls = []

    def hook(module, args, output):
        calls.append(1)
        if change and len(calls) == 1:  # the prediction with the prompt; the second call is without it
            output[0][0, 0, 3, 5] += 1.0
        return output

    handle = transformer.register_forward_hook(hook)
    result = pipeline(
        prompt_embeds=torch.ones(1, 6, 8), prompt_attention_mask=torch.ones(1, 6, dtype=torch.int64), num_inference_steps=1,
        negative_prompt_embeds=torch.zeros(1, 6, 8), negative_prompt_attention_mask=torch.ones(1, 6, dtype=torch.int64),
        height=64, width=64, guidance_scale=4.0, output_type="latent",
        generator=torch.Generator().manual_seed(3), **options,
    ).images
    handle.remove()
    assert len(calls) == 2
    return result[0, 0]


for normalised, expected in ((False, [(3, 5)]), (True, [(3, column) for column in range(8)])):
    changed = latents(True, cfg_normalization=normalised) != latents(False, cfg_normalization=normalised)
    cells = [tuple(cell) for cell in changed.nonzero().tolist()]
    print(f"cfg_normalization={normalised}: (row, column) of changed cells {cells}")
    assert cells == expected, "what a change of one cell reaches is another"
PYTHON
