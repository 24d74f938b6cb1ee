"""The fields of a `config.json` by their kind, and what of them nothing computes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from rethink.errors import ModelError
from rethink.model.decoder.config import DecoderConfig
from rethink.model.notes import note_once

_READ = frozenset(
    "model_type vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads "
    "head_dim hidden_act rms_norm_eps rope_theta rope_scaling rope_parameters max_position_embeddings "
    "original_max_position_embeddings tie_word_embeddings attention_bias mlp_bias partial_rotary_factor "
    "sliding_window use_sliding_window max_window_layers layer_types per_layer_config quantization_config".split()
)
"""What `hf_config.py` reads."""
_ROPE_READ = frozenset(("rope_theta", "rope_type", "type", "partial_rotary_factor"))
_LLAMA3_READ = frozenset(("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"))
_WITHOUT_EFFECT = frozenset(
    "architectures _name_or_path name_or_path transformers_version dtype torch_dtype use_cache initializer_range "
    "attention_dropout pretraining_tp tokenizer_class auto_map _commit_hash is_decoder is_encoder_decoder "
    "return_dict output_hidden_states output_attentions torchscript use_bfloat16 tf_legacy_loss pruned_heads "
    "chunk_size_feed_forward id2label label2id num_labels problem_type finetuning_task prefix task_specific_params "
    "cross_attention_hidden_size add_cross_attention tie_encoder_decoder decoder_start_token_id sep_token_id "
    "bos_token_id eos_token_id pad_token_id unk_token_id max_length min_length do_sample early_stopping num_beams "
    "num_beam_groups diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty "
    "no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores "
    "return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values begin_suppress_tokens "
    "exponential_decay_length_penalty suppress_tokens attn_implementation _attn_implementation "
    "_attn_implementation_autoset _attn_implementation_internal experts_implementation _experts_implementation "
    "gradient_checkpointing max_sequence_length model_max_length attention_probs_dropout_prob hidden_dropout "
    "unsloth_version unsloth_fixed transformers.js_config".split()
)
"""Fields of any model's configuration that say nothing of how logits are made."""
_OTHER_COMPUTATION = re.compile(
    r"softcap|multiplier|logits?_scal|_bias$|experts|qk_?(layer_?)?norm|no_rope|alibi|parallel_(residual|att|block)"
    r"|clip_qkv|rotary|interleaved|chunk_size|temperature_tuning|sinks?$|bidirectional|query_pre_attn"
    r"|scale_(emb|depth)|rope_scal|rope_local|4_scaling"
)
"""Names by which the configurations of other families ask for something that this one does not compute."""
_NEUTRAL_IN = {"qwen2": {"qkv_bias"}, "qwen3": {"use_qk_norm", "qk_norm"}}
"""What such a field asks for is what these compute anyway."""
_SHOWN = 8


class Fields:
    """Typed look-ups; what is of the wrong kind is refused by name.

    Args:
        values: an object of the file.
        source: what it is, for messages: "config.json of NAME".
    """

    def __init__(self, values: Mapping[str, Any], source: str):
        self.values, self.source = values, source

    def given(self, key: str) -> bool:
        """Whether the field is there and not null."""
        return self.values.get(key) is not None

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number; `default` where it is missing or null."""
        value = self.values.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.bad(key, "a whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number; `default` where it is missing."""
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300 or math.isnan(value):
            raise self.bad(key, "a finite number")
        return float(value)

    def boolean(self, key: str) -> bool:
        """True or false; false where it is missing or null."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.bad(key, "true or false")
        return bool(value)

    def texts(self, key: str) -> list[str] | None:
        """A list of texts; None where it is missing or null."""
        value = self.values.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(entry, str) for entry in value)):
            raise self.bad(key, "a list of texts")
        return value

    def bad(self, key: str, wanted: str) -> ModelError:
        """The error that says what a field must be."""
        if not self.given(key):
            return ModelError(f"{self.source} has no `{key}`, which must be {wanted}; download the model again")
        return ModelError(
            f"{self.source} has {str(self.values[key])[:60]!r} as `{key}`, which must be {wanted}; "
            "correct it, or download the model again"
        )


def check_fields(fields: Fields, rope: Fields, config: DecoderConfig) -> None:
    """Refuse fields that ask for another computation; name on standard error the others that nothing reads.

    Args:
        fields: of the file.
        rope: the rotary keys that were read.
        config: what was made of them.

    Raises:
        ModelError: naming the field.
    """
    if fields.values.get("is_causal") is False:
        raise ModelError(f"{fields.source} has `is_causal` false: a model that sees what follows cannot write text")
    neutral = _NEUTRAL_IN.get(config.architecture, set())
    known = _READ | _WITHOUT_EFFECT | neutral | {"is_causal"}
    unread = {key: value for key, value in fields.values.items() if key not in known}
    known_in_rope = _ROPE_READ | (_LLAMA3_READ if config.rope_scaling is not None else frozenset())
    unread |= {f"rope {key}": value for key, value in rope.values.items() if key not in known_in_rope}
    unread = {key: value for key, value in unread.items() if not is_neutral(value)}
    for key, value in unread.items():
        if _OTHER_COMPUTATION.search(key):
            raise ModelError(
                f"{fields.source} has `{key}` {str(value)[:60]}, which models of type {config.architecture} do not "
                "compute: it belongs to another architecture. Correct `model_type`, or remove the field if the model "
                "was trained without it"
            )
    losing = fields.values.get("rope_parameters")
    if fields.values.get("rope_scaling") and losing and losing != rope.values:
        unread["rope_parameters"] = losing  # transformers takes rope_scaling alone
    if unread:
        names = sorted(unread)
        rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        shown = ", ".join(repr(name[:60]) for name in names[:_SHOWN])
        note_once(f"{fields.source} has fields that are not used: {shown}{rest}")


def is_neutral(value: Any) -> bool:
    """Whether a field with this value asks for nothing: off, null, empty, or a factor of one."""
    return value is None or value is False or value in ("", [], {}) or (type(value) in (int, float) and value in (0, 1))
