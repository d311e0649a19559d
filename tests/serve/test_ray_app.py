"""The server on Ray Serve: what can be checked without a cluster."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the server's packages are not installed")

from sdxl.serve.main import main  # noqa: E402


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--ray",), "--ray needs --state FOLDER, which all replicas see"),
        (("--replicas", "2"), "--replicas: got 2, expected at least 1, and --ray"),
        (("--ray", "--replicas", "0"), "--replicas: got 0, expected at least 1, and --ray"),
    ],
)
def test_a_mistake_is_one_line(words: tuple[str, ...], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert sentence in capsys.readouterr().err


def test_sessions_are_pinned_and_what_is_too_much_is_429(tmp_path: Path) -> None:
    pytest.importorskip("ray.serve", reason="Ray Serve is not installed")
    from sdxl.serve.ray_app import LOOKS, application

    deployment = application(Namespace(most_waiting=64, state=tmp_path), (), 3, 3)._bound_deployment
    config = deployment._deployment_config
    assert config.num_replicas == 3 and deployment.ray_actor_options["num_gpus"] == 1
    assert config.backpressure_config.status_code == 429 and config.backpressure_config.retry_after_s
    assert config.max_ongoing_requests == 64 + LOOKS and config.max_queued_requests == 64
    router = config.request_router_config
    assert router.get_request_router_class().__name__ == "ConsistentHashRouter"
    assert router.request_router_kwargs == {"num_fallback_replicas": 0}
