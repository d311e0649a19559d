"""The results of a training: the checkpoint as one file and as a diffusers folder, or a LoRA file."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import diffusers

from sdxl.checkpoint.find import FILE_NAMES
from sdxl.checkpoint.load import Parts
from sdxl.checkpoint.save import save_folder, save_single_file
from sdxl.training.plan import Plan
from sige.files import atomic_write, named_if_full

__all__ = ["FOLDER", "LORA", "WEIGHTS", "write_results"]

WEIGHTS, FOLDER, LORA = "model.safetensors", "diffusers", "pytorch_lora_weights.safetensors"
_FLAGS = {  # of run.py, for weights of a kind
    "sdxl-base": "--model sdxl",
    "sdxl-turbo": "--run_type turbo",
    "sdxl-inpaint": "--model sdxl-inpaint",
}


def write_results(parts: Parts, plan: Plan) -> str:
    """Writes the learned weights, and returns a line that says where they are and how to use them."""
    command = f"python run.py {_FLAGS.get(parts.kind, '--model sd15')} --weight_path"
    if plan.stage == "diffusion" and plan.learns == "lora":
        _save_lora(parts, plan.out / LORA)
        return f"wrote {plan.out / LORA}: {command} {plan.start} --lora {plan.out / LORA} ..."
    if plan.start is not None or parts.kind == "sdxl-refiner":  # else they were learned into this folder
        _save_words(parts, plan.out)
    _save_checkpoint(parts, plan.out)
    file, folder = plan.out / WEIGHTS, plan.out / FOLDER
    if parts.kind == "sdxl-refiner":  # it is found beside its base
        advice = f"copy it to {FILE_NAMES[parts.kind]} beside the base, then python run.py --refined True ..."
        return f"wrote {file} and, for diffusers, {folder}: {advice}"
    return f"wrote {file} and, for diffusers, {folder}: {command} {file} ..."


def _save_words(parts: Parts, out: Path) -> None:
    """Writes the tokenizers beside the single file, which does not hold them."""
    for name in ("tokenizer", "tokenizer_2"):
        if (tokenizer := getattr(parts, name)) is not None:
            with named_if_full(out / name):
                _save_tokenizer(tokenizer, out / name)


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    tokenizer.save_pretrained(folder)
    backend = getattr(tokenizer, "backend_tokenizer", None)  # None before transformers 5, which wrote all above
    if backend is not None:
        backend.model.save(str(folder))  # vocab.json and merges.txt, which others read


def _save_checkpoint(parts: Parts, out: Path) -> None:
    save_single_file(parts, out / WEIGHTS)
    shutil.rmtree(out / FOLDER, ignore_errors=True)  # from an earlier training; the state can make it again
    save_folder(parts, out / FOLDER)


def _save_lora(parts: Parts, path: Path) -> None:
    from peft.utils import get_peft_model_state_dict

    name = "StableDiffusionPipeline" if parts.kind.startswith("sd15") else "StableDiffusionXLPipeline"
    layers = diffusers.utils.convert_state_dict_to_diffusers(get_peft_model_state_dict(parts.unet))
    layers = {key: value.cpu().contiguous() for key, value in layers.items()}
    about = parts.unet.peft_config["default"].to_dict()  # a loader that finds no rank and alpha takes them as equal
    with atomic_write(path) as temporary:
        mode = temporary.stat().st_mode
        getattr(diffusers, name).save_lora_weights(
            temporary.parent, layers, weight_name=temporary.name, unet_lora_adapter_metadata=about
        )
        temporary.chmod(mode)  # safetensors replaces the file by one that only its owner may read
