"""The training settings on which a reward model's scores depend, kept in its config.json."""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedConfig

from rto.errors import UserError
from rto.models.rope import longest_of_short
from rto.sections.data import Data


@dataclass(frozen=True)
class TrainedWith:
    """Settings of ``data`` of a model's training; None if config.json does not have them."""

    apply_chat_template: bool | None = None
    max_len: int | None = None

    @property
    def rendered(self) -> str:
        """What its prompts were."""
        by = "by its chat template" if self.apply_chat_template else "without a chat template"
        return f"rendered {by}"


def keep_trained_with(config: PreTrainedConfig, data: Data) -> None:
    """Put it into the config; it is written with the next ``save_pretrained``."""
    config.update({"apply_chat_template": data.apply_chat_template, "max_len": data.max_len})


def trained_with(config: PreTrainedConfig, *, path: str) -> TrainedWith:
    """
    Raises:
        UserError: config.json holds something else in its place.
    """
    fields = config.to_dict()
    chat, max_len = fields.get("apply_chat_template"), fields.get("max_len")
    if not (chat is None or isinstance(chat, bool)):
        raise UserError(f"{path}: config.json has apply_chat_template {chat!r}: true or false")
    if not (max_len is None or (type(max_len) is int and max_len > 1)):
        raise UserError(f"{path}: config.json has max_len {max_len!r}: a whole number, 2 or more")
    return TrainedWith(chat, max_len)


def told_differences(config: PreTrainedConfig, data: Data, *, path: str) -> list[str]:
    """A line for each setting in which this run reads a text otherwise than the training did."""
    kept, lines = trained_with(config, path=path), list[str]()
    if kept.apply_chat_template not in (None, data.apply_chat_template):
        lines.append(
            f"{path}: trained on prompts {kept.rendered}, and data.apply_chat_template is "
            f"{str(data.apply_chat_template).lower()} here: its scores may mean little"
        )
    short, long = longest_of_short(config), kept.max_len
    if short is not None and long is not None and (long > short) != (data.max_len > short):
        lines.append(
            f"{path}: trained with data.max_len {long}, and it is {data.max_len} here: rope type "
            f"longrope has other frequencies above {short}"
        )
    return lines
