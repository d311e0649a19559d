"""The ops of the namespace `sige`: one file each, with public function, fake, reference, registration."""

from sige.ops import registry
from sige.ops.activation import Activation
from sige.ops.blend_rows import blend_rows
from sige.ops.block_attention import ATTENTION_BLOCK, block_attention
from sige.ops.checks import MOST_TERMS
from sige.ops.gather import gather
from sige.ops.geglu_rows import geglu_rows
from sige.ops.group_stats import group_stats, update_group_stats
from sige.ops.linear import linear
from sige.ops.linear_stack import MOST_LAYERS, linear_stack
from sige.ops.native import Backend, backends
from sige.ops.norm_affine import norm_affine
from sige.ops.scatter import scatter
from sige.ops.sparse_conv2d import flatten_weight, sparse_conv2d
from sige.ops.time_table import MOST_TABLES, time_table

registry.activate()

__all__ = [
    "ATTENTION_BLOCK",
    "MOST_LAYERS",
    "MOST_TABLES",
    "MOST_TERMS",
    "Activation",
    "Backend",
    "backends",
    "blend_rows",
    "block_attention",
    "flatten_weight",
    "gather",
    "geglu_rows",
    "group_stats",
    "linear",
    "linear_stack",
    "norm_affine",
    "scatter",
    "sparse_conv2d",
    "time_table",
    "update_group_stats",
]
