"""The loader: the files that it accepts, the files that it refuses and its messages, its memory and time."""

from __future__ import annotations

import doctest
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdxl.checkpoint import configs, models
from sdxl.checkpoint import load as load_module
from sdxl.checkpoint.configs import KINDS, config_folder
from sdxl.checkpoint.load import Parts, load
from sdxl.checkpoint.tensors import TensorReader
from sdxl.checkpoint.tiny import tiny_weights
from sdxl.commands.convert import convert
from sdxl.errors import CheckpointError, InputError

ROOT = Path(__file__).parents[3]  # an installed package is found anywhere, this one from here
QUIET = {"progress": False, "tokenizers": False}
UNET = "model.diffusion_model."
SOME = UNET + "out.2.bias"


def states(parts: Parts) -> dict[str, Tensor]:
    return {
        f"{part}.{key}": tensor for part, model in parts.models().items() for key, tensor in model.state_dict().items()
    }


def assert_same(found: Parts, expected: Parts, dtype: torch.dtype = torch.float32) -> None:
    after, before = states(found), states(expected)
    assert set(after) == set(before)
    for name, tensor in before.items():
        assert after[name].dtype == dtype, name
        assert after[name].equal(tensor.to(dtype)), name


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_loaded_bit_for_bit(kind: str, tiny: dict[str, Path], original: Callable[[str], Parts]) -> None:
    parts = load(tiny[kind], progress=False)
    assert parts.kind == kind
    assert_same(parts, original(kind))
    assert (parts.text_encoder is None) == (parts.tokenizer is None) == (kind == "sdxl-refiner")
    assert (parts.text_encoder_2 is None) == (parts.tokenizer_2 is None) == kind.startswith("sd15")
    assert parts.vae.config.scaling_factor == (0.18215 if kind.startswith("sd15") else 0.13025)
    assert parts.unet.config.in_channels == (9 if kind.endswith("inpaint") else 4)
    for model in parts.models().values():
        assert not model.training
        assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


def test_the_models_run(tiny: dict[str, Path]) -> None:
    """The loader also makes the buffers that no checkpoint holds."""
    parts = load(tiny["sdxl-base"], progress=False)
    assert parts.tokenizer is not None and parts.text_encoder is not None
    ids = parts.tokenizer("a horse", padding="max_length", return_tensors="pt").input_ids
    assert parts.text_encoder(ids).last_hidden_state.isfinite().all()
    buffers = dict(parts.text_encoder.named_buffers())  # under `text_model.` until transformers 5.6
    assert [ids.tolist() for name, ids in buffers.items() if "position_ids" in name] == [[list(range(77))]]


def test_no_two_parameters_share_memory(tiny: dict[str, Path]) -> None:
    """The three parameters that are one tensor in the file share no memory either."""
    tensors = list(states(load(tiny["sdxl-refiner"], **QUIET)).values())
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == len(tensors)


def test_turbo_is_known_by_its_name_or_its_metadata(tiny: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors, facts = load_file(tiny["sdxl-base"]), {"sige.config": "tiny"}
    for name, metadata, kind in (
        ("model.safetensors", {}, "sdxl-base"),
        ("My_Turbo.safetensors", {}, "sdxl-turbo"),
        ("model.safetensors", {"modelspec.title": "Stable Diffusion XL Turbo"}, "sdxl-turbo"),
        ("turbo.safetensors", {"sige.kind": "sdxl-base"}, "sdxl-base"),
    ):
        save_file(tensors, tmp_path / name, facts | metadata)
        assert load(tmp_path / name, **QUIET).kind == kind


# ---- promise 2: keys, shapes, dtypes, before anything is read -------------------------------------------------------


def _resize(name: str, shape: tuple[int, ...]) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({name: torch.zeros(shape)})


def _drop(start: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if name.startswith(start)]:
            del tensors[name]

    return change


REFUSED: dict[str, tuple[Callable[[dict[str, Tensor]], None], list[str]]] = {
    "one key missing": (_drop(SOME), ["1 of ", f"keys missing: {SOME}"]),
    "a part missing": (_drop("first_stage_model."), ["248 of ", "first_stage_model.", "… and 245 more"]),
    "a key too many": (_resize(UNET + "extra.weight", (3,)), [f"1 unexpected: {UNET}extra.weight"]),
    "a wrong shape": (_resize(SOME, (5,)), [f"1 of the wrong shape: {SOME} has [5], expected [4]"]),
    "a matrix the other way": (
        _resize(UNET + "time_embed.0.weight", (16, 64)),
        ["time_embed.0.weight has [16, 64], expected [64, 16]"],
    ),
    "integers": (lambda tensors: tensors.update({SOME: torch.zeros(4, dtype=torch.int32)}), [f"{SOME} is I32"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_promise_2_what_does_not_fit_is_listed_before_anything_is_read(
    name: str, changed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    change, texts = REFUSED[name]
    path = changed("sdxl-base", change)
    monkeypatch.setattr(TensorReader, "read", None)  # reading would raise another error
    with pytest.raises(CheckpointError) as raised:
        load(path, progress=False)
    assert str(path) in str(raised.value)
    for text in texts:
        assert text in str(raised.value)


def test_promise_2_nothing_may_stay_without_weights() -> None:
    unet = models.build_part("unet", configs.load_shapes("sdxl-base", variant="tiny").parts["unet"])
    state = {name: torch.zeros(tensor.shape) for name, tensor in unet.state_dict().items()}
    unet.register_buffer("forgotten", torch.zeros(3, device="meta"), persistent=False)
    with pytest.raises(CheckpointError, match="forgotten"):
        models.complete(unet, state, "cpu")
    del unet.forgotten
    state["conv_in.bias"] = state["conv_in.bias"].to("meta")
    with pytest.raises(CheckpointError, match="conv_in.bias and 0 more were not assigned"):
        models.complete(unet, state, "cpu")


@pytest.mark.parametrize("stage", ["header", "data"])
def test_promise_1_a_truncated_checkpoint_leaves_no_model(
    stage: str, changed: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = changed("sdxl-base", lambda tensors: None)
    installed: list[object] = []
    monkeypatch.setattr("sdxl.checkpoint.read.complete", lambda *arguments: installed.append(arguments))
    if stage == "header":
        path.write_bytes(path.read_bytes()[:-100])
    else:  # after the header was checked
        read = TensorReader.read

        def truncate(reader: TensorReader, name: str) -> Tensor:
            with path.open("r+b") as file:
                file.truncate(path.stat().st_size // 2)
            monkeypatch.setattr(TensorReader, "read", read)
            return read(reader, name)

        monkeypatch.setattr(TensorReader, "read", truncate)
    with pytest.raises(CheckpointError, match="truncated|ends inside"):
        load(path, **QUIET)
    assert not installed


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "holds no tensors"),
        (["down_blocks.0.resnets.0.conv1.weight"], "give the model's folder"),
        (["lora_unet_x.lora_down.weight"], "is a LoRA"),
        (["whatever"], "expected the single-file layout"),
    ],
)
def test_other_files_are_refused_by_what_they_are(names: list[str], message: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: torch.zeros(2) for name in names}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("variant", ["absent", "../tiny", "vae"])
def test_the_config_named_in_the_metadata_is_checked(variant: str, changed: Callable[..., Path]) -> None:
    path = changed("sdxl-base", lambda tensors: None, **{"sige.config": variant})
    with pytest.raises((CheckpointError, InputError), match="config|section|no such file"):
        load(path, **QUIET)


def test_arguments_are_checked(tiny: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dtype: got torch.int8"):
        load(tiny["sd15"], dtype=torch.int8)
    with pytest.raises(InputError, match="no such folder"):
        load(tiny["sd15"], config_path=tmp_path / "absent")
    with pytest.raises(InputError, match="no such file"):
        load(tiny["sd15"], config_path=tmp_path)
    with pytest.raises(InputError, match="no model_index.json"):
        load(tmp_path)


# ---- promise 3: NaN and infinity ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (float("nan"), SOME),
        (float("inf"), "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight"),
        (float("-inf"), SOME),
    ],
)
def test_promise_3_nan_and_infinity_are_named(value: float, key: str, changed: Callable[..., Path]) -> None:
    path = changed("sdxl-base", lambda tensors: tensors[key].view(-1)[-1:].fill_(value))
    with pytest.raises(CheckpointError, match="holds NaN or infinity") as raised:
        load(path, **QUIET)
    assert key in str(raised.value)
    parts = load(path, check_finite=False, **QUIET)
    assert sum(int((~tensor.isfinite()).sum()) for tensor in states(parts).values()) == 1


def test_promise_3_what_the_dtype_cannot_hold_is_named(changed: Callable[..., Path]) -> None:
    path = changed("sdxl-base", lambda tensors: tensors[SOME].fill_(1e6))
    with pytest.raises(CheckpointError, match=f"{SOME}: holds values that float16 cannot"):
        load(path, dtype=torch.float16, **QUIET)
    load(path, dtype=torch.bfloat16, **QUIET)


# ---- what real files look like --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sdxl-base", "sd15"])
@pytest.mark.parametrize("projections", ["conv", "linear"])
def test_linear_and_1x1_convolution_projections_are_the_same(
    kind: str, projections: str, tiny: dict[str, Path], tmp_path: Path, original: Callable[[str], Parts]
) -> None:
    path = tmp_path / "projections.safetensors"
    convert(tiny[kind], path, projections=projections, progress=False)
    assert_same(load(path, **QUIET), original(kind))


def test_matrices_in_the_vae_are_accepted(changed: Callable[..., Path], original: Callable[[str], Parts]) -> None:
    def flatten(tensors: dict[str, Tensor]) -> None:
        for name in [name for name in tensors if ".attn_1." in name and name.endswith("weight")]:
            tensors[name] = tensors[name].reshape(tensors[name].shape[0], -1).squeeze(-1)

    assert_same(load(changed("sdxl-base", flatten), **QUIET), original("sdxl-base"))


def test_what_inference_does_not_read_is_ignored(
    changed: Callable[..., Path], original: Callable[[str], Parts]
) -> None:
    def add(tensors: dict[str, Tensor]) -> None:
        tensors["conditioner.embedders.0.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
        tensors["conditioner.embedders.1.model.logit_scale"] = torch.tensor(4.6)
        tensors["model_ema.decay"] = torch.tensor(float("nan"))
        tensors["denoiser.sigmas"] = torch.zeros(1000, dtype=torch.float64)

    assert_same(load(changed("sdxl-base", add), **QUIET), original("sdxl-base"))


@pytest.mark.parametrize(
    ("stored", "asked", "expected"),
    [
        (torch.bfloat16, None, torch.bfloat16),
        (torch.float64, None, torch.float32),
        (torch.float8_e5m2, None, torch.float16),
        (torch.float16, torch.float32, torch.float32),
        (torch.float32, torch.bfloat16, torch.bfloat16),
    ],
)
def test_dtypes(
    stored: torch.dtype,
    asked: torch.dtype | None,
    expected: torch.dtype,
    changed: Callable[..., Path],
    original: Callable[[str], Parts],
) -> None:
    def cast(tensors: dict[str, Tensor]) -> None:
        tensors.update({name: tensor.to(stored) for name, tensor in tensors.items()})

    found = states(load(changed("sdxl-refiner", cast), dtype=asked, **QUIET))
    for name, tensor in states(original("sdxl-refiner")).items():
        assert found[name].dtype == expected
        assert found[name].equal(tensor.to(stored).to(expected)), name


def test_mixed_dtypes_become_the_wider(changed: Callable[..., Path]) -> None:
    path = changed("sdxl-base", lambda tensors: tensors.update({SOME: tensors[SOME].half()}))
    assert {tensor.dtype for tensor in states(load(path, **QUIET)).values()} == {torch.float32}


def test_a_config_folder_of_the_user(tiny: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "configs"
    shutil.copytree(config_folder(), folder)
    text = (folder / "sdxl-base.yaml").read_text()
    (folder / "sdxl-base.yaml").write_text(text.replace("timestep_spacing: leading", "timestep_spacing: trailing"))
    assert load(tiny["sdxl-base"], **QUIET).scheduler_config["timestep_spacing"] == "leading"
    assert load(tiny["sdxl-base"], config_path=folder, **QUIET).scheduler_config["timestep_spacing"] == "trailing"


# ---- what it costs --------------------------------------------------------------------------------------------------

WIDE = """
sdxl-base:
  model: {block_out_channels: [64, 160, 320], norm_num_groups: 32, cross_attention_dim: 64, addition_time_embed_dim: 8,
          attention_head_dim: [2, 5, 10], transformer_layers_per_block: [1, 2, 4],
          projection_class_embeddings_input_dim: 80}
  vae: {block_out_channels: [16, 32, 32, 64], norm_num_groups: 4}
  text_encoder: {hidden_size: 24, num_attention_heads: 3, num_hidden_layers: 1, vocab_size: 530}
  text_encoder_2: {hidden_size: 40, num_attention_heads: 5, num_hidden_layers: 1, vocab_size: 530, projection_dim: 32}
"""
MEASURE = """
import re, sys
from pathlib import Path
import torch
import sdxl.checkpoint.load as loading
from sdxl.checkpoint.sources import open_file
configs, path = sys.argv[1:]
open_file(Path(path), configs)  # imports and models without weights are no cost of reading
def peak():  # ru_maxrss would start at what the parent had
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
before = peak()
parts = loading.load(path, config_path=configs, dtype=torch.float16, progress=False, tokenizers=False)
print(peak() - before, sum(p.numel() * p.element_size() for m in parts.models().values() for p in m.parameters()))
"""


def test_memory_is_the_result_and_one_tensor(tmp_path: Path) -> None:
    """A file of fp32 is loaded as fp16 without the whole file or a second copy in memory."""
    from sdxl.checkpoint.keys import PREFIXES, make_entries
    from sdxl.checkpoint.tensors import Written, write_tensors

    folder, path = tmp_path / "configs", tmp_path / "wide.safetensors"
    shutil.copytree(config_folder(), folder)
    (folder / "wide.yaml").write_text(WIDE)
    parts = models.build_parts(configs.load_shapes("sdxl-base", folder, "wide").parts)
    tensors = {
        entry.file_key: Written("F32", entry.shape, lambda shape=entry.shape: [torch.zeros(shape)])  # type: ignore[misc]
        for entry in make_entries(parts, PREFIXES["sdxl"])
    }
    write_tensors(path, tensors, {"sige.config": "wide"})
    command = [sys.executable, "-c", MEASURE, str(folder), str(path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    grown, result = map(int, output.split())
    assert result > 80e6
    assert grown < result + max(tensor.bytes for tensor in tensors.values()) + 30e6


@pytest.mark.parametrize("module", [load_module, models, configs])
def test_examples(module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SIGE_CACHE", str(tmp_path))
    names = {"tiny_weights": tiny_weights, "load_shapes": configs.load_shapes}
    found = doctest.testmod(module, extraglobs=names)
    assert found.attempted and not found.failed
