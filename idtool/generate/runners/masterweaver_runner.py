"""Runner for MasterWeaver (github.com/csyxwei/MasterWeaver).

Unproven: written from the repository's code, never run with its weights.
One person, 512 x 512. Its adapter and the BiSeNet are on Google Drive, dlib's landmarks on GitHub: bind them as
`local:`.
"""

from __future__ import annotations

import sys
from typing import Any

from protocol import enter, pictures, serve  # type: ignore[import-not-found]


def load(start: dict[str, Any]) -> Any:
    sys.path.insert(1, f"{enter(start)}/data_scripts")
    import dlib  # type: ignore[import-not-found]
    import torch
    from face_parsing import BiSeNet  # type: ignore[import-not-found]
    from masterweaver.pipeline import MasterWeaverPipeline  # type: ignore[import-not-found]

    models = start["models"]
    pipe = MasterWeaverPipeline(
        models["base"],
        models["vae"],
        models["image_encoder"],
        models["adapter"],
        "cuda",
        num_tokens=16,
        dtype=torch.float16,
    )
    parser = BiSeNet(n_classes=19)
    parser.cuda()
    parser.load_state_dict(torch.load(models["segmenter"], weights_only=True))
    parser.eval()
    return pipe, parser, dlib.get_frontal_face_detector(), dlib.shape_predictor(models["face"])


def make(state: Any, request: dict[str, Any]) -> Any:
    import numpy as np
    from face_alignment import image_align  # type: ignore[import-not-found]
    from face_parsing import evaluate
    from PIL import Image

    pipe, parser, detector, landmarks = state
    settings, faces = request["settings"], []
    for image in pictures(request):
        picture, grey = np.array(image), np.array(image.convert("L"))
        found = detector(grey, 1)
        if found:  # as the repository: without a face the whole picture is taken
            points = [(one.x, one.y) for one in landmarks(grey, found[0]).parts()]
            image = Image.fromarray(image_align(picture, points, transform_size=512).astype("uint8"))
        faces.append(evaluate(image, parser, mode="face"))
    return pipe.generate(
        pil_image=faces,
        num_samples=1,
        num_inference_steps=settings["steps"],
        seed=request["seed"],
        guidance_scale=settings["guidance"],
        id_scale=settings["id_scale"],
        prompt=request["prompt"],
        negative_prompt=request["negative"] or "",
    )[0]


serve(load, make, dtype="float16")
