"""An engine fails while the trainer that sends to it waits for it, as in a broadcast of NCCL."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest
import ray
from ray.actor import ActorHandle

from rto.cluster.actors import EngineActor
from rto.cluster.groups import ActorGroup, RemoteCall, Watch, remote
from rto.errors import ProofError, RunFailed
from rto.rollout.engine import ReceivingEngine

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (MemoryError("no room for 'a'"), RunFailed, r"actor engine\[0\] failed: .*no room for 'a'"),
        (ProofError("tensor 'a' came twice"), ProofError, "^tensor 'a' came twice$"),
    ],
)
def test_its_words_end_the_run(
    cluster: None, error: Exception, kind: type[Exception], said: str
) -> None:
    """The trainer never answers; without the engine's words the wait ends after 300 s."""

    class Receives(ReceivingEngine):
        def update_weights(self, request: Any) -> None:
            raise error

    class Engine(EngineActor):
        def __init__(self) -> None:
            self.engine = Receives()  # pyright: ignore[reportAbstractUsage]

    class Trainer:
        def send_weights(self, engine: Any) -> None:
            engine.update_weights.remote(None)
            threading.Event().wait()

    engine, trainer = (cast(ActorHandle, ray.remote(kept).remote()) for kept in (Engine, Trainer))
    watch = Watch()
    watch.add("engine[0]", engine, remote(EngineActor.tell_failure))
    watch.add("policy[0]", trainer)
    pending = ActorGroup("policy", [trainer], 300.0, watch).all(
        RemoteCall[None]("send_weights", (engine,), {})
    )
    with pytest.raises(kind, match=said):
        pending.get()
    for actor in (engine, trainer):
        ray.kill(actor)
