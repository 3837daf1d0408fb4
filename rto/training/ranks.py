"""One rank from a configuration: model, engine, trainer, and what leaves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers import PreTrainedModel

from rto.crash import crash_point
from rto.errors import ProofError
from rto.models.device import dtype_of, empty_cache, resolve_device
from rto.models.export import save_pretrained
from rto.models.families import load_critic, load_policy
from rto.models.heads import PromptValue, SequenceReward, TokenValue
from rto.models.load import Loading, load_scalar_model, load_tokenizer
from rto.models.policy import Policy, unwrapped
from rto.models.sequence import SequenceRanks
from rto.models.trained_with import keep_trained_with
from rto.protocols import Method, Output
from rto.sections.run_config import RunConfig
from rto.sections.training import Trained
from rto.storage import drafted, writing
from rto.training.deepspeed import ZeroEngine, init_process_group
from rto.training.engine_settings import EngineSettings
from rto.training.learner import (
    CriticTrainer,
    Objective,
    PolicyTrainer,
    RankTrainer,
    ScoreTrainer,
)
from rto.training.writer import FileWriter, Fingerprint
from rto.types import LossNorm, StepStats, TokenBatch, TrainBatch
from rto.weights.digest import DigestRecorder, TensorDigests

if TYPE_CHECKING:
    from peft import PeftModel

Kind = Literal["policy", "critic", "score"]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class RankPlace:
    """Where a rank stands among those of its model. ``device`` is "cpu" or "cuda"."""

    rank: int
    num_ranks: int
    rendezvous: tuple[str, int]
    device: str


class Rank:
    """One rank of a policy, critic or reward model. Every method is collective."""

    def __init__(
        self,
        kind: Kind,
        model_path: str,
        config: RunConfig,
        place: RankPlace,
        *,
        total_steps: int,
        value_constants: tuple[float, float] = (0.0, 1.0),
        extras: frozenset[Output] = frozenset(),
        engine_extras: Mapping[str, object] | None = None,
    ) -> None:
        """``extras``: what the methods will read of a policy's forward beside log-probs.
        ``engine_extras``: see ``rto.sections.deepspeed_file``."""
        self.config = config
        self.place = place
        self.sent_digests: TensorDigests = {}
        self._tokenizer = load_tokenizer(model_path, chat_template=config.data.chat_template)
        host, port = place.rendezvous
        init_process_group(
            rank=place.rank,
            world_size=place.num_ranks,
            master_addr=host,
            master_port=port,
            timeout=config.ds.timeout,
            device=place.device,
        )
        torch.manual_seed(config.train.seed)
        device = resolve_device("cpu" if place.device == "cpu" else "cuda")
        module, model = build_module(
            kind, model_path, config, value_constants, value_head="value" in extras, device=device
        )
        size = config.ds.sequence_parallel_size
        sequence = None
        if size > 1:
            sequence = SequenceRanks.of_this_rank(size, timeout=config.ds.timeout)
            module.share(sequence)
        section = config.critic if kind == "critic" else config.actor
        settings = engine_settings(
            section,
            config,
            device=str(device),
            total_steps=total_steps,
            extras=engine_extras or {},
        )
        self._model = model
        self._writer = FileWriter()
        self._dtype = dtype_of(config.ds.dtype)
        engine = ZeroEngine(module, settings=settings, exported=model)
        reference = None
        if "reference_kl" in extras:
            reference = load_reference(module, model_path, config, engine.device)
            if sequence is not None and reference is not module:
                reference.share(sequence)
        self.trainer: RankTrainer = build_trainer(kind, engine, config, reference, module.packs)

    @property
    def packs(self) -> bool:
        """Whether the model reads rows without padding: its micro-batches then hold more."""
        return self.trainer.packs

    def update(
        self,
        method: Method,
        batch: TrainBatch,
        steps: Sequence[Sequence[Sequence[int]]],
        norms: Sequence[LossNorm],
        extra: Objective | None = None,
        *,
        single_step: bool = False,
    ) -> StepStats:
        temperature = self.config.rollout.temperature
        objective = Objective(method, batch, steps, norms, temperature=temperature)
        objectives = [objective] if extra is None else [objective, extra]
        stats = self.trainer.update(*objectives, single_step=single_step)
        # The engine that shares this GPU needs the room that activations took.
        empty_cache(self.trainer.engine.device)
        return stats

    def score(self, tokens: TokenBatch, *, temperature: float | None = None) -> Tensor:
        return self.trainer.score(
            tokens,
            max_tokens=self.config.rollout.max_tokens_per_gpu
            * self.config.ds.sequence_parallel_size,
            temperature=self.config.rollout.temperature if temperature is None else temperature,
        )

    def export_weights(self) -> dict[str, Tensor]:
        """Whole tensors by name, in the engine's dtype, and their digests: on rank 0 alone."""
        recorder = DigestRecorder()
        weights: dict[str, Tensor] = {}
        for name, tensor in self.trainer.engine.named_full_parameters():
            if self.place.rank == 0:
                weights[name] = tensor.to("cpu", self._dtype, copy=True)
        for _ in recorder.tee(weights.items()):
            pass
        self.sent_digests = recorder.digests
        return weights

    def init_weight_transfer(
        self, engines: Sequence[object], transport: Literal["nccl", "ipc"], num_workers: int
    ) -> None:
        """Connect to the engines by vLLM's weight transfer."""
        from rto.rollout.vllm.sender import WeightSender, WeightStream

        engine = self.trainer.engine
        shapes = [
            (name, self._dtype, tuple(tensor.shape))
            for name, tensor in engine.named_full_parameters()
        ]
        stream = WeightStream(
            shapes,
            lambda: ((n, t.to(self._dtype)) for n, t in engine.named_full_parameters()),
            compared=self.place.rank == 0,
        )
        self._sender = WeightSender(
            transport,
            engines,
            rank=self.place.rank,
            weights=stream,
            num_workers=num_workers,
            master_address=self.place.rendezvous[0],
        )

    def send_weights(self) -> None:
        self.sent_digests = self._sender.send()
        if self.place.rank == 0 and not self.sent_digests:
            raise ProofError("weight sync: the trainer sent no tensor")

    def close(self) -> None:
        """Give the memory back; the process group stays, for the rank that comes next."""
        self.trainer.engine.close()

    def save(self, folder: str, tag: str, *, behind: bool = False) -> None:
        """``behind``: it is written while the rank goes on, until ``written`` tells."""
        with writing(Path(folder).parent):
            if behind:
                self._writer.start(self.trainer.snapshot(Path(folder), tag))
            else:
                self.trainer.save(Path(folder), tag)

    def written(self) -> dict[str, Fingerprint] | None:
        """This rank's files of the last ``save`` behind it, by path; None while they are not all
        on the disk."""
        return self._writer.written()

    def load(self, folder: str, tag: str) -> None:
        self.trainer.load(Path(folder), tag)

    def export(self, folder: str) -> None:
        """A directory that ``from_pretrained`` loads; replaces an older one as a whole.

        Raises:
            TrainingDiverged: the weights are not finite; the older one stays.
        """
        self.trainer.engine.check_finite(f"{folder} was written")
        state = {
            name: tensor.to("cpu", self._dtype, copy=True)
            for name, tensor in self.trainer.named_weights()
            if self.place.rank == 0
        }
        if self.place.rank == 0:
            with drafted(Path(folder)) as draft:
                save_pretrained(unwrapped(self._model), self._tokenizer, state, draft)
                crash_point("export.before_rename")
        dist.barrier()


def build_module(
    kind: Kind,
    path: str,
    config: RunConfig,
    constants: tuple[float, float],
    *,
    value_head: bool = False,
    device: torch.device = CPU,
) -> tuple[Policy | TokenValue | PromptValue | SequenceReward, PreTrainedModel | PeftModel]:
    """The module that the engine trains, and the Hugging Face model inside it: on ``device``, but
    for ZeRO-3, which takes a model apart that need not fit there whole."""
    section = config.critic if kind == "critic" else config.actor
    common: Loading = {
        "dtype": dtype_of(config.ds.dtype),
        "attn_implementation": config.ds.attn_implementation,
        "max_len": config.data.max_len,
        "lora": config.ds.lora,
        "load_in_4bit": config.ds.load_in_4bit,
        "gradient_checkpointing": section.gradient_checkpointing_enable,
        "device": CPU if config.ds.zero_stage == 3 else device,
    }
    if kind == "policy":
        module = load_policy(path, value_head=value_head, **common)
    elif kind == "critic":
        module = load_critic(path, constants=constants, **common)
    else:
        module = SequenceReward(load_scalar_model(path, new_head=True, **common))
        keep_trained_with(unwrapped(module.model).config, config.data)
    return module, module.model


def load_reference(policy: nn.Module, path: str, config: RunConfig, device: torch.device) -> Policy:
    """The frozen model behind ``reference_kl``: the policy itself where adapters lie on it."""
    assert isinstance(policy, Policy)
    if config.ds.lora.rank > 0 and config.reference_path == path:
        return policy
    reference = load_policy(
        str(config.reference_path),
        dtype=dtype_of(config.ds.dtype),
        attn_implementation=config.ds.attn_implementation,
        max_len=config.data.max_len,
        device=device,
    )
    return reference.eval().requires_grad_(False)


class Common(TypedDict):
    """What every trainer is told: see ``RankTrainer``."""

    packs: bool
    shared_by: int
    max_skipped: int


def build_trainer(
    kind: Kind,
    engine: ZeroEngine,
    config: RunConfig,
    reference: Policy | None,
    packs: bool,
) -> RankTrainer:
    common: Common = {
        "packs": packs,
        "shared_by": config.ds.sequence_parallel_size,
        "max_skipped": config.train.max_skipped_steps,
    }
    if kind == "critic":
        return CriticTrainer(engine, **common)
    if kind == "score":
        return ScoreTrainer(engine, **common)
    ema = config.train.ema_beta if config.train.enable_ema else None
    return PolicyTrainer(engine, ema_beta=ema, reference=reference, **common)


def engine_settings(
    section: Trained,
    config: RunConfig,
    *,
    device: str,
    total_steps: int,
    extras: Mapping[str, object],
) -> EngineSettings:
    return EngineSettings(
        zero_stage=config.ds.zero_stage,
        dtype=config.ds.dtype,
        adam=section.adam,
        max_norm=section.max_norm,
        scheduler=section.lr_scheduler,
        warmup_steps=round(section.lr_warmup_ratio * total_steps),
        total_steps=total_steps,
        min_lr_ratio=section.min_lr_ratio,
        device=device,
        adam_offload=config.ds.adam_offload,
        overlap_comm=config.ds.overlap_comm,
        extras=extras,
    )
