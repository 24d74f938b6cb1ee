"""From a model's name to a running server: what `rethink serve` does."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import uvicorn
from fastapi import FastAPI

from rethink.errors import ModelError, UsageError
from rethink.serve.app import make_app, make_service
from rethink.serve.connection import TimedProtocol, is_loopback
from rethink.serve.engine_thread import EngineThread, plan_server
from rethink.serve.request_reading import Prompter

GRACE_SECONDS = 10
"""Time that requests under way have after SIGTERM or Ctrl-C; then they are cut off."""
SWITCH_SECONDS = 0.0005
"""Longest wait of the engine's thread for the event loop to let go of the interpreter, instead of Python's 5 ms: it
takes the interpreter hundreds of times a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What `rethink serve` was asked for."""

    model: str
    """`embedded`, a hub id, a folder or a GGUF file."""
    host: str = "127.0.0.1"
    port: int = 8000
    """0: a free one."""
    api_key: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    """Names in the header `Host` beside this machine's own; they are looked at where only this machine reaches the
    address, or where some are given."""
    served_model_name: str | None = None
    """None: `model` as it was given."""
    max_queue: int = 256
    """Completions that may wait beside those that run."""
    max_concurrent: int = 64
    """Completions decoded at once."""
    max_model_len: int | None = None
    """Longest sequence; None: the model's context."""
    kv_budget_bytes: int | None = None
    """Memory for keys and values; None: a quarter of what is free."""
    as_is: bool = False
    """Whether conversations are rendered by the chat template, whatever the model was trained with."""


def serve(options: ServeOptions, started: Callable[[str], None]) -> None:
    """Load the model and serve it until SIGTERM or SIGINT; then requests under way may end.

    Args:
        options: see there.
        started: called with the URL once requests are taken.

    Raises:
        UsageError: the address cannot be had, or the model cannot be served as asked; before anything is loaded where
            that can be known.
    """
    with contextlib.closing(bind(options.host, options.port)) as listener:
        run_server(_in_a_thread(lambda: build_app(options)), listener, started)


def bind(host: str, port: int) -> socket.socket:
    """A socket at the address.

    Raises:
        UsageError: it is taken, or not of this machine.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"{host} port {port} cannot be listened on ({error}); give another --port (0 takes a free one), or another "
            "--host"
        ) from error
    return listener


def _in_a_thread(make: Callable[[], FastAPI]) -> FastAPI:
    """The result of a thread that ends. OpenMP keeps helpers for every thread that has computed; with more of them than
    cores, those of the engine's thread sleep between operations instead of waiting awake, and a step takes half again.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="loading") as pool:
        return pool.submit(make).result()


def build_app(options: ServeOptions) -> FastAPI:
    """Load the model into an engine and put the API before it.

    Raises:
        UsageError: the model cannot be found or read, is not of our decoder's family, or does not fit.
    """
    from rethink.machine.allocator import tune_allocator
    from rethink.machine.placement import Placement
    from rethink.model.loading import load_checkpoint
    from rethink.model.trained import renderer_of, trained_of

    tune_allocator()
    checkpoint = load_checkpoint(options.model)
    if checkpoint.config is None:
        raise ModelError(
            f"{options.model} cannot be served: {checkpoint.reason}; `rethink serve` needs a model of our decoder's "
            "family (Llama, Qwen2/2.5, Qwen3, Mistral). `rethink sample` and `rethink eval` take this model, slower"
        )
    from rethink.model.build import DTYPES
    from rethink.rollout.engines import open_engine
    from rethink.rollout.engines.torch import TorchEngine, context_of

    context = context_of(checkpoint.config)
    longest = options.max_model_len or context
    if longest > context:
        raise UsageError(
            f"--max-model-len {longest} is more than the context of {options.model}, which is {context}; give "
            f"{context} or less"
        )
    trained = trained_of(checkpoint, as_is=options.as_is)
    dtype = trained.dtype if trained else "auto"
    placement = Placement(dtype=dtype, kv_budget_bytes=options.kv_budget_bytes).decided()
    budget = placement.kv_budget_bytes or 0
    plan = plan_server(checkpoint.config, DTYPES[placement.dtype], budget, options.max_concurrent, longest)
    torch_engine = open_engine(checkpoint, placement, engine="torch").engine
    assert isinstance(torch_engine, TorchEngine)
    engine = EngineThread(torch_engine, plan, max_queue=options.max_queue, threads=placement.threads)
    name = options.served_model_name or options.model
    prompter = Prompter(
        checkpoint.tokenizer,
        name,
        longest,
        checkpoint.config.vocab_size,
        renderer_of(options.model, checkpoint.tokenizer, trained, context),
        trained.stop_strings if trained else (),
    )
    service = make_service(engine, prompter)
    checked = is_loopback(options.host) or options.allowed_hosts
    return make_app(service, options.api_key, (options.host, *options.allowed_hosts) if checked else None)


def run_server(app: FastAPI, listener: socket.socket, started: Callable[[str], None]) -> None:
    """Serve on a bound socket until a signal comes or `should_exit` is set."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        make_server(app, started).run(sockets=[listener])
    finally:
        sys.setswitchinterval(before)


def make_server(app: FastAPI, started: Callable[[str], None]) -> Server:
    """A server, not running yet."""
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        http=TimedProtocol,
    )
    return Server(config, started)


class Server(uvicorn.Server):
    """Uvicorn's, which says when it listens, and for which a signal to stop is no failure."""

    def __init__(self, config: uvicorn.Config, started: Callable[[str], None]):
        super().__init__(config)
        self._tell = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`."""
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            self._tell(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, without raising the signal again once everything has ended in order."""
        handled = (signal.SIGINT, signal.SIGTERM)
        try:
            before = {s: signal.signal(s, self.handle_exit) for s in handled}
        except ValueError:  # not the main thread, which alone gets signals
            before = {}
        try:
            yield
        finally:
            for s, handler in before.items():
                signal.signal(s, handler)
