"""An engine of another package, in one file: it says back the end of the prompt, in an order that the seed decides."""

import random

import numpy as np

from rethink.model.build import build_model
from rethink.rollout.engine import RolloutEngine
from rethink.rollout.engines import Engine, Opening
from rethink.types import Completion


class EchoEngine(RolloutEngine):
    def __init__(self, opening: Opening):
        super().__init__()
        self.model, self.context, self._decode = opening.model, 256, opening.checkpoint.tokenizer.decode

    def _step(self) -> bool:
        if not self._queue:
            return False
        key, request = self._queue.popleft()
        for sample, seed in enumerate(request.seeds):
            ids = list(request.prompt_ids[-request.params.max_new_tokens :])
            random.Random(seed).shuffle(ids)
            told = np.full(len(ids), -1.0, np.float32)
            done = Completion(np.array(ids, np.int32), self._decode(ids), told, told, "length", version=self.version)
            self._finish(key, sample, done)
        return True


ENGINE = Engine(
    name="echo",
    open=EchoEngine,
    build=lambda checkpoint, placement, _: build_model(checkpoint, placement.dtype, placement.device),
)
