"""Index tensors: kept with their region, shared by its layouts and by threads, moved to a device in one copy."""

import copy
import doctest
import gc
import pickle
import threading
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode

from sige.errors import GeometryError
from sige.geometry import Geometry, gather_map, row_map
from sige.packed import index_tensors as module
from sige.packed.index_tensors import IndexName, IndexTensors, index_tensors, upload
from sige.packed.layout import Layout
from sige.region import Region

CPU, META = torch.device("cpu"), torch.device("meta")
SIZE = (6, 5)
CONV = Geometry.conv3x3()
NAMES = [
    IndexName("active", SIZE),
    IndexName("inactive", SIZE),
    IndexName("map", SIZE, CONV),
    IndexName("halo", SIZE, CONV),
    IndexName("keys", SIZE),
    IndexName("numbers", (7, 1)),
    IndexName("identity", SIZE),
]


def corner() -> Region:
    mask = np.zeros(SIZE, dtype=bool)
    mask[1:3, 1:4] = True
    return Region.from_mask(mask, dilation=0)


def expected(region: Region) -> list[np.ndarray]:
    """What each of NAMES stands for, by the definitions."""
    found, active = gather_map(region, CONV, *SIZE), region.active(*SIZE).ravel()
    count = int(active.sum())
    return [
        np.flatnonzero(active),
        np.flatnonzero(~active),
        found.index,
        found.halo,
        row_map(region, *SIZE),
        np.arange(7),
        np.arange(count)[:, None],
    ]


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of arrays that go to a device in each copy."""
    seen: list[int] = []

    def counted(arrays: Any, device: torch.device) -> list[torch.Tensor]:
        seen.append(len(arrays))
        return upload(arrays, device)

    monkeypatch.setattr(module, "upload", counted)
    return seen


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("region", [corner(), ~corner(), Region.full(*SIZE), Region.empty(*SIZE)])
def test_a_name_is_read_as_its_definition_says(region: Region) -> None:
    layout = Layout(region, CPU)
    for name, values in zip(NAMES, expected(region), strict=True):
        tensor = layout.read(name)
        assert tensor.dtype == torch.int32 and tensor.is_contiguous() and tensor.shape == values.shape, name
        assert tensor.stride() == torch.empty(values.shape).stride(), name
        assert np.array_equal(tensor.numpy(), values), name
    assert layout.names == NAMES


def test_on_the_cpu_tensors_share_the_memory_of_maps() -> None:
    region = corner()
    found, tensor = gather_map(region, CONV, *SIZE), Layout(region, CPU).gather(CONV, SIZE)[0]
    assert tensor.data_ptr() == found.index.ctypes.data
    assert not found.index.flags.writeable


@pytest.mark.parametrize("shapes", [[], [(0,)], [(3,), (0, 9), (2, 9), (4,), (1, 1)]])
def test_an_upload_is_one_flat_tensor_with_aligned_views(shapes: list[tuple[int, ...]]) -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.integers(-1, 99, shape, dtype=np.int32) for shape in shapes]
    tensors = upload(arrays, CPU)
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) <= 1
    for array, tensor in zip(arrays, tensors, strict=True):
        assert np.array_equal(tensor.numpy(), array) and tensor.is_contiguous() and tensor.shape == array.shape
        assert tensor.storage_offset() % 4 == 0
        assert tensor.numel() == 0 or tensor.data_ptr() % 16 == 0


def test_a_map_without_geometry_is_refused() -> None:
    with pytest.raises(GeometryError, match="map: the geometry of the layer is missing"):
        Layout(corner(), CPU).read(IndexName("map", SIZE))


# ---- one copy -------------------------------------------------------------------------------------------------------


def test_what_is_expected_goes_to_a_device_in_one_copy(uploads: list[int]) -> None:
    layout = Layout(corner(), META, NAMES)
    tensors = [layout.read(name) for name in NAMES]
    assert uploads == [len(NAMES)]
    assert len({id(tensor._base) for tensor in tensors}) == 1
    assert [tuple(tensor.shape) for tensor in tensors] == [values.shape for values in expected(corner())]


def test_what_is_not_expected_goes_when_it_is_asked_for(uploads: list[int]) -> None:
    layout = Layout(corner(), META, NAMES[:3])
    for name in NAMES[:4] * 2:
        layout.read(name)
    assert uploads == [3, 1]
    layout.prepare([*NAMES, *NAMES])
    assert uploads == [3, 1, 3]


# ---- kept with the region -------------------------------------------------------------------------------------------


def test_layouts_of_a_region_share_its_tensors() -> None:
    region = corner()
    one, two = Layout(region, CPU), Layout(region, CPU, NAMES)
    assert all(one.read(name) is two.read(name) for name in NAMES)
    assert index_tensors(region, CPU) is not index_tensors(region, META)
    other = Layout(corner(), CPU)
    assert not any(one.read(name) is other.read(name) for name in NAMES)


def test_tensors_outlive_a_layout_and_go_with_the_region() -> None:
    region = corner()
    gc.collect()
    gc.disable()
    try:
        for device in (CPU, META):
            watch = weakref.ref(Layout(region, device, NAMES).read(NAMES[2]))
            assert watch() is Layout(region, device).read(NAMES[2])
            tables = weakref.ref(index_tensors(region, device))
        del region
        assert watch() is None and tables() is None  # at once: nothing waits for a round of the collector
    finally:
        gc.enable()


def test_a_copy_of_a_region_has_tensors_of_its_own() -> None:
    region = corner()
    Layout(region, CPU, NAMES)
    for other in (copy.copy(region), copy.deepcopy(region), pickle.loads(pickle.dumps(region))):
        layout = Layout(other, CPU)
        assert index_tensors(other, CPU) is not index_tensors(region, CPU)
        for name, values in zip(NAMES, expected(region), strict=True):
            assert np.array_equal(layout.read(name).numpy(), values)


def test_threads_that_ask_at_once_get_the_same_tensors(monkeypatch: pytest.MonkeyPatch, uploads: list[int]) -> None:
    region, threads = corner(), 8
    barrier = threading.Barrier(threads)
    found: list[list[torch.Tensor]] = []

    def ask() -> None:
        barrier.wait()
        layout = Layout(region, META, NAMES)
        found.append([layout.read(name) for name in NAMES])

    workers = [threading.Thread(target=ask) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == threads and uploads == [len(NAMES)]
    assert all(one is two for other in found for one, two in zip(found[0], other, strict=True))


# ---- modes and streams ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", [CPU, META])
def test_tensors_made_in_inference_mode_are_as_any_others(device: torch.device) -> None:
    region = corner()
    with torch.inference_mode():
        made = [Layout(region, device).read(name) for name in NAMES]
    assert not any(tensor.is_inference() for tensor in made)


def test_fake_tensors_stay_with_the_layout_that_made_them() -> None:
    region = corner()
    with FakeTensorMode():
        fake = Layout(region, CPU)
        assert type(fake.read(NAMES[0])) is not torch.Tensor
    real = Layout(region, CPU).read(NAMES[0])
    assert type(real) is torch.Tensor
    with FakeTensorMode():
        assert type(Layout(region, CPU).read(NAMES[0])) is not torch.Tensor


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A device whose current stream the test chooses; it notes what streams wait for."""
    said: list[Any] = []
    device = SimpleNamespace(said=said, current=None)

    class Stream:
        def wait_event(self, event: str) -> None:
            said.append((self, event))

        def record_event(self) -> str:
            return "uploaded"

    device.Stream = Stream
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: device.current)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda _, stream: said.append(stream))
    monkeypatch.setattr(module, "upload", lambda arrays, _: upload(arrays, CPU))
    yield device


def test_another_stream_waits_for_an_upload_and_its_own_does_not(streams: SimpleNamespace) -> None:
    region, tensors = corner(), IndexTensors(torch.device("cuda", 0))
    streams.current = streams.Stream()
    tensors.get(region, NAMES)
    tensors.get(region, NAMES[:1])
    assert streams.said == []
    streams.current = other = streams.Stream()
    tensors.get(region, NAMES[:1])
    assert streams.said == [(other, "uploaded"), other]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_on_the_gpu_are_those_of_the_cpu() -> None:
    region = corner()
    layout = Layout(region, torch.device("cuda", 0), NAMES)
    with torch.cuda.stream(torch.cuda.Stream()):
        again = Layout(region, torch.device("cuda", 0))
        found = [again.read(name).cpu().numpy() for name in NAMES]
    for name, values, other in zip(NAMES, expected(region), found, strict=True):
        assert layout.read(name) is again.read(name) and layout.read(name).data_ptr() % 16 == 0
        assert np.array_equal(other, values)


def test_examples() -> None:
    assert doctest.testmod(module).failed == 0
