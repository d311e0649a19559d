"""Packed blocks for diffusers' blocks of UNet and VAE. A block that differs from the usual one is refused."""

from __future__ import annotations

from typing import Any

from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention import FeedForward as DiffusersFeedForward
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor,
    AttnProcessor2_0,
    SlicedAttnProcessor,
    XFormersAttnProcessor,
)
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from torch import nn

from sige.geometry import Geometry
from sige.merging.hooks import block_around
from sige.models.walker import Walker
from sige.packed.attention import CrossAttention, Projections, SelfAttention
from sige.packed.conv import PackedConv
from sige.packed.linear import FeedForward
from sige.packed.norm import PackedGroupNorm
from sige.packed.resnet import AttentionBlock, ResnetBlock
from sige.packed.transformer import PackedTransformer, TransformerBlock

__all__ = ["attention_block", "downsampler", "regions", "resnet", "transformer", "upsampler"]

PLAIN_PROCESSORS = (AttnProcessor, AttnProcessor2_0, XFormersAttnProcessor, SlicedAttnProcessor)


def regions(model: nn.Module) -> list[nn.Module]:
    """The blocks that come again and again: residual blocks, and the blocks of transformers."""
    return [module for module in model.modules() if isinstance(module, BasicTransformerBlock | ResnetBlock2D)]


def resnet(walker: Walker, block: Any) -> ResnetBlock:
    walker.claim(block, ResnetBlock2D)
    plain = block.upsample is None and block.downsample is None and not block.skip_time_act
    plain = plain and (block.time_embedding_norm == "default" or block.time_emb_proj is None)
    walker.require(block, plain, "expected a residual block without resampling and with an added time embedding")
    walker.silu(block.nonlinearity)
    walker.dropout(block.dropout)
    return ResnetBlock(
        walker.conv(block.conv1, Geometry.conv3x3(), block.norm1),
        walker.conv(block.conv2, Geometry.conv3x3(), block.norm2),
        walker.claim_all(block.time_emb_proj),
        None if block.conv_shortcut is None else walker.row_layer(block.conv_shortcut),
        block.output_scale_factor,
    )


def downsampler(walker: Walker, block: Any) -> PackedConv:
    walker.claim(block, Downsample2D)
    walker.require(block, block.use_conv and block.norm is None, "expected downsampling by a convolution, no norm")
    if block.padding == 0:  # diffusers pads the bottom and the right by one, then convolves without padding
        packed = walker.conv(block.conv, Geometry(stride=2), at=block)
        packed.geometry = Geometry.downsample_asymmetric()
        return packed
    return walker.conv(block.conv, Geometry.downsample(), at=block)


def upsampler(walker: Walker, block: Any) -> PackedConv:
    walker.claim(block, Upsample2D)
    plain = block.use_conv and block.interpolate and not block.use_conv_transpose and block.norm is None
    walker.require(block, plain and block.name == "conv", "expected nearest upsampling and a convolution, no norm")
    return walker.conv(block.conv, Geometry.upsample_conv3x3(), at=block)


def transformer(walker: Walker, model: Any) -> PackedTransformer:
    walker.claim(model, Transformer2DModel)
    walker.require(model, model.is_input_continuous, "expected a transformer over continuous features")
    norm = PackedGroupNorm(walker.path(model), walker.claim(model.norm, nn.GroupNorm), model)
    blocks = [transformer_block(walker, block) for block in model.transformer_blocks]
    return PackedTransformer(norm, walker.row_layer(model.proj_in), blocks, walker.row_layer(model.proj_out))


def transformer_block(walker: Walker, block: Any) -> TransformerBlock:
    walker.claim(block, BasicTransformerBlock)
    plain = block.norm_type == "layer_norm" and block.pos_embed is None and block.attn2 is not None
    plain = plain and not block.only_cross_attention and not block.double_self_attention
    walker.require(block, plain, "expected layer norms, self-attention, then cross-attention to the prompt")
    walker.require(block, not hasattr(block, "fuser"), "GLIGEN cannot run packed: use a model without it")
    norms = tuple(walker.claim(norm, nn.LayerNorm) for norm in (block.norm1, block.norm2, block.norm3))
    merging = block_around(block.attn1)
    restore = None if merging is None else merging.restored
    return TransformerBlock(
        norms,
        SelfAttention(walker.path(block.attn1), projections(walker, block.attn1), restore),
        CrossAttention(projections(walker, block.attn2)),
        feed_forward(walker, block.ff),
    )


def feed_forward(walker: Walker, module: Any) -> FeedForward:
    walker.claim(module, DiffusersFeedForward)
    gated, dropout, out, *more = module.net
    walker.claim(gated, GEGLU)
    for layer in (dropout, *more):
        walker.dropout(layer)
    return FeedForward(walker.row_layer(gated.proj), walker.row_layer(out))


def projections(walker: Walker, attention: Any) -> Projections:
    """The layers of a plain attention module, one that computes what SDPA computes."""
    walker.claim(attention, Attention)
    processor = type(attention.processor).__name__
    if type(attention.processor) not in PLAIN_PROCESSORS:  # a subclass may compute something else
        what = "IP-Adapter" if "IPAdapter" in processor else processor
        raise walker.refuse(
            attention,
            f"attention goes through {processor}: {what} cannot run packed yet; "
            "unload it, or call set_attn_processor(AttnProcessor2_0()) before sige.enable()",
        )
    walker.dropout(attention.to_out[1])
    for unused in ("to_qkv", "to_kv"):  # unfuse_qkv_projections() leaves these; no plain processor reads them
        walker.claim_all(getattr(attention, unused, None))
    extras = ("spatial_norm", "norm_q", "norm_k", "norm_cross", "add_k_proj", "sliceable_head_dim_")
    odd = [name for name in extras if getattr(attention, name, None)]
    walker.require(attention, not odd, f"has {', '.join(odd)}, which SIGE does not run packed")
    layers = (attention.to_q, attention.to_k, attention.to_v, attention.to_out[0])
    query, key, value, out = (walker.row_layer(layer) for layer in layers)
    return Projections(query, key, value, out, attention.heads)


def attention_block(walker: Walker, attention: Any) -> AttentionBlock:
    """The VAE's attention block, which has a norm and a residual of its own."""
    layers = projections(walker, attention)
    walker.require(attention, attention.residual_connection, "expected attention with a residual connection")
    norm = PackedGroupNorm(walker.path(attention), walker.claim(attention.group_norm, nn.GroupNorm), attention)
    return AttentionBlock(norm, SelfAttention(walker.path(attention), layers), attention.rescale_output_factor)
