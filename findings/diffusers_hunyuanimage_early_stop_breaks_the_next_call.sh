#!/usr/bin/env bash
# diffusers 0.42.1: after a picture whose guider stopped before the last step, HunyuanImagePipeline makes no other one.
#
# A guider with stop=0.5 guides the first half of the steps. Before the steps of a call the pipeline asks the guider how
# many conditions it has, to see whether a negative prompt is to be encoded; the guider answers for the step at which
# the last call left it, where it no longer guided. So the second call of one pipeline encodes no negative prompt and
# ends with an error at its first step, which guides. A guider that begins late (start=0.3) ends its calls while it
# guides and is all right. Who makes many pictures with one pipeline has to give it a new guider for each call
# (guider.new()), as the states of a guider outlive the call.
#
# Seen: Python 3.11, torch 2.13.0 on a CPU, random weights, 4 steps, two calls with the same prompt and seed:
#   start=0.3, stop=1.0: the same picture
#   start=0.0, stop=0.5: AttributeError: 'NoneType' object has no attribute 'bool'
#   start=0.0, stop=0.5, a new guider for each call: the same picture
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


def newt():
    generator = torch.Generator().manual_seed(1)
    return pipeline("a newt", height=64, width=64, num_inference_steps=4, output_type="pt", generator=generator).images[0]


def second_call(anew=False, **interval):
    pipeline.guider = AdaptiveProjectedMixGuidance(guidance_scale=3.5, **interval)
    first = newt()
    if anew:
        pipeline.guider = pipeline.guider.new()
    try:
        return "the same picture" if torch.equal(newt(), first) else "another picture"
    except AttributeError as error:
        return f"AttributeError: {error}"


late, early = second_call(start=0.3), second_call(stop=0.5)
renewed = second_call(anew=True, stop=0.5)
print(f"start=0.3, stop=1.0: {late}\nstart=0.0, stop=0.5: {early}\nstart=0.0, stop=0.5, a new guider: {renewed}")
assert late == renewed == "the same picture", "a guider that is in order fails"
assert early.startswith("AttributeError: 'NoneType' object has no attribute"), "the second call is in order now"
PYTHON
