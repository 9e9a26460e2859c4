"""Stage 4: exports the checkpoint as a diffusers folder.

In:  WORK with tokenizer, vae.pt, flow_ema.pt.
Out: OUT in the diffusers layout, bf16 (the latent statistics f32).
"""

import argparse
import json
import os
import shutil

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file

import data
import evaluate
import models
import transformer as stage
import vocabulary


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    out = lambda *p: os.path.join(args.out, *p)
    for part in ("transformer", "text_encoder", "vae", "scheduler", "tokenizer"):
        shutil.rmtree(out(part), ignore_errors=True)

    transformer, encoder = models.make_transformer(), models.make_text_encoder()
    evaluate.load_flow(torch.load(os.path.join(args.work, "flow_ema.pt")), "ema", transformer, encoder)
    with torch.no_grad():
        for p in encoder.model.layers[max(models.TAPS)].parameters():
            p.zero_()  # after the last tap, so never run; zeros compress well
    transformer.bfloat16().save_pretrained(out("transformer"))
    encoder.bfloat16().save_pretrained(out("text_encoder"))
    vae = stage.load_vae(args.work, "cpu")
    mean, var = vae.bn.running_mean.clone(), vae.bn.running_var.clone()
    vae.bfloat16().save_pretrained(out("vae"))
    path = out("vae", "diffusion_pytorch_model.safetensors")
    tensors = load_file(path)
    tensors |= {"bn.running_mean": mean, "bn.running_var": var}
    save_file(tensors, path, metadata={"format": "pt"})
    FlowMatchEulerDiscreteScheduler(
        base_image_seq_len=256,
        base_shift=0.5,
        max_image_seq_len=4096,
        max_shift=1.15,
        num_train_timesteps=1000,
        shift=3.0,
        use_dynamic_shifting=True,
        time_shift_type="exponential",
    ).save_pretrained(out("scheduler"))
    shutil.copytree(os.path.join(args.work, "tokenizer"), out("tokenizer"))
    generation = out("text_encoder", "generation_config.json")
    if os.path.exists(generation):
        os.remove(generation)
    index = {
        "_class_name": "Flux2KleinPipeline",
        "_diffusers_version": "0.42.1",
        "is_distilled": True,
        "max_sequence_length": data.MAX_TOKENS,
        "text_encoder_out_layers": list(models.TAPS),
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen3ForCausalLM"],
        "tokenizer": ["transformers", "Qwen2TokenizerFast"],
        "transformer": ["diffusers", "Flux2Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKLFlux2"],
    }
    with open(out("model_index.json"), "w") as f:
        json.dump(index, f, indent=2)
        f.write("\n")
    vocabulary.write(args.out)
    files = [os.path.join(r, n) for r, _, ns in os.walk(args.out) for n in ns]
    total = sum(os.path.getsize(f) for f in files)
    for f in sorted(files):
        print(f"{os.path.getsize(f):>9} {os.path.relpath(f, args.out)}")
    print(f"{total:>9} in all")
    assert total <= 9_000_000, "the crate that embeds it could not be published"


if __name__ == "__main__":
    main()
