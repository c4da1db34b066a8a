"""Run by the Python that has SAELens: read an SAE of ours and encode with it; make two of SAELens's own."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from sae_lens import SAE
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig
from safetensors.torch import load_file, save_file

work = Path(sys.argv[1])
x = load_file(work / "x.safetensors")["x"]
with torch.no_grad():
    ours = SAE.load_from_disk(work / "ours", device="cpu")
    codes = ours.encode(x)
    found = {"codes": codes, "rebuilt": ours.decode(codes)}
    torch.manual_seed(2)
    theirs = TopKSAE(TopKSAEConfig(d_in=ours.cfg.d_in, d_sae=ours.cfg.d_sae, k=7))
    for parameter in theirs.parameters():
        parameter.copy_(torch.randn_like(parameter) / 4)
    theirs.save_model(work / "theirs")
    codes = theirs.encode(x)
    found |= {"their_codes": codes, "their_rebuilt": theirs.decode(codes)}
    # As a training saves it: decoder norms are not 1, and pre-activations are multiplied by them.
    trained = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=ours.cfg.d_in, d_sae=ours.cfg.d_sae, k=7))
    for parameter in trained.parameters():
        parameter.copy_(torch.randn_like(parameter) / 4)
    trained.save_model(work / "trained")
    read = SAE.load_from_disk(work / "trained", device="cpu")
    codes = read.encode(x)
    found |= {"trained_codes": codes, "trained_rebuilt": read.decode(codes)}
save_file({name: value.contiguous() for name, value in found.items()}, work / "found.safetensors")
