"""One edit of a session on its way through the pipeline.

noise, path, latents of the picture ─▶ pipeline, step by step on the store ─▶ decode on the store ─▶ composite ─▶ Staged
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import sige
from sdxl.edits.calling import pipeline_arguments, tokens_of
from sdxl.edits.request import CELL, Request
from sdxl.edits.result import Result
from sdxl.edits.sparse import Engine, Passes
from sdxl.edits.steps import OnStep, Progress
from sdxl.edits.work import EditWork, PipelineShape
from sdxl.pictures.images import crop_back
from sdxl.pictures.seams import put_together
from sdxl.pipelines.coding import as_pixels, decode, encode
from sdxl.pipelines.mended import mended, upcast
from sdxl.pipelines.noise import chosen_noise
from sdxl.sessions.book import Book, Recorded, State
from sige.recordings import Patch
from sige.sizes import Size

__all__ = ["DECODER", "UNET", "Run", "Staged", "mask_cells"]

UNET, ENCODER, DECODER = "unet", "vae.encoder", "vae.decoder"
DECODER_DILATION = 1


@dataclass(frozen=True, eq=False)
class Staged:
    """An edit that was made and not yet accepted."""

    request: Request
    result: Result
    state: State  # the book's, once it is accepted
    recorded: Recorded
    patches: dict[tuple[str, int], Patch]  # by component and step: what the store takes over then


@dataclass
class _Trace:
    """The latents of one run, step by step; outside the mask they are put on the session's path."""

    progress: Progress
    mask: Tensor  # bool [1, 1, h, w]
    state: State
    latents: list[Tensor] = field(default_factory=list)  # [1, C, h, w] each

    def __call__(self, pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        values = self.progress(pipe, step, timestep, values)
        latents = values["latents"]
        if self.state.path is not None and self.state.known is not None:
            given = self.state.known & ~self.mask
            latents = torch.where(given, self.state.path[step : step + 1].to(latents), latents)
        self.latents.append(latents)
        return values | {"latents": latents}


class Run:
    """One edit. What it learns about the picture outside the mask goes into the book at once, the rest is staged."""

    def __init__(self, pipe: Any, handle: sige.Handle, store: sige.Store, book: Book, request: Request) -> None:
        self.pipe, self.handle, self.store, self.book, self.request = pipe, handle, store, book, request
        self.takes_mask = pipe.unet.config.in_channels != pipe.vae.config.latent_channels
        self.mask = mask_cells(request).to(pipe.unet.device)
        self.region = self._region()
        self.decode_region = sige.Region.full(*request.padded_size)

    def stage(self, on_step: OnStep | None) -> Staged:
        """Makes the edit."""
        began, request, book = perf_counter(), self.request, self.book
        progress = Progress(on_step, request.picture_size, request.padded_size)
        with Engine([self.pipe], self.region, request.sparse_policy) as engine:
            before, path = self._sample(engine, progress)
            after = path[-1:]
            self._learn(engine, before, path)
            patches = {(UNET, step): patch for step, patch in self.handle.patches.items()} if engine.policy else {}
            self.handle.patches = {}  # from here on the staged edit alone keeps them alive
            decoded = self._decode(engine, after, patches)
            passes = engine.passes()
        assert request.image is not None and request.alpha is not None
        cropped = crop_back(decoded, request.picture_size)
        image = put_together(request.image, cropped, request.alpha, request.match_edge)
        recorded = book.recorded
        if engine.policy is not None:
            recorded = Recorded(after, self.mask, after)
        dense = {UNET: passes[UNET].calls, ENCODER: max(1, passes.get(ENCODER, Passes()).calls), DECODER: 1}
        work = EditWork(
            {"": PipelineShape.of(self.pipe, tokens_of(self.pipe, request.sampling))},
            request.padded_size,
            self.region,
            request.sampling.is_guided,
            passes,
            dense,
            decode_region=self.decode_region,
        )
        result = Result(image, self.region, passes, tuple(progress.taken), perf_counter() - began, work)
        return Staged(request, result, State(image, after, path, torch.ones_like(self.mask)), recorded, patches)

    @property
    def _reads_store(self) -> bool:
        return isinstance(self.request.sparse_policy, sige.Stored)

    def _region(self) -> sige.Region:
        """The mask's cells, and those where the store's recordings are of other latents than the session's."""
        region, recorded = self.request.region, self.book.recorded
        if not self._reads_store:
            return region
        stale = _differ(recorded.unet, self.book.state.latents)
        if self.takes_mask and recorded.mask is not None:  # it was told to paint there, and now is told to keep
            stale = stale | recorded.mask[0, 0]
        return region | _region_of(stale, self.request.padded_size, dilation=0)

    # ---- the steps --------------------------------------------------------------------------------------------------

    def _sample(self, engine: Engine, progress: Progress) -> tuple[Tensor | None, Tensor]:
        """The latents of the picture [1, C, h, w] where the pipeline takes them, and those after each step."""
        request = self.request
        generator = torch.Generator("cpu").manual_seed(request.sampling.seed)
        before = self._encoded(generator)
        pictures: dict[str, Any] = {"image": request.start, "mask_image": request.mask_image}
        if before is not None:  # latents spare the pipeline the encoding
            pictures["image"] = pictures["masked_image_latents"] = before
        trace = _Trace(progress, self.mask, self.book.state)
        progress.begin()
        arguments = pipeline_arguments(self.pipe, request.task, request.padded_size, request.sampling)
        arguments |= {"generator": generator, "callback_on_step_end": trace, "output_type": "latent"}
        store = None if engine.policy is None else self.store
        with engine.following(self.pipe, store=store), mended(self.pipe), chosen_noise(self.pipe, self._choose):
            self.pipe(**{**arguments, **pictures})
        return before, torch.cat(trace.latents)

    def _encoded(self, generator: torch.Generator) -> Tensor | None:  # [1, C, h, w]
        """The latents of the session's picture; the generator goes on as if it had encoded it.

        None for a UNet that takes the mask: its pipeline encodes the pixels that are not masked by itself.
        """
        if self.takes_mask:
            return None
        state = self.book.state
        if state.latents is not None:
            torch.randn(state.latents.shape, generator=generator)  # what encoding would have drawn
            return state.latents
        assert self.request.start is not None
        with upcast(self.pipe.vae):
            latents = encode(self.pipe, as_pixels(self.pipe, self.request.start), generator)
        self.book.state = replace(state, latents=latents)
        return latents

    def _choose(self, drawn: Tensor) -> Tensor:  # [1, C, h, w] -> [1, C, h, w]
        """The seed's noise inside the mask, and the session's outside."""
        book = self.book
        if book.noise is None or book.noise.shape != drawn.shape:
            book.noise = drawn.clone()
            return drawn
        return torch.where(self.mask, drawn, book.noise.to(drawn))

    def _learn(self, engine: Engine, before: Tensor | None, path: Tensor) -> None:  # [1, C, h, w], [steps, C, h, w]
        """Writes into the book what holds also if this edit is not accepted."""
        book, after = self.book, path[-1:]
        if book.state.known is None:  # what lies outside of the first mask stays as this run had it
            inside = torch.full_like(after, torch.nan) if before is None else before
            latents = torch.where(self.mask, inside, after)
            book.state = replace(book.state, latents=latents, path=path, known=~self.mask)
        if engine.policy is not None and not self._reads_store:
            book.recorded = replace(book.recorded, unet=after, mask=self.mask)

    # ---- the picture ------------------------------------------------------------------------------------------------

    def _decode(self, engine: Engine, latents: Tensor, patches: dict[tuple[str, int], Patch]) -> Image.Image:
        """The picture of the latents [1, C, h, w]: packed on the store's recording where there is one."""
        recorded = self.book.recorded.decoder
        with upcast(self.pipe.vae):
            if engine.policy is None:
                decoded = decode(self.pipe, latents)
            elif recorded is not None and self.store.steps(DECODER):
                cells = _differ(recorded, latents)
                self.decode_region = _region_of(cells, self.request.padded_size, DECODER_DILATION)
                patches[DECODER, 0] = patch = Patch(self.decode_region)
                blend = [(self.store.get(DECODER, 0), 1.0)]
                with self.handle.edit(self.decode_region, blend=blend, patch=patch):
                    decoded = decode(self.pipe, latents)
                self.store.hold(())
            else:
                with self.handle.record() as recording:
                    decoded = decode(self.pipe, latents)
                self.store.put(DECODER, 0, recording.components[DECODER])
                self.book.recorded = replace(self.book.recorded, decoder=latents)
        return self.pipe.image_processor.postprocess(decoded, output_type="pil")[0]  # type: ignore[no-any-return]


def _differ(one: Tensor | None, other: Tensor | None) -> Tensor:  # [1, C, h, w] twice -> bool [h, w]
    assert one is not None and other is not None
    return (one != other.to(one)).any(dim=1)[0]


def _region_of(cells: Tensor, size: Size, dilation: int) -> sige.Region:  # bool [h, w]
    """The region of the pixels under some cells."""
    pixels = np.kron(cells.cpu().numpy(), np.ones((CELL, CELL), dtype=bool))
    return sige.Region.from_mask(pixels[: size[0], : size[1]], dilation=dilation)


def mask_cells(request: Request) -> Tensor:  # bool [1, 1, h, w]
    """The latents that the mask touches."""
    cells = np.asarray(request.mask_image)[::CELL, ::CELL] > 0
    return torch.from_numpy(cells)[None, None]
