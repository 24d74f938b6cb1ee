"""Tokens a second of `rethink serve` with 32 streams at once, beside the same engine offline; time to first token.

python benchmarks/serve.py --json                  32 clients, 4 requests each, 128 tokens a request
python benchmarks/serve.py --clients 8 --runs 1

Both sides draw the same tokens from the same prompts with the same seeds. A client sends its next request as soon as
the last one has ended, so first tokens are waited for while others stream. "peer" is the engine offline, "ratio" the
share of its speed that the server reaches.
"""

import asyncio
import json
import subprocess
import sys
import time
import urllib.parse

import common

sys.path.insert(0, str(common.HERE / "peers"))
from rollout_job import options, prompts


def job(a):
    """(prompt ids, seed) of each request; every prompt is another one."""
    from rethink.model.loading import load_checkpoint

    tokenizer = load_checkpoint("embedded").tokenizer
    a.distinct, a.samples = True, -(-a.clients * a.rounds // 4)
    ids = prompts(tokenizer.encode, a)[: a.clients * a.rounds]
    return tokenizer, [(tuple(p), 1000 + i) for i, p in enumerate(ids)]


def offline(a) -> None:
    """The engine alone, in a process of its own: the second of two runs counts."""
    from rethink.machine.placement import Placement
    from rethink.rollout.engines import open_engine
    from rethink.types import GenerationRequest, SamplingParams

    tokenizer, asked = job(a)
    placement = Placement(device="cpu", kv_budget_bytes=2 << 30)
    engine = open_engine("embedded", placement, max_concurrent=a.clients).engine
    stops = tuple(sorted(tokenizer.end_of_turn_ids))
    params = SamplingParams(temperature=1.0, max_new_tokens=a.new_tokens, stop_token_ids=stops)
    requests = [GenerationRequest(ids, (seed,), params) for ids, seed in asked]
    engine.generate(requests[: a.clients])
    started = time.perf_counter()
    groups = engine.generate(requests)
    seconds = time.perf_counter() - started
    tokens = sum(len(completion.token_ids) for group in groups for completion in group)
    print(json.dumps({"tokens_per_s": tokens / seconds, "tokens": tokens}))


def served(a) -> None:
    """The server in a process of its own, its clients in this one: the second of two runs counts."""
    _, asked = job(a)
    command = [sys.executable, "-m", "rethink", "serve", "--model", "embedded", "--port", "0"]
    command += ["--max-model-len", str(a.max_model_len), "--kv-budget-gb", "2"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = server.stdout.readline()
        if " at http" not in line:
            raise RuntimeError(f"the server did not start: {line!r}")
        address = urllib.parse.urlsplit(line.split(" at ")[1].split()[0])
        asyncio.run(clients(address, asked[: a.clients], a))
        started = time.perf_counter()
        found = asyncio.run(clients(address, asked, a))
        seconds = time.perf_counter() - started
    finally:
        server.terminate()
        server.wait(60)
    tokens, first = sum(f[0] for f in found), sorted(f[1] for f in found)
    p50, p99 = (first[min(int(len(first) * p), len(first) - 1)] for p in (0.5, 0.99))
    print(json.dumps({"tokens_per_s": tokens / seconds, "tokens": tokens, "ttft_p50_s": p50, "ttft_p99_s": p99}))


async def clients(address, asked, a):
    """(tokens, seconds to the first one) of each request."""
    left, found = list(asked)[::-1], []

    async def client() -> None:
        while left:
            found.append(await stream(address, *left.pop(), a.new_tokens))

    await asyncio.gather(*(client() for _ in range(a.clients)))
    return found


async def stream(address, ids, seed, new_tokens):
    """One request, read with as little work as possible: the clients share the machine with the server."""
    body = {"model": "embedded", "prompt": ids, "seed": seed, "max_tokens": new_tokens, "stream": True}
    content = json.dumps(body | {"stream_options": {"include_usage": True}}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    started, first, last = time.perf_counter(), None, b""
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(head.encode() + content)
    while chunk := await reader.read(1 << 16):
        if first is None and b"data: " in chunk:
            first = time.perf_counter() - started
        last = last[-4096:] + chunk
    writer.close()
    if first is None or b"data: [DONE]" not in last:
        raise RuntimeError(f"the server answered: {last.decode()[-500:]}")
    line = next(li for li in reversed(last.split(b"\n")) if li.startswith(b"data: {"))
    return json.loads(line.removeprefix(b"data: "))["usage"]["completion_tokens"], first


def main() -> None:
    parser = options(common.parser(__doc__))
    parser.add_argument("--clients", type=int, default=32, help="streams at once (default: 32)")
    parser.add_argument("--rounds", type=int, default=4, help="requests of each client (default: 4)")
    parser.add_argument("--measure", choices=["serve", "offline"], help="one measurement of a side")
    a = parser.parse_args()
    if a.measure:
        served(a) if a.measure == "serve" else offline(a)
        return
    command = [sys.executable, __file__, "--clients", a.clients, "--rounds", a.rounds, "--new-tokens", a.new_tokens]
    command += ["--prompt-tokens", a.prompt_tokens, "--max-model-len", a.max_model_len, "--measure"]
    series = common.alternate(
        a.runs, lambda: common.run_json([*command, "serve"]), lambda: common.run_json([*command, "offline"])
    )
    common.finish(
        "serve", series, "tokens_per_s", a, unit="tokens/s", higher_is_better=True,
        also=["ttft_p50_s", "ttft_p99_s", "tokens"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
