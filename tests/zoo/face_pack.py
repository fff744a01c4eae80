"""A model pack in the inputs and outputs of InsightFace's `buffalo_l`, and drawn people that its detector sees.

The detector fires on discs of skin colour; the recogniser projects what differs from the average drawn face; the two
landmark networks answer near a mean face; age and gender are near thirty and even odds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from idtool.models.identity import align

POINTS = ((-0.38, -0.25), (0.38, -0.25), (0.0, 0.1), (-0.3, 0.45), (0.3, 0.45))
"""Where the five points of a drawn face lie, in radii from its centre."""
IMAGE = "input.1"


def face_pack(folder: Path) -> None:
    """The five files of `buffalo_l`, a few hundred kB each at most."""
    detector(folder / "det_10g.onnx")
    recogniser(folder / "w600k_r50.onnx")
    projector(folder / "genderage.onnx", side=96, dim=3, bias=[0.0, 0.1, 0.3], name="data", scale=0.1)
    projector(folder / "2d106det.onnx", side=192, dim=212, name="data", scale=0.2)
    landmarks(folder / "1k3d68.onnx", mean_face())


def drawn_person(
    person: int,
    shot: int = 0,
    *,
    centre: tuple[int, int] | None = None,
    radius: int | None = None,
    size: tuple[int, int] = (640, 480),
) -> np.ndarray:
    """A round cartoon face, RGB uint8 (height, width, 3). `person` settles skin, hair, eyes and mouth; `shot` the
    light, the grain and, where they are not given, place and radius."""
    import cv2

    looks, light = np.random.default_rng([1, person]), np.random.default_rng([2, person, shot])
    width, height = size
    r = int(light.integers(60, 110)) if radius is None else radius
    random_place = (int(light.integers(r, width - r)), int(light.integers(r, height - r)))
    x, y = random_place if centre is None else centre
    image = np.full((height, width, 3), (60, 110, 90), np.uint8)

    def colour(low: Sequence[int], high: Sequence[int]) -> tuple[int, int, int]:
        red, green, blue = (int(value) for value in looks.integers(low, high))
        return red, green, blue

    def ellipse(dx: float, dy: float, rx: float, ry: float, fill: tuple[int, int, int]) -> None:
        at, radii = (int(x + dx * r), int(y + dy * r)), (max(1, int(rx * r)), max(1, int(ry * r)))
        cv2.ellipse(image, at, radii, 0, 0, 360, fill, -1)

    skin = colour((215, 120, 60), (250, 180, 130))
    hair, eye, lip = (colour((0, 0, 0), (100, 200, 200)) for _ in range(3))
    ellipse(0, 0, 1.12, 1.12, hair)
    ellipse(0, 0, 1, 1, skin)
    ellipse(0, -0.75, 0.66, looks.uniform(0.12, 0.3), hair)
    eyes, gap = looks.uniform(0.09, 0.17), looks.uniform(0.33, 0.43)
    for side in (-1, 1):
        ellipse(side * gap, -0.25, eyes, eyes, (255, 255, 255))
        ellipse(side * gap, -0.25, eyes * 0.6, eyes * 0.6, eye)
    ellipse(0, 0.1, looks.uniform(0.05, 0.1), looks.uniform(0.08, 0.2), tuple(int(0.8 * c) for c in skin))
    ellipse(0, 0.45, looks.uniform(0.2, 0.34), looks.uniform(0.04, 0.12) + light.uniform(0, 0.03), lip)
    lit = image * light.uniform(0.92, 1.06) + light.normal(0, 4, (height, width, 1))
    return np.clip(lit, 0, 255).astype(np.uint8)


def detector(path: Path) -> None:
    """SCRFD's nine outputs: score, sides and points of two anchors a cell, the second of which never fires. The two
    finer maps have the right shapes and never fire either."""
    graph = Graph()
    # Of an image that is scaled to [-1, 1].
    skin = skin_of(graph, IMAGE, [1, 0, -1], 1.0)
    outputs: dict[str, list[tuple[str, int]]] = {"score": [], "box": [], "points": []}
    for stride in (8, 16, 32):
        disc = discs(graph, skin, stride)
        box = [graph.add("Sub", disc.radius, d) for d in (disc.dx, disc.dy)]
        box += [graph.add("Add", disc.radius, d) for d in (disc.dx, disc.dy)]
        for kind, maps in (("score", [disc.score, disc.nothing]), ("box", box * 2), ("points", disc.points * 2)):
            columns = len(maps) // 2
            outputs[kind].append((graph.rows(maps, [-1, columns]), columns))
    every = [(name, [f"n{name}", columns]) for kind in outputs.values() for name, columns in kind]
    graph.save(path, {IMAGE: [1, 3, "?", "?"]}, dict(every))


@dataclass(frozen=True)
class Discs:
    """Names of the maps (1, 1, rows, columns) of one stride, lengths in cells."""

    score: str
    dx: str
    """From the cell's corner, where anchors stand, to the disc's centre."""
    dy: str
    radius: str
    points: list[str]
    """x and y of the five points, from the cell's corner."""
    nothing: str
    """Zero everywhere."""


def skin_of(graph: Graph, image: str, red_less_blue: Sequence[int], scale: float) -> str:
    """A map of skin in [0, 1]: red well above blue, in an image whose values span two times `scale`."""
    weights = graph.constant(np.array(red_less_blue, np.float32).reshape(1, 3, 1, 1) / (0.3 * scale))
    difference = graph.add("Conv", image, weights, graph.constant([-1.0]), kernel_shape=[1, 1])
    return graph.add("Clip", difference, graph.constant(0.0), graph.constant(1.0))


def discs(graph: Graph, skin: str, stride: int) -> Discs:
    """Discs of skin, on the coarsest map only: the share of skin in the 7x7 cells about a peak of skin gives centre
    of mass and radius."""
    share = graph.add("AveragePool", skin, kernel_shape=[stride, stride], strides=[stride, stride])
    nothing = graph.add("Mul", share, graph.constant(0.0))
    if stride != 32:
        return Discs(nothing, nothing, nothing, nothing, [nothing] * 10, nothing)
    down, across = np.mgrid[-3:4, -3:4].astype(np.float32)
    sums = [
        graph.add("Conv", share, graph.constant(kernel[None, None]), kernel_shape=[7, 7], pads=[3] * 4)
        for kernel in (np.ones_like(down), across, down)
    ]
    area = graph.add("Add", sums[0], graph.constant(1e-4))
    # Anchors stand at the corners of cells, masses at their middles.
    half = graph.constant(0.5)
    dx, dy = (graph.add("Add", graph.add("Div", moment, area), half) for moment in sums[1:])
    radius = graph.add("Sqrt", graph.add("Mul", area, graph.constant(1 / np.pi)))
    # A peak equals the maximum about it; slightly uneven weights decide between equals.
    uneven = (1 / 9 + np.linspace(-1e-3, 1e-3, 9, dtype=np.float32)).reshape(1, 1, 3, 3)
    smooth = graph.add("Conv", share, graph.constant(uneven), kernel_shape=[3, 3], pads=[1] * 4)
    peak = graph.add("MaxPool", smooth, kernel_shape=[5, 5], pads=[2] * 4, strides=[1, 1])
    peak = graph.add("Cast", graph.add("Equal", smooth, peak), to=1)
    steep = graph.add("Mul", graph.add("Sub", smooth, graph.constant(0.12)), graph.constant(14.0))
    points = [
        graph.add("Add", graph.add("Mul", radius, graph.constant(radii)), d)
        for point in POINTS
        for radii, d in zip(point, (dx, dy), strict=True)
    ]
    return Discs(graph.add("Mul", graph.add("Sigmoid", steep), peak), dx, dy, radius, points, nothing)


def recogniser(path: Path, people: int = 32, shots: int = 4, axes: int = 40) -> None:
    """112 px to 512 numbers in which drawn people lie apart: a crop, averaged to 14x14, along its main axes, scaled
    so that the shots of one person spread alike along all of them (linear discriminants), at random angles."""
    crops = np.stack([crop_of(100 + person, shot) for person in range(people) for shot in range(shots)])
    pooled = (crops.reshape(-1, 14, 8, 14, 8, 3).mean((2, 4)) - 127.5) / 127.5
    flat = pooled.transpose(0, 3, 1, 2).reshape(len(crops), -1)
    mean = flat.mean(axis=0)
    main = np.linalg.svd(flat - mean, full_matrices=False)[2][:axes].T
    along = ((flat - mean) @ main).reshape(people, shots, axes)
    within = (along - along.mean(axis=1, keepdims=True)).reshape(-1, axes)
    spread, turn = np.linalg.eigh(within.T @ within / len(within) + 1e-2 * np.eye(axes))
    angles = np.linalg.qr(np.random.default_rng(0).normal(size=(512, axes)))[0].T
    matrix = main @ turn @ np.diag(spread**-0.5) @ angles
    projector(path, side=112, dim=512, grid=14, matrix=matrix, bias=-mean @ matrix)


def crop_of(person: int, shot: int) -> np.ndarray:
    """The aligned crop of a drawn face, from about where it was drawn."""
    jitter, radius = np.random.default_rng([3, person, shot]), 60 + 15 * (shot % 4)
    image = drawn_person(person, shot, centre=(150, 150), radius=radius, size=(300, 300))
    # What the detector makes of it: eyes, hair and brow are no skin, so its disc is smaller and lower.
    points = np.array(POINTS) * jitter.uniform(0.88, 1.0) + jitter.normal((0.006, 0.11), (0.01, 0.025))
    return align(image, points * radius + 150)[0]


def mean_face() -> np.ndarray:
    """(68, 3) the mean face that InsightFace fits to the points: x right, y down, z towards the viewer."""
    from insightface.data import get_object

    return np.asarray(get_object("meanshape_68.pkl"), np.float64)


def landmarks(path: Path, points: np.ndarray) -> None:
    """`1k3d68`: its last 68 points are `points` (68, 3), scaled to the crop, and a little of the image."""
    answer = np.zeros((1103, 3))
    answer[-68:] = points * 0.6
    projector(path, side=192, dim=3309, name="data", scale=2e-3, bias=answer.ravel())


def projector(
    path: Path,
    *,
    side: int,
    dim: int,
    grid: int = 6,
    name: str = IMAGE,
    batch: int | str = "None",
    scale: float = 1.0,
    bias: Any = 0.0,
    matrix: np.ndarray | None = None,
) -> None:
    """An image averaged to `grid` x `grid`, times a random matrix, plus `bias`: (batch, dim)."""
    if matrix is None:
        values = 3 * grid * grid
        matrix = np.random.default_rng(dim).normal(size=(values, dim)) * scale / np.sqrt(values)
    graph, step = Graph(), side // grid
    flat = graph.add("Flatten", graph.add("AveragePool", name, kernel_shape=[step, step], strides=[step, step]), axis=1)
    shift = graph.constant(np.broadcast_to(np.asarray(bias), (dim,)))
    answer = graph.add("Gemm", flat, graph.constant(matrix), shift)
    graph.save(path, {name: [batch, 3, side, side]}, {answer: [batch, dim]})


class Graph:
    """An ONNX graph, node by node."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: Any) -> str:
        """A tensor of the file; floats become float32. Returns its name."""
        from onnx import numpy_helper

        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array), f"c{len(self.constants)}"))
        return str(self.constants[-1].name)

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output, whose name is returned."""
        from onnx import helper

        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def rows(self, maps: Sequence[str], shape: Sequence[int]) -> str:
        """Maps (1, 1, rows, columns) as the columns of a table of cells, in `shape`."""
        last = self.add("Transpose", self.add("Concat", *maps, axis=1), perm=[0, 2, 3, 1])
        return self.add("Reshape", last, self.constant(np.array(shape, np.int64)))

    def rename(self, old: str, new: str) -> None:
        """Give an output of a node the name that the file shall have."""
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]

    def save(self, path: Path, inputs: Mapping[str, Sequence[Any]], outputs: Mapping[str, Sequence[Any]]) -> None:
        """Write the checked graph; shapes by name, free axes as texts."""
        import onnx
        from onnx import TensorProto, helper

        values = [
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)) for name, shape in named.items()]
            for named in (inputs, outputs)
        ]
        used = {name for node in self.nodes for name in node.input}
        constants = [tensor for tensor in self.constants if tensor.name in used]
        graph = helper.make_graph(self.nodes, "tiny", *values, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, str(path))
