"""Bad input through the CLI: a clear outcome, nothing lost, the right exit code."""

from __future__ import annotations

import io
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from idtool.cli import app
from idtool.run import Run

CHEAP = Path(__file__).with_name("cheap.yaml")


def picture(size: tuple[int, int] = (96, 80), seed: int = 0, mode: str = "RGB") -> Image.Image:
    """Smooth noise: a picture that no two seeds share and that survives JPEG."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode)


def curate(inputs: Path | str, output: Path, *more: str) -> Result:
    arguments = ["curate", "--recipe", "cheap", "--config", str(CHEAP), "--input", str(inputs), "--output", str(output)]
    return CliRunner().invoke(app, [*arguments, "--engine", "local", "--json", *more])


def outcomes(output: Path) -> dict[str, tuple[str, str | None]]:
    """Name -> (last status, reason) of every source file of a run."""
    run, found = Run(output), {}
    for entry in run.steps:
        if entry["state"] == "done":
            for row in run.step_table(entry["name"]).read(["name", "status", "reason"]).to_pylist():
                found[row["name"]] = (row["status"], row["reason"])
    return found


def test_a_folder_of_oddities(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    good = picture()
    good.save(folder / "good.png")
    buffer = io.BytesIO()
    picture(seed=1).save(buffer, "JPEG", quality=95)
    (folder / "truncated.jpg").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    (folder / "zero.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("not a picture at all, whatever the name says\n" * 20)
    picture(seed=2).save(folder / "really_png.jpg", "PNG")
    picture(seed=3, mode="CMYK").save(folder / "cmyk.jpg")
    picture(seed=4, mode="RGBA").save(folder / "rgba.png")
    Image.fromarray((np.arange(96 * 80, dtype=np.uint16) * 8).reshape(80, 96)).save(folder / "sixteen.png")
    frames = [picture(seed=5), picture(seed=6)]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    rotated = picture((120, 60), seed=7)
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated.save(folder / "rotated.jpg", exif=exif)
    picture((1, 1), seed=8).save(folder / "dot.png")
    (folder / "bomb.png").write_bytes(bomb())
    picture(seed=9).save(folder / "with space and\nnewline é 人.png")
    (folder / "loop").symlink_to(folder)

    result = curate(folder, tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    found = outcomes(tmp_path / "run")
    kept = {"good.png", "really_png.jpg", "cmyk.jpg", "rgba.png", "sixteen.png", "animated.gif", "rotated.jpg"}
    kept.add("with space and\nnewline é 人.png")
    assert {name for name in kept if found[name][0] == "kept"} == kept, found
    assert found["truncated.jpg"] == ("rejected", "truncated")
    assert found["zero.jpg"][0] == found["text.jpg"][0] == found["bomb.png"][0] == "rejected"
    assert found["bomb.png"][1] == "too_large.pixels"
    assert found["dot.png"] == ("rejected", "resolution.short_side")
    assert len(found) == 13, sorted(found)
    rows = {row["name"]: row for row in Run(tmp_path / "run").step_table("ingest").read().to_pylist()}
    assert (rows["rotated.jpg"]["width"], rows["rotated.jpg"]["height"]) == (60, 120)
    assert rows["really_png.jpg"]["format"] == "png"


def bomb() -> bytes:
    """A valid PNG header that promises 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def test_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    result = curate(tmp_path / "in", tmp_path / "run")
    assert result.exit_code == 2
    assert "in" in result.stderr and "Traceback" not in result.stderr


def test_missing_folder(tmp_path: Path) -> None:
    result = curate(tmp_path / "nowhere", tmp_path / "run")
    assert result.exit_code == 2
    assert "nowhere" in result.stderr


def test_manifest_with_missing_files_keeps_metadata(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    manifest = tmp_path / "list.csv"
    manifest.write_text(
        "path,identity,source,licence,consent,camera\na.png,Ann,archive,CC0,signed,X1\ngone.png,Bob,archive,CC0,signed,X2\n"
    )
    result = curate(manifest, tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    assert outcomes(tmp_path / "run") == {"a.png": ("kept", None), "gone.png": ("rejected", "missing_file")}
    row = Run(tmp_path / "run").step_table("dedup").read().to_pylist()[0]
    assert (row["identity_label"], row["source"], row["licence"], row["consent"]) == ("Ann", "archive", "CC0", "signed")
    assert json.loads(row["extra"]) == {"camera": "X1"}


def test_everything_bad_exits_3_and_still_reports(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "zero.jpg").write_bytes(b"")
    result = curate(folder, tmp_path / "run")
    assert result.exit_code == 3, result.stderr
    assert "ingest" in result.stderr
    assert json.loads(result.stdout)["steps"][0]["reasons"] == {"empty": 1}
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--recipe", "dimd"], "dmid"),
        (["--set", "gate.resolution.short_sid.min=5"], "short_side"),
        (["--set", "gate.resolution.short_side.mn=5"], "min"),
        (["--set", "gaet.resolution.short_side.min=5"], "gate"),
        (["--profile", "offlin"], "offline"),
    ],
)
def test_slips_of_the_keys_are_answered_with_the_right_spelling(
    tmp_path: Path, arguments: list[str], says: str
) -> None:
    picture().save(tmp_path / "a.png")
    base = ["curate", "--input", str(tmp_path / "a.png"), "--output", str(tmp_path / "run")]
    result = CliRunner().invoke(app, [*base, *arguments])
    assert result.exit_code == 2, result.output
    assert says in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_ctrl_c_stops_at_once_and_says_how_to_go_on(tmp_path: Path) -> None:
    import signal
    import subprocess
    import sys
    import time

    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(80):
        picture((1600, 1200), seed=number).save(folder / f"{number}.jpg")
    command = [sys.executable, "-m", "idtool", "curate", "--recipe", "cheap", "--config", str(CHEAP)]
    run = tmp_path / "run"
    process = subprocess.Popen(
        [*command, "--input", str(folder), "--output", str(run), "--engine", "local"], stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not list(run.glob("steps/*measure/parts/*")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130, said
    assert "Go on with: idtool curate --recipe cheap" in said and "Traceback" not in said
    assert curate(folder, run).exit_code == 0
    assert Run(run).entry("measure")["kept"] == 80


def test_output_in_use(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    with Run.create(tmp_path / "run"):
        result = curate(tmp_path / "a.png", tmp_path / "run")
    assert result.exit_code == 2
    assert "in use" in result.stderr


def test_read_only_output(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.png")
    result = curate(tmp_path / "a.png", Path("/proc/idtool-run"))
    assert result.exit_code == 2
    assert "Cannot write" in result.stderr


def test_disk_full_stops_cleanly_and_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(6):
        picture(seed=number).save(folder / f"{number}.png")

    from idtool.engine import commit

    write = commit.write_file
    written: list[Path] = []

    def full(table: Any, path: Path, **options: Any) -> None:
        written.append(path)
        if len(written) == 4:
            raise OSError(28, "No space left on device", str(path))
        write(table, path, **options)

    monkeypatch.setattr(commit, "write_file", full)
    result = curate(folder, tmp_path / "run")
    assert result.exit_code == 1
    assert "No space left" in result.stderr and "goes on" in result.stderr
    monkeypatch.setattr(commit, "write_file", write)
    assert curate(folder, tmp_path / "run").exit_code == 0
    assert curate(folder, tmp_path / "fresh").exit_code == 0
    tables = [Run(tmp_path / name).step_table("dedup").read() for name in ("run", "fresh")]
    assert tables[0].drop_columns(["input_id"]).equals(tables[1].drop_columns(["input_id"]))


def test_a_file_changed_in_place_is_read_again(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(3):
        picture(seed=number).save(folder / f"{number}.png")
    assert curate(folder, tmp_path / "run").exit_code == 0
    picture((64, 64), seed=9).save(folder / "1.png")
    assert curate(folder, tmp_path / "run").exit_code == 0
    assert curate(folder, tmp_path / "fresh").exit_code == 0
    tables = [Run(tmp_path / name).step_table("dedup").read() for name in ("run", "fresh")]
    assert tables[0].equals(tables[1])


def test_a_corrected_manifest_reaches_the_last_table(tmp_path: Path) -> None:
    manifest = tmp_path / "list.csv"
    for number in range(3):
        picture(seed=number).save(tmp_path / f"{number}.png")

    def labelled(name: str) -> None:
        manifest.write_text(f"path,identity,licence\n0.png,Ann,CC0\n1.png,{name},CC0\n2.png,Bob,CC0\n")

    labelled("Ann")
    assert curate(manifest, tmp_path / "run").exit_code == 0
    labelled("Bob")
    assert curate(manifest, tmp_path / "run").exit_code == 0
    rows = Run(tmp_path / "run").step_table("dedup").read(["name", "identity_label"]).to_pylist()
    assert {row["name"]: row["identity_label"] for row in rows} == {"0.png": "Ann", "1.png": "Bob", "2.png": "Bob"}
