"""The server on Ray Serve: a replica on each GPU, each session on one replica. `sige-serve --ray` starts it.

client ─ x-session-id ─▶ Ray's proxy ─ consistent hash ─▶ replica: Server ─▶ its GPU
                                                             └ pictures and history ─▶ --state, which all replicas see

A replica that dies costs its sessions their recordings: the next edit of each is a first one, on another replica.
"""

from __future__ import annotations

import logging
from argparse import Namespace
from threading import Event
from time import monotonic, sleep
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from sdxl.commands.ray_cluster import connect, count_gpus
from sdxl.errors import InputError
from sdxl.serve.build import keys_of, make_server
from sige.terminal import say

__all__ = ["SESSION_HEADER", "application", "serve_on_ray"]

SESSION_HEADER = "x-session-id"  # a session's id; without it, a request goes to any replica
NAME = "sige"
LOOKS = 32  # requests of a replica beside its edits: pictures, histories, commits
PROXY = 30.0  # seconds that a proxy may take to begin
RETRY = 5  # seconds that a client is told to wait
ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"


def serve_on_ray(given: Namespace) -> None:
    """Serves until Ctrl-C. The application goes when this process ends; the cluster stays."""
    if given.state is None:
        raise InputError("--ray needs --state FOLDER, which all replicas see: there the sessions' pictures are kept")
    given.state.mkdir(parents=True, exist_ok=True)
    given.state = given.state.absolute()
    keys = keys_of(given)
    ray = connect(given.ray)
    try:
        from ray import serve
    except ImportError as error:
        raise InputError(f"--ray needs Ray Serve ({error}): pip install 'sige[ray,serve]'") from error
    gpus = count_gpus(ray)
    replicas = given.replicas or gpus or 1
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    is_ours = not serve.status().proxies  # else other applications run on this cluster, behind the same proxies
    serve.start(http_options={"host": given.host, "port": given.port})
    try:
        _check_address(given.host, given.port)
        serve.run(application(given, keys, replicas, gpus), name=NAME, route_prefix="/")
        say(f"{replicas} replicas, ready at http://{given.host}:{given.port}")
        Event().wait()
    except KeyboardInterrupt:
        say("stopped: the sessions are kept")
    finally:
        if is_ours:
            serve.shutdown()
        else:
            serve.delete(NAME)


def _check_address(host: str, port: int) -> None:
    """Refuses an address where no proxy answers: the first application of a cluster decides where they listen."""
    end = monotonic() + PROXY
    while True:
        try:
            with urlopen(f"http://{host}:{port}/-/healthz", timeout=5):  # Ray's own
                return
        except HTTPError:  # it answers: there is no application yet
            return
        except OSError as error:
            if monotonic() > end:
                raise InputError(
                    f"--port {port}: no proxy of Ray Serve answers there ({error}): where the cluster serves already, "
                    "take the address of its proxies"
                ) from error
            sleep(0.2)


def application(given: Namespace, keys: tuple[str, ...], replicas: int, gpus: int) -> Any:
    """The deployment, bound to the flags."""
    from ray import serve
    from ray.serve.config import BackpressureConfig, RequestRouterConfig

    replica = serve.deployment(
        name=NAME,
        num_replicas=replicas,
        ray_actor_options={"num_cpus": 1, "num_gpus": 1 if gpus else 0},
        max_ongoing_requests=given.most_waiting + LOOKS,  # the server's own queue answers 429 before
        max_queued_requests=given.most_waiting,  # at a proxy, while the session's replica takes no more
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=RETRY),
        request_router_config=RequestRouterConfig(
            request_router_class=ROUTER, request_router_kwargs={"num_fallback_replicas": 0}
        ),
        health_check_period_s=10,
        graceful_shutdown_timeout_s=60,  # an edit ends
    )(serve.ingress()(_Replica))
    one = Namespace(**{**vars(given), "workers": 1})
    return replica.bind(one, keys)


class _Replica:
    """One server with one worker, on the device that Ray gives it."""

    def __init__(self, given: Namespace, keys: tuple[str, ...]) -> None:
        self._server = make_server(given)
        self._keys = keys

    def __serve_build_asgi_app__(self) -> Any:  # noqa: N807  # Ray's name
        from sdxl.serve.app import make_app

        return make_app(self._server, keys=self._keys)

    def check_health(self) -> None:
        """Ray begins another replica where this raises."""
        if not self._server.is_healthy:
            raise RuntimeError("a worker has stopped")
