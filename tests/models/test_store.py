"""Stores: what a patch does to a recording, how it is undone, codes, the budget, and the folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import sige
from sige import Region, Store
from sige.errors import ConfigError, RecordingError
from sige.ops import group_stats
from sige.recordings import ComponentRecording, FolderShelf, Patch
from sige.recordings.coded import CODES, Coded, CodedRows
from sige.recordings.shelves import MOST_UNDO
from sige.recordings.store import LEAST_STEPS
from sige.sizes import parse_bytes
from tests.models.test_properties import RELATIVE_ERROR, relative_error
from tests.models.tiny import Case, every_layout, make_case

CPU = torch.device("cpu")
places = pytest.mark.parametrize("place", ["memory", "folder"])


def recording(case: Case, seed: int) -> ComponentRecording:
    with sige.enable(case.model) as handle:
        with handle.record() as found:
            case.call(case.input(seed))
        return copied(found.components[case.component])


def patched(case: Case, part: ComponentRecording, seed: int, region: Region) -> Patch:
    """The patch of a packed pass over the region, on a recording."""
    patch = Patch(region)
    blend = [(sige.Recording({case.component: part}), 1.0)]
    with sige.enable(case.model) as handle, handle.edit(region, blend=blend, patch=patch):
        case.call(case.input(seed))
    return patch


def copied(part: ComponentRecording) -> ComponentRecording:
    assert part.output is not None
    rows = {key: rows.clone() for key, rows in part.rows.items()}
    return ComponentRecording(rows, {k: s.clone() for k, s in part.stats.items()}, part.input, part.output.clone())


def tensors(part: ComponentRecording) -> dict[str, Tensor]:
    assert part.output is not None
    stats = {f"stats {key}": stats for key, stats in part.stats.items()}
    return {**part.rows, **stats, "output": part.output}


def equal(one: ComponentRecording, other: ComponentRecording) -> bool:
    first, second = tensors(one), tensors(other)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def store(place: str, folder: Path, **options: object) -> Store:
    return Store(shelf=FolderShelf(folder, CPU) if place == "folder" else None, **options)  # type: ignore[arg-type]


def got(one: Store, case: Case, step: int = 0) -> ComponentRecording:
    return one.get(case.component, step).components[case.component]


# ---- patches ---------------------------------------------------------------------------------------------------------


@every_layout
def test_a_patch_of_every_position_makes_the_recording_of_the_changed_input(case: str, tmp_path: Path) -> None:
    """The definition: what a dense pass of the new input would have left."""
    one = make_case(case)
    kept = Store()
    part = recording(one, seed=1)
    kept.put(one.component, 0, copied(part))
    kept.patch({(one.component, 0): patched(one, part, 2, one.full())})
    found, expected = tensors(got(kept, one)), tensors(recording(one, seed=2))
    assert found.keys() == expected.keys()
    assert all(relative_error(found[key], expected[key]) <= RELATIVE_ERROR for key in expected)


@every_layout
@places
def test_a_patch_changes_the_active_rows_alone_and_the_group_sums_follow(case: str, place: str, tmp_path: Path) -> None:
    one = make_case(case)
    region = one.rectangle(2, 1, 3, 4)
    kept, part = store(place, tmp_path), recording(one, seed=1)
    kept.put(one.component, 0, copied(part))
    patch = patched(one, part, 2, region)
    kept.patch({(one.component, 0): patch})
    found = got(kept, one)
    for key, rows in found.rows.items():
        changed = (rows != part.rows[key]).any(dim=2)[0]  # [M]
        assert 0 < int(changed.sum()) <= patch.rows[key].shape[1] < len(changed)
    for key, sums in found.stats.items():
        assert relative_error(sums, group_stats(found.rows[key], sums.shape[1])) < 1e-6
    assert patch.output is not None and torch.equal(tensors(found)["output"], patch.output)


def test_a_patch_of_a_whole_recording_holds_its_rows_at_the_region() -> None:
    one = make_case("sdxl-base")
    before, after, region = recording(one, 1), recording(one, 2), one.rectangle(2, 1, 3, 4)
    kept = Store()
    kept.put(one.component, 0, copied(before))
    kept.patch({(one.component, 0): Patch.of(after, region, one.component)})
    for key, rows in got(kept, one).rows.items():
        changed = (rows != before.rows[key]).any(dim=2)[0]  # [M]
        assert changed.any() and torch.equal(rows[:, changed], after.rows[key][:, changed])


@places
@pytest.mark.parametrize("code", CODES)
def test_undo_puts_every_bit_back(place: str, code: str, tmp_path: Path) -> None:
    one = make_case("sdxl-base")
    kept, part = store(place, tmp_path, code=code), recording(one, 1)
    kept.put(one.component, 0, copied(part))
    states = [copied(got(kept, one))]
    for seed, left in ((2, 1), (3, 4)):
        kept.patch({(one.component, 0): patched(one, states[-1], seed, one.rectangle(2, left, 3, 4))})
        states.append(copied(got(kept, one)))
        assert not equal(*states[-2:])
    for state in reversed(states[:-1]):
        assert kept.undo()
        assert equal(got(kept, one), state)
    assert not kept.undo()


@places
def test_only_so_many_edits_can_be_undone_and_older_ones_stay(place: str, tmp_path: Path) -> None:
    one = make_case("vae-decoder")
    kept, part = store(place, tmp_path), recording(one, 1)
    kept.put(one.component, 0, copied(part))
    patches = [patched(one, part, seed, one.rectangle(1, 1, 2, 2)) for seed in range(2, MOST_UNDO + 4)]
    for patch in patches:
        kept.patch({(one.component, 0): patch})
    assert [kept.undo() for _ in range(MOST_UNDO + 1)] == [True] * MOST_UNDO + [False]
    assert patches[1].output is not None and torch.equal(tensors(got(kept, one))["output"], patches[1].output)


# ---- folders ---------------------------------------------------------------------------------------------------------


def test_a_folder_and_memory_hold_the_same(tmp_path: Path) -> None:
    one = make_case("vae-decoder")
    part = recording(one, 1)
    both = {place: store(place, tmp_path) for place in ("memory", "folder")}
    for kept in both.values():
        kept.put(one.component, 3, copied(part))
        kept.patch({(one.component, 3): patched(one, part, 2, one.rectangle(1, 1, 2, 2))})
    assert equal(got(both["memory"], one, 3), got(both["folder"], one, 3))
    again = Store(shelf=FolderShelf(tmp_path, CPU, both["folder"].shelf.manifest))  # type: ignore[attr-defined]
    assert equal(got(again, one, 3), got(both["folder"], one, 3))
    assert again.steps(one.component) == (3,)
    assert again.undo()
    assert equal(got(again, one, 3), part)


def test_files_of_an_old_manifest_stay_until_the_folder_is_swept(tmp_path: Path) -> None:
    one = make_case("vae-decoder")
    shelf = FolderShelf(tmp_path, CPU)
    kept = Store(shelf=shelf)
    kept.put(one.component, 0, recording(one, 1))
    old = {**shelf.manifest, "recordings": dict(shelf.manifest["recordings"])}
    kept.put(one.component, 0, recording(one, 2))
    before = Store(shelf=FolderShelf(tmp_path, CPU, old))
    assert equal(got(before, one), recording(one, 1))
    shelf.sweep()
    assert len(list(tmp_path.iterdir())) == 1
    assert equal(got(kept, one), recording(one, 2))


# ---- codes and the budget --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_codes_keep_rows_of_any_size_to_their_precision(dtype: torch.dtype) -> None:
    rows = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(1))
    rows = (rows * torch.tensor([1e-6, 1e-3, 1.0, 1e3, 6e4])[:, None]).to(dtype)  # larger than a sum in fp16 may be
    for code, most in zip(CODES, (0.0, 2.0**-10, 2.0**-7), strict=True):
        found = CodedRows.of(rows, code).rows()
        assert found.dtype == dtype
        if dtype == torch.float32:
            errors = (found - rows).abs().amax(dim=2) / rows.abs().amax(dim=2)
            assert float(errors.max()) <= most
    assert torch.equal(CodedRows.of(torch.zeros(1, 2, 3), "8 bit").rows(), torch.zeros(1, 2, 3))


def test_a_small_budget_takes_fewer_bits_then_fewer_steps_and_is_kept() -> None:
    one = make_case("sdxl-base")
    part = recording(one, 1)
    exact = part.nbytes
    for share, code, steps in ((6.5, "exact", 6), (3.3, "16 bit", 6), (1.8, "8 bit", 6), (1.2, "8 bit", 4)):
        kept = Store(int(exact * share))
        for step in (0, 1, 4, 8, 13, 24):
            kept.put(one.component, step, copied(part))
            assert kept.nbytes <= exact * share
        assert (kept.code, len(kept.steps(one.component))) == (code, steps)
        assert {0, 24} <= set(kept.steps(one.component))


def test_the_decoder_goes_before_the_last_steps(caplog: pytest.LogCaptureFixture) -> None:
    unet, decoder = make_case("sdxl-base"), make_case("vae-decoder")
    part, large = recording(unet, 1), recording(decoder, 1)
    kept = Store((LEAST_STEPS * part.nbytes + large.nbytes) // 4, code="8 bit")
    for step in range(LEAST_STEPS):
        kept.put("unet", step, copied(part))
    kept.put("vae.decoder", 0, large)
    assert kept.steps("vae.decoder") == () and len(kept.steps("unet")) == LEAST_STEPS
    assert "too small" in caplog.text
    nothing = Store(100)
    nothing.put("unet", 0, part)
    assert nothing.steps("unet") == () and nothing.nbytes == 0


def test_sizes_are_read_and_mistakes_refused() -> None:
    assert [parse_bytes(text) for text in ("8GiB", "8 G", "2kb", "1.5MiB", 7)] == [2**33, 2**33, 2000, 3 * 2**19, 7]
    for wrong in ("", "8 GB RAM", "-1", "1e9", None, True, "9" * 400):
        with pytest.raises(ConfigError, match=r"^budget: got"):
            parse_bytes(wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"^code: got '4 bit', expected one of auto"):
        Store(code="4 bit")
    with pytest.raises(RecordingError, match=r"^store: unet of step 3 is not kept"):
        Store().get("unet", 3)


def test_what_is_held_is_read_once_and_the_rest_forgotten() -> None:
    one = make_case("vae-decoder")
    kept = Store(code="16 bit")
    for step in range(3):
        kept.put(one.component, step, recording(one, step))
    kept.hold([(one.component, 0), (one.component, 1)])
    first = kept.get(one.component, 0)
    kept.hold([(one.component, 2)], [(one.component, 0)])
    assert kept.get(one.component, 0) is first
    kept.hold([])
    assert kept.get(one.component, 0) is not first


def test_rows_are_decoded_when_they_are_read_and_one_layer_at_a_time() -> None:
    one = make_case("vae-decoder")
    part = recording(one, 0)
    coded = Coded.of(part, "8 bit")
    decoded = coded.recording()
    keys = list(decoded.rows)
    assert keys == list(part.rows) and len(decoded.rows) == len(keys)
    first = decoded.rows[keys[0]]
    assert first is decoded.rows[keys[0]]
    assert torch.equal(first, coded.rows[keys[0]].rows())
    decoded.rows[keys[1]] = part.rows[keys[1]]
    assert torch.equal(decoded.rows[keys[1]], part.rows[keys[1]]), "rows that are set are kept exactly"
    assert decoded.rows[keys[0]] is not first, "other rows were read since"
    decoded.clear()
    assert not decoded.rows and len(coded.rows) == len(keys), "the store keeps its own"


@places
def test_an_edit_without_patches_counts_as_one(place: str, tmp_path: Path) -> None:
    """The first edit of a place fills the store anew: accepted, it changes nothing there, and is undone like others."""
    kept = store(place, tmp_path)
    for _ in range(3):
        kept.patch({})
    assert kept.undo()
    assert [kept.shelf.forget_oldest() for _ in range(3)] == [True, True, False]
    assert not kept.undo()
