"""Makes the tokenizer goldens: what llama.cpp's own tokenizer gives for the texts below.

Run it in a throw-away environment (it needs llama.cpp, which the project does not):

    python -m venv /tmp/goldens && /tmp/goldens/bin/pip install xllamacpp gguf tokenizers
    /tmp/goldens/bin/python make_tokenizer_goldens.py SMOLLM2.gguf [QWEN2.gguf]

It writes `vocabularies.json` (a small byte-level BPE and a small SentencePiece BPE, trained here on the texts) and
`llama_cpp.json` (token ids). The small vocabularies are put into GGUF files with random weights and each known
`tokenizer.ggml.pre`, so that every pre-tokenizer is checked without its own model.
"""

import json
import pathlib
import sys
import tempfile
import urllib.request

import gguf
import numpy as np
import xllamacpp
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).parent
PRE_TOKENIZERS = [
    "smollm",
    "starcoder",
    "refact",
    "gpt-2",
    "olmo",
    "default",
    "qwen2",
    "deepseek-r1-qwen",
    "llama-bpe",
    "llama3",
    "llama-v3",
    "tekken",
]
TEXTS = [
    "",
    " ",
    "Hello world",
    " leading and trailing  ",
    "What is 3 + 45 - 1234567890? 3.14159, 1,000,000.50 and 007",
    "12 123 1234 12345 123456 x1 2y a1b2c3 ½ ² ٣٤٥ Ⅷ 一二三 100%",
    "It's we're I'LL they'Ve don't 'tis 'S ’s can't've",
    "tabs\tand\nnewlines\n\n\nand \r\n windows\r\n  indented\n    code  \n \n",
    "def f(x):\n    return x**2 + 1  # square\n\n\tif x != 0 && y <= 1 || !z: pass",
    "数学题:小明有 15 个苹果,吃了 7 个,还剩几个?答案是8。",
    "中文与English混排123测试,標點符號！「引號」、。",
    "こんにちは世界 カタカナ 한국어 텍스트 Привет мир Ελληνικά العربية עברית हिन्दी ไทย",
    "emoji 😀👍🏽 👨‍👩‍👧‍👦 🇩🇪 ❤️ end",
    "café cafe\u0301 naïve Ångström ﬁ Ǆ ß İ",
    "<think> 2 + 2 = 4 </think> <answer> 4 </answer>",
    "\\boxed{\\frac{1}{2}} $x^2$ \\begin{align} a &= b \\\\ \\end{align}",
    "a" * 50 + " " * 20 + "b",
    "multiple   spaces    here     and\u00a0nbsp\u2003em\u3000ideographic\u200bzero",
    "CamelCase snake_case kebab-case SCREAMING_CASE iPhone XMLHttpRequest ÉCOLE École",
    "!!! ??? ... --- *** ### @@ ~~ `` ^^ || <> {} [] () \"quotes\" 'single'",
    "https://example.com/path?x=1&y=2#frag user@mail.org /usr/lib//x",
    "null\x00byte \x7f\x1b control \u0085 next",
    "The quick brown fox jumps over the lazy dog. " * 2,
    "End.\n\nUser: next question?\nAssistant:",
]
CHAT_TEXTS = ["<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n", "a <|endoftext|> b<|im_end|>"]


def train_byte_level() -> dict:
    """A small vocabulary whose merges cross the cuts of every pre-tokenizer, so that the cuts show in the ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s*\S{1,9}|\s+"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=1600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda entry: entry[1])]
    return {
        "tokens": tokens,
        "types": [3] * 3 + [1] * (len(tokens) - 3),
        "merges": [" ".join(m) for m in model["merges"]],
    }


def train_sentencepiece() -> dict:
    """A small vocabulary in SentencePiece's manner: bytes, merged pieces by score, single characters last."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(TEXTS[:8] * 3, trainers.BpeTrainer(vocab_size=700, show_progress=False))
    model = json.loads(tokenizer.to_str())["model"]
    merged = ["".join(merge) for merge in model["merges"]]
    merged = list(dict.fromkeys(piece for piece in merged))
    characters = [token for token in model["vocab"] if token not in merged]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *merged, *characters]
    types = [2, 3, 3, *[6] * 256, *[1] * (len(merged) + len(characters))]
    scores = [0.0] * 259 + [-float(i) for i in range(len(merged) + len(characters))]
    return {"tokens": tokens, "types": types, "scores": scores}


def write_tiny_gguf(path: pathlib.Path, vocabulary: dict, kind: str, pre: str) -> None:
    """One random layer around the vocabulary: llama.cpp wants a whole model."""
    size, width, heads = len(vocabulary["tokens"]), 32, 2
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(64)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(vocabulary["tokens"])
    writer.add_token_types(vocabulary["types"])
    if kind == "gpt2":
        writer.add_token_merges(vocabulary["merges"])
    else:
        writer.add_token_scores(vocabulary["scores"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    rng = np.random.default_rng(0)
    shapes = {"token_embd": (size, width), "output_norm": (width,), "output": (size, width)}
    block = {"attn_norm": (width,), "ffn_norm": (width,)}
    block |= dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (width, width))
    block |= {"ffn_gate": (64, width), "ffn_up": (64, width), "ffn_down": (width, 64)}
    for name, shape in (shapes | {f"blk.0.{name}": shape for name, shape in block.items()}).items():
        writer.add_tensor(f"{name}.weight", rng.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tokenize(path: pathlib.Path, texts: list[str]) -> list[list[int]]:
    """Ids from llama.cpp, special tokens in the text recognised, none added."""
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = 256
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = 1
    params.warmup = False
    params.port = 0
    server = xllamacpp.Server(params)
    ids = []
    for text in texts:
        body = json.dumps({"content": text, "add_special": False, "parse_special": True}).encode()
        request = urllib.request.Request(
            f"{server.listening_address}/tokenize", body, {"Content-Type": "application/json"}
        )
        ids.append(json.load(urllib.request.urlopen(request))["tokens"])
    return ids


def main() -> None:
    vocabularies = {"gpt2": train_byte_level(), "llama": train_sentencepiece()}
    (HERE / "vocabularies.json").write_text(json.dumps(vocabularies, ensure_ascii=False) + "\n")
    golden: dict = {"llama.cpp": f"xllamacpp {xllamacpp.__version__}", "texts": TEXTS + CHAT_TEXTS, "ids": {}}
    with tempfile.TemporaryDirectory() as folder:
        for kind, pres in (("gpt2", PRE_TOKENIZERS), ("llama", ["default"])):
            for pre in pres:
                path = pathlib.Path(folder) / f"{kind}-{pre}.gguf"
                write_tiny_gguf(path, vocabularies[kind], kind, pre)
                golden["ids"][f"{kind}/{pre}"] = tokenize(path, golden["texts"])
    for name, path in zip(("SmolLM2-135M-Instruct", "Qwen2.5-Coder-0.5B-Instruct"), sys.argv[1:], strict=False):
        golden["ids"][name] = tokenize(pathlib.Path(path), golden["texts"])
    lines = [f'"{key}": {json.dumps(value, ensure_ascii=False)}' for key, value in golden.items() if key != "ids"]
    lines.append('"ids": {\n' + ",\n".join(f' "{k}": {json.dumps(v)}' for k, v in golden["ids"].items()) + "\n}")
    (HERE / "llama_cpp.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
