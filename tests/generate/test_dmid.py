"""DMID: its mask network by the paper's equations, its checkpoints, and images from a real photo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from idtool.engine.operator import Rejected
from idtool.errors import MissingError, RunFailed, UsageError
from idtool.generate.method import Person
from idtool.generate.requests import Wish
from idtool.models.faces import Face
from tests.generate import flux_runs as runs
from tests.generate.flux_runs import photo, request
from tests.zoo import Zoo
from tests.zoo import flux as tiny_flux
from tests.zoo.weights import drawn

torch = pytest.importorskip("torch", reason="needs the extra `models`")
pytest.importorskip("diffusers", reason="needs the extra `generate`")

from idtool.generate.flux import checkpoint, conditioned, transformer  # noqa: E402
from idtool.generate.flux.attention import Site  # noqa: E402
from idtool.generate.flux.attn_mask_net import AttnMaskNet, AttnMaskNets, sites_of  # noqa: E402

PROMPT = "a man in a garden"


@pytest.fixture
def obama(fixtures: Path) -> str:
    return str(fixtures / "identities" / "obama" / "00_face_recognition.jpg")


def queries(grid: tuple[int, int], width: int = 8) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    sizes = {"text": 3, "image": 4, "condition.0": grid[0] * grid[1]}
    return {name: torch.randn(2, size, 2, width // 2, generator=generator) for name, size in sizes.items()}


def drawn_net(width: int = 8, d2: int = 6) -> AttnMaskNet:
    with drawn():
        net = AttnMaskNet(width, d2)
        for tensor in net.parameters():
            torch.nn.init.normal_(tensor, std=0.7)
    return net


def test_the_mask_is_equation_5(width: int = 8) -> None:
    """Written out from the paper: A' = 2 beta A - beta, right = A_tn ⊗ A'_c, left = A_c ⊗ A'_tn, 0 elsewhere."""
    grid, beta, net = (2, 3), 0.6, drawn_net()
    given = queries(grid)
    flat = {name: tensor.flatten(2) for name, tensor in given.items()}
    projected = net.proj(torch.cat(list(flat.values()), dim=1))
    a_tn = torch.sigmoid(net.text_noise(projected[:, :7]))[..., 0]
    plane = projected[:, 7:].transpose(1, 2).reshape(2, 6, *grid)
    block = net.residual[0]
    plane = plane + block.conv2(torch.nn.functional.silu(block.conv1(plane)))
    a_c = torch.sigmoid(net.condition(plane.reshape(2, 6, 6).transpose(1, 2)))[..., 0]
    expected = torch.zeros(2, 13, 13)
    expected[:, :7, 7:] = a_tn[:, :, None] * (2 * beta * a_c - beta)[:, None]
    expected[:, 7:, :7] = a_c[:, :, None] * (2 * beta * a_tn - beta)[:, None]
    fold = net.fold(given, {"condition.0": grid}, beta)
    assert torch.allclose(fold.matrix(list(given), list(given))[:, 0], expected, atol=1e-6)
    assert expected.abs().max() <= beta
    twice = net.fold(given, {"condition.0": grid}, 2 * beta)
    assert torch.allclose(twice.matrix(list(given), list(given)), 2 * fold.matrix(list(given), list(given)))


def test_a_grid_that_is_no_square_is_taken_as_it_is() -> None:
    """Rows and columns are those of the condition, not the root of K: turned, the same tokens mean another picture."""
    net, given = drawn_net(), queries((2, 8))
    wide, tall, square = (net.of_condition(given["condition.0"].flatten(2), grid) for grid in ((2, 8), (8, 2), (4, 4)))
    assert not torch.allclose(wide, tall)
    assert not torch.allclose(wide, square)
    with pytest.raises(ValueError, match="a grid of 3 x 5 has not 16 tokens"):
        net.of_condition(given["condition.0"].flatten(2), (3, 5))


def test_at_the_start_the_mask_is_nothing() -> None:
    net = AttnMaskNet(8)
    fold = net.fold(queries((2, 3)), {"condition.0": (2, 3)}, 1.0)
    assert not fold.matrix(["text", "condition.0"], ["image", "condition.0"]).any()


def test_the_size_is_what_the_paper_says_of_flux() -> None:
    """About 1 % of FLUX.1-dev's 11.9 billion, over 57 blocks."""
    with torch.device("meta"):
        net = AttnMaskNet(3072)
    assert sum(tensor.numel() for tensor in net.parameters()) == 1_967_362
    assert pytest.approx(0.0094, abs=1e-4) == 57 * 1_967_362 / 11_901_408_320


def test_names_in_a_checkpoint_are_those_of_the_blocks() -> None:
    masks = AttnMaskNets(sites_of(tiny_flux.transformer()), 32, 8)
    names = set(masks.state_dict())
    assert len(names) == 4 * 10
    assert "transformer_blocks.1.attn.mask_net.residual.0.conv1.weight" in names
    assert "single_transformer_blocks.0.attn.mask_net.text_noise.bias" in names
    assert isinstance(masks[Site("single", 1)], AttnMaskNet)


@pytest.fixture(scope="module")
def method(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("dmid")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IDTOOL_MODELS", str(zoo.mirror))
        return runs.loaded(runs.config_file(folder, zoo, "dmid"), folder)


def test_strengths_do_what_they_say(method: Any) -> None:
    """alpha 1 (log) and 0 (additive) are neutral, 0 (log) hides the condition, the fold is the mask in full."""
    person = photo()

    def one(**settings: Any) -> Any:
        return runs.latents(method, request(method, person, **settings))

    plain = one()
    for same in ({"alpha": 1.0}, {"alpha": 0.0, "alpha_form": "additive"}, {"explicit_mask": True}):
        assert (one(**same) - plain).abs().max() < 1e-5, same
    log, additive = one(alpha=1.5), one(alpha=float(np.log(1.5)), alpha_form="additive")
    assert (log - additive).abs().max() < 1e-5
    assert (one(alpha=1.5, explicit_mask=True) - log).abs().max() < 1e-5
    found = [plain, log, one(alpha=3.0), one(beta=0.0), one(beta=0.4)]
    assert all((a - b).abs().max() > 1e-3 for k, a in enumerate(found) for b in found[:k])


def test_the_hidden_condition_is_no_condition(method: Any) -> None:
    from idtool.generate.flux import sampling

    one = request(method, photo(), alpha=0.0)
    with torch.inference_mode():
        stock = sampling.sample(method.pipe, method.job([one]))
    for explicit in (False, True):
        hidden = runs.latents(method, request(method, photo(), alpha=0.0, explicit_mask=explicit))
        assert (hidden - stock).abs().max() < 1e-5
    assert (runs.latents(method, request(method, photo())) - stock).abs().max() > 1e-3


def test_a_batch_is_its_images_one_by_one_even_with_different_grids(method: Any) -> None:
    """Four references of three shapes, nothing cut off: latents to 2e-5, images to one level of 255."""
    people = [photo(96, 64), photo(64, 96), photo(96, 64, seed=3), photo(64, 64)]
    requests = [request(method, person, seed=k, condition_fit="whole") for k, person in enumerate(people)]
    assert [method.alike(one) for one in requests] == [((4, 3),), ((3, 4),), ((4, 3),), ((4, 4),)]
    pair = runs.latents(method, requests[0], requests[2])
    assert (pair[0] - pair[1]).abs().max() > 1e-2
    for one, both in zip((requests[0], requests[2]), pair, strict=True):
        assert (runs.latents(method, one)[0] - both).abs().max() < 2e-5
    together = [one.image.astype(int) for one in method.generate(requests)]
    for one, image in zip(requests, together, strict=True):
        assert np.abs(method.generate([one])[0].image - image).max() <= 1


def test_what_the_condition_shows(method: Any) -> None:
    """The square holds the face, in pixels; positions are moved by what the card says."""
    person = photo()
    square = method.picture(person, request(method, person))
    assert np.array_equal(square, person.image[:64])
    assert method.picture(person, request(method, person, condition_fit="whole")).shape == (64, 48, 3)
    low = Person("low", person.image, Face(np.array([0, 70, 30, 96], np.float32), 0.9, person.face.kps))
    assert np.array_equal(method.picture(low, request(method, low)), person.image[32:])
    assert conditioned.square(person.image).shape == (64, 64, 3)
    assert np.array_equal(conditioned.square(person.image), person.image[16:80])
    found = method.conditions([request(method, person)])[0]
    assert found.grid == (4, 4)
    assert (found.timestep, found.guidance) == (0.0, 1.0)
    assert found.ids[:5].tolist() == [[0, 0, -4], [0, 0, -3], [0, 0, -2], [0, 0, -1], [0, 1, -4]]
    assert method.preprocessing()["position_delta"] == [0, -4]
    assert transformer.condition(0) == "condition.0"


def test_the_region_code_blacks_out_what_is_to_be_made_anew(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from idtool.models.parts import CROP, PARTS, Parsed, crop_matrix

    person = photo()
    assert person.face is not None
    labels = np.full((CROP, CROP), PARTS.index("hair"), np.uint8)
    labels[:, : CROP // 2] = PARTS.index("skin")

    def parser(pictures: Any, faces: Any) -> list[Parsed]:
        return [Parsed(labels, crop_matrix(face.box)) for face in faces]

    monkeypatch.setattr(method, "parser", parser, raising=False)
    shown = method.retouched(person, request(method, person, keep="face"))
    assert np.array_equal(shown[:40, :25], person.image[:40, :25])
    assert not shown[:, 35:].any()
    assert np.array_equal(
        method.retouched(person, request(method, person, keep="head"))[10:40, 35:50], person.image[10:40, 35:50]
    )
    with pytest.raises(UsageError, match="needs a face parser"):
        method.check(request(method, person, keep="face"))


def test_a_request_that_cannot_be_met_is_told_why(method: Any) -> None:
    person = photo()
    for faulty, reason in (
        (request(method), "request.people"),
        (request(method, person, width=72), "request.width"),
    ):
        with pytest.raises(Rejected) as caught:
            method.check(faulty)
        assert caught.value.reason == reason
    with pytest.raises(UsageError, match="alpha is 0 or more in the log form"):
        request(method, person, alpha=-1.0)


def test_checkpoints_are_refused_unless_every_key_is_explained(zoo: Zoo, tmp_path: Path, tiny: Zoo) -> None:
    card = checkpoint.Card(
        method="dmid", base="tiny/flux", rank=4, alpha=4, position_delta=(0, -4), condition_size=64, d2=8
    )
    state = tiny_flux.dmid_state()
    a_mask = next(key for key in state if "mask_net" in key)

    def refused(state: dict[str, Any], card: checkpoint.Card | None) -> str:
        from safetensors.torch import save_file

        path = tmp_path / "mine.safetensors"
        if card is None:
            save_file(state, path)
        else:
            checkpoint.write(path, state, card)
        model = {"model": f"local:{path}", "licence": "mine"}
        with pytest.raises(MissingError) as caught:
            runs.loaded(runs.config_file(tmp_path, zoo, "dmid", {"adapter": model}), tmp_path)
        return str(caught.value)

    def changed(**values: Any) -> checkpoint.Card:
        return card.model_copy(update=values)

    assert "has no card" in refused(state, None)
    assert "is a checkpoint of instruct-identity, not of dmid" in refused(state, changed(method="instruct-identity"))
    assert "was trained on black-forest-labs/FLUX.1-dev, but slot `base` is bound to tiny/flux" in refused(
        state, changed(base="black-forest-labs/FLUX.1-dev")
    )
    assert "has LoRA ranks 4, but its card says 16" in refused(state, changed(rank=16))
    assert "has no position_delta" in refused(state, changed(position_delta=None))
    missing = {key: tensor for key, tensor in state.items() if key != a_mask}
    assert f"1 missing ({a_mask})" in refused(missing, card)
    assert "40 missing" in refused(tiny_flux.dmid_state(None), card)
    assert "of another shape" in refused(tiny_flux.dmid_state(16), card)
    odd = a_mask.replace("mask_net.proj", "mask_net.odd")
    assert f"1 unexpected ({odd})" in refused(state | {odd: torch.zeros(1)}, card)
    assert "1 keys that are no LoRA's (odd.weight)" in refused(state | {"odd.weight": torch.zeros(1)}, card)
    half = tmp_path / "half.safetensors"
    half.write_bytes((zoo.mirror / "tiny" / "dmid" / "dmid.safetensors").read_bytes()[:2000])
    with pytest.raises(MissingError, match="cannot be read"):
        checkpoint.read_card(half, "dmid", "half", checkpoint.Card)
    with pytest.raises(MissingError, match=r"no \.safetensors"):
        checkpoint.read_card(tmp_path / "x.pt", "dmid", "x", checkpoint.Card)


def test_a_card_that_is_wrong_says_where(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "x.safetensors"
    for text, said in (
        ("{", "Expecting property name"),
        (json.dumps({"method": "dmid", "base": "x"}), "rank: Field required"),
    ):
        save_file({"a": torch.zeros(1)}, path, metadata={"idtool": text})
        with pytest.raises(MissingError, match=said):
            checkpoint.read_card(path, "dmid", "x", checkpoint.Card)


@pytest.mark.offline_weights
def test_images_of_a_real_photo_and_faults_beside_them(obama: str, fixtures: Path, tiny: Zoo, tmp_path: Path) -> None:
    config = runs.config_file(tmp_path, tiny, "dmid")
    rows = runs.made(
        config,
        tmp_path / "run",
        Wish(PROMPT, (obama,), n=2),
        Wish("a long story " * 10, (obama,), seed=5, settings={"beta": 0.5, "alpha": 1.2}),
        Wish("nobody there", (str(fixtures / "hard" / "no_face_vector.jpg"),)),
        Wish("no size", (obama,), width=72),
        Wish("not blurred", (obama,), negative_prompt="blurred"),
    )
    by_prompt = {row["prompt"]: row for row in rows}
    assert [row["status"] for row in rows].count("kept") == 3
    assert by_prompt["nobody there"]["reason"] == "reference.no_face"
    assert by_prompt["no size"]["reason"] == "request.width"
    assert by_prompt["not blurred"]["reason"] == "request.negative_prompt"
    told = json.loads(by_prompt["a long story " * 10]["facts"])
    assert told["prompt_cut"] == {"tokenizer": 25, "tokenizer_2": 99}
    assert told["stage"] == "attention masks"
    first, second = (runs.picture(tmp_path / "run", row) for row in rows if row["prompt"] == PROMPT)
    assert first.shape == (64, 64, 3)
    assert not np.array_equal(first, second)


@pytest.mark.offline_weights
def test_without_masks_it_is_dmid_1(obama: str, tiny: Zoo, tmp_path: Path) -> None:
    config = runs.config_file(tmp_path, tiny, "dmid", {"adapter": runs.tiny("dmid", "dmid-1.safetensors")})
    row = runs.made(config, tmp_path / "run", Wish(PROMPT, (obama,)))[0]
    assert json.loads(row["facts"])["stage"] == "DMID-1, no attention masks"


@pytest.mark.offline_weights
def test_latents_that_are_not_finite_are_told(obama: str, tiny: Zoo, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    state = load_file(tiny("dmid") / "dmid.safetensors")
    state = {
        key: torch.full_like(tensor, torch.nan) if "x_embedder" in key else tensor for key, tensor in state.items()
    }
    card = checkpoint.Card(method="dmid", base="tiny/flux", rank=4, alpha=4, position_delta=(0, -4), d2=8)
    checkpoint.write(tmp_path / "nan.safetensors", state, card)
    model = {"model": f"local:{tmp_path / 'nan.safetensors'}", "licence": "mine"}
    config = runs.config_file(tmp_path, tiny, "dmid", {"adapter": model}, condition_size=64)
    with pytest.raises(RunFailed):
        runs.made(config, tmp_path / "run", Wish(PROMPT, (obama,)))
    from tests.generate.made import table

    row = table(tmp_path / "run")[0]
    assert row["status"] == "error"
    assert "not finite" in row["message"]


def test_it_says_so_when_no_checkpoint_is_bound(tiny: Zoo, tmp_path: Path) -> None:
    import yaml

    from idtool.generate import methods
    from tests.generate.made import configuration

    path = runs.config_file(tmp_path, tiny, "dmid")
    content = yaml.safe_load(path.read_text("utf-8"))
    del content["methods"]["mine"]["models"]["adapter"]
    path.write_text(yaml.safe_dump(content), "utf-8")
    cls, spec = methods.resolve(configuration(path), "mine")
    state, why = methods.state_of(cls, spec, {})
    assert (state, "your DMID checkpoint" in why) == ("cannot", True)
