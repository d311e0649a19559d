"""Ray: the cluster that `--ray` means."""

from __future__ import annotations

from typing import Any

from sdxl.errors import InputError

__all__ = ["add_ray", "connect", "count_gpus"]

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
    try:
        try:
            ray.init(address=address or "auto", **options)
        except ConnectionError:
            if address:
                raise
            ray.init(include_dashboard=False, object_store_memory=OBJECTS, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(f"--ray {address}: no cluster answers there ({str(error).splitlines()[0]})") from error
    return ray


def count_gpus(ray: Any) -> int:
    """The number of GPUs of the cluster."""
    return int(ray.cluster_resources().get("GPU", 0))
