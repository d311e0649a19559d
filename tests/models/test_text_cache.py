"""Keys and values of the prompt: computed once while the prompt stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from diffusers import (
    UNet2DConditionModel,
)
from torch import Tensor

import sige
from sige import Region
from tests.models.test_properties import RELATIVE_ERROR, relative_error
from tests.models.tiny import TOKENS, sd15


@contextmanager
def projections(model: UNet2DConditionModel) -> Iterator[list[str]]:
    """The list to which each layer of cross-attention that projects the prompt adds its path when it runs."""
    ran: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: ran.append(name)

    named = [(name, module) for name, module in model.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))]
    handles = [module.register_forward_hook(note(name)) for name, module in named]
    ran.append(str(len(named)))
    yield ran
    for handle in handles:
        handle.remove()


def test_keys_of_the_prompt_are_computed_once_while_the_prompt_stays() -> None:
    model = sd15()
    x, y = torch.randn(1, 4, 16, 16), torch.randn(1, 4, 16, 16)
    text, other = torch.randn(1, TOKENS, 24), torch.randn(1, TOKENS, 24)
    region = Region.full(128, 128)
    with torch.no_grad(), sige.enable(model) as handle, projections(model) as ran:
        count = int(ran.pop())
        assert count >= 20

        def run(prompt: Tensor) -> tuple[Tensor, int]:
            ran.clear()
            with_keys = model(y, 5, prompt).sample
            assert len(set(ran)) == len(ran)
            return with_keys, len(ran)

        dense, dense_other = model(y, 5, text).sample, model(y, 5, other).sample
        with handle.record():
            model(x, 5, text)
        with handle.edit(region):
            assert run(text)[1] == count
            out, projected = run(text)
            assert projected == 0 and relative_error(out, dense) <= RELATIVE_ERROR
            out, projected = run(other)  # another prompt
            assert projected == count and relative_error(out, dense_other) <= RELATIVE_ERROR
            out, projected = run(text)  # and back
            assert projected == count and relative_error(out, dense) <= RELATIVE_ERROR
            text.copy_(other)  # the same tensor, another prompt in it
            out, projected = run(text)
            assert projected == count and relative_error(out, dense_other) <= RELATIVE_ERROR
        with handle.edit(region):
            assert run(text)[1] == 0  # another edit of the same recording
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
        dense = model(y, 5, text).sample
        with handle.record():  # the weights may have changed before it
            model(x, 5, text)
        with handle.edit(region):
            out, projected = run(text)
            assert projected == count and relative_error(out, dense) <= RELATIVE_ERROR


def test_a_prompt_made_in_inference_mode_is_compared_because_writes_to_it_are_not_counted() -> None:
    model = sd15()
    x = torch.randn(1, 4, 16, 16)
    with torch.inference_mode(), sige.enable(model) as handle:
        text, other = torch.randn(1, TOKENS, 24), torch.randn(1, TOKENS, 24)
        dense = model(x, 5, other).sample
        with handle.record():
            model(x, 5, text)
        with handle.edit(Region.full(128, 128)), projections(model) as ran:
            count = int(ran.pop())
            for expected in (count, 0, 0):
                ran.clear()
                model(x, 5, text)
                assert len(ran) == expected
            text.copy_(other)
            assert relative_error(model(x, 5, text).sample, dense) <= RELATIVE_ERROR
