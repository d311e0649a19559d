"""The corpus: a folder with one valid input of each kind, made by the project's own writers."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import sige
from sdxl.checkpoint.save import save_folder, save_single_file
from sdxl.checkpoint.tiny import make_tiny
from sdxl.checkpoint.tokenizers import PADDING, load_tokenizers
from sdxl.checkpoint.vocabulary import write_tokenizer
from sdxl.commands.flags import parse
from sdxl.pictures.png import save_png
from sdxl.sessions.book import Book, Recorded, State
from sdxl.sessions.folder import SessionFolder
from sdxl.training.ema import Average
from sdxl.training.state import save_state
from sige.config_files import config_folder
from sige.recordings import FolderShelf, Patch
from sige.recordings.recording import ComponentRecording
from tests.fuzz.edits import make_desk

__all__ = ["ABOUT", "RUN", "Net", "make_corpus"]

SIDE = 16  # pixels
RUN = (
    "--prompt", "a horse", "--init_img", "picture.png", "--mask_path", "mask.npy", "--output_path", "new.png",
    "--run_type", "sige", "--seed", "7", "--dense_steps", "0,2,5", "--scale", "4", "--ddim_steps", "8",
)  # fmt: skip
TRAIN = """\
stage: diffusion
start: small.safetensors
out: trained
data:
  folder: pictures
  side: 16
  repeats: 2
loop:
  steps: 3
  batch: 2
  rate: 1.0e-3
  precision: no
learn: lora
lora: {rank: 2, targets: [to_q]}
min_snr: 5
prompts: [a ball, a box]
"""
ABOUT = {"seed": 0, "data.side": 16, "loop.rate": 0.001, "start": "None", "min_snr": None}


JOBS = """\
id,image,mask,edited,prompt,negative_prompt,seed,steps,scale,strength,dense_steps,dense,grow,mask_blur,match_edge,only_masked
one,picture.png,mask.png,,"a horse, brown",ugly,7,20,5.5,0.9,"0,1,4",false,4,2,24,64
two,picture.png,,made.png,(a barn:1.2),,,,,,,true,,,,
"""


class Net(nn.Module):
    """A module small enough for its state to be a kilobyte."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(2, 2)


def make_corpus(folder: Path) -> None:
    """Writes every valid input into the folder, which must be empty."""
    _pictures(folder)
    _checkpoints(folder)
    (folder / "plan.yaml").write_text(TRAIN)
    (folder / "jobs.csv").write_text(JOBS)
    shutil.copytree(config_folder(), folder / "configs")
    _state(folder / "state.pt")
    _session(folder / "session")


def _png(side: int = SIDE, mode: str = "RGB") -> Image.Image:
    """A small picture of noise."""
    values = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def _pictures(folder: Path) -> None:
    _png().save(folder / "picture.png")
    _png().transpose(Image.Transpose.ROTATE_180).save(folder / "edited.png")
    for name, mode in (("grey", "L"), ("clear", "RGBA"), ("palette", "P"), ("sixteen", "I;16")):
        image = _png(mode="L" if mode == "I;16" else mode)
        (Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if mode == "I;16" else image).save(
            folder / f"{name}.png"
        )
    lying = _png()
    exif = lying.getexif()
    exif[0x0112] = 6
    lying.save(folder / "picture.jpg", exif=exif)
    lying.save(folder / "picture.webp", lossless=True)
    mask = np.zeros((SIDE, SIDE), dtype=np.float32)
    mask[4:9, 3:8] = 1
    np.save(folder / "mask.npy", mask)
    Image.fromarray((mask * 255).astype(np.uint8)).save(folder / "mask.png")
    Image.fromarray(np.zeros((SIDE, SIDE), dtype=np.uint8)).save(folder / "empty.png")
    Image.new("1", (9000, 9000)).save(folder / "big.png")
    os.mkfifo(folder / "pipe.png")
    save_png(_png(), folder / "made.png", parse(RUN).to_dict())
    (folder / "pictures").mkdir()
    _png().save(folder / "pictures" / "a.png")
    lines = [json.dumps({"file_name": "a.png", "text": text, "seen": 3}) for text in ("a picture", "another")]
    (folder / "pictures" / "metadata.jsonl").write_text("\n".join(lines))


def _checkpoints(folder: Path) -> None:
    tensors = {"x": torch.zeros(2, 3), "input_blocks.1.1.proj_in.weight": torch.zeros(4, 4), "y": torch.ones(3).half()}
    save_file(tensors, folder / "small.safetensors", {"made by": "us"})
    for name, padding in PADDING.items():
        write_tokenizer(folder / name, padding)
    parts = make_tiny("sdxl-base")
    save_single_file(parts, folder / "tiny.safetensors", torch.float16)
    words = load_tokenizers(folder, tuple(parts.models()))
    object.__setattr__(parts, "tokenizer", words["tokenizer"])
    object.__setattr__(parts, "tokenizer_2", words["tokenizer_2"])
    save_folder(parts, folder / "folder")


def _state(path: Path) -> None:
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3)
    net.layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    save_state(path, 4, net, optimizer, Average(net, 0.9), ABOUT)


def _session(folder: Path) -> None:
    """A session with one accepted edit and recordings of two steps, one of them with an edit put in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "urandom", random.Random(0).randbytes)  # of the names of files: each run makes the same cases
        _write_session(folder)
        make_desk(folder.parent)


def _write_session(folder: Path) -> None:
    (folder / "recordings").mkdir(parents=True)
    store = sige.Store(None, "8 bit", FolderShelf(folder / "recordings", torch.device("cpu")))
    rows = {"down.0": torch.arange(12.0).reshape(1, 4, 3)}
    for step in (0, 2):
        part = ComponentRecording(dict(rows), {"down.0": torch.ones(1, 1, 2, dtype=torch.float64)},
                                  torch.zeros(1, 4, 2, 2, device="meta"), torch.zeros(1, 4, 2, 2))  # fmt: skip
        store.put("unet", step, part)
    region = sige.Region.from_mask(np.eye(SIDE, dtype=bool))
    store.patch({("unet", 2): Patch.of(part, region, "unet")})
    latents, known = torch.zeros(1, 4, 2, 2), torch.ones(1, 1, 2, 2, dtype=torch.bool)
    state = State(_png(), latents, torch.zeros(3, 4, 2, 2), known)
    book = Book(state, Recorded(latents, known, latents), [(State(_png()), Recorded())], latents, "{}")
    SessionFolder(folder).save(book, store)
