"""The `regions` step: the parts of the face as pictures, as FGID has them (ConsistentID, sections 3.1 and 3.4.1).

The largest face is parsed (role `parser`) in a square of 512 px about it, which frames a photo as FFHQ's pictures are
framed. Of each of five regions (face, eyes, ears, nose, mouth) the step stores a mask and the picture on black outside
of it, beside the map of all 19 labels. All of them are PNG files in the media folder of the run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import Field

from idtool.curate import region_images
from idtool.engine.operator import Context, Operator, Rejected
from idtool.engine.step import Binding, Env, RowStep, Settings
from idtool.evaluate.measure_rows import MeasureRows
from idtool.evaluate.measures.base import Item, Measure, Values, column
from idtool.media.limits import PILLOW_MAX_PIXELS
from idtool.models.parts import PARTS, REGIONS
from idtool.models.resources import Gpus, resources

ROLE = "parser"


def picture(name: str, doc: str) -> pa.Field:
    """A column of references to pictures in the run's media folder; `records` ships what is behind them."""
    return pa.field(name, pa.string(), metadata={"doc": doc, "holds": "image"})


WRITES = pa.schema(
    [
        picture(
            "region_frame", "the square about the face that labels, masks and crops lie on; null: the image itself"
        ),
        column("region_matrix", pa.list_(pa.float64()), "from pixels of the image to those of the square, 2x3 by rows"),
        picture("region_labels", f"grey levels: {', '.join(f'{k} {part}' for k, part in enumerate(PARTS))}"),
        *(
            field
            for region in REGIONS
            for field in (
                column(f"{region}_visible", pa.bool_(), f"whether enough of the {region} is seen"),
                column(f"{region}_pixels", pa.float32(), f"share of the square that is {region}", "[0, 1]"),
                picture(f"{region}_mask", f"white where the {region} is; null where it is not visible"),
                picture(f"{region}_crop", f"the {region} on black; null where it is not visible"),
            )
        ),
    ]
)


class RegionsSettings(Settings):
    frame: Literal["face", "image"] = "face"
    """What labels, masks and crops lie on. `face`: the square of 512 px about the face. `image`: the whole image, as
    the released code has it for pictures that are framed alike."""
    crop: Literal["frame", "bbox", "none"] = "frame"
    """Crops of regions: the whole frame with black outside the mask, as in the released code; or the mask's bounding
    box of it; or none."""
    margin: float = Field(default=0.15, ge=0, le=2)
    """Of `crop: bbox`: added on each side, as a share of the box's longer side."""
    pairs: Literal["both", "first"] = "both"
    """Eyes, ears, lips. `first`: one of each, as some of the released code does by mistake."""
    fill: bool = False
    """Whether holes in masks are filled, as the released code does; a frame of glasses then counts as face."""
    min_share: float = Field(default=0.0003, ge=0, le=1)
    """Least share of the square for a region to be visible; 0.0003 are 79 pixels of 512 x 512."""
    batch: int = Field(default=8, ge=1)
    max_pixels: int = Field(default=100_000_000, ge=1, le=PILLOW_MAX_PIXELS)
    gpus: Gpus = None
    """Accelerators that one worker reserves on a cluster; null: 1 where the parser runs on CUDA, else 0."""


class Regions(RowStep):
    """Rejects images without a face (`regions.no_face`)."""

    kind = "regions"
    Settings: ClassVar[type[Settings]] = RegionsSettings
    summary = "cut the face into its parts: label map, masks, pictures of the regions"

    settings: RegionsSettings

    def __init__(self, settings: RegionsSettings, env: Env) -> None:
        super().__init__(settings, env)

    def skip_reason(self) -> str | None:
        return FaceRegions.why_not(self.env)

    def provides_none(self) -> Mapping[str, str]:
        why = self.skip_reason()
        return dict.fromkeys(WRITES.names, why) if why else {}

    def reads(self, available: Mapping[str, pa.Field]) -> tuple[str, ...]:
        return ("id", "media", "width", "height", *FaceRegions.reads)

    def writes(self, available: Mapping[str, pa.Field]) -> pa.Schema:
        return WRITES

    def config(self) -> dict[str, Any]:
        return {"settings": self.settings.model_dump(mode="json", exclude={"batch", "gpus"})}

    def models(self) -> list[Binding]:
        return list(self.env.all(ROLE)[:1])

    def operators(self) -> list[Operator]:
        binding = FaceRegions.bound(self.env)
        need = resources(self.env, [binding], self.settings.gpus)
        measure = FaceRegions(binding, self.settings)
        return [MeasureRows([measure], {}, self.settings.batch, self.settings.max_pixels, need)]


class FaceRegions(Measure):
    """Stores the pictures of each image's regions and gives their references."""

    name = "regions"
    role = ROLE
    summary = Regions.summary
    reads = ("face_box", "face_kps", "face_score")
    writes = WRITES

    def __init__(self, binding: Binding | None = None, settings: RegionsSettings | None = None) -> None:
        super().__init__(binding)
        self.settings = settings or RegionsSettings()

    def load(self, context: Context) -> None:
        from idtool.media.store import MediaStore

        super().load(context)
        self.store = MediaStore(Path(context.run_dir) / "media")

    def __call__(self, items: Sequence[Item]) -> Sequence[Values | Exception]:
        having = [item for item in items if item.get("face_kps") is not None]
        parsed = iter(self.model([item.image for item in having], [item.face for item in having]) if having else ())
        return [
            self._stored(item, next(parsed))
            if item.get("face_kps") is not None
            else Rejected("regions.no_face", "no face was found, so there is nothing to cut into regions")
            for item in items
        ]

    def _stored(self, item: Item, parsed: Any) -> Values:
        settings = self.settings
        own = settings.frame == "face"
        frame, labels = region_images.framed(item.image, parsed) if own else region_images.whole(item.image, parsed)
        values: dict[str, Any] = {
            "region_frame": self._put(frame) if own else None,
            "region_matrix": parsed.matrix.reshape(-1).tolist(),
            "region_labels": self._put(labels),
        }
        # What is seen is judged on the parser's own square, whatever the frame.
        square = region_images.framed(item.image, parsed)[1] if not own else labels
        for region, parts in region_images.parts_of(settings.pairs).items():
            share = float(region_images.mask(square, parts, fill=False).mean())
            mask = region_images.mask(labels, parts, fill=settings.fill)
            visible = share >= settings.min_share and bool(mask.any())
            values |= {f"{region}_visible": visible, f"{region}_pixels": share}
            if not visible:
                continue
            values[f"{region}_mask"] = self._put(mask.astype("uint8") * 255)
            if settings.crop != "none":
                margin = settings.margin if settings.crop == "bbox" else None
                values[f"{region}_crop"] = self._put(region_images.on_black(frame, mask, margin))
        return values

    def _put(self, pixels: Any) -> str:
        return self.store.put(region_images.png(pixels), ".png")
