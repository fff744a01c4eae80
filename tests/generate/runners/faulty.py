"""A runner that does what the prompt says, well or badly. Standard library only.

Its argument: `ready` (default), `exit` (ends at once), `mute` (never ready), `future` (another protocol), `closed`
(closes standard output), `beat` (promises heartbeats), `deaf` (takes no notice of SIGTERM nor of the end of its input).
"""

import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

MODE = sys.argv[1] if len(sys.argv) > 1 else "ready"


def say(message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def png(width, height, seed):
    """A gradient, other for every seed."""
    rows = b"".join(
        b"\0" + bytes(v for x in range(width) for v in ((x * 3 + seed * 40) % 256, (y * 5) % 256, seed % 256))
        for y in range(height)
    )

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body) & 0xFFFFFFFF)

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def serve(request, start):
    prompt, name, out = request["prompt"], request["id"], Path(request["output"])
    path, elsewhere = out / (name + ".png"), Path(start["work"], "stolen.png")
    image = png(request["width"], request["height"], request["seed"])
    facts = {"pid": os.getpid(), "settings": request["settings"], "references": len(request["references"])}
    if prompt == "crash":
        sys.stderr.write("Traceback: the sky fell\n")
        os._exit(3)
    if prompt == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if prompt == "crash once":
        mark = Path(start["work"], "crashed")
        if not mark.exists():
            mark.touch()
            os._exit(4)
    if prompt == "hang":
        time.sleep(600)
    if prompt == "child":
        # A process that outlives its parent unless somebody sees to it.
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        facts["child"] = child.pid
    if prompt == "error":
        return say({"id": name, "error": "the prompt is too   odd\nfor me"})
    if prompt == "reject":
        return say({"id": name, "rejected": {"reason": "reference.no_face", "message": "nobody there"}})
    if prompt == "reject oddly":
        return say({"id": name, "rejected": {"reason": "../../etc"}})
    if prompt == "garbage":
        sys.stdout.write('loading 50%\rloading 100%\n{not json\n[1, 2]\n{"other": 1}\n\xff\xfe\n')
        sys.stdout.buffer.write(b"\xff\xfe\x00 binary \x00\n")
    if prompt == "flood":
        for _ in range(10):
            sys.stdout.write("x" * (1 << 20))
        sys.stdout.write("\n")
        for number in range(2000):
            say({"id": f"none-{number}", "image": "x"})
    if prompt == "twice":
        path.write_bytes(image)
        say({"id": name, "image": str(path), "facts": facts})
        (out / "again.png").write_bytes(image)
        return say({"id": name, "image": "again.png"})
    if prompt == "unknown":
        say({"id": "nobody", "image": str(path)})
        say({"id": None})
    if prompt == "half":
        path.write_bytes(image[: len(image) // 2])
        return say({"id": name, "image": str(path)})
    if prompt == "text":
        path.write_bytes(b"I am a picture\n")
        return say({"id": name, "image": str(path)})
    if prompt == "none":
        return say({"id": name})
    if prompt == "number":
        return say({"id": name, "image": 7})
    if prompt == "missing":
        return say({"id": name, "image": f"{path}.not"})
    if prompt == "outside":
        elsewhere.write_bytes(image)
        return say({"id": name, "image": str(elsewhere)})
    if prompt == "dots":
        elsewhere.write_bytes(image)
        return say({"id": name, "image": "../work/stolen.png"})
    if prompt == "link":
        elsewhere.write_bytes(image)
        path.symlink_to(elsewhere)
        return say({"id": name, "image": str(path)})
    if prompt == "folder link":
        elsewhere.write_bytes(image)
        (out / "door").symlink_to(start["work"])
        return say({"id": name, "image": "door/stolen.png"})
    if prompt == "pipe":
        os.mkfifo(path)
        return say({"id": name, "image": str(path)})
    if prompt == "nan":
        path.write_bytes(image)
        sys.stdout.write(f'{{"id": "{name}", "image": "{path}", "facts": {{"loss": NaN}}}}\n')
        return sys.stdout.flush()
    if prompt == "much":
        facts["much"] = "y" * 100000
    if prompt == "environment":
        facts["environment"] = dict(os.environ)
    if prompt == "secret":
        sys.stderr.write("token is " + os.environ["RUNNER_TOKEN"] + "\n")
        os._exit(5)
    if prompt == "reference":
        path.write_bytes(Path(request["references"][0]["image"]).read_bytes())
        facts.update(request["references"][0])
        return say({"id": name, "image": str(path), "facts": facts})
    if prompt == "silent":
        time.sleep(5)
    path.write_bytes(image)
    return say({"id": name, "image": str(path), "facts": facts})


def main():
    if MODE == "exit":
        sys.stderr.write("no module named torch\n")
        sys.exit(1)
    start = json.loads(sys.stdin.readline())["start"]
    if MODE == "mute":
        time.sleep(600)
    if MODE == "closed":
        os.close(1)
        time.sleep(600)
    if MODE == "future":
        say({"ready": {"protocol": 2}})
        time.sleep(600)
    if MODE == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdout.write("a word before the first message\n")
    say({"heartbeat": True})
    say({"ready": {"protocol": 1, "dtype": "float16", "heartbeat": 1 if MODE == "beat" else None, "start": start}})
    for line in sys.stdin:
        serve(json.loads(line), start)
    if MODE == "deaf":
        time.sleep(600)


main()
