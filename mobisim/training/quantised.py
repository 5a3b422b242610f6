"""A backbone whose frozen weights were quantised, as a device with little memory holds them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mobisim.training.backbone import Backbone
from mobisim.training.codec import TapFormat, decode_rows, encode_rows

BLOCK_SIZE = 64  # values with one scale, along a weight's inputs; bitsandbytes' own for 4 bits


def quantised(backbone: Backbone, codec: str) -> Backbone:
    """A copy of a backbone that computes with rounded weights.

    The weights of the blocks' linear layers go through the codec and back, in blocks of BLOCK_SIZE
    inputs of one output; embeddings, norms, biases and a next-token head stay as they are, as
    bitsandbytes leaves them.
    """
    model = copy.deepcopy(backbone.model)
    rounded = Backbone(model, backbone.name, codec)
    for module in rounded.blocks.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = _rounded(module.weight.data, codec)
        elif isinstance(module, Conv1D):  # GPT-2's linear layer, stored the other way round
            module.weight.data = _rounded(module.weight.data.T, codec).T.contiguous()
    return rounded


@torch.no_grad()
def _rounded(weight_OI: Tensor, codec: str) -> Tensor:
    layout = TapFormat(codec, BLOCK_SIZE, weight_OI.shape[1])
    return decode_rows(encode_rows(weight_OI.contiguous(), layout), layout)
