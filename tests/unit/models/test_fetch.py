import dataclasses
import hashlib
import re
import shutil

import pytest
import torch
from doubles.file_server import file_server
from doubles.original_layout import write_single_file
from doubles.small_preset import BASE_COMMIT, FACES, INSTANTID_COMMIT, archive, base_files, face_pack, publish
from filelock import FileLock
from safetensors.torch import load_file

from instantid_serve.errors import WeightsError
from instantid_serve.models.fetch import Base, fetch, fetch_preset
from instantid_serve.models.presets import PRESETS
from instantid_serve.models.weights import check_manifest

OTHER_COMMIT = "3" * 40


@pytest.fixture
def server(monkeypatch):
    """A server on loopback, and no token of the machine's."""
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with file_server() as running:
        yield running


@pytest.fixture
def preset(server, miniature_folder):
    """A preset of miniature size, all of it served."""
    return publish(server, miniature_folder)


def _fetch(server, preset, folder, base=Base(), **options):  # noqa: B008 - frozen
    return fetch_preset(
        preset, folder, base, **{"accept_licences": True, "progress": False, "hub_endpoint": server.url, **options}
    )


def _same_weights(folder, miniature_folder):
    names = [path.relative_to(miniature_folder).as_posix() for path in miniature_folder.rglob("*.safetensors")]
    pairs = [(load_file(folder / name), load_file(miniature_folder / name)) for name in names]
    return all(
        ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in theirs)
        for ours, theirs in pairs
    )


def test_a_fetched_folder_is_whole_and_says_where_each_file_comes_from(server, preset, tmp_path, miniature_folder):
    folder = tmp_path / "models" / "real"

    manifest = _fetch(server, preset, folder)

    assert check_manifest(folder) == manifest
    sources = {file.path: file.source for file in manifest.files}
    assert sources["base/unet/diffusion_pytorch_model.safetensors"] == f"y/sdxl@{BASE_COMMIT}"
    assert sources["ip-adapter.safetensors"] == f"x/InstantID@{INSTANTID_COMMIT}"
    assert sources["antelopev2/glintr100.onnx"] == f"{server.url}/releases/antelopev2.zip"
    assert not any("README" in path or path.endswith((".bin", "genderage.onnx")) for path in sources)
    assert _same_weights(folder, miniature_folder)
    assert {name: (folder / "antelopev2" / name).read_bytes() for name in FACES} == FACES
    assert [path.name for path in folder.parent.iterdir()] == ["real"]


def test_a_fetched_folder_loads(server, preset, tmp_path):
    from instantid_serve.models.instantid import InstantIDModel

    _fetch(server, preset, tmp_path / "real")

    assert InstantIDModel.open(tmp_path / "real", device="cpu", dtype="float32").latent_channels == 4


def test_what_is_there_already_is_not_fetched_again(server, preset, tmp_path):
    manifest = _fetch(server, preset, tmp_path / "real")
    server.requests.clear()

    assert _fetch(server, preset, tmp_path / "real") == manifest
    assert server.requests == []


def test_without_acceptance_every_licence_is_listed_and_nothing_is_asked_for(server, preset, tmp_path):
    with pytest.raises(WeightsError) as caught:
        _fetch(server, preset, tmp_path / "real", accept_licences=False)

    assert "research purposes only" in caught.value.detail
    assert "non-commercial research only" in caught.value.detail
    assert "Open RAIL++-M" in caught.value.detail
    assert [licence["name"] for licence in caught.value.facts["licences"]][1] == "InsightFace non-commercial research"
    assert server.requests == []
    assert list(tmp_path.iterdir()) == []


def test_a_fetch_that_failed_late_asks_only_for_the_rest(server, preset, tmp_path):
    server.status["/releases/antelopev2.zip"] = 410
    with pytest.raises(WeightsError, match=r"antelopev2\.zip cannot be downloaded: the server answered 410"):
        _fetch(server, preset, tmp_path / "real")
    assert not (tmp_path / "real").exists()
    server.status.clear()
    server.requests.clear()

    _fetch(server, preset, tmp_path / "real")

    assert [path for path, _ in server.requests] == ["/releases/antelopev2.zip"]


def test_a_connection_that_breaks_in_each_large_file_is_resumed(server, preset, tmp_path):
    net = f"/x/InstantID/resolve/{INSTANTID_COMMIT}/ControlNetModel/diffusion_pytorch_model.safetensors"
    server.cuts = {net: [1_000_000], "/releases/antelopev2.zip": [100]}

    _fetch(server, preset, tmp_path / "real")

    assert server.asked("ControlNetModel/diffusion_pytorch_model.safetensors") == [None, "bytes=1000000-"]
    assert server.asked("antelopev2.zip") == [None, "bytes=100-"]


@pytest.mark.parametrize(
    "name",
    [
        f"/x/InstantID/resolve/{INSTANTID_COMMIT}/ip-adapter.bin",
        f"/x/InstantID/resolve/{INSTANTID_COMMIT}/ControlNetModel/config.json",
        f"/y/sdxl/resolve/{BASE_COMMIT}/vae/diffusion_pytorch_model.fp16.safetensors",
        "/releases/antelopev2.zip",
    ],
)
def test_a_corrupted_file_is_refused_by_name_and_fetched_anew_next_time(server, preset, tmp_path, name):
    right = server.files[name]
    flipped = bytearray(right)
    flipped[len(right) // 2] ^= 1
    server.files[name] = bytes(flipped)
    with pytest.raises(WeightsError, match=re.escape(name.rpartition("/")[2])):
        _fetch(server, preset, tmp_path / "real")
    assert not (tmp_path / "real").exists()
    server.files[name] = right
    server.requests.clear()

    _fetch(server, preset, tmp_path / "real")

    assert server.requests[0] == (name, None)


@pytest.mark.parametrize(
    "members",
    [
        {"antelopev2/scrfd_10g_bnkps.onnx": FACES["scrfd_10g_bnkps.onnx"]},
        {**FACES, "again/glintr100.onnx": FACES["glintr100.onnx"]},
        {**FACES, "glintr100.onnx": b"Recogniser" + FACES["glintr100.onnx"][10:]},
        {**FACES, "glintr100.onnx": b"short"},
    ],
    ids=["missing", "twice", "other content", "other size"],
)
def test_a_face_pack_without_exactly_the_two_files_is_refused(server, preset, tmp_path, members):
    pack = face_pack(members)
    server.files["/releases/antelopev2.zip"] = pack

    with pytest.raises(WeightsError, match=r"glintr100\.onnx"):
        _fetch(server, dataclasses.replace(preset, faces=archive(server, pack)), tmp_path / "real")

    assert not (tmp_path / "real").exists()


def test_no_name_in_a_face_pack_leads_out_of_the_folder(server, preset, tmp_path):
    pack = face_pack({f"../../../../{name}": content for name, content in FACES.items()} | {"/etc/evil": b"x"})
    server.files["/releases/antelopev2.zip"] = pack

    _fetch(server, dataclasses.replace(preset, faces=archive(server, pack)), tmp_path / "a" / "real")

    assert {path.name for path in (tmp_path / "a" / "real" / "antelopev2").iterdir()} == set(FACES)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("content", [b"no zip", b"PK\x03\x04" + b"\0" * 60], ids=["text", "torn"])
def test_a_face_pack_that_is_no_zip_file_is_refused(server, preset, tmp_path, content):
    server.files["/releases/antelopev2.zip"] = content

    with pytest.raises(WeightsError, match="not a readable zip file"):
        _fetch(server, dataclasses.replace(preset, faces=archive(server, content)), tmp_path / "real")


@pytest.mark.parametrize("revision", [None, "main", "v1.0", "2" * 39, "G" * 40])
def test_a_base_from_the_hub_needs_a_commit(server, preset, tmp_path, revision):
    with pytest.raises(WeightsError, match="40 hex digits"):
        _fetch(server, preset, tmp_path / "real", Base(repo="z/base", revision=revision))

    assert server.requests == []


def test_another_base_comes_from_the_hub_at_its_commit(server, preset, tmp_path, miniature_folder):
    server.add_repository("z/base", OTHER_COMMIT, base_files(miniature_folder))

    manifest = _fetch(server, preset, tmp_path / "real", Base(repo="z/base", revision=OTHER_COMMIT))

    assert {f.source for f in manifest.files if f.path.startswith("base/")} == {f"z/base@{OTHER_COMMIT}"}
    assert _same_weights(tmp_path / "real", miniature_folder)
    assert server.asked("README.md") == []


@pytest.mark.parametrize("name", ["unet/config.json", "unet/diffusion_pytorch_model.fp16.safetensors"])
def test_another_bases_files_are_held_to_the_hashes_the_hub_lists(server, preset, tmp_path, miniature_folder, name):
    server.add_repository("z/base", OTHER_COMMIT, base_files(miniature_folder))
    path = f"/z/base/resolve/{OTHER_COMMIT}/{name}"
    server.files[path] = server.files[path][:-1] + b"?"

    with pytest.raises(WeightsError, match=f"{re.escape(name)} does not have"):
        _fetch(server, preset, tmp_path / "real", Base(repo="z/base", revision=OTHER_COMMIT))


def test_a_base_of_pickles_is_refused(server, preset, tmp_path, miniature_folder):
    files = {n.replace(".fp16.safetensors", ".bin"): content for n, content in base_files(miniature_folder).items()}
    server.add_repository("z/base", OTHER_COMMIT, files)

    with pytest.raises(WeightsError, match="no safetensors weights of its unet"):
        _fetch(server, preset, tmp_path / "real", Base(repo="z/base", revision=OTHER_COMMIT))


def test_an_unknown_commit_is_told(server, preset, tmp_path):
    with pytest.raises(WeightsError, match=f"the files of z/base at {OTHER_COMMIT} cannot be listed"):
        _fetch(server, preset, tmp_path / "real", Base(repo="z/base", revision=OTHER_COMMIT))


def test_a_base_folder_takes_the_bases_place(server, preset, tmp_path, miniature_folder):
    _fetch(server, preset, tmp_path / "real", Base(folder=miniature_folder / "base"))

    assert _same_weights(tmp_path / "real", miniature_folder)
    assert not any(path.startswith("/y/sdxl") for path, _ in server.requests)


def test_a_single_file_takes_the_bases_place(server, preset, tmp_path, miniature_folder):
    write_single_file(miniature_folder / "base", tmp_path / "own.safetensors")
    digest = hashlib.sha256((tmp_path / "own.safetensors").read_bytes()).hexdigest()

    manifest = _fetch(server, preset, tmp_path / "real", Base(file=tmp_path / "own.safetensors"))

    assert _same_weights(tmp_path / "real", miniature_folder)
    sources = {file.source for file in manifest.files if file.path.startswith("base/")}
    assert sources == {f"file own.safetensors, sha256 {digest}"}
    # Of the preset's own base only the configurations are fetched.
    assert not any(path.startswith("/y/sdxl") and path.endswith(".safetensors") for path, _ in server.requests)


def test_two_bases_at_once_are_refused(server, preset, tmp_path, miniature_folder):
    with pytest.raises(WeightsError, match="give one of them"):
        _fetch(server, preset, tmp_path / "real", Base(folder=miniature_folder, file=tmp_path / "x.safetensors"))


def test_a_folder_with_another_model_is_left_alone(server, preset, tmp_path, miniature_folder):
    shutil.copytree(miniature_folder, tmp_path / "real")

    with pytest.raises(WeightsError, match=r"holds miniature on made: .*it is left as it is"):
        _fetch(server, preset, tmp_path / "real")

    assert check_manifest(tmp_path / "real").preset == "miniature"


def test_two_fetches_into_one_folder_do_not_meet(server, preset, tmp_path):
    (tmp_path / ".real.fetching").mkdir()

    with (
        FileLock(tmp_path / ".real.fetching" / "lock"),
        pytest.raises(WeightsError, match="another process is fetching"),
    ):
        _fetch(server, preset, tmp_path / "real")


def test_an_unknown_preset_is_refused():
    with pytest.raises(WeightsError, match="there is no model 'sd15' to fetch; there is instantid-sdxl"):
        fetch("sd15", "unused", accept_licences=True)


def test_every_pin_of_every_preset_is_a_commit_and_a_hash():
    for preset in PRESETS.values():
        for files in (preset.instantid, preset.base):
            assert re.fullmatch(r"[0-9a-f]{40}", files.revision)
        pins = [*preset.instantid.files, *preset.base.files, *preset.faces.files]
        assert all(re.fullmatch(r"[0-9a-f]{64}", pin.sha256) for pin in pins)
        assert len({pin.target for pin in pins}) == len(pins)
