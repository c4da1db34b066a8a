#!/usr/bin/env bash
# nnsight 0.8.1: with guidance and two prompts invoked in one trace, an edit in place of a denoiser's values is lost.
#
# A DiffusionModel shows each tracer.invoke(prompt) the rows of its own prompt. Without guidance they are a view of
# the batch. With guidance they come from two halves, one without and one with the prompt, and are copied into one
# tensor. What is written into that copy, as by output[:, :, 2:4, 2:4] += 1, or by output[0][:] = 0 as in the
# documentation, never reaches the network: nothing warns, and the picture is that of no intervention. The same line
# works with one prompt, and at guidance_scale=1. A value that is assigned (output = edited) is put back in every
# case, so who steers or patches a guided batch has to edit a clone and assign it.
#
# Seen: Python 3.11, torch 2.13.0 on a CPU, random weights, 2 steps, the largest change of the latents of "a cat":
#   guidance 1.0, 1 prompt: 2.78 in place, 2.78 assigned
#   guidance 1.0, 2 prompts: 2.78 in place, 2.78 assigned
#   guidance 5.0, 1 prompt: 3.31 in place, 3.31 assigned
#   guidance 5.0, 2 prompts: 0.00 in place, 3.31 assigned
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 diffusers==0.42.1 transformers==5.24.0 nnsight==0.8.1
# nnsight reads the source of a trace, which standard input does not have.
cat > "$work/edits.py" <<'PYTHON'
import sys

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from nnsight import DiffusionModel
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

torch.manual_seed(0)
letters = sorted(ByteLevel.alphabet())
tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
ids = {token: number for number, token in enumerate(tokens)}
text = CLIPTextConfig(
    vocab_size=len(tokens), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
    max_position_embeddings=16, bos_token_id=ids["<|startoftext|>"], eos_token_id=ids["<|endoftext|>"],
)
StableDiffusionPipeline(
    vae=AutoencoderKL(latent_channels=4, block_out_channels=(32,), norm_num_groups=32),
    text_encoder=CLIPTextModel(text),
    tokenizer=CLIPTokenizer(vocab=ids, merges=[], model_max_length=16),
    unet=UNet2DConditionModel(
        sample_size=8, block_out_channels=(32,), down_block_types=("CrossAttnDownBlock2D",), layers_per_block=1,
        up_block_types=("CrossAttnUpBlock2D",), cross_attention_dim=16, attention_head_dim=8,
    ),
    scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
    safety_checker=None, feature_extractor=None, requires_safety_checker=False,
).save_pretrained(sys.argv[1])
model = DiffusionModel(sys.argv[1], dispatch=True)
model.pipeline.set_progress_bar_config(disable=True)
steered = model.unet.conv_in


def latents(edit, guidance, prompts):
    options = {"num_inference_steps": 2, "output_type": "latent", "height": 8, "width": 8, "seed": 3}
    with model.generate(guidance_scale=guidance, **options) as tracer:
        with tracer.invoke(prompts[0]):
            if edit == "in place":
                steered.output[:, :, 2:4, 2:4] += 1
            if edit == "assigned":
                edited = steered.output.clone()
                edited[:, :, 2:4, 2:4] += 1
                steered.output = edited
        for prompt in prompts[1:]:
            with tracer.invoke(prompt):
                pass
        with tracer.invoke():
            result = model.output.save()
    return result.images


for guidance in (1.0, 5.0):
    for prompts in (["a cat"], ["a cat", "a dog"]):
        plain = latents("none", guidance, prompts)
        change = {
            edit: (latents(edit, guidance, prompts) - plain)[0].abs().max().item() for edit in ("in place", "assigned")
        }
        number = "1 prompt" if len(prompts) == 1 else "2 prompts"
        print(f"guidance {guidance}, {number}: " + ", ".join(f"{value:.2f} {edit}" for edit, value in change.items()))
        assert change["assigned"] > 0.01, "an assigned value does nothing now"
        lost = guidance > 1 and len(prompts) == 2
        assert change["in place"] == (0 if lost else change["assigned"]), "edits in place are kept in other cases now"
PYTHON
"$work/venv/bin/python" "$work/edits.py" "$work/pipeline"
