"""Records the forwards of networks while something runs, so that exactly the same forwards can be done again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Call:
    """One forward of a network: whose measure it belongs to, and how to do it again."""

    measure: str
    again: Callable[[], Any]


class Recorder:
    """Listens to the inference engines while the step runs once."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.measure = ""
        self._undo: list[Callable[[], None]] = []

    def __enter__(self) -> Recorder:
        import onnxruntime as ort
        from ai_edge_litert.interpreter import Interpreter

        inputs: dict[int, dict[int, Any]] = defaultdict(dict)

        def run(original: Any, session: Any, outputs: Any, feeds: Any, *rest: Any) -> Any:
            kept = {name: np.array(value) for name, value in feeds.items()}
            self.calls.append(Call(self.measure, lambda: original(session, outputs, kept, *rest)))
            return original(session, outputs, feeds, *rest)

        def set_tensor(original: Any, interpreter: Any, index: int, value: Any) -> Any:
            inputs[id(interpreter)][index] = np.array(value)
            return original(interpreter, index, value)

        def invoke(original: Any, interpreter: Any) -> Any:
            kept = dict(inputs[id(interpreter)])

            def again() -> None:
                for index, value in kept.items():
                    interpreter.set_tensor(index, value)
                original(interpreter)

            self.calls.append(Call(self.measure, again))
            return original(interpreter)

        self._patch(ort.InferenceSession, "run", run)
        self._patch(Interpreter, "set_tensor", set_tensor)
        self._patch(Interpreter, "invoke", invoke)
        self._openvino()
        return self

    def __exit__(self, *_: object) -> None:
        for undo in self._undo:
            undo()

    def _openvino(self) -> None:
        try:
            from openvino import InferRequest
        except ImportError:
            return

        def infer(original: Any, request: Any, inputs: Any = None, *args: Any, **options: Any) -> Any:
            kept = _copied(inputs)
            self.calls.append(Call(self.measure, lambda: original(request, kept, *args, **options)))
            return original(request, inputs, *args, **options)

        self._patch(InferRequest, "infer", infer)

    def _patch(self, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
        original = getattr(owner, name)
        setattr(owner, name, lambda self, *args, **options: wrapper(original, self, *args, **options))
        self._undo.append(lambda: setattr(owner, name, original))


def _copied(inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return {name: np.array(value) for name, value in inputs.items()}
    return [np.array(value) for value in inputs] if isinstance(inputs, list | tuple) else np.array(inputs)
