#!/usr/bin/env bash
# diffusers 0.42.1 and peft 0.21.2: a pass with a LoRA scale of 0 sets the weights of set_adapters back to 1.
#
# cross_attention_kwargs={"scale": s}, or joint_attention_kwargs of FLUX, multiplies the weight of each LoRA for one
# call. After each pass the factor is divided out again. 0 cannot be, and each layer gets the scale of its LoRA's file
# instead, as if set_adapters had never been called. So a base picture at scale 0, or the middle of a sweep of a
# slider from -1 to 1, is right itself, and the pictures after it are made at the full weight of every active LoRA,
# without a warning. Who uses both has to call set_adapters again after a scale of 0, or to make the base picture with
# disable_lora.
#
# Seen: Python 3.11, torch 2.13.0 on a CPU, a UNet of random weights, two LoRAs of weights 0.5 and 0.2; the weights that
# peft holds after a pass with a scale, and the largest difference of a pass without one from such a pass before:
#   after scale 0.7: 0.5, 0.2; difference 0.000
#   after scale -1.0: 0.5, 0.2; difference 0.000
#   after scale 0.0: 1.0, 1.0; difference 0.126
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 diffusers==0.42.1 transformers==5.24.0 peft==0.21.2
"$work/venv/bin/python" - <<'PYTHON'
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig

torch.manual_seed(0)
unet = UNet2DConditionModel(
    sample_size=8, block_out_channels=(32,), down_block_types=("CrossAttnDownBlock2D",), layers_per_block=1,
    up_block_types=("CrossAttnUpBlock2D",), cross_attention_dim=16, attention_head_dim=8,
).eval()
weights = {"smile": 0.5, "age": 0.2}
for name in weights:
    lora = LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False)
    unet.add_adapter(lora, name)
layer = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_q
sample, prompt = torch.randn(1, 4, 8, 8), torch.randn(1, 6, 16)


def output(scale=None):
    options = None if scale is None else {"scale": scale}
    with torch.no_grad():
        return unet(sample, 500, prompt, cross_attention_kwargs=options).sample


for scale, kept in ((0.7, True), (-1.0, True), (0.0, False)):
    unet.set_adapters(list(weights), list(weights.values()))
    before = output()
    output(scale)
    difference = (output() - before).abs().max().item()
    held = ", ".join(f"{layer.scaling[name]:.1f}" for name in weights)
    print(f"after scale {scale}: {held}; difference {difference:.3f}")
    assert (difference < 1e-4) == kept, "what a scale leaves behind has changed"
PYTHON
