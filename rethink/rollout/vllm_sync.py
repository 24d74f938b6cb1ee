"""How vLLM takes over the policy's weights: a backend of its weight-transfer protocol, for a trainer in its process.

    start_weight_update ─► update_weights(name, tensor, …) ─► finish_weight_update ─► reset of the prefix cache

Between start and finish vLLM's layers have no weights, so nothing may be sampled. Tensors are handed over as they are,
on whatever device: nothing is sent, and vLLM copies them into its own layout.

Imports vLLM: only where an engine of it is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

BACKEND = "rethink"
"""Its name within vLLM."""


@dataclass
class Nothing(WeightTransferInitInfo):  # type: ignore[misc]  # vLLM has no type information
    """There is nobody to meet."""


@dataclass
class Handed(WeightTransferUpdateInfo):  # type: ignore[misc]
    """All weights, by their names in a checkpoint."""

    weights: Mapping[str, Tensor]


class InProcess(WeightTransferEngine):  # type: ignore[misc]
    """See vLLM's `WeightTransferEngine`. vLLM makes it, and calls it."""

    init_info_cls, update_info_cls = Nothing, Handed

    def init_transfer_engine(self, init_info: Nothing) -> None:
        """There is nothing to prepare."""

    def start_weight_update(self) -> None:
        """Take the layers apart; they keep their storage."""
        self._wanted = {name for name, _ in self.model.named_parameters()}  # a tied head is the embedding's tensor
        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: Handed) -> None:
        """Load all weights.

        Raises:
            RuntimeError: some of the model's own are not among them.
        """
        taken = self.model.load_weights(update_info.weights.items())
        if taken is not None and (left := sorted(self._wanted - set(taken))):
            raise RuntimeError(f"{len(left)} of its weights were not handed over, such as {left[0]}")

    def finish_weight_update(self) -> None:
        """Put the layers together. A head that is tied to the embedding gets no weights, so that vLLM would keep what
        it has packed of the earlier ones (its build for processors): it is packed again.
        """
        finalize_layerwise_reload(self.model, self.model_config)
        for module in self.model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)

    def shutdown(self) -> None:
        """There is nothing to let go."""


def register() -> None:
    """Make the backend known to vLLM; once a process."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, InProcess)


def hand_over(llm: Any, weights: Mapping[str, Tensor]) -> None:
    """Make these the weights of a `vllm.LLM`; nothing may be under way in it.

    Args:
        llm: made with the backend.
        weights: all of the model, by their names in a checkpoint.

    Raises:
        RuntimeError: vLLM does not take them, or does not forget what it has cached; it cannot be used any more.
    """
    llm.start_weight_update()
    llm.update_weights({"update_info": {"weights": weights}})
    llm.finish_weight_update()
    if llm.reset_prefix_cache() is False:
        raise RuntimeError("it did not reset its prefix cache, so it would mix two versions of the weights")
