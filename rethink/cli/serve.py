"""`rethink serve`: an OpenAI-compatible server for one model."""

from __future__ import annotations

import argparse
import os
import sys

from rethink.cli.arguments import Verbs, add_as_is, real, verb, whole
from rethink.errors import UsageError, how_to_install
from rethink.terminal import say

EXAMPLES = """\
  rethink serve --model embedded
  rethink serve --model runs/quickstart/model --port 8080 --served-model-name quickstart
  RETHINK_API_KEY=… rethink serve --model Qwen/Qwen2.5-0.5B-Instruct --host 0.0.0.0 --api-key-env RETHINK_API_KEY
  rethink serve --model embedded --max-model-len 2048 --max-concurrent 32 --max-queue 100

  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{"model": "embedded", "messages": [{"role": "user", "content": "What is 3 + 4?"}]}'
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb `serve`."""
    parser = verb(verbs, "serve", "serve a model through an OpenAI-compatible API", EXAMPLES, run)
    parser.add_argument("--model", required=True, metavar="M", help="embedded, a hub id, a folder or a GGUF file")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=whole(0), default=8000, help="port; 0 picks a free one (default: 8000)")
    parser.add_argument("--served-model-name", metavar="NAME", help="name in requests (default: M as given)")
    parser.add_argument(
        "--api-key-env", metavar="NAME", help="environment variable with the key that clients must send (default: none)"
    )
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="accept this name in the header Host, in addition to this machine's own (may be repeated)",
    )
    parser.add_argument(
        "--max-concurrent", type=whole(1), default=64, metavar="N", help="completions decoded at once (default: 64)"
    )
    parser.add_argument(
        "--max-queue",
        type=whole(0),
        default=256,
        metavar="N",
        help="completions that may wait; more are refused with 429 (default: 256)",
    )
    parser.add_argument(
        "--max-model-len",
        type=whole(2),
        metavar="N",
        help="most tokens of prompt and completion together (default: the model's context)",
    )
    parser.add_argument(
        "--kv-budget-gb",
        type=real(0, open_low=True),
        metavar="G",
        help="memory for keys and values, in GiB (default: a quarter of what is free)",
    )
    add_as_is(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    key = _key(args.api_key_env)
    try:
        import fastapi
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UsageError(f"`rethink serve` needs {error.name}: {how_to_install('serve')}") from error
    del fastapi
    from rethink.serve.connection import is_loopback
    from rethink.serve.server import ServeOptions, serve

    options = ServeOptions(
        model=args.model,
        host=args.host,
        port=args.port,
        api_key=key,
        allowed_hosts=tuple(args.allowed_host),
        served_model_name=args.served_model_name,
        max_queue=args.max_queue,
        max_concurrent=args.max_concurrent,
        max_model_len=args.max_model_len,
        as_is=args.as_is,
        kv_budget_bytes=None if args.kv_budget_gb is None else int(args.kv_budget_gb * 2**30),
    )
    if key is None and not is_loopback(args.host):
        say(
            f"rethink serve: other machines can reach {args.host}, and no key is required; see --api-key-env",
            file=sys.stderr,
        )

    def started(url: str) -> None:
        name = options.served_model_name or options.model
        say(f"rethink serve: model {name} at {url}/v1 (Ctrl-C stops)", flush=True)

    serve(options, started)
    return 0


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UsageError(
            f"--api-key-env names {variable}, but that environment variable is empty or not set. Set it to the key "
            "that clients must send"
        )
    return key
