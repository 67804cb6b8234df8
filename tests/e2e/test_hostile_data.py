"""Data of strangers through the door: refused by name, or accepted with a warning; nothing runs."""

import csv
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest

from tests.data import data_files, image_bytes, record_files
from tf_finetune import main

CANARY = "secret of somebody"


@pytest.fixture
def photos(tmp_path, colors):
    shutil.copytree(colors, tmp_path / "photos")
    return tmp_path / "photos"


def validate(capsys, data, *flags):
    """(exit code, everything that was printed, the messages of problems.csv)."""
    output = data.parent / "out" / "problems.csv"
    output.parent.mkdir(exist_ok=True)
    code = main.main(["--mode=validate", f"--data={data}", f"--output={output}", *flags])
    captured = capsys.readouterr()
    text = captured.out + captured.err
    assert "Traceback" not in text and "\x1b" not in text and CANARY not in text
    with open(output, newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        cells = [row[name] for name in ("severity", "path", "line", "message")]
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in cells)
        assert row["message"] in text or "'" in row["message"]
    return code, text, [row["message"] for row in rows if row["severity"] == "error"]


def test_what_a_folder_of_images_can_hide(photos, tmp_path, capsys):
    (tmp_path / "secret").write_text(CANARY)
    (tmp_path / "others").mkdir()
    bomb = bytearray(image_bytes.make_png(np.zeros((2, 2, 1), np.uint16)))
    bomb[16:24] = (30_000).to_bytes(4, "big") * 2
    (photos / "red" / "bomb.png").write_bytes(bomb)
    os.mkfifo(photos / "red" / "fifo.jpg")
    (photos / "red" / "leak.jpg").symlink_to(tmp_path / "secret")
    (photos / "others").symlink_to(tmp_path / "others")
    (photos / "red" / "zero.jpg").symlink_to("/dev/zero")
    name = b"\x1b[2J\n[OK].jpg"
    with open(os.path.join(os.fsencode(photos), b"red", name), "wb") as file:
        file.write(b"\x1b[31m")
    code, _, found = validate(capsys, photos)
    assert code == 2
    names = ["fifo.jpg", "leak.jpg", "zero.jpg", "others", "bomb.png", "\\x1b[2J\\n[OK].jpg"]
    assert all(any(name in message for message in found) for name in names)
    assert len(found) == 6
    code, text, found = validate(capsys, photos, "--on_bad_example=skip")
    assert (code, found) == (0, [])
    assert all(name in text for name in names)


def test_bombs_of_every_format(photos, capsys):
    small = image_bytes.gradient(8, 8)
    heads = {"PNG": (16, ">", 4), "GIF": (6, "<", 2), "BMP": (18, "<", 4)}
    for form, (place, order, size) in heads.items():
        content = bytearray(image_bytes.encode(small, form))
        side = (60_000).to_bytes(size, "big" if order == ">" else "little")
        content[place : place + 2 * size] = 2 * side
        (photos / "red" / f"bomb.{form.lower()}").write_bytes(content)
    jpeg = bytearray(image_bytes.encode(small, "JPEG"))
    place = jpeg.index(b"\xff\xc0") + 5
    jpeg[place : place + 4] = (60_000).to_bytes(2, "big") * 2
    (photos / "red" / "bomb.jpg").write_bytes(jpeg)
    webp = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + (59_999).to_bytes(3, "little") * 2
    (photos / "red" / "bomb.webp").write_bytes(webp + bytes(30))
    frames = [PIL.Image.fromarray(np.full((90, 90), 40 * n, np.uint8)) for n in range(5)]
    options = {"save_all": True, "append_images": frames[1:], "disposal": 2}
    (photos / "red" / "many.gif").write_bytes(image_bytes.encode(frames[0], "GIF", **options))
    code, _, found = validate(capsys, photos, "--max_image_pixels=30000")
    assert code == 2
    assert [message.split("/")[-1].split(" is too large: ")[0] for message in found] == [
        "bomb.bmp",
        "bomb.gif",
        "bomb.jpg",
        "bomb.png",
        "bomb.webp",
        "many.gif",
    ]
    assert "90 x 90 x 5 frames" in found[-1]


def test_what_a_table_can_hide(photos, capsys):
    (photos.parent / "secret.png").write_text(CANARY)
    (photos / "up").symlink_to(photos.parent)
    rows = ["path,label", *(f"red/{n:03d}.png,a" for n in range(9))]
    rows += [f"blue/{n:03d}.png,b" for n in range(9)]
    hostile = [
        "../secret.png",
        "up/secret.png",
        str(photos.parent / "secret.png"),
        "http://127.0.0.1:9/x.jpg",
        "file:///etc/passwd",
        "/dev/zero",
    ]
    (photos / "labels.csv").write_text("\n".join(rows + [f"{path},a" for path in hostile]))
    code, _, found = validate(capsys, photos / "labels.csv")
    assert code == 2
    assert [message.split(": ")[0][-7:] for message in found] == [
        f"line {n}" for n in range(20, 26)
    ]


def test_labels_that_a_spreadsheet_would_run(photos, capsys):
    names = ['=HYPERLINK("http://127.0.0.1")', "@SUM(1)", "-1+1", "x;=1+1"]
    rows = [
        f'red/{n:03d}.png,"{name.replace(chr(34), 2 * chr(34))}"' for n, name in enumerate(names)
    ]
    rows += [f"blue/{n:03d}.png,b" for n in range(9)]
    (photos / "labels.csv").write_text("path,label\n" + "\n".join(rows))
    code, _, found = validate(capsys, photos / "labels.csv")
    assert (code, found) == (0, [])
    text = (photos / "out" / "problems.csv").read_text()
    assert ";=" not in text and ",=" not in text and "=HYPERLINK" in text


def test_a_class_name_that_only_training_refuses(photos, classifier, capsys):
    rows = [f'red/{n:03d}.png,"a, ""b""\nc"' for n in range(9)]
    rows += [f"blue/{n:03d}.png,b" for n in range(9)]
    path = photos / "labels.csv"
    path.write_text("path,label\n" + "\n".join(rows))
    code, text, _ = validate(capsys, path)
    assert code == 0
    name = "class name 'a, \"b\"\\nc' has a comma."
    assert f"warning: {path}: {name} Training refuses it. Rename the class.\n" in text
    workdir = photos.parent / "run"
    assert main.main([f"--model={classifier}", f"--data={path}", f"--workdir={workdir}"]) == 2
    assert f"error: {path}: {name} Rename the class." in capsys.readouterr().err


def write_records(path, *, more=b""):
    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        for number in range(60):
            pixels = rng.integers(0, 90, (16, 16, 3)).astype(np.uint8)
            pixels[..., number % 3] += 120
            png = image_bytes.encode(pixels, "PNG")
            file.write(record_files.frame(record_files.example(image=png, label=number % 3)))
        file.write(more)
    return path


def test_records(tmp_path, capsys):
    good = write_records(tmp_path / "good.tfrecord")
    assert validate(capsys, good)[0] == 0
    length = (2**40).to_bytes(8, "little")
    bad = write_records(tmp_path / "bad.tfrecord", more=length + b"\0\0\0\0xx")
    code, _, (message,) = validate(capsys, bad)
    assert code == 2
    assert message.startswith(f"{bad}, record 61 has a wrong checksum of its length: ")
    assert validate(capsys, bad, "--on_bad_example=skip")[0] == 0


def test_a_run_on_records(tmp_path, classifier, capsys):
    data = write_records(tmp_path / "good.tfrecord")
    flags = [f"--model={classifier}", f"--data={data}", f"--workdir={tmp_path / 'run'}"]
    flags += ["--pixel_range=0..1", "--epochs=30", "--learning_rate=0.03", "--classes=r,g,b"]
    assert main.main(flags) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] != "unfinished"
    rows = (tmp_path / "run" / "split.csv").read_text().splitlines()
    assert rows[1].startswith("good.tfrecord/00000001,") and len(rows) == 61


@pytest.mark.parametrize("content", [b"", b"path\n", b"path,label\nx.jpg,\xe9\n"])
def test_an_answer_without_tensorflow(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    code = (
        "import sys; from tf_finetune import main; "
        f"assert main.main(['--mode=validate', '--data={tmp_path}/a.csv']) == 2; "
        "assert 'tensorflow' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_the_corpus(shared, tmp_path, repository):
    command = f"{sys.executable} -m tf_finetune.main --mode=validate --data={{path}}"
    command += " --output={out}/problems.csv"
    arguments = ["--kinds=images,csv,tfrecord", f"--data_command={command}"]
    arguments += [f"--classes_command={command} --classes=cat,dog", f"--json={tmp_path}/r.json"]
    script = shared / "hostile" / "run_hostile.py"
    done = subprocess.run(
        [sys.executable, script, *arguments], cwd=repository, capture_output=True, text=True
    )
    results = json.loads((tmp_path / "r.json").read_text())
    assert [result for result in results if not result["passed"]] == []
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(results) > 50


def test_the_data_folder_may_be_a_link(photos, tmp_path, capsys):
    data_files.write_named(tmp_path, "other/x")
    (tmp_path / "link").symlink_to(photos)
    assert validate(capsys, tmp_path / "link")[0] == 0
