"""Inputs and outputs of single layers, recorded in the reference.

In:  the distilled pipeline. Out: `seams.safetensors`; README.md lists the names. The request is that of `t2i` with 48
instead of 512 text rows, to keep the file small. The transformer is recorded in its second step, where sigma is not the
trivial 1.0.
"""

from pathlib import Path

import torch

from files import write_safetensors
from golden_cases import CASES, PRODUCED_BY, tokenize
from parts import decode_tokens, encode_to_tokens, random_tokens

TEXT_ROWS = 48
STEP = 1


def write_seams(pipe, path: Path) -> None:
    heard: dict[str, list[torch.Tensor]] = {}
    handles = []

    def hear(module, inputs=(), outputs=()):
        """Records tensors of a module. `inputs`, `outputs`: (name, function from arguments or result to the tensor)."""

        def hook(_, args, kwargs, result):
            for name, pick in inputs:
                heard.setdefault(name, []).append(pick(args, kwargs).detach().clone())
            for name, pick in outputs:
                heard.setdefault(name, []).append(pick(result).detach().clone())

        handles.append(module.register_forward_hook(hook, with_kwargs=True))

    def hear_layer(name, module):
        """Records the only input and output of a module, without the batch dimension."""
        hear(
            module,
            [(f"{name}.in", lambda a, k: (a[0] if a else k["hidden_states"])[0])],
            [(f"{name}.out", lambda r: r[0])],
        )

    hear_text_encoder(hear, pipe.text_encoder.model)
    hear_transformer(hear, pipe.transformer)
    case = CASES[0]
    pipe(
        prompt=case.prompt,
        width=case.width,
        height=case.height,
        num_inference_steps=case.steps,
        guidance_scale=case.guidance,
        generator=torch.Generator("cpu").manual_seed(case.seed),
        max_sequence_length=TEXT_ROWS,
    )
    tensors = {name: values[STEP] if len(values) > 1 else values[0] for name, values in heard.items()}
    tensors |= tokenize(pipe, case.prompt, TEXT_ROWS)
    heard.clear()

    vae = pipe.vae
    hear_layer("vae.resnet", vae.encoder.down_blocks[2].resnets[0])
    hear_layer("vae.downsample", vae.encoder.down_blocks[2].downsamplers[0])
    hear_layer("vae.mid_attention", vae.encoder.mid_block.attentions[0])
    hear_layer("vae.upsample", vae.decoder.up_blocks[0].upsamplers[0])
    pixels = torch.rand(3, 64, 96, generator=torch.Generator("cpu").manual_seed(21)) * 2 - 1
    tensors["vae.encode.in"] = pixels
    tensors["vae.encode.out"] = encode_to_tokens(vae, pixels)
    tensors["vae.decode.in"] = random_tokens(vae, 4, 6, seed=22)
    tensors["vae.decode.out"] = decode_tokens(vae, tensors["vae.decode.in"], 4, 6)
    tensors |= {name: values[0] for name, values in heard.items()}

    for handle in handles:
        handle.remove()
    write_safetensors(path, tensors, {"model": "tiny/klein", "produced_by": PRODUCED_BY})


def hear_text_encoder(hear, qwen3) -> None:
    hear(qwen3.embed_tokens, outputs=[("qwen3.embedding", lambda r: r[0])])
    hear(
        qwen3.layers[0],
        outputs=[("qwen3.layer_0.out", lambda r: (r[0] if isinstance(r, tuple) else r)[0])],
    )


def hear_transformer(hear, transformer) -> None:
    def keyword(name):
        return lambda _, kwargs: kwargs[name][0]

    hear(
        transformer,
        [
            ("transformer.in", keyword("hidden_states")),
            ("text_embedding", keyword("encoder_hidden_states")),
            ("timestep", lambda _, kwargs: kwargs["timestep"]),
            ("rope.ids", lambda _, kwargs: torch.cat([kwargs["txt_ids"][0], kwargs["img_ids"][0]])),
        ],
        [("transformer.out", lambda r: r[0][0])],
    )
    hear(transformer.time_guidance_embed.time_proj, outputs=[("time_embedding.sinusoid", lambda r: r[0])])
    hear(transformer.time_guidance_embed, outputs=[("time_embedding", lambda r: r[0])])
    hear(
        transformer.transformer_blocks[0],
        [
            ("double_block_0.in_img", keyword("hidden_states")),
            ("double_block_0.in_txt", keyword("encoder_hidden_states")),
            ("double_block_0.mod_img", keyword("temb_mod_img")),
            ("double_block_0.mod_txt", keyword("temb_mod_txt")),
            ("rope.cos", lambda _, kwargs: kwargs["image_rotary_emb"][0]),
            ("rope.sin", lambda _, kwargs: kwargs["image_rotary_emb"][1]),
        ],
        [("double_block_0.out_txt", lambda r: r[0][0]), ("double_block_0.out_img", lambda r: r[1][0])],
    )
    hear(
        transformer.single_transformer_blocks[0],
        [("single_block_0.in", keyword("hidden_states")), ("single_block_0.mod", keyword("temb_mod"))],
        [("single_block_0.out", lambda r: r[0])],
    )
    hear(transformer.norm_out, [("output_head.in", lambda args, _: args[0][0])])
    hear(transformer.norm_out.linear, outputs=[("output_head.mod", lambda r: r[0])])
    hear(transformer.proj_out, outputs=[("output_head.out", lambda r: r[0])])
