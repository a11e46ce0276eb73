"""The single-file layout of the original SDXL code, made from a diffusers folder: the conversion turned round."""

import re

import torch
from safetensors.torch import load_file, save_file

_UNET_NAMES = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def write_single_file(base, file):
    """Write the weights of the diffusers SDXL folder ``base`` as one file in the original layout."""
    tensors = {}
    for key, tensor in load_file(base / "unet" / "diffusion_pytorch_model.safetensors").items():
        tensors[f"model.diffusion_model.{_unet_key(key)}"] = tensor
    for key, tensor in load_file(base / "vae" / "diffusion_pytorch_model.safetensors").items():
        in_attention = ".attentions." in key and key.endswith(".weight") and tensor.ndim == 2
        tensors[f"first_stage_model.{_vae_key(key)}"] = tensor[..., None, None] if in_attention else tensor
    for key, tensor in load_file(base / "text_encoder" / "model.safetensors").items():
        tensors[f"conditioner.embedders.0.transformer.text_model.{key.removeprefix('text_model.')}"] = tensor
    for key, tensor in _open_clip(load_file(base / "text_encoder_2" / "model.safetensors")).items():
        tensors[f"conditioner.embedders.1.model.{key}"] = tensor
    tensors["conditioner.embedders.1.model.logit_scale"] = torch.tensor(1.0)  # published files have it
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, file)


def _unet_key(key):
    match = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)", key)
    if match is None:
        prefix = next(name for name in _UNET_NAMES if key.startswith(f"{name}."))
        rest = key.removeprefix(f"{prefix}.")
        return f"{_UNET_NAMES[prefix]}.{_renamed(rest, _UNET_RESNET) if '.resnets.' in key else rest}"
    way, block, kind, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
    if kind == "downsamplers":
        return f"input_blocks.{3 * block + 3}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        return f"output_blocks.{3 * block + 2}.2.{rest}"
    number = f"input_blocks.{3 * block + layer + 1}" if way == "down" else f"output_blocks.{3 * block + layer}"
    return f"{number}.0.{_renamed(rest, _UNET_RESNET)}" if kind == "resnets" else f"{number}.1.{rest}"


def _vae_key(key):
    last = 3  # the decoder's blocks are numbered from the other end
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    key = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", key)
    key = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d)\.resnets", lambda m: f"up.{last - int(m[1])}.block", key)
    key = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", key)
    head, attention, rest = key.partition("mid_block.attentions.0.")
    return f"{head}mid.attn_1.{_renamed(rest, _VAE_ATTENTION)}" if attention else key


def _open_clip(state):
    tensors = {
        "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        "ln_final.weight": state["text_model.final_layer_norm.weight"],
        "ln_final.bias": state["text_model.final_layer_norm.bias"],
        "text_projection": state["text_projection.weight"].T,
    }
    layers = {key: tensor for key, tensor in state.items() if ".layers." in key}
    for key, tensor in layers.items():
        number, rest = re.match(r"text_model\.encoder\.layers\.(\d+)\.(.+)", key).groups()
        block = f"transformer.resblocks.{number}"
        if ".q_proj." in key:
            parts = [layers[key.replace("q_proj", name)] for name in ("q_proj", "k_proj", "v_proj")]
            tensors[f"{block}.attn.in_proj_{key.rpartition('.')[2]}"] = torch.cat(parts)
        elif ".k_proj." not in key and ".v_proj." not in key:
            tensors[f"{block}.{_renamed(rest, _OPEN_CLIP)}"] = tensor
    return tensors


def _renamed(name, table):
    old = next(old for old in table if name.startswith(f"{old}."))
    return table[old] + name.removeprefix(old)
