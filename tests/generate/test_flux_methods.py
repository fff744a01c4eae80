"""The methods on the FLUX runtime besides DMID: tiny checkpoints in the published names, real photos, whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from idtool.engine.operator import Rejected
from idtool.errors import MissingError, UsageError
from idtool.generate.method import Person
from idtool.generate.registry import METHODS
from idtool.generate.requests import Wish
from tests.generate import flux_runs as runs
from tests.generate.flux_runs import photo, request
from tests.zoo import Zoo
from tests.zoo import flux as tiny_flux

torch = pytest.importorskip("torch", reason="needs the extra `models`")
pytest.importorskip("diffusers", reason="needs the extra `generate`")

from idtool.generate.flux import sampling  # noqa: E402
from idtool.generate.flux.attention import Site, View  # noqa: E402
from idtool.generate.flux.transformer import Additions  # noqa: E402

PROMPT = "a man in a garden"
REGIONS = [{"prompt": "a tall man", "box": [0.0, 0.0, 0.5, 1.0]}, {"prompt": "a woman", "box": [0.5, 0.25, 1.0, 1.0]}]


@pytest.fixture
def obama(fixtures: Path) -> str:
    return str(fixtures / "identities" / "obama" / "00_face_recognition.jpg")


@pytest.fixture
def biden(fixtures: Path) -> str:
    return str(fixtures / "identities" / "biden" / "00_face_recognition.jpg")


class Loaded:
    """Methods on tiny checkpoints, loaded once each."""

    def __init__(self, zoo: Zoo, folder: Path) -> None:
        self.zoo, self.folder, self._methods = zoo, folder, {}

    def __call__(self, kind: str) -> Any:
        if kind not in self._methods:
            self._methods[kind] = runs.loaded(runs.config_file(self.folder, self.zoo, kind), self.folder)
        return self._methods[kind]


@pytest.fixture(scope="module")
def loaded(zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IDTOOL_MODELS", str(zoo.mirror))
        yield Loaded(zoo, tmp_path_factory.mktemp("flux"))


def stock(method: Any, *requests: Any) -> Any:
    """Latents of the method's own pipeline without its changes."""
    with torch.inference_mode():
        return sampling.sample(method.pipe, method.job(requests))


def differ(a: Any, b: Any) -> float:
    return float((a - b).abs().max())


@pytest.mark.offline_weights
@pytest.mark.parametrize("kind", ["ominicontrol", "instruct-identity", "pulid", "infiniteyou", "dsd"])
def test_two_people_two_images_through_the_pipeline(
    kind: str, obama: str, biden: str, fixtures: Path, tiny: Zoo, tmp_path: Path
) -> None:
    config = runs.config_file(tmp_path, tiny, kind)
    vector = str(fixtures / "hard" / "no_face_vector.jpg")
    wishes = [Wish(PROMPT, (obama,)), Wish(PROMPT + ".", (biden,)), Wish("without a face", (vector,))]
    wishes += [Wish("no size", (obama,), width=72), Wish("two", (obama, biden) * 3)]
    rows = {row["prompt"]: row for row in runs.made(config, tmp_path / "run", *wishes)}
    first, second = (runs.picture(tmp_path / "run", rows[prompt]) for prompt in (PROMPT, PROMPT + "."))
    assert first.shape == second.shape == (64, 64, 3)
    assert not np.array_equal(first, second)
    assert rows["no size"]["reason"] == "request.width"
    assert rows["two"]["reason"] == "request.people"
    looks_for_faces = kind in ("pulid", "infiniteyou")
    assert rows["without a face"]["status"] == ("rejected" if looks_for_faces else "kept")
    assert json.loads(rows[PROMPT]["preprocessing"])
    assert rows[PROMPT]["dtype"] == "float32"


@pytest.mark.parametrize("kind", ["ominicontrol", "instruct-identity", "infiniteyou", "dsd", "pulid", "regional"])
def test_a_batch_is_its_images_one_by_one(kind: str, loaded: Loaded) -> None:
    """Four images together and alone: latents to 5e-5."""
    method = loaded(kind)
    requests = [request(method, photo(seed=k), prompt=f"{PROMPT} {k}", seed=k, **_extra(kind)) for k in range(4)]
    together = runs.latents(method, *requests)
    for one, row in zip(requests, together, strict=True):
        assert differ(runs.latents(method, one)[0], row) < 5e-5


@pytest.mark.parametrize("kind", ["ominicontrol", "instruct-identity", "infiniteyou", "dsd", "pulid"])
def test_the_image_depends_on_the_reference(kind: str, loaded: Loaded) -> None:
    method = loaded(kind)
    found = [runs.latents(method, request(method, photo(seed=k))) for k in range(2)]
    assert differ(*found) > 1e-5
    assert differ(found[0], stock(method, request(method, photo()))) > 1e-4


@pytest.mark.parametrize("kind", ["ominicontrol", "instruct-identity"])
def test_threads_that_share_a_method_take_turns(kind: str, loaded: Loaded) -> None:
    from concurrent.futures import ThreadPoolExecutor

    method = loaded(kind)
    requests = [request(method, photo(seed=k), seed=k, steps=2 + k) for k in range(3)]
    alone = [method.generate([one])[0].image for one in requests]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda one: method.generate([one])[0].image, requests * 2))
    assert all(np.array_equal(*pair) for pair in zip(alone * 2, together, strict=True))


def _extra(kind: str) -> dict[str, Any]:
    return {"regions": REGIONS} if kind == "regional" else {}


# --- OminiControl -----------------------------------------------------------------------------------------------------


def test_ominicontrol_sees_several_references_each_further_away(loaded: Loaded) -> None:
    method = loaded("ominicontrol")
    two = request(method, photo(seed=1), photo(seed=2))
    first, second = method.conditions([two])
    assert first.ids[:2].tolist() == [[0, 0, 4], [0, 0, 5]]
    assert second.ids[:2].tolist() == [[0, 0, 8], [0, 0, 9]]
    assert differ(runs.latents(method, two), runs.latents(method, request(method, photo(seed=1)))) > 1e-4
    assert (
        differ(runs.latents(method, request(method, photo(), alpha=0.0)), stock(method, request(method, photo())))
        < 1e-5
    )


def test_ominicontrol_computes_independent_references_once(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    from idtool.generate.flux import transformer

    method, tokens = loaded("ominicontrol"), []
    through = transformer.double_block

    def counted(block: Any, streams: Any, attention: Any) -> Any:
        tokens.append(sum(sum(stream.sizes) for stream in streams))
        return through(block, streams, attention)

    monkeypatch.setattr(transformer, "double_block", counted)
    monkeypatch.setattr(method, "independent", True)
    runs.latents(method, request(method, photo()))
    # 32 of text, 16 of the image; 4 of the condition at the first step alone.
    assert tokens == [52, 52, 48, 48]


def test_ominicontrol_refuses_a_lora_of_another_base(zoo: Zoo, tmp_path: Path, tiny: Zoo) -> None:
    from safetensors.torch import save_file

    state = tiny_flux.lora_state({"transformer_blocks.9.attn.to_q": (32, 32)})
    save_file(state, tmp_path / "deep.safetensors")
    for file, said in (
        (
            {"model": f"local:{tmp_path / 'deep.safetensors'}", "licence": "x"},
            r"has not \(transformer_blocks.9.attn.to_q\)",
        ),
        ({"model": f"local:{tmp_path / 'none.safetensors'}", "licence": "x"}, "does not exist"),
        ({"model": "hf:tiny/ominicontrol", "licence": "x"}, "is a folder"),
    ):
        with pytest.raises(MissingError, match=said):
            runs.loaded(runs.config_file(tmp_path, zoo, "ominicontrol", {"adapter": file}), tmp_path)


# --- Instruct Identity ------------------------------------------------------------------------------------------------


def test_instruct_identity_keeps_the_reference_clean_beside_the_target(loaded: Loaded) -> None:
    method = loaded("instruct-identity")
    one = request(method, photo(64, 48), width=48)
    with torch.inference_mode():
        changes = method.changes([one])
        ids = torch.zeros(12, 3)
        steps = [sampling.Step(k, 2, torch.full((1, 12, 64), float(k)), ids, torch.ones(1), None, None) for k in (0, 1)]
        first, second = (changes(step) for step in steps)
    assert first["hidden_states"].shape == (1, 24, 64)
    assert torch.equal(first["hidden_states"][:, 12:], second["hidden_states"][:, 12:])
    assert torch.equal(second["hidden_states"][:, :12], steps[1].latents)
    # Columns go on where the target's end: 3 tokens across.
    assert first["img_ids"][12:16].tolist() == [[0, 0, 3], [0, 0, 4], [0, 0, 5], [0, 1, 3]]
    assert first["additions"].loras == method.loras
    assert method.loras[0].ranks == [8]


def test_instruct_identity_shifts_its_schedule_by_the_whole_canvas(loaded: Loaded) -> None:
    method = loaded("instruct-identity")
    plain, wide = (sampling.schedule(method.pipe, 4, tokens) for tokens in (16, 32))
    assert not torch.equal(plain, wide)
    runs.latents(method, request(method, photo(), steps=4))
    assert torch.equal(method.pipe.scheduler.timesteps, wide)


# --- regional prompting -----------------------------------------------------------------------------------------------


def test_regional_boxes_become_tokens_and_a_mask(loaded: Loaded) -> None:
    from idtool.generate.flux.regional import covered, region_mask

    assert covered((0.5, 0.0, 1.0, 0.5), 2, 4).tolist() == [False, False, True, True, False, False, False, False]
    with pytest.raises(ValueError, match="covers no token of the frame, which has 4 x 2"):
        covered((0.0, 0.0, 0.1, 0.1), 2, 4)
    # Two regions of three tokens that share the middle one; two text tokens each.
    mask = region_mask(np.array([[True, True, False], [False, True, True]]), 2)
    assert mask.astype(int).tolist() == [
        [1, 1, 0, 0, 1, 1, 0],
        [1, 1, 0, 0, 1, 1, 0],
        [0, 0, 1, 1, 0, 1, 1],
        [0, 0, 1, 1, 0, 1, 1],
        [1, 1, 0, 0, 1, 1, 0],
        [1, 1, 1, 1, 1, 1, 1],
        [0, 0, 1, 1, 0, 1, 1],
    ]
    method = loaded("regional")
    prompts, covers = method._shares(request(method, regions=REGIONS, background="grass"))
    assert prompts == ["a tall man", "a woman", "grass"]
    assert covers.sum(axis=0).tolist() == [1] * 16
    assert covers[2].nonzero()[0].tolist() == [2, 3]
    whole = request(method, regions=[{"prompt": "all", "box": [0, 0, 1, 1]}])
    assert method._shares(whole)[0] == ["all"]


def test_regional_mixes_the_base_prompt(loaded: Loaded) -> None:
    """base_ratio 1 is the base prompt alone, and so are no steps with regions; between, both count."""
    method = loaded("regional")
    plain = stock(method, request(method))

    def one(**settings: Any) -> Any:
        return runs.latents(method, request(method, **{"regions": REGIONS, **settings}))

    assert differ(one(base_ratio=1.0), plain) < 1e-5
    assert torch.equal(one(inject_steps=0), plain)
    found = [plain, one(base_ratio=0.0), one(base_ratio=0.3), one(base_ratio=0.3, inject_steps=1)]
    found += [one(base_ratio=0.3, double_interval=2), one(base_ratio=0.3, single_interval=2)]
    assert all(differ(a, b) > 1e-6 for k, a in enumerate(found) for b in found[:k])
    # One region that is the whole frame with the base prompt is the base prompt.
    same = one(regions=[{"prompt": PROMPT, "box": [0, 0, 1, 1]}])
    assert differ(same, plain) < 1e-5


def test_regional_regions_do_not_reach_each_other(loaded: Loaded) -> None:
    """Without the base prompt, the left half does not change with what is asked for on the right."""
    method = loaded("regional")

    def left(prompt: str) -> Any:
        regions = [{"prompt": "a man", "box": [0, 0, 0.5, 1]}, {"prompt": prompt, "box": [0.5, 0, 1, 1]}]
        found = runs.latents(method, request(method, regions=regions, base_ratio=0.0))
        return found.reshape(4, 4, 64)[:, :2], found.reshape(4, 4, 64)[:, 2:]

    (one, other), (same, changed) = left("a dog"), left("a red car")
    assert differ(one, same) < 1e-6
    assert differ(other, changed) > 1e-4


def test_regional_takes_the_boxes_of_people(loaded: Loaded) -> None:
    method = loaded("regional")
    boxes = [(0.0, 0.0, 0.5, 1.0), (0.5, 0.25, 1.0, 1.0)]
    people = [Person("x", np.zeros((8, 8, 3), np.uint8), box=box) for box in boxes]
    bare = [{"prompt": region["prompt"]} for region in REGIONS]
    by_people = runs.latents(method, request(method, *people, regions=bare))
    assert torch.equal(by_people, runs.latents(method, request(method, regions=REGIONS)))
    for faulty, said in (
        (request(method), "needs regions"),
        (request(method, people[0], regions=bare), r"region 2 \('a woman'\) has no box, nor has person 2"),
    ):
        with pytest.raises(Rejected, match=said):
            method.check(faulty)
    with pytest.raises(UsageError, match="shares of the frame"):
        request(method, regions=[{"prompt": "x", "box": [0.5, 0, 0.2, 1]}])


def test_regional_through_the_pipeline(tiny: Zoo, tmp_path: Path) -> None:
    config = runs.config_file(tmp_path, tiny, "regional")
    wishes = [Wish(PROMPT, settings={"regions": REGIONS}), Wish("nothing anywhere")]
    kept, lost = sorted(runs.made(config, tmp_path / "run", *wishes), key=lambda row: row["prompt"])
    assert json.loads(kept["facts"])["regions"] == ["a tall man", "a woman"]
    assert lost["reason"] == "request.regions"


# --- PuLID ------------------------------------------------------------------------------------------------------------


def test_pulid_adds_its_cross_attentions_after_the_blocks_it_names(loaded: Loaded) -> None:
    from idtool.generate.flux.id_former import sites

    assert sites(19, 38) == [
        *(Site("double", k) for k in (0, 2, 4, 6, 8, 10, 12, 14, 16, 18)),
        *(Site("single", k) for k in (0, 4, 8, 12, 16, 20, 24, 28, 32, 36)),
    ]
    method = loaded("pulid")
    one = request(method, photo())
    with torch.inference_mode():
        changes = method.changes([one])
        steps = [sampling.Step(k, 2, None, None, None, None, None) for k in (0, 1)]
        assert changes(steps[0]) == {}
        hooks = changes(steps[1])["additions"].hooks
    assert list(hooks) == [Site("double", 0), Site("single", 0)]
    nothing = request(method, photo(), id_weight=0.0)
    assert torch.equal(runs.latents(method, nothing), stock(method, nothing))
    late, early, strong = ({"start_step": 1}, {"start_step": 0}, {"start_step": 0, "id_weight": 2.0})
    found = [runs.latents(method, request(method, photo(), **settings)) for settings in (late, early, strong)]
    assert all(differ(a, b) > 1e-5 for k, a in enumerate(found) for b in found[:k])


def test_pulid_names_are_the_published_ones_and_the_sizes_of_the_real_file() -> None:
    from idtool.generate.flux.id_former import IDFormer, Pulid, sites
    from idtool.generate.flux.perceiver import PerceiverAttention

    with torch.device("meta"):
        encoder = IDFormer(1024, 1024, 10, 32, 5, 2048, 1280, 1024, 1024)
        cross = [PerceiverAttention(3072, 2048, 2048, 128, itself=False) for _ in sites(19, 38)]
        network = Pulid(encoder, cross)
        state = network.state_dict()
        again = Pulid.like(state).state_dict()
    assert {key: tensor.shape for key, tensor in again.items()} == {key: tensor.shape for key, tensor in state.items()}
    assert len(cross) == 20
    for name, shape in {
        "pulid_encoder.latents": (1, 32, 1024),
        "pulid_encoder.proj_out": (1024, 2048),
        "pulid_encoder.layers.9.0.to_kv.weight": (2048, 1024),
        "pulid_encoder.layers.0.1.3.weight": (1024, 4096),
        "pulid_encoder.mapping_4.6.bias": (1024,),
        "pulid_encoder.id_embedding_mapping.6.weight": (5120, 1024),
        "pulid_ca.19.norm1.weight": (2048,),
        "pulid_ca.0.norm2.weight": (3072,),
        "pulid_ca.0.to_q.weight": (2048, 3072),
        "pulid_ca.0.to_kv.weight": (4096, 2048),
        "pulid_ca.0.to_out.weight": (3072, 2048),
    }.items():
        assert tuple(state[name].shape) == shape, name
    assert not [key for key in state if key.endswith(".to_q.bias") or ".1.1.bias" in key]
    assert {key.split(".")[2] for key in state if key.startswith("pulid_ca.0.")} == {
        "norm1",
        "norm2",
        "to_q",
        "to_kv",
        "to_out",
    }


def test_the_vision_tower_gives_what_enters_its_blocks(zoo: Zoo) -> None:
    from idtool.generate.flux.vision import EvaTower
    from idtool.models.sources import Weights

    folder = zoo("eva")
    tower = EvaTower(Weights("hf:tiny/eva", folder), torch.device("cpu"), "float32")
    assert (tower.size, tower._after) == (56, [0, 1, 2, 3, 4])
    entered: list[Any] = []
    handles = [
        block.register_forward_pre_hook(lambda _, given: entered.append(given[0].clone()))
        for block in tower._network.blocks
    ]
    picture = np.random.default_rng(0).random((512, 512, 3)).astype(np.float32)
    with torch.inference_mode():
        pooled, features = tower([picture])
    for handle in handles:
        handle.remove()
    assert all(torch.equal(*pair) for pair in zip(features, entered[1:], strict=True))
    assert features[0].shape == (1, 17, 16)
    assert pooled.shape == (1, 24)
    assert float(pooled.norm()) == pytest.approx(1, abs=1e-5)


def test_the_grey_portrait_of_a_photo(fixtures: Path) -> None:
    """Aligned to facexlib's crop, hair kept, what is no face or hair white."""
    from idtool.generate.flux import portrait
    from idtool.models import alignment
    from idtool.models.parts import CROP, PARTS, Parsed, crop_matrix

    person = photo(200, 200)
    assert person.face is not None
    matrix = alignment.ffhq(alignment.FFHQ / 2 + 7)
    assert np.allclose(matrix, [[2, 0, -14], [0, 2, -14]], atol=1e-6)
    labels = np.full((CROP, CROP), PARTS.index("cloth"), np.uint8)
    labels[: CROP // 2] = PARTS.index("hair")
    grey = portrait.grey_face(person.image, person.face, Parsed(labels, crop_matrix(person.face.box)))
    assert grey.shape == (512, 512, 3)
    assert np.array_equal(grey[..., 0], grey[..., 2])
    # The middle of the parser's crop, a row of the image, as a row of the aligned crop.
    middle = int((alignment.ffhq(person.face.kps) @ [30, 24, 1])[1])
    assert (grey[middle + 5 :] == 1).all()
    assert 0.2 < grey[100 : middle - 5, 150:350].mean() < 0.8
    with pytest.raises(ValueError, match="coincide"):
        alignment.ffhq(np.zeros((5, 2)))


def test_pulid_refuses_other_files(zoo: Zoo, tmp_path: Path, tiny: Zoo) -> None:
    lora = runs.tiny("ominicontrol", "omini/subject_512.safetensors")
    zoo("ominicontrol")
    with pytest.raises(MissingError, match=r"is no PuLID checkpoint for FLUX: it has no 'pulid_encoder\.latents'"):
        runs.loaded(runs.config_file(tmp_path, zoo, "pulid", {"adapter": lora}), tmp_path)
    folder, tower = tmp_path / "tower", zoo("eva")
    folder.mkdir()
    (folder / "config.json").write_bytes((tower / "config.json").read_bytes())
    (folder / "model.safetensors").write_bytes((zoo("pulid") / "pulid_flux_v0.9.1.safetensors").read_bytes())
    other = {"vision": {"model": f"local:{folder}", "licence": "x"}}
    with pytest.raises(MissingError, match="does not fit its network"):
        runs.loaded(runs.config_file(tmp_path, zoo, "pulid", other), tmp_path)


# --- InfiniteYou ------------------------------------------------------------------------------------------------------


def test_infiniteyou_feeds_identity_tokens_to_its_controlnet(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    method, seen = loaded("infiniteyou"), []
    through = type(method.controlnet).forward

    def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append((tuple(kwargs["encoder_hidden_states"].shape), tuple(kwargs["txt_ids"].shape)))
        return through(self, *args, **kwargs)

    monkeypatch.setattr(type(method.controlnet), "forward", watched)
    runs.latents(method, request(method, photo(), steps=4, start=0.25, end=0.75))
    assert seen == [((1, 8, 32), (8, 3))] * 2
    nothing = request(method, photo(), conditioning_scale=0.0)
    assert torch.equal(runs.latents(method, nothing), stock(method, nothing))


def test_infiniteyou_has_two_variants(zoo: Zoo, loaded: Loaded, tmp_path: Path, tiny: Zoo) -> None:
    from idtool.generate.flux.infiniteyou import folder_of

    folder = zoo("infiniteyou")
    assert folder_of(folder, "sim_stage1") == folder / "infu_flux_v1.0" / "sim_stage1"
    assert folder_of(tmp_path, "sim_stage1") is None
    other = runs.loaded(runs.config_file(tmp_path, zoo, "infiniteyou", variant="sim_stage1"), tmp_path)
    one = [runs.latents(method, request(method, photo())) for method in (loaded("infiniteyou"), other)]
    assert differ(*one) > 1e-5


def test_the_face_network_is_facexlib_s_by_name_and_size() -> None:
    from idtool.generate.flux.irse import IrSe50

    with torch.device("meta"):
        state = IrSe50().state_dict()
    for name, shape in {
        "input_layer.2.weight": (64,),
        "body.3.shortcut_layer.0.weight": (128, 64, 1, 1),
        "body.0.res_layer.5.fc1.weight": (4, 64, 1, 1),
        "body.23.res_layer.3.weight": (512, 512, 3, 3),
        "output_layer.3.weight": (512, 512 * 7 * 7),
        "output_layer.4.weight": (512,),
    }.items():
        assert tuple(state[name].shape) == shape, name
    assert not [key for key in state if key.startswith("body.24.")]


# --- Diffusion Self-Distillation --------------------------------------------------------------------------------------


def test_dsd_gives_the_right_half_of_a_canvas(loaded: Loaded, monkeypatch: pytest.MonkeyPatch) -> None:
    from idtool.generate.flux import dsd

    method = loaded("dsd")
    one = request(method, photo())
    assert method.job([one]).width == 128
    assert runs.latents(method, one).shape == (1, 32, 64)
    wide = np.arange(64 * 128 * 3).reshape(64, 128, 3)
    assert np.array_equal(method.finished([wide], one)[0], wide[:, 64:])
    assert not dsd.canvas(photo().image)[:, 64:].any()
    seen = []
    through = method.pipe.transformer.c_embedder.forward
    monkeypatch.setattr(method.pipe.transformer.c_embedder, "forward", lambda x: seen.append(x) or through(x))
    runs.latents(method, one)
    assert [tuple(x.shape) for x in seen] == [(1, 32, 64)] * 2
    assert torch.equal(*seen)


def test_dsd_refuses_a_transformer_without_its_embedder(zoo: Zoo, tmp_path: Path, tiny: Zoo) -> None:
    other = {"adapter": runs.tiny("flux")}
    with pytest.raises(MissingError, match=r"has no pytorch_lora_weights\.safetensors"):
        runs.loaded(runs.config_file(tmp_path, zoo, "dsd", other), tmp_path)
    lora = zoo("dsd") / "pytorch_lora_weights.safetensors"
    plain = tmp_path / "plain"
    tiny_flux.transformer().save_pretrained(plain / "transformer")
    (plain / lora.name).write_bytes(lora.read_bytes())
    with pytest.raises(MissingError, match="c_embedder"):
        bound = {"adapter": {"model": f"local:{plain}", "licence": "x"}}
        runs.loaded(runs.config_file(tmp_path, zoo, "dsd", bound), tmp_path)


# --- all --------------------------------------------------------------------------------------------------------------


def test_negative_prompts_need_true_guidance(loaded: Loaded) -> None:
    for kind in ("ominicontrol", "pulid"):
        method = loaded(kind)
        plain = request(method, photo(), true_guidance=2.0, **({"start_step": 0} if kind == "pulid" else {}))
        settings = {**plain.settings.model_dump(), "negative_prompt": "blurred"}
        with pytest.raises(Rejected, match="true_guidance is above 1"):
            method.check(request(method, photo(), **{**settings, "true_guidance": 1.0}))
        guided = request(method, photo(), **settings)
        method.check(guided)
        assert differ(runs.latents(method, guided), runs.latents(method, plain)) > 1e-4


def test_a_wrong_base_is_refused_before_anything_else(zoo: Zoo, tmp_path: Path, tiny: Zoo) -> None:
    base = {"base": runs.tiny("flux-fill")}
    with pytest.raises(MissingError, match="takes 384 channels"):
        runs.loaded(runs.config_file(tmp_path, zoo, "ominicontrol", base), tmp_path)


def test_modules_of_methods_import_no_torch() -> None:
    import subprocess
    import sys

    modules = ", ".join(METHODS.get(kind).__module__ for kind in runs.MODELS)
    code = f"import sys, {modules}; assert not {{'torch', 'diffusers', 'timm'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_listing_shows_what_each_method_needs(tiny: Zoo, tmp_path: Path) -> None:
    from idtool.generate import methods
    from tests.generate.made import configuration

    for kind in runs.MODELS:
        path = runs.config_file(tmp_path, tiny, kind)
        file = configuration(path)
        roles = file.profile("offline").bindings()
        shown = methods.show(file, "mine", roles)
        assert shown["state"] in ("ready", "fetch"), shown["why"]
        assert shown["takes_boxes"] == (kind == "regional")
        content = yaml.safe_load(path.read_text("utf-8"))
        del content["methods"]["mine"]["models"]["base"]
        path.write_text(yaml.safe_dump(content), "utf-8")
        assert "model slot 'base'" in methods.show(configuration(path), "mine", roles)["why"]


def test_views_can_be_of_any_shape() -> None:
    """What `regional` uses: one branch answered by two calls, the shares added."""
    from idtool.generate.flux import attention

    generator = torch.Generator().manual_seed(0)
    parts = [
        attention.Part((name,), (3,), torch.randn(1, 3, 1, 8, generator=generator))
        for name in ("text", "base", "image")
    ]
    views = [
        View(("text", "image"), ("text", "image"), None, {"image": 0.75}),
        View(("image",), ("base",), None, {"image": 0.25}),
    ]
    out = attention.attend(parts, parts, parts, views)["image"]
    one = attention.attend(parts, parts, parts, [View(("image",), ("text", "image"))])["image"]
    other = attention.attend(parts, parts, parts, [View(("image",), ("base",))])["image"]
    assert torch.allclose(out, 0.75 * one + 0.25 * other, atol=1e-6)
    assert Additions().views is None
