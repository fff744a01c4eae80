"""What a worker of a step that runs models reserves on a cluster."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from pydantic import AfterValidator, Field

from idtool.engine.operator import Resources
from idtool.engine.step import Binding, Env


def _whole_above_one(value: float | None) -> float | None:
    if value is not None and value > 1 and value != int(value):
        raise ValueError(f"{value:g} accelerators cannot be reserved: above 1 they are counted whole")
    return value


Gpus = Annotated[float | None, Field(ge=0), AfterValidator(_whole_above_one)]
"""Setting `gpus` of such a step: accelerators for one worker; a fraction shares one among several. null: 1 where any
of its models runs on CUDA, else 0. It changes no value, so it is no part of fingerprints."""


def resources(env: Env, bindings: Iterable[Binding | None], gpus: float | None = None) -> Resources:
    """What one worker that holds these models reserves; `gpus` as asked for in the settings.

    A model that the profile pins to another device, or that a server runs, needs no accelerator here.
    """
    if gpus is None:
        gpus = float(any(_on_cuda(binding, env.device) for binding in bindings if binding is not None))
    return Resources(cpus=1.0, gpus=gpus)


def _on_cuda(binding: Binding, device: str) -> bool:
    return not binding.model.startswith("api:") and (binding.device or device).startswith("cuda")
