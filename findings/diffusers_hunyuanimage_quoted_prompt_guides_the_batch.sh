#!/usr/bin/env bash
# diffusers 0.42.1: in HunyuanImagePipeline one prompt with a text in quotes changes the pictures of the other prompts.
#
# The pipeline has two guiders, one of them (ocr_guider) for pictures with writing, which prompts with a quoted text ask
# for. Which one guides is decided once a call: if any prompt of the batch has a quoted text, all rows get ocr_guider.
# Where the two guiders differ, a picture depends on which prompts happen to be in its batch. Who compares pictures of a
# prompt over batches has to give both guiders the same settings, or to make the prompts one by one.
#
# Seen: Python 3.11, torch 2.13.0 on a CPU, random weights, 4 steps, the largest difference of a picture of "a newt":
#   beside 'a toad': 0.0000
#   beside 'a toad with a sign "toad"': 0.0021
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 diffusers==0.42.1 transformers==5.24.0
"$work/venv/bin/python" - <<'PYTHON'
import torch
from diffusers import (
    AdaptiveProjectedMixGuidance,
    AutoencoderKLHunyuanImage,
    FlowMatchEulerDiscreteScheduler,
    HunyuanImagePipeline,
    HunyuanImageTransformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    ByT5Tokenizer,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    T5Config,
    T5EncoderModel,
)

torch.manual_seed(0)
tokens = [*sorted(ByteLevel.alphabet()), "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e6}
text = {
    "vocab_size": 300, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "rope_parameters": rope,
}
vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
pipeline = HunyuanImagePipeline(
    scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
    vae=AutoencoderKLHunyuanImage(3, 3, 16, (32,) * 4, 1, 8, 64, scaling_factor=0.75),
    text_encoder=Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision)),
    tokenizer=Qwen2Tokenizer(vocab={token: number for number, token in enumerate(tokens)}, merges=[]),
    text_encoder_2=T5EncoderModel(T5Config(vocab_size=400, d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=2)),
    tokenizer_2=ByT5Tokenizer(),
    transformer=HunyuanImageTransformer2DModel(
        16, 16, 2, 8, 1, 1, 1, text_embed_dim=32, text_embed_2_dim=24, rope_axes_dim=(4, 4)
    ),
    guider=AdaptiveProjectedMixGuidance(guidance_scale=3.5),
    ocr_guider=AdaptiveProjectedMixGuidance(guidance_scale=7.0),
)
pipeline.set_progress_bar_config(disable=True)


def newt_beside(other):
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    made = pipeline(["a newt", other], height=64, width=64, num_inference_steps=4, output_type="pt", generator=generators)
    return made.images[0]


plain = newt_beside("a frog")
for other, differs in (("a toad", False), ('a toad with a sign "toad"', True)):
    difference = (newt_beside(other) - plain).abs().max().item()
    print(f"beside {other!r}: {difference:.4f}")
    assert (difference > 1e-3) == differs, "the guider of a batch is chosen otherwise"
PYTHON
