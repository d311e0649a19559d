"""The module that learns: a UNet with its text encoders, and the loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdxl.training.batches import Batch
from sdxl.training.weighting import Weighting

__all__ = ["Denoiser", "Encoded"]

EQUAL = Weighting()  # all errors count alike

Encoded = tuple[Tensor, dict[str, Tensor] | None]  # [B, tokens, C]; SDXL's pooled vector and sizes
BEAUTIFUL, PLAIN = 6.0, 2.5  # the scores that diffusers' pipelines give a refiner, with and without the prompt


class Denoiser(nn.Module):
    """The UNet and the text encoders as one module, so that one optimizer, one average and one wrapper hold them all.

    SDXL's UNet reads the last layer but one of both text encoders, side by side, and the pooled projection of the
    second; a dropped caption is zeros. Its refiner has the second encoder alone; a dropped caption is the empty text
    with a low score of beauty. SD 1.5's UNet reads the last layer of its encoder; a dropped caption is the empty text.
    """

    def __init__(
        self,
        models: dict[str, nn.Module],
        tokenizers: dict[str, Any],
        alphas: Tensor,
        weighting: Weighting = EQUAL,
        pure_from: int | None = None,
    ) -> None:
        super().__init__()
        self.models = nn.ModuleDict(models)
        self.tokenizers = tokenizers
        self.weighting = weighting
        self.pure_from = pure_from
        self.register_buffer("alphas", alphas, persistent=False)  # [T]: products of the schedule's alphas

    def forward(self, batch: Batch) -> Tensor:
        """The mean loss of the batch."""
        batch = self.begun(batch)
        predicted = self.predict(self.noised(batch), batch)
        losses = F.mse_loss(predicted.float(), batch.noise.float(), reduction="none")  # [B, C, h, w]
        losses = (losses * self.weighting.of_places(batch.mask)).mean(dim=(1, 2, 3))  # [B]
        return (losses * self.weighting.of_timesteps(self.alphas[batch.timesteps])).mean()  # type: ignore[index]

    def begun(self, batch: Batch) -> Batch:
        """The batch with, from timestep `pure_from` on, noise that makes its noised pictures pure noise.

        A sampler begins with pure noise, but even at the last timestep a noised picture still shows its colours: 7 %
        of it are left. A UNet that has learned to look for them there finds wrong ones when it samples.
        """
        if self.pure_from is None:
            return batch
        alpha = self.alphas[batch.timesteps][:, None, None, None]  # type: ignore[index]
        noise = (batch.noise - alpha.sqrt() * batch.latents) / (1 - alpha).sqrt()
        is_pure = (batch.timesteps >= self.pure_from)[:, None, None, None]
        return replace(batch, noise=torch.where(is_pure, noise, batch.noise))

    def noised(self, batch: Batch) -> Tensor:  # [B, C, h, w]
        """The latents with the amount of noise that their timesteps give."""
        alpha = self.alphas[batch.timesteps][:, None, None, None]  # type: ignore[index]
        return alpha.sqrt() * batch.latents + (1 - alpha).sqrt() * batch.noise

    def predict(self, noised: Tensor, batch: Batch) -> Tensor:  # [B, C, h, w] -> [B, C, h, w]
        """The noise that the UNet predicts."""
        unet = self.unet
        if batch.mask is not None and batch.masked is not None and unet.config.in_channels == 2 * noised.shape[1] + 1:
            noised = torch.cat([noised, batch.mask, batch.masked], dim=1)
        return self.noise_in(noised, batch.timesteps, self.encode(batch))

    def noise_in(self, noised: Tensor, timesteps: Tensor, text: Encoded) -> Tensor:  # [B, C, h, w], int64 [B]
        """The noise that the UNet predicts under encoded captions."""
        noised = noised.to(self.unet.dtype)  # half precision where a frozen UNet is kept in it
        return self.unet(noised, timesteps, text[0], added_cond_kwargs=text[1]).sample  # type: ignore[no-any-return]

    @property
    def unet(self) -> Any:
        """The UNet."""
        return self.models["unet"]

    def encode(self, batch: Batch) -> Encoded:
        """The encoded captions for the UNet, and SDXL's pooled vector and sizes."""
        if "text_encoder" in self.models and "text_encoder_2" in self.models:
            return self._encode_both(batch)
        captions = ["" if dropped else text for text, dropped in zip(batch.captions, batch.dropped, strict=True)]
        if "text_encoder_2" not in self.models:
            return self._run("text_encoder", captions).last_hidden_state, None
        output = self._run("text_encoder_2", captions)
        scores = torch.where(batch.dropped, PLAIN, BEAUTIFUL).to(batch.sizes)[:, None]
        sizes = torch.cat([batch.sizes[:, :4], scores], dim=1)  # original height, width; crop top, left; score
        return output.hidden_states[-2], {"text_embeds": output.text_embeds, "time_ids": sizes}

    def _encode_both(self, batch: Batch) -> Encoded:
        outputs = [self._run(name, batch.captions) for name in ("text_encoder", "text_encoder_2")]
        kept = (~batch.dropped).to(outputs[0].hidden_states[-2].dtype)
        text = torch.cat([output.hidden_states[-2] for output in outputs], dim=2) * kept[:, None, None]
        return text, {"text_embeds": outputs[-1].text_embeds * kept[:, None], "time_ids": batch.sizes}

    def _run(self, name: str, captions: list[str]) -> Any:
        tokenizer, encoder = self.tokenizers[name], self.models[name]
        options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        tokens = tokenizer(captions, max_length=tokenizer.model_max_length, **options).input_ids  # [B, tokens]
        return encoder(tokens.to(self.alphas.device), output_hidden_states=True)
