"""A tiny model behind the API, in this process: by requests without a network, or on a port of this machine."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

import torch
import transformers
from starlette.testclient import TestClient

from rethink.model.build import build_model
from rethink.model.decoder.decoder import Decoder
from rethink.model.loading import Checkpoint, load_checkpoint
from rethink.model.tokenizer.tokenizer import Tokenizer
from rethink.rollout.engines.torch import TorchEngine
from rethink.serve.app import Service, make_app, make_service
from rethink.serve.engine_thread import EngineThread, plan_server
from rethink.serve.request_reading import Prompter
from rethink.serve.server import bind, make_server
from tests.models import SHAPE

MODEL = "tiny"
CONTEXT = 256


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, small_tokenizer: Tokenizer) -> tuple[Checkpoint, Decoder]:
    """Random weights and the small tokenizer, in fp32."""
    folder: Path = tmp_path_factory.mktemp("serve") / "tiny"
    config = transformers.LlamaConfig(
        **(SHAPE | {"vocab_size": small_tokenizer.vocab_size, "max_position_embeddings": CONTEXT})
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    small_tokenizer.save(folder)
    checkpoint = load_checkpoint(str(folder))
    built = build_model(checkpoint, "float32", "cpu")
    assert isinstance(built, Decoder)
    return checkpoint, built


@pytest.fixture
def make(tiny: tuple[Checkpoint, Decoder]) -> Callable[..., Service]:
    """Makes a service of the tiny model; its engine is not started."""
    checkpoint, model = tiny

    def service(max_concurrent: int = 16, max_queue: int = 64, kv_budget: int = 64 << 20) -> Service:
        plan = plan_server(model.config, model.dtype, kv_budget, max_concurrent, CONTEXT)
        engine = EngineThread(TorchEngine(model, checkpoint.tokenizer.decode), plan, max_queue=max_queue, threads=1)
        return make_service(engine, Prompter(checkpoint.tokenizer, MODEL, CONTEXT, model.config.vocab_size))

    return service


@pytest.fixture
def service(make: Callable[..., Service]) -> Service:
    return make()


@pytest.fixture
def client(service: Service) -> Iterator[TestClient]:
    with TestClient(make_app(service), raise_server_exceptions=False) as client:
        yield client


@dataclass
class Live:
    """A server on a port."""

    url: str
    service: Service

    def idle(self) -> bool:
        """Whether nothing at all is left of any request."""
        engine, counts = self.service.engine, self.service.engine.counts()
        left = counts["running"] or counts["waiting"] or counts["pages_free"] != counts["pages"]
        return not (left or engine._tickets or engine._places or engine._cancelled)


@contextlib.contextmanager
def live_server(service: Service, **options: Any) -> Iterator[Live]:
    """The service on a free port, in a thread."""
    there, urls = threading.Event(), []

    def started(url: str) -> None:
        urls.append(url)
        there.set()

    with contextlib.closing(bind("127.0.0.1", 0)) as listener:
        server = make_server(make_app(service, **options), started)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert there.wait(60)
            yield Live(urls[0], service)
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


@pytest.fixture
def live(service: Service) -> Iterator[Live]:
    with live_server(service) as live:
        yield live
