"""The Inception v3 of FID: the public names, the numbers of torch-fidelity, and the ways to 299 px."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from idtool.errors import MissingError, UsageError
from idtool.models.inception import FidInception
from idtool.models.preprocess import Pictures
from idtool.models.sources import Weights
from tests.zoo import Zoo
from tests.zoo.inception import FILE, inception, save

torch = pytest.importorskip("torch", reason="needs the extra `models`")

SIZES = ((64, 80), (299, 299), (400, 310), (3, 5))
PICTURES = [np.random.default_rng(k).integers(0, 256, (*size, 3), dtype=np.uint8) for k, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def tiny_file(zoo: Zoo) -> Path:
    folder = zoo.mirror / "tiny" / "inception"
    if not folder.is_dir():
        folder.mkdir(parents=True)
        inception(folder)
    return folder / FILE


def made(file: Path, **options: object) -> FidInception:
    return FidInception(Weights("hf:tiny/inception", file), **options)  # type: ignore[arg-type]


def test_names_and_shapes_are_those_of_the_public_files() -> None:
    """pytorch-fid loads its file into torchvision's Inception v3, whose names torch-fidelity takes over."""
    models = pytest.importorskip("torchvision.models")
    from idtool.models.networks.inception import FidInceptionV3

    with torch.device("meta"):
        ours, theirs = FidInceptionV3(), models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False)

    def shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}

    assert {**shapes(ours), "fc.weight": (1008, 2048), "fc.bias": (1008,)} == shapes(theirs)
    assert len(shapes(ours)) == 564
    assert ours.dim == 2048


def test_the_same_weights_give_the_features_of_torch_fidelity(tmp_path: Path) -> None:
    reference = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    save(tmp_path / FILE)
    theirs = reference.FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=tmp_path / FILE)
    some = [PICTURES[0], PICTURES[2]]
    ours = made(tmp_path / FILE, preproc="torch-fidelity").images(some)
    expected = [theirs(torch.from_numpy(picture).permute(2, 0, 1)[None])[0].numpy()[0] for picture in some]
    assert ours.shape == (2, 2048)
    assert np.abs(ours - expected).max() < 1e-5 * np.abs(expected).max()
    assert np.abs(ours[0] - ours[1]).max() > 0.1  # it looks at the picture


def of_clean_fid() -> Callable[[np.ndarray], np.ndarray]:
    resize = pytest.importorskip("cleanfid.resize").build_resizer("clean")
    return lambda picture: ((resize(picture) - 128) / 128).transpose(2, 0, 1)


def of_torch_fidelity() -> Callable[[np.ndarray], np.ndarray]:
    module = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")

    def look(picture: np.ndarray) -> np.ndarray:
        planes = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
        found = module.interpolate_bilinear_2d_like_tensorflow1x(planes, size=(299, 299), align_corners=False)
        return ((found - 128) / 128)[0].numpy()

    return look


@pytest.mark.parametrize(("preproc", "reference"), [("clean", of_clean_fid), ("torch-fidelity", of_torch_fidelity)])
def test_pictures_are_resized_as_the_libraries_do(preproc: str, reference: Callable, tiny_file: Path) -> None:
    expected = [reference()(picture) for picture in PICTURES]
    assert np.abs(pixels(made(tiny_file, preproc=preproc)) - expected).max() < 1e-6


def pixels(model: FidInception) -> np.ndarray:
    pictures: Pictures = model._pictures
    return pictures(PICTURES)["pixel_values"].numpy()


def test_only_the_clean_way_averages_where_it_shrinks(tiny_file: Path) -> None:
    stripes = np.zeros((598, 598, 3), np.uint8)
    stripes[:, ::2] = 255  # the mean is grey; every second column is white
    found = {}
    for preproc in ("clean", "torch-fidelity", "pytorch-fid"):
        model = made(tiny_file, preproc=preproc)
        found[preproc] = model._pictures([stripes])["pixel_values"].numpy()[..., 20:-20]
        # At its own size a picture stays as it is.
        same = model._pictures([PICTURES[1]])["pixel_values"].numpy()[0].transpose(1, 2, 0)
        assert np.abs(same - PICTURES[1] / 127.5 + 1).max() < 0.01
    assert np.abs(found["clean"]).max() < 0.02
    assert np.abs(found["torch-fidelity"] - 0.992).max() < 1e-3  # white alone
    assert found["pytorch-fid"].mean() == pytest.approx(0, abs=1e-3)  # half of either: half a pixel off TensorFlow's


def test_features_depend_on_neither_neighbours_nor_threads(tiny_file: Path) -> None:
    model = made(tiny_file, batch=2)
    together = model.images(PICTURES)
    assert together.shape == (4, model.dim) == (4, 128)
    assert together.dtype == np.float32
    assert np.abs(together - np.concatenate([model.images([picture]) for picture in PICTURES])).max() < 1e-4
    assert model.images([]).shape == (0, 128)
    with ThreadPoolExecutor(3) as pool:
        assert all(
            np.abs(rows - together).max() < 1e-4 for rows in pool.map(lambda _: model.images(PICTURES), range(3))
        )
    with pytest.raises(ValueError, match="uint8"):
        model.images([PICTURES[0].astype(np.float32)])


def test_the_fingerprint_tells_the_way(tiny_file: Path) -> None:
    facts = made(tiny_file).fingerprint()
    assert facts["architecture"] == "inception-v3"
    assert facts["preprocessing"].startswith("clean: Pillow bicubic")
    assert len(facts["sha256"]) == 64
    assert made(tiny_file, preproc="pytorch-fid").fingerprint()["preprocessing"] != facts["preprocessing"]


def test_what_cannot_be_loaded_is_refused(tiny_file: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="preproc") as raised:
        made(tiny_file, preproc="dirty")
    assert "clean, torch-fidelity, pytorch-fid" in str(raised.value.hint)
    with pytest.raises(MissingError, match="is a folder"):
        made(tiny_file.parent)
    torch.save(torch.nn.Linear(3, 2).state_dict(), tmp_path / "other.pth")
    with pytest.raises(MissingError, match="does not fit its network"):
        made(tmp_path / "other.pth")
    state = torch.load(tiny_file, weights_only=True)
    del state["Mixed_7c.branch_pool.bn.running_var"]
    torch.save(state, tmp_path / "half.pth")
    with pytest.raises(MissingError, match=r"Mixed_7c\.branch_pool\.bn\.running_var"):
        made(tmp_path / "half.pth")
