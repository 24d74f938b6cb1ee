"""`rethink chat`: talk with a model in the terminal."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from rethink.cli.arguments import Verbs, add_as_is, add_engine, real, verb, whole

if TYPE_CHECKING:
    from rethink.chat.partner import ChatBackend

EXAMPLES = """\
  rethink chat                                              talk with the embedded model
  rethink chat --model runs/quickstart --system "Think first, in <think> and </think>."
  rethink chat --model model-q8_0.gguf --temperature 0
  rethink chat --model teacher --endpoint http://127.0.0.1:8000/v1
  echo "What is 3 + 4?" | rethink chat --json               one message per line, one JSON object per answer

In the conversation, /help lists the commands. Ctrl-C stops an answer, Ctrl-D leaves.
"""


def add_parser(verbs: Verbs) -> None:
    """Add the verb `chat`."""
    parser = verb(verbs, "chat", "talk with a model in the terminal", EXAMPLES, run)
    parser.add_argument(
        "--model",
        default="embedded",
        metavar="M",
        help="embedded, a hub id, a run folder, a model folder or a GGUF file; with --endpoint, a name there",
    )
    answers = parser.add_mutually_exclusive_group()
    answers.add_argument(
        "--endpoint",
        metavar="URL",
        help="use the model at an OpenAI-compatible endpoint; key in RETHINK_API_KEY or OPENAI_API_KEY",
    )
    add_engine(parser, answers)
    add_as_is(parser)
    parser.add_argument("--system", help="system message")
    parser.add_argument("--temperature", type=real(0), default=0.6, metavar="T", help="0 is greedy (default: 0.6)")
    parser.add_argument(
        "--top-p", type=real(0, 1, open_low=True), default=0.95, metavar="P", help="nucleus (default: 0.95)"
    )
    parser.add_argument("--top-k", type=whole(0), default=0, metavar="K", help="0 keeps every token (default: 0)")
    parser.add_argument(
        "--max-new-tokens", type=whole(1), default=2048, metavar="N", help="limit of an answer (default: 2048)"
    )
    parser.add_argument("--seed", type=whole(0), default=0, help="same seed, same answers (default: 0)")
    parser.add_argument("--json", action="store_true", help="read lines and print one JSON object per answer")


def run(args: argparse.Namespace) -> int:
    """Hold the conversation."""
    from rethink.chat.chat_session import Session
    from rethink.chat.lines import read_lines, talk, waiting
    from rethink.chat.partner import Settings
    from rethink.chat.screen import JsonScreen, PlainScreen, Screen, TerminalScreen

    settings = Settings(args.temperature, args.top_p, args.top_k, args.max_new_tokens, args.seed)
    with waiting(f"loading {args.model} …"):
        backend = open_chat(args.model, args.endpoint, args.engine, as_is=args.as_is)
    by_hand = sys.stdin.isatty() and sys.stdout.isatty() and not args.json
    screen: Screen = JsonScreen() if args.json else TerminalScreen() if by_hand else PlainScreen()
    session = Session(backend, screen, settings, args.system)
    if by_hand:
        context = "" if backend.context is None else f", context {backend.context:,} tokens"
        talk(session, f"{backend.name}{context}. /help lists the commands; Ctrl-C stops an answer, Ctrl-D leaves.")
    else:
        read_lines(session, sys.stdin)
    return 0


def open_chat(model: str, endpoint: str | None, engine: str, *, as_is: bool = False) -> ChatBackend:
    """The backend: a model loaded here, or one behind an endpoint."""
    if endpoint is not None:
        from rethink.chat.endpoint_partner import EndpointChat

        return EndpointChat(model, endpoint)
    from rethink.chat.partner import EngineChat
    from rethink.eval.backend import open_backend

    return EngineChat(open_backend(model, engine=engine, as_is=as_is))
