"""The operator of step `reenact`: the pictures of each portrait, a driver each, by one or two generation methods."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from idtool.curate import made, reenactor
from idtool.curate.derived import NEW, Pixels, attempt, derived_id, pixels_of, stored
from idtool.curate.drivers import Driver, drawn, nearest, prompt_of
from idtool.curate.made import MADE
from idtool.curate.reenact_judge import OWN, SOUGHT
from idtool.engine.operator import Context, Operator, Rejected, Row, is_fatal, is_out_of_memory, map_rows
from idtool.engine.step import Binding
from idtool.generate.method import Made, Method, Person, Request, Spec

WRITES = pa.schema([*MADE, *OWN])
People = Callable[[], tuple[Person, ...]]


@dataclass
class ReenactPortraits(Operator):
    """Adds the pictures of each portrait."""

    settings: Mapping[str, Any]
    """Of the step."""
    specs: tuple[Spec, ...]
    """The reenactor, and what makes its pictures anew, if anything does."""
    roles: Mapping[str, tuple[Binding, ...]]
    """The profile's: methods may use some of them."""
    detector: Binding | None
    drivers: tuple[Driver, ...]
    judged: tuple[str, ...]
    """Columns that the judge after the measures wants."""

    writes = pa.schema([*WRITES, NEW, SOUGHT])

    @property
    def reads(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("id", "kind", "media", "width", "height", *made.TERMS, *self.settings["where"], *self.judged)

    def config(self) -> dict[str, Any]:
        told = [[one.name, one.sha256, one.expression, one.pose] for one in self.drivers]
        return {"methods": self._told(), "drivers": told}

    def _told(self) -> list[Any]:
        """What the pictures depend on besides rows, drivers and settings."""
        return [*(method.fingerprint() for method in self._methods()), made.facts(self.detector)]

    def _methods(self) -> list[Method]:
        return [reenactor.method_of(spec, self.roles) for spec in self.specs]

    def setup(self, context: Context) -> None:
        from idtool.media.store import MediaStore
        from idtool.models import load

        self.store, self.seed = MediaStore(Path(context.run_dir) / "media"), context.seed
        self._faces: Any = None
        if self.detector is not None:
            self._faces = load(self.detector, device=context.device, threads=context.threads)
        self.told = self._told()
        self.methods = self._methods()
        for method in self.methods:
            method.load(context)
        self._turn = threading.Lock()  # pipelines keep their scheduler's state
        # All portraits share their drivers where each expression and pose has one.
        self._driving = lru_cache(maxsize=64)(self._driving_of)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return map_rows(batch, self.rows_of, self.writes)

    def rows_of(self, row: Row) -> list[Row]:
        """The portrait, where it stays, and its pictures."""
        settings = self.settings
        if not made.wanted(row, settings["where"]):
            return [{NEW.name: False}]
        drivers = drawn(self.drivers, row["id"], self.seed)
        asked = [settings[name] for name in ("refine_pictures", "refine_prompt", "quality")]
        ids = [
            derived_id(
                *(row["id"], "reenact", self.told, asked, self.seed),
                *(one.sha256 or one.uri, one.expression, one.pose),
            )
            for one in drivers
        ]
        pictures, prompts = self._set(row, drivers, ids)
        children = []
        for new, one, picture, prompt in zip(ids, drivers, pictures, prompts, strict=True):
            child = attempt(row, new, "reenact", partial(self._child, row, picture, made.seed_of(new)))
            said = {"driver": one.name, "driver_expression": one.expression, "driver_pose": one.pose}
            children.append(child | said | {"prompt": prompt or None})
        return [*([{NEW.name: False}] if settings["keep_portraits"] else []), *children]

    def _set(
        self, row: Row, drivers: Sequence[Driver], ids: Sequence[str]
    ) -> tuple[list[Pixels | Exception], list[str]]:
        """For each driver, the picture, or the exception that stands in its place; and the prompt."""
        first, *further = self.methods
        prompts = [""] * len(drivers)
        try:
            image = pixels_of(row["media"], self.store.root, self.settings["max_pixels"])
            portrait = self._person(first, row["media"], image)
        except Rejected as error:
            return [error for _ in drivers], prompts
        pairs: list[People] = [partial(self._pair, first, portrait, one) for one in drivers]
        pictures = self._pictures(first, ids, prompts, pairs)
        for second in further:
            most = min(self.settings["refine_pictures"], second.people[1])
            prompts = [prompt_of(self.settings["refine_prompt"], one) for one in drivers]
            shown: list[People] = [
                partial(self._shown, second, [pictures[n] for n in nearest(drivers, k)], most)
                for k in range(len(drivers))
            ]
            pictures = self._pictures(second, ids, prompts, shown)
        return pictures, prompts

    def _pair(self, method: Method, portrait: Person, driver: Driver) -> tuple[Person, ...]:
        return portrait, self._person(method, driver.uri, self._driving(driver))

    def _shown(self, method: Method, pictures: Sequence[Any], most: int) -> tuple[Person, ...]:
        """The first, whose own failure is the outcome, and further ones that came out and show a face where asked."""
        if isinstance(pictures[0], Exception):
            raise pictures[0]
        people = [self._person(method, "", pictures[0])]
        for one in pictures[1:]:
            if len(people) < most and not isinstance(one, Exception):
                try:
                    people.append(self._person(method, "", one))
                except Rejected:
                    continue
        return tuple(people)

    def _driving_of(self, driver: Driver) -> Pixels:
        try:
            return pixels_of(driver.uri, self.store.root, self.settings["max_pixels"])
        except Rejected as error:
            told = f"the driving picture {driver.name} cannot be read: {error}"
            raise Rejected("reenact.driver", told) from error

    def _person(self, method: Method, uri: str, image: Pixels) -> Person:
        """A picture as methods take it. Raises Rejected where they need a face and there is none."""
        if not method.needs_face:
            return Person(uri, image)
        if (face := made.face_of({}, image, self._faces)) is None:
            raise Rejected("reference.no_face", "no face was found in a picture that the method is to be shown")
        return Person(uri, image, face)

    def _pictures(
        self, method: Method, ids: Sequence[str], prompts: Sequence[str], shown: Sequence[People]
    ) -> list[Pixels | Exception]:
        """A picture for each id; what goes wrong with one stands in its place."""
        from idtool.generate.rows import checked

        settings = method.spec.settings
        found: list[Any] = [None] * len(ids)
        ready: dict[int, list[tuple[int, Request]]] = {}

        def attempted(make: Callable[[], Any]) -> Any:
            try:
                return make()
            except Exception as error:
                if is_fatal(error) or is_out_of_memory(error):
                    raise
                return error

        def request(k: int) -> Request:
            size, seed = (settings.width, settings.height), made.seed_of(ids[k])
            wish = Request(ids[k], prompts[k], shown[k](), seed, *size, settings, settings.negative_prompt)
            method.check(wish)
            return wish

        for k in range(len(ids)):
            found[k] = attempted(partial(request, k))
            if isinstance(found[k], Request):  # those of a call agree in the number of people
                ready.setdefault(len(found[k].people), []).append((k, found[k]))
        for alike in ready.values():
            with self._turn:
                outcomes = method.generate([wish for _, wish in alike])
            for (k, _), outcome in zip(alike, outcomes, strict=True):
                found[k] = attempted(partial(checked, outcome.image)) if isinstance(outcome, Made) else outcome
        return found

    def _child(self, row: Row, picture: Pixels | Exception, seed: int) -> Row:
        if isinstance(picture, Exception):
            raise picture
        terms = {name: row.get(name) or "not stated" for name in made.TERMS}
        of_methods = "; ".join(
            f"{how}: {reenactor.licence(spec)}" for how, spec in zip(("reenactor", "refiner"), self.specs, strict=False)
        )
        return {
            **stored(picture, self.store, "jpeg", self.settings["quality"]),
            "source": f"{terms['source']} (reenacted)",
            "licence": f"{terms['licence']}; {of_methods}",
            "generator": " + ".join(reenactor.named(spec) for spec in self.specs),
            "generator_seed": seed,
            SOUGHT.name: row.get("embedding"),
        }
