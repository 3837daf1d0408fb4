"""Which kind of device a run uses: a question to the cluster that it runs on."""

from __future__ import annotations

from rto.cluster import launch
from rto.cluster.plan import Plan
from rto.errors import UserError
from rto.models.device import DeviceType, device_type
from rto.sections.ranges import require
from rto.sections.run_config import RunConfig


def run_device(config: RunConfig) -> DeviceType:
    """``train.device``; ``auto`` is CUDA where the run will find GPUs.

    They are looked for in ``plan.gpus``, then in the cluster that the run joins, and on this
    machine where it starts one of its own.

    Raises:
        UserError: CUDA is asked for and there is none.
    """
    asked = config.train.device
    if asked == "cpu":
        return "cpu"
    if config.plan.gpus is not None:
        return "cuda"
    address = launch.cluster_address(config.ray)
    if address is None:
        return device_type(asked)
    if launch.joined_gpus(address) > 0:
        return "cuda"
    if asked == "cuda":
        raise UserError(
            f"train.device is cuda, but the Ray cluster at {address} has no GPU: use cpu or auto"
        )
    return "cpu"


def check_planned(config: RunConfig, plan: Plan) -> None:
    """
    Raises:
        UserError: the run asks for more GPUs than ``plan.gpus`` has.
    """
    asked = plan.total("GPU")
    require(
        config.plan.gpus is None or plan.device == "cpu" or asked <= config.plan.num_gpus,
        f"plan.gpus is {config.plan.gpus}, but the run asks for {asked:g} GPUs: use fewer ranks "
        "or engines (actor.num_gpus_per_node, vllm.num_engines), or train.colocate_all",
    )
