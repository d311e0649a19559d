"""The weights that learn and those that do not; LoRA files that load; checkpointed gradients; mixed precision."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sdxl.checkpoint.load import Parts, load
from sdxl.checkpoint.tiny import tiny_weights
from sdxl.errors import InputError
from sdxl.pipelines.extras import add_lora
from sdxl.pipelines.load import make_pipeline
from sdxl.training.batches import Batch
from sdxl.training.denoiser import Denoiser
from sdxl.training.learning import make_denoiser
from sdxl.training.loop import LoopConfig, train
from sdxl.training.plan import Data, Lora, Plan
from sdxl.training.results import LORA, write_results


def tiny(kind: str = "sdxl-base") -> Parts:
    return load(tiny_weights(kind), progress=False)


def plan(out: Path = Path(), **changes: Any) -> Plan:
    loop = {"steps": 2, "batch": 2, "rate": 1e-2, "warmup": 0, **changes.pop("loop", {})}
    data = Data(scenes=2, side=64)
    return Plan("diffusion", out, data, LoopConfig(**loop), **{"start": Path("x"), "drop": 0.0, **changes})


def batch_of(step: int, share: tuple[int, int]) -> Batch:
    generator = torch.Generator().manual_seed(step)
    latents, noise = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    sizes, dropped = torch.full((2, 6), 64.0), torch.tensor([False, True])
    return Batch(latents, noise, torch.tensor([100, 700]), sizes, dropped, ["a ball", "a box"])


def predicted(denoiser: Denoiser) -> Tensor:  # [2, 4, 8, 8]
    batch = batch_of(99, (0, 1))
    with torch.no_grad():
        return denoiser.predict(batch.latents, batch)


def weights(parts: Parts) -> dict[str, Tensor]:
    return {f"{name}.{key}": value.clone() for name, model in parts.models().items()
            for key, value in model.state_dict().items()}  # fmt: skip


@pytest.fixture
def fresh_state() -> Iterator[None]:
    """Resets accelerate, which keeps the precision for the whole process."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


def test_with_a_checkpoint_only_the_unet_learns(tmp_path: Path) -> None:
    parts = tiny()
    before = weights(parts)
    train(make_denoiser(parts, plan()), batch_of, plan().loop, tmp_path).install()
    changed = {name.split(".")[0] for name, value in weights(parts).items() if not torch.equal(value, before[name])}
    assert changed == {"unet"}
    assert not parts.text_encoder.training and parts.unet.training


@pytest.mark.parametrize("kind", ["sdxl-base", "sd15"])
def test_a_trained_lora_loads_and_changes_the_unet_as_it_did_in_training(kind: str, tmp_path: Path) -> None:
    parts = tiny(kind)
    plain = predicted(make_denoiser(tiny(kind), plan()))
    before = weights(parts)
    ours = plan(tmp_path, learn="lora", lora=Lora(rank=4, alpha=12))
    denoiser = make_denoiser(parts, ours)
    # MKL may round otherwise where a layer is wrapped, so equality is up to that.
    torch.testing.assert_close(predicted(denoiser), plain, msg=lambda text: f"at first it changes nothing: {text}")
    train(denoiser, batch_of, ours.loop, tmp_path).install()
    trained = predicted(denoiser)
    assert (trained - plain).norm() > 1e-2 * plain.norm()
    assert f"--lora {tmp_path / LORA}" in write_results(parts, ours)
    assert {path.name for path in tmp_path.iterdir()} == {LORA, "state.pt", "loss.csv", "loss.png"}

    assert (tmp_path / LORA).stat().st_mode == (tmp_path / "loss.csv").stat().st_mode, "as the umask has it"
    after = {name.replace(".base_layer", ""): value for name, value in weights(parts).items() if "lora_" not in name}
    assert all(torch.equal(after[name], value) for name, value in before.items()), "the checkpoint did not learn"
    again = tiny(kind)
    add_lora(make_pipeline(again, "text2img"), str(tmp_path / LORA))
    models = {name: model for name, model in again.models().items() if name != "vae"}
    loaded = Denoiser(models, denoiser.tokenizers, denoiser.alphas)  # type: ignore[arg-type]
    torch.testing.assert_close(predicted(loaded), trained)


def test_a_lora_learns_beside_weights_in_half_precision(tmp_path: Path, fresh_state: None) -> None:
    parts = tiny()
    ours = plan(tmp_path, learn="lora", loop={"precision": "bf16"})
    denoiser = make_denoiser(parts, ours)
    assert parts.text_encoder.dtype == parts.unet.conv_in.weight.dtype == torch.bfloat16
    assert {value.dtype for value in denoiser.parameters() if value.requires_grad} == {torch.float32}
    train(denoiser, batch_of, ours.loop, tmp_path).install()
    write_results(parts, ours)
    assert (tmp_path / LORA).is_file()


def test_targets_that_are_in_no_layer_are_refused() -> None:
    with pytest.raises(InputError, match="lora.targets: got to_nowhere"):
        make_denoiser(tiny(), plan(learn="lora", lora=Lora(targets=("to_nowhere",))))


@pytest.mark.parametrize("learn", ["unet", "lora"])
def test_checkpointed_gradients_are_the_same(learn: str) -> None:
    gradients, calls = [], 0

    def counted(module: Any, inputs: Any) -> None:
        nonlocal calls
        calls += 1

    for checkpointing in (False, True):
        parts = tiny()
        denoiser = make_denoiser(parts, plan(learn=learn, loop={"gradient_checkpointing": checkpointing}))
        parts.unet.down_blocks[1].resnets[1].register_forward_pre_hook(counted)
        denoiser(batch_of(0, (0, 1))).backward()
        gradients.append({name: value.grad for name, value in denoiser.named_parameters() if value.requires_grad})
    assert calls == 3, "once, and once again on the way back"
    kept, again = gradients
    assert kept.keys() == again.keys()
    for name, gradient in kept.items():
        assert (gradient is None) == (again[name] is None), name
        if gradient is not None:
            torch.testing.assert_close(again[name], gradient, msg=name)


def test_mixed_precision_learns_nearly_the_same(tmp_path: Path, fresh_state: None) -> None:
    from accelerate.state import AcceleratorState

    losses = {}
    for precision in ("no", "bf16"):
        AcceleratorState._reset_state(True)
        parts, ours = tiny(), plan(loop={"precision": precision, "rate": 1e-3})
        train(make_denoiser(parts, ours), batch_of, ours.loop, tmp_path / precision).install()
        assert parts.unet.dtype == torch.float32
        lines = (tmp_path / precision / "loss.csv").read_text().splitlines()[1:]
        losses[precision] = torch.tensor([float(line.split(",")[1]) for line in lines])
    assert not torch.equal(losses["no"], losses["bf16"])
    torch.testing.assert_close(losses["bf16"], losses["no"], rtol=0.02, atol=0)
