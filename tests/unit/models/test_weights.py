import hashlib
import json
import os
import shutil

import pytest

from instantid_serve.errors import WeightsError
from instantid_serve.models.weights import MANIFEST_NAME, Origin, check_manifest, read_manifest, write_manifest

MADE = {"": Origin("made", "Apache-2.0")}


@pytest.fixture
def folder(tmp_path):
    """A small folder with a manifest."""
    place = tmp_path / "model"
    (place / "unet").mkdir(parents=True)
    (place / "unet" / "config.json").write_text("{}")
    (place / "unet" / "weights.safetensors").write_bytes(bytes(range(256)))
    write_manifest(place, "miniature", MADE)
    return place


def _rewrite(folder, change):
    """Seal a changed manifest, as someone with access to the folder could."""
    manifest = read_manifest(folder)
    values = json.loads(manifest.to_json())
    change(values)
    unsealed = json.dumps({**values, "seal": ""}, indent=1, sort_keys=True) + "\n"
    values["seal"] = hashlib.sha256(unsealed.encode()).hexdigest()
    (folder / MANIFEST_NAME).write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")


def test_a_flipped_byte_in_any_file_is_refused_by_name(miniature_folder, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(miniature_folder, folder)
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    refused = {}

    for name in names:
        original = (folder / name).read_bytes()
        for position in (0, len(original) // 2, len(original) - 1):
            flipped = bytearray(original)
            flipped[position] ^= 1
            (folder / name).write_bytes(flipped)
            with pytest.raises(WeightsError) as caught:
                check_manifest(folder)
            refused[name] = caught.value.facts["file"]
        (folder / name).write_bytes(original)

    assert refused == {name: name for name in names}
    assert check_manifest(folder).preset == "miniature"


def test_a_truncated_file_is_refused_by_name(folder):
    (folder / "unet" / "weights.safetensors").write_bytes(bytes(range(255)))

    with pytest.raises(WeightsError, match=r"unet/weights\.safetensors has 255 bytes, not the 256"):
        check_manifest(folder)


def test_a_missing_file_is_refused_by_name(folder):
    (folder / "unet" / "weights.safetensors").unlink()

    with pytest.raises(WeightsError, match=r"unet/weights\.safetensors is missing"):
        check_manifest(folder)


@pytest.mark.parametrize(
    "name", ["extra.safetensors", "unet/extra.BIN", "a.onnx", "a.ckpt", "a.pt", "a.pkl", "unet/added.json", "x.py", "x"]
)
def test_a_file_no_one_vouches_for_is_refused_by_name(folder, name):
    (folder / name).write_bytes(b"x")

    with pytest.raises(WeightsError) as caught:
        check_manifest(folder)

    assert caught.value.facts == {"file": name}


def test_a_readme_may_lie_beside_the_files(folder):
    (folder / "README.md").write_text("where this came from")

    assert len(check_manifest(folder).files) == 2


def test_a_folder_without_a_manifest_is_refused(folder):
    (folder / MANIFEST_NAME).unlink()

    with pytest.raises(WeightsError, match=r"manifest\.json is missing"):
        check_manifest(folder)


@pytest.mark.parametrize("where", ["unet/weights.safetensors", "unet"])
def test_a_symlink_is_refused_even_when_the_bytes_are_right(folder, tmp_path, where):
    moved = tmp_path / "elsewhere"
    (folder / where).rename(moved)
    (folder / where).symlink_to(moved)

    with pytest.raises(WeightsError, match=f"{where} is a symlink"):
        check_manifest(folder)


def test_a_named_pipe_is_refused_and_not_read(folder):
    os.mkfifo(folder / "pipe.safetensors")

    with pytest.raises(WeightsError, match=r"pipe\.safetensors is a symlink or a device"):
        check_manifest(folder)


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "unet/../../outside", "unet\\x", ".", "", "a//b"])
def test_a_manifest_that_leads_out_of_the_folder_is_refused(folder, tmp_path, path):
    (tmp_path / "outside").write_text("{}")

    _rewrite(folder, lambda values: values["files"][0].update(path=path))

    with pytest.raises(WeightsError, match=r"manifest\.json is damaged"):
        check_manifest(folder)


def test_a_path_listed_twice_is_refused(folder):
    _rewrite(folder, lambda values: values["files"].append(values["files"][0]))

    with pytest.raises(WeightsError, match="listed twice"):
        check_manifest(folder)


def test_the_longest_prefix_gives_a_file_its_source(folder):
    sources = {"": Origin("a@1", "MIT"), "unet/": Origin("b@2", "GPL"), "unet/weights": Origin("c@3", "BSD")}

    manifest = write_manifest(folder, "miniature", sources)

    assert [(file.source, file.licence) for file in manifest.files] == [("b@2", "GPL"), ("c@3", "BSD")]


def test_a_file_without_a_source_is_not_written_down(folder):
    with pytest.raises(WeightsError, match=r"unet/config\.json has no known source"):
        write_manifest(folder, "miniature", {"vae/": Origin("made", "MIT")})


def test_progress_ends_at_all_bytes(folder):
    seen = []

    check_manifest(folder, progress=lambda name, done, total: seen.append((name, done, total)))

    assert seen == [("unet/config.json", 2, 258), ("unet/weights.safetensors", 258, 258)]
