"""Exported files in llama.cpp itself: the same tokens for the same text, and the same greedy tokens.

Needs llama-cpp-python (`pip install -e '.[llama]'`, which builds llama.cpp where the index has no wheel).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rethink.model.build import build_model
from rethink.model.decoder.decoder import Decoder
from rethink.model.decoder.packing import PackedGroup, pack
from rethink.model.gguf.vocabulary import TEXTS, gguf_fields
from rethink.model.gguf.writer import GgufType, write_gguf
from rethink.model.loading import Checkpoint, load_checkpoint
from tests.models import llama3_rope

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (pip install -e '.[llama]')")

QUESTIONS = (
    "What is 12 + 35?",
    "Why is the sky blue?",
    "Name three fruits.",
    "Write a haiku about the sea.",
    "Translate 'good morning' to French.",
    "Tom has 5 apples and gives 2 away. How many are left?",
    "What is the capital of Japan?",
    "Explain photosynthesis in one sentence.",
    "List the first ten prime numbers.",
    "Who wrote Hamlet?",
    "Give me a recipe for pancakes.",
    "What does `len([1, 2, 3])` return in Python?",
    "用中文说你好。",
    "How many days are there in a leap year?",
    "Is 91 a prime number? Think step by step.",
    "Sort these words: pear, apple, fig.",
    "What is a black hole?",
    "Summarise the story of Cinderella.",
    "Convert 100 kilometres to miles.",
    "Tell me a joke about computers. 🤖",
)
NEW_TOKENS = 32
TIE = 1e-4
"""Logits closer than this are a tie."""
ACTIVATIONS_IN_F16 = 0.1
"""For an F16 file llama.cpp rounds activations to F16 in each product, and we compute in float32 throughout."""


def export(checkpoint: Checkpoint, path: Path, dtype: GgufType) -> Path:
    assert checkpoint.config is not None
    fields, _ = gguf_fields(checkpoint.tokenizer, checkpoint.config.vocab_size, "test")
    write_gguf(path, checkpoint.config, checkpoint.tensors, fields, {"general.name": "test"}, dtype)
    return path


def opened(path: Path, **options: Any) -> Any:
    f32 = llama_cpp.GGML_TYPE_F32
    return llama_cpp.Llama(
        str(path), n_ctx=512, n_threads=1, n_threads_batch=1, type_k=f32, type_v=f32, verbose=False, **options
    )


@pytest.fixture(scope="module")
def f16(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Checkpoint, Any]]:
    """SmolLM2 through an exported F16 file: read by us, and opened in llama.cpp."""
    from rethink.model.embedded import INSTALL, embedded_installed

    if not embedded_installed():
        pytest.skip(f"the embedded model is not installed ({INSTALL})")
    folder = tmp_path_factory.mktemp("llama")
    path = export(load_checkpoint("embedded"), folder / "smollm2-f16.gguf", "f16")
    llama = opened(path)
    yield load_checkpoint(str(path), cache_dir=folder / "cache"), llama
    llama.close()


@pytest.mark.slow
def test_llama_cpp_tokenises_as_we_do(f16: tuple[Checkpoint, Any]) -> None:
    checkpoint, llama = f16
    for text in (*TEXTS, *QUESTIONS, "<|im_start|>user\nhi<|im_end|>\n"):
        assert llama.tokenize(text.encode(), add_bos=False, special=True) == checkpoint.tokenizer.encode(text)
    assert llama.metadata["tokenizer.chat_template"] == checkpoint.tokenizer.chat_template
    assert llama.token_eos() == checkpoint.tokenizer.eos_id


@pytest.mark.slow
def test_f16_gives_the_same_greedy_tokens(f16: tuple[Checkpoint, Any], record_property: Callable[..., None]) -> None:
    checkpoint, llama = f16
    model = build_model(checkpoint, "float32", "cpu")
    assert isinstance(model, Decoder)
    parted: list[tuple[str, int, float, float]] = []
    largest = 0.0
    for question in QUESTIONS:
        messages = [{"role": "user", "content": question}]
        prompt = checkpoint.tokenizer.encode(checkpoint.tokenizer.render_chat(messages, add_generation_prompt=True))
        tokens, theirs_TV = llama_greedy(llama, prompt, checkpoint.tokenizer.end_of_turn_ids)
        ours_TV = logits_after(model, prompt, tokens)
        largest = max(largest, float(np.abs(ours_TV - theirs_TV).max()))
        for place, token in enumerate(tokens):
            best = int(ours_TV[place].argmax())
            if best != token:
                gaps = (
                    float(ours_TV[place, best] - ours_TV[place, token]),
                    float(theirs_TV[place, token] - theirs_TV[place, best]),
                )
                parted.append((question, place, *gaps))
                break
    print(f"largest difference of a logit {largest:.4f}; parted: {parted}")
    assert largest < ACTIVATIONS_IN_F16
    assert all(min(ours, theirs) <= TIE for *_, ours, theirs in parted), parted


def llama_greedy(llama: Any, prompt: list[int], ends: frozenset[int]) -> tuple[list[int], NDArray[np.float32]]:
    """llama.cpp's greedy tokens, and the logits [T, V] that each was chosen from."""
    llama.reset()
    llama.eval(prompt)
    tokens: list[int] = []
    rows = []
    while len(tokens) < NEW_TOKENS and not (tokens and tokens[-1] in ends):
        rows.append(np.array(np.ctypeslib.as_array(llama._ctx.get_logits(), (llama.n_vocab(),))))
        tokens.append(int(rows[-1].argmax()))
        llama.eval([tokens[-1]])
    return tokens, np.stack(rows)


def logits_after(model: Decoder, prompt: list[int], tokens: list[int]) -> NDArray[np.float32]:
    """Our logits [T, V] at each token's place."""
    batch = pack([PackedGroup(tuple(prompt), [tokens])])
    with torch.no_grad():
        return np.asarray(model.logits(batch)[batch.head_rows_C].float().numpy())


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0"])
@pytest.mark.parametrize("family", ["llama", "llama3-rope", "qwen2", "qwen3", "mistral", "tied"])
def test_every_family_gives_the_logits_that_we_compute(
    tiny_folder: Callable[..., Path], tmp_path: Path, family: str, dtype: GgufType
) -> None:
    """Norms, biases, rotary order and scaling, untied heads: a mistake in any of them moves logits by far more."""
    architecture = family if family in ("qwen2", "qwen3", "mistral") else "llama"
    values: dict[str, Any] = {"hidden_size": 128 if family == "qwen2" else 64, "head_dim": 32, "intermediate_size": 96}
    if family == "llama3-rope":
        values["rope_parameters"] = llama3_rope(5e5)
    if family == "mistral":
        values["sliding_window"] = None
    folder = tiny_folder(architecture, tie_word_embeddings=family == "tied", **values)
    path = export(load_checkpoint(str(folder)), tmp_path / "m.gguf", dtype)
    llama = opened(path)
    checkpoint = load_checkpoint(str(path), cache_dir=tmp_path / "cache")
    model = build_model(checkpoint, "float32", "cpu")
    assert isinstance(model, Decoder)
    prompt = checkpoint.tokenizer.encode(TEXTS[0] + TEXTS[4])[:100]
    llama.eval(prompt)
    theirs_V = np.array(np.ctypeslib.as_array(llama._ctx.get_logits(), (llama.n_vocab(),)))
    ours_V = logits_after(model, prompt, [0])[0]
    llama.close()
    scale = float(np.abs(ours_V).max())
    assert float(np.abs(theirs_V - ours_V).max()) < {"f16": 0.01, "bf16": 0.05, "q8_0": 0.15}[dtype] * scale
