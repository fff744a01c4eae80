"""A runner in 30 lines of plain Python: it gives the reference back. docs/runners.md tells the protocol."""

import json
import shutil
import sys
from pathlib import Path


def say(message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


start = json.loads(sys.stdin.readline())["start"]  # device, models, settings, repo, output, work
# Load your models here, once.
say({"ready": {"protocol": 1, "dtype": "float32"}})

for line in sys.stdin:
    request = json.loads(line)
    if not request["references"]:
        say({"id": request["id"], "rejected": {"reason": "request.people", "message": "nobody to show"}})
        continue
    try:
        path = Path(request["output"], request["id"] + ".png")
        # Make your image here, of request["prompt"], request["seed"], request["width"] …
        shutil.copyfile(request["references"][0]["image"], path)
        say({"id": request["id"], "image": str(path), "facts": {"prompt_words": len(request["prompt"].split())}})
    except Exception as error:
        say({"id": request["id"], "error": f"{type(error).__name__}: {error}"})
