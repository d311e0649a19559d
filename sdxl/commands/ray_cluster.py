"""Ray: the cluster that `--ray` means."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from sdxl.errors import InputError

__all__ = ["add_ray", "connect", "count_gpus"]

ANSWER = 5.0  # seconds that a head node may take to answer
OBJECTS = 100_000_000  # bytes of Ray's store on this machine: rows and words pass through it, and no pictures


def add_ray(add: Any, what: str) -> None:
    """Adds the flag --ray; `what` runs there."""
    add("--ray", nargs="?", const="", metavar="ADDRESS", help=f"{what} on a Ray cluster: its address, or that found")


def connect(address: str) -> Any:
    """The module `ray`, with the cluster at the address; for "" the one of this machine, or a new one of it alone."""
    try:
        import ray
    except ImportError as error:
        raise InputError("--ray needs Ray: pip install 'sige[ray]'") from error
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "ignore_reinit_error": True}
    there = address or _running()
    if there and not _answers(there):  # Ray itself would wait for many minutes
        if address:
            raise InputError(f"--ray {address}: no cluster answers there, expected HOST:PORT of a head node")
        there = ""
    if not there:
        options |= {"include_dashboard": False, "object_store_memory": OBJECTS}
    try:
        ray.init(address=there or "local", **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"--ray {address}: the cluster takes no driver ({str(error).splitlines()[0]})") from error
    return ray


def _running() -> str:
    """The address of the cluster that this machine belongs to; "" where Ray's files name none."""
    if os.environ.get("RAY_ADDRESS"):
        return os.environ["RAY_ADDRESS"]
    file = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
    with suppress(OSError):
        return file.read_text().strip()  # of a cluster that was killed, it is still there
    return ""


def _answers(address: str) -> bool:
    """Says whether something listens at an address such as 10.0.0.1:6379 or ray://10.0.0.1:10001."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if address in ("auto", "local"):
        return True
    if not port.isdecimal() or not host:
        return False
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER):
            return True
    except (OSError, OverflowError):
        return False


def count_gpus(ray: Any) -> int:
    """The number of GPUs of the cluster."""
    return int(ray.cluster_resources().get("GPU", 0))
