"""`sige-serve`: flags to a server that listens."""

from __future__ import annotations

import os
import socket
import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from sdxl.commands.memory import keep_freed_memory
from sdxl.commands.model_flags import add_defaults, add_weights, check_names
from sdxl.commands.parser import Parser
from sdxl.commands.parser import run as run_command
from sdxl.commands.ray_cluster import add_ray
from sdxl.commands.waiting import wait_shortly
from sdxl.errors import InputError
from sdxl.serve.build import keys_of, make_server
from sige.terminal import say

__all__ = ["main"]

PORT = 7860
LOOPBACK = ("127.0.0.1", "localhost", "::1")
EXAMPLES = """\
examples:
  sige-serve                                         the embedded model, or the weights in pretrained/
  sige-serve --weight_path sd_xl_base_1.0.safetensors --device cuda
  sige-serve --host 0.0.0.0 --api-key "$KEY"         for other machines
  sige-serve --ray --state /shared/sessions          a replica for each GPU of a Ray cluster
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0; 2 after one line that says what the user can mend; 130 after Ctrl-C."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if arguments is None:  # a process of our own
        keep_freed_memory()
        wait_shortly()
    return run_command(_serve, _parse, arguments, interrupted="stopped")


def _parse(arguments: Sequence[str] | None) -> Namespace:
    from argparse import RawDescriptionHelpFormatter

    parser = Parser(
        prog="sige-serve",
        description="Serves local image edits over HTTP: OpenAI's images API, sessions, and an editor in the browser.",
        epilog=EXAMPLES,
        formatter_class=partial(RawDescriptionHelpFormatter, width=118, max_help_position=32),
    )
    add = parser.add_argument_group("where").add_argument
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen on; others than loopback need --api-key (default: %(default)s)",
    )
    add("--port", type=int, default=PORT, help="0: any that is free (default: %(default)s)")
    add(
        "--api-key",
        action="append",
        default=[],
        metavar="KEY",
        help="clients must send one of these keys; SIGE_API_KEY",
    )
    add(
        "--state",
        type=Path,
        metavar="FOLDER",
        help="where sessions' pictures are kept (default: until the server ends)",
    )
    add("--open", action="store_true", help="open the editor in the browser, where the machine has a screen")
    add_ray(add, "a replica for each GPU")
    add("--replicas", type=int, metavar="N", help="with --ray: how many (default: the number of GPUs, or one)")
    add_weights(parser, "threads with models of their own (default: 1)")
    add_defaults(parser, "edits, where a client says nothing")
    add = parser.add_argument_group("limits").add_argument
    add("--most-waiting", type=int, default=64, metavar="N", help="edits in the queue (default: 64)")
    add("--most-waiting-of-key", type=int, default=16, metavar="N", help="of one key (default: 16)")
    add("--most-bytes", default="50MB", metavar="SIZE", help="of a request (default: 50MB)")
    add("--most-sessions", type=int, default=1000, metavar="N", help="default: 1000")
    add("--budget", default="8GiB", metavar="SIZE", help="of all sessions' recordings on a device (default: 8GiB)")
    given = parser.parse_args(arguments)
    _check(given)
    return given


def _check(given: Namespace) -> None:
    if given.host not in LOOPBACK and not keys_of(given):
        raise InputError(f"--host {given.host}: other machines could edit here: add --api-key KEY, or take 127.0.0.1")
    if not 0 <= given.port < 65536:
        raise InputError(f"--port: got {given.port}, expected a number from 0 to 65535")
    check_names(given)
    given.workers = 1 if given.workers is None else given.workers
    if given.replicas is not None and (given.ray is None or given.replicas < 1):
        raise InputError(f"--replicas: got {given.replicas}, expected at least 1, and --ray")
    for name in ("workers", "most_waiting", "most_waiting_of_key", "most_sessions"):
        if getattr(given, name) < 1:
            raise InputError(f"--{name.replace('_', '-')}: got {getattr(given, name)}, expected at least 1")


def _serve(given: Namespace) -> None:
    if given.ray is not None:
        from sdxl.serve.ray_app import serve_on_ray

        serve_on_ray(given)
        return
    try:
        import uvicorn

        from sdxl.serve.app import make_app
        from sdxl.serve.editor_files import open_browser
        from sdxl.serve.front.listening import connections
    except ImportError as error:
        raise InputError(f"the server needs more packages ({error}): pip install 'sige[serve]'") from error
    listening = _listen(given.host, given.port)
    try:
        server = make_server(given)
        address = f"http://{_shown(given.host)}:{listening.getsockname()[1]}"
        say(f"{server.model}: ready at {address}")
        if given.open:
            open_browser(address)
        app = make_app(server, keys=keys_of(given))
        config = uvicorn.Config(
            app,
            http=connections(server.limits.most_connections, server.limits.header_seconds),
            log_level="warning",
            timeout_keep_alive=15,
            timeout_graceful_shutdown=5,
        )
        running = uvicorn.Server(config)
        running.run(sockets=[listening])
        if running.started:  # only a signal ends it; the interrupt of a busy moment gets lost on its way here
            raise KeyboardInterrupt
    finally:
        listening.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(512)
    except OSError as error:
        listening.close()
        advice = "take another --port, or --port 0 for any that is free"
        raise InputError(f"{host}:{port}: cannot listen there ({error.strerror}): {advice}") from error
    return listening


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


if __name__ == "__main__":
    sys.exit(main())
