"""Diffusers' blocks turned into packed ones, for UNet and VAE alike; what is not known is refused by path and class."""

from __future__ import annotations

from typing import Any

from diffusers.models.activations import GEGLU
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention import FeedForward as DiffusersFeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from sige.errors import UnsupportedError
from sige.geometry import Geometry
from sige.packed.attention import CrossAttention, Projections, SelfAttention
from sige.packed.conv import PackedConv
from sige.packed.features import Layout
from sige.packed.linear import FeedForward, is_hooked
from sige.packed.norm import PackedGroupNorm
from sige.packed.resnet import AttentionBlock, ResnetBlock
from sige.packed.transformer import PackedTransformer, TransformerBlock

__all__ = ["Walker", "pack"]

LAYERS = (nn.Conv2d, nn.GroupNorm, nn.LayerNorm)  # the kinds that hold weights
PLAIN_PROCESSORS = ("AttnProcessor", "AttnProcessor2_0", "XFormersAttnProcessor", "SlicedAttnProcessor")


def pack(dense: Tensor, layout: Layout) -> Tensor:  # [B, C, H, W] -> [B, N, C]
    """The active positions of a dense tensor as rows."""
    index = layout.index((dense.shape[2], dense.shape[3]))
    return dense.flatten(2).index_select(2, index).transpose(1, 2).contiguous()


class Walker:
    """Builds packed blocks from the modules of `root`, and remembers which modules it has understood.

    `finish` refuses a module with weights that nothing has claimed: one that was added, or that a newer diffusers
    calls in a way that this walker does not know.
    """

    def __init__(self, name: str, root: nn.Module) -> None:
        self.name = name
        self.root = root
        self._paths = {module: path for path, module in root.named_modules()}
        self._known: set[nn.Module] = set()  # blocks and layers whose kind was checked
        self._whole: set[nn.Module] = set()  # modules that are called as they are, with all their parts

    # ---- claims and refusals ------------------------------------------------------------------------------------

    def path(self, module: nn.Module) -> str:
        """Where the module stands in the component: its key in a recording."""
        return str(self._paths[module])

    def refuse(self, module: nn.Module, why: str) -> UnsupportedError:
        """The error for a module that cannot run packed."""
        path = ".".join(part for part in (self.name, self._paths.get(module, "")) if part)
        return UnsupportedError(f"{path} ({type(module).__module__}.{type(module).__name__}): {why}")

    def claim(self, module: Any, *kinds: type[nn.Module]) -> Any:
        """The module itself, which must be exactly of one of the kinds."""
        if type(module) not in kinds:
            wanted = " or ".join(kind.__name__ for kind in kinds)
            hint = self._hint(module)
            raise self.refuse(module, f"SIGE cannot run this module packed, expected {wanted}{hint}")
        self._known.add(module)
        return module

    def claim_all(self, module: Any) -> Any:
        """A module that is called as it is, on rows: all of it is understood, adapters included."""
        if module is not None:
            self._whole.update(module.modules())
        return module

    def finish(self) -> None:
        """Every weight belongs to a layer that was claimed, and nothing hangs on a module that is not called."""
        for module in self.root.modules():
            if module is not self.root and module not in self._whole and is_hooked(module):
                raise self.refuse(
                    module,
                    "has a hook or a replaced forward, which a packed pass would leave out: remove it (layer-wise "
                    "casting, offloading of single layers, quantisation and profilers set such)",
                )
            own = {name for name, _ in module.named_parameters(recurse=False)}
            is_layer = module in self._known and type(module) in LAYERS and own <= {"weight", "bias"}
            if own and module not in self._whole and not is_layer:
                raise self.refuse(module, f"SIGE does not know this module and would leave it out{self._hint(module)}")

    @staticmethod
    def _hint(module: nn.Module) -> str:
        if "lora" in type(module).__module__.lower() or "peft" in type(module).__module__:
            return (
                ": an adapter on a convolution runs packed only as part of it: fuse_lora(), then unload_lora_weights()"
            )
        return ""

    def require(self, module: nn.Module, condition: bool, why: str) -> None:
        """Refuses the module unless the condition holds."""
        if not condition:
            raise self.refuse(module, why)

    # ---- layers ---------------------------------------------------------------------------------------------------

    def conv(self, conv: Any, geometry: Geometry, norm: Any = None, at: nn.Module | None = None) -> PackedConv:
        """A convolution of the given geometry, with the GroupNorm (and SiLU) before it."""
        self.claim(conv, nn.Conv2d)
        padding = geometry.padding[0]
        expected = (geometry.kernel, (geometry.stride,) * 2, (padding,) * 2, (1, 1), 1, "zeros")
        got = (conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
        self.require(
            conv, got == expected, f"got kernel, stride, padding, dilation, groups, mode {got}, expected {expected}"
        )
        if norm is not None:
            self.claim(norm, nn.GroupNorm)
        return PackedConv(self.path(at or norm or conv), conv, geometry, norm, at)

    def row_layer(self, layer: Any) -> nn.Module:
        """A linear layer (with adapters, if any) or a 1x1 convolution."""
        if isinstance(layer, nn.Conv2d):
            self.claim(layer, nn.Conv2d)
            self.require(layer, layer.kernel_size == (1, 1) and layer.stride == (1, 1), "expected a 1x1 convolution")
            return layer
        base = getattr(layer, "base_layer", layer)  # peft wraps the layer that it adapts
        if not isinstance(base, nn.Linear):
            raise self.refuse(layer, f"SIGE cannot run this module packed, expected Linear{self._hint(layer)}")
        self.claim_all(layer)
        return layer  # type: ignore[no-any-return]

    def silu(self, module: nn.Module) -> None:
        """The activation that gather applies."""
        self.require(module, type(module) is nn.SiLU, "expected SiLU as the activation")

    def dropout(self, module: nn.Module) -> None:
        """A dropout that lets everything pass."""
        self.claim(module, nn.Dropout)
        idle = not (module.training and module.p)
        self.require(module, idle, "drops features while training, which a packed pass does not: call eval() first")

    # ---- blocks ---------------------------------------------------------------------------------------------------

    def resnet(self, block: Any) -> ResnetBlock:
        self.claim(block, ResnetBlock2D)
        plain = block.upsample is None and block.downsample is None and not block.skip_time_act
        plain = plain and (block.time_embedding_norm == "default" or block.time_emb_proj is None)
        self.require(block, plain, "expected a residual block without resampling and with an added time embedding")
        self.silu(block.nonlinearity)
        self.dropout(block.dropout)
        return ResnetBlock(
            self.conv(block.conv1, Geometry.conv3x3(), block.norm1),
            self.conv(block.conv2, Geometry.conv3x3(), block.norm2),
            self.claim_all(block.time_emb_proj),
            None if block.conv_shortcut is None else self.row_layer(block.conv_shortcut),
            block.output_scale_factor,
        )

    def downsampler(self, block: Any) -> PackedConv:
        self.claim(block, Downsample2D)
        self.require(block, block.use_conv and block.norm is None, "expected downsampling by a convolution, no norm")
        if block.padding == 0:  # diffusers pads the bottom and the right by one, then convolves without padding
            packed = self.conv(block.conv, Geometry(stride=2), at=block)
            packed.geometry = Geometry.downsample_asymmetric()
            return packed
        return self.conv(block.conv, Geometry.downsample(), at=block)

    def upsampler(self, block: Any) -> PackedConv:
        self.claim(block, Upsample2D)
        plain = block.use_conv and block.interpolate and not block.use_conv_transpose and block.norm is None
        self.require(block, plain and block.name == "conv", "expected nearest upsampling and a convolution, no norm")
        return self.conv(block.conv, Geometry.upsample_conv3x3(), at=block)

    def transformer(self, model: Any) -> PackedTransformer:
        self.claim(model, Transformer2DModel)
        self.require(model, model.is_input_continuous, "expected a transformer over continuous features")
        norm = PackedGroupNorm(self.path(model), self.claim(model.norm, nn.GroupNorm), model)
        blocks = [self.transformer_block(block) for block in model.transformer_blocks]
        return PackedTransformer(norm, self.row_layer(model.proj_in), blocks, self.row_layer(model.proj_out))

    def transformer_block(self, block: Any) -> TransformerBlock:
        self.claim(block, BasicTransformerBlock)
        plain = block.norm_type == "layer_norm" and block.pos_embed is None and block.attn2 is not None
        plain = plain and not block.only_cross_attention and not block.double_self_attention
        self.require(block, plain, "expected layer norms, self-attention, then cross-attention to the prompt")
        self.require(block, not hasattr(block, "fuser"), "GLIGEN cannot run packed: use a model without it")
        norms = tuple(self.claim(norm, nn.LayerNorm) for norm in (block.norm1, block.norm2, block.norm3))
        return TransformerBlock(
            norms,
            SelfAttention(self.path(block.attn1), self.projections(block.attn1)),
            CrossAttention(self.projections(block.attn2)),
            self.feed_forward(block.ff),
        )

    def feed_forward(self, module: Any) -> FeedForward:
        self.claim(module, DiffusersFeedForward)
        gated, dropout, out, *more = module.net
        self.claim(gated, GEGLU)
        for layer in (dropout, *more):
            self.dropout(layer)
        return FeedForward(self.row_layer(gated.proj), self.row_layer(out))

    def projections(self, attention: Any) -> Projections:
        """The layers of a plain attention module; its scores are SDPA's."""
        self.claim(attention, Attention)
        processor = type(attention.processor).__name__
        if processor not in PLAIN_PROCESSORS:
            what = "IP-Adapter" if "IPAdapter" in processor else processor
            raise self.refuse(
                attention,
                f"attention goes through {processor}: {what} cannot run packed yet; "
                "unload it, or call set_attn_processor(AttnProcessor2_0()) before sige.enable()",
            )
        self.dropout(attention.to_out[1])
        for unused in ("to_qkv", "to_kv"):  # what unfusing leaves behind; no plain processor reads it
            self.claim_all(getattr(attention, unused, None))
        extras = ("spatial_norm", "norm_q", "norm_k", "norm_cross", "add_k_proj", "sliceable_head_dim_")
        odd = [name for name in extras if getattr(attention, name, None)]
        self.require(attention, not odd, f"has {', '.join(odd)}, which SIGE does not run packed")
        layers = (attention.to_q, attention.to_k, attention.to_v, attention.to_out[0])
        query, key, value, out = (self.row_layer(layer) for layer in layers)
        return Projections(query, key, value, out, attention.heads)

    def attention_block(self, attention: Any) -> AttentionBlock:
        """The VAE's: its own norm and residual, over all positions."""
        projections = self.projections(attention)
        self.require(attention, attention.residual_connection, "expected attention with a residual connection")
        norm = PackedGroupNorm(self.path(attention), self.claim(attention.group_norm, nn.GroupNorm), attention)
        return AttentionBlock(norm, SelfAttention(self.path(attention), projections), attention.rescale_output_factor)
