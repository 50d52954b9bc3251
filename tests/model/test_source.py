"""Where models come from, and every way in which one is refused."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from al_ray.errors import ModelError
from al_ray.model import source
from al_ray.model.encoder import read_encoder
from al_ray.model.source import ResolvedModel, resolve_model
from al_ray.model.tokens import load_tokenizer


@pytest.fixture
def copied(bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert, tmp_path / "copy"))


def test_a_folder_is_identified_by_the_hash_of_its_weights(bert: Path) -> None:
    found = resolve_model(str(bert), None)
    assert found.sha256 == hashlib.sha256((bert / "model.safetensors").read_bytes()).hexdigest()
    assert (found.name, found.revision, found.path) == (str(bert), None, str(bert.resolve()))


def test_settings_are_identified_by_what_they_say_and_not_by_where_they_were_saved(bert: Path, copied: Path) -> None:
    before = resolve_model(str(bert), None).settings_sha256
    for name in ("config.json", "tokenizer_config.json"):
        settings = json.loads((copied / name).read_text(encoding="utf-8"))
        moved = {"_name_or_path": "/before", "name_or_path": "/before", "transformers_version": "9", **settings}
        (copied / name).write_text(json.dumps(moved, indent=7), encoding="utf-8")
    assert resolve_model(str(copied), None).settings_sha256 == before
    for name in ("special_tokens_map.json", "vocab.txt"):  # of a download; where tokenizer.json is, nobody reads them
        (copied / name).write_text("{}", encoding="utf-8")
    assert resolve_model(str(copied), None).settings_sha256 == before
    tokenizer = copied / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert resolve_model(str(copied), None).settings_sha256 != before


@pytest.mark.parametrize("name", ["./" + "a" * 300, "a" * 300, "~nobody-of-this-name/x", "./\0"])
def test_a_name_that_can_be_no_folder_is_a_sentence(name: str) -> None:
    with pytest.raises(ModelError, match=r"does not exist|is no folder"):
        resolve_model(name, None)


def test_changed_weights_change_the_hash_within_one_process(copied: Path) -> None:
    before = resolve_model(str(copied), None).sha256
    weights = copied / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"x")
    assert resolve_model(str(copied), None).sha256 != before


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    message = r"model folder .*nowhere' does not exist: there is no 'nowhere' in .* Give the folder that holds config"
    with pytest.raises(ModelError, match=message):
        resolve_model(str(tmp_path / "nowhere"), None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("models/bf16", r"/models/bf16' does not exist: there is no 'bf16' in .* Did you mean 'bf18'\? .*Hub id"),
        ("./models/bf16", r"there is no 'bf16' in '.*/models'. Did you mean 'bf18'\? Give the folder"),
        ("./modles/bf18", r"/modles/bf18' does not exist: there is no 'modles' in '.*'. Did you mean 'models'\?"),
        ("modles/bf18", r"'modles/bf18' is no folder in '.*', names no revision.* Did you mean 'models'\?"),
        ("modles/bf18/last", r"there is no 'modles' in '.*'. Did you mean 'models'\? Give the folder"),
        ("model", r"'model' is no folder in '.*', names no revision.* Did you mean 'models'\?"),
        ("minlm", r"names no revision.* Did you mean 'minilm'\?"),
        ("models/bf18/config.json", r"is a file. Give the folder that holds it"),
    ],
)  # fmt: skip
def test_a_misspelt_folder_is_looked_for_here_and_what_is_near_is_named(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    shutil.copytree(bert, tmp_path / "models" / "bf18")
    monkeypatch.chdir(tmp_path)
    assert resolve_model("models/bf18", None).path == str(tmp_path / "models" / "bf18")
    with pytest.raises(ModelError, match=message):
        resolve_model(name, None)


def test_a_hub_id_with_a_revision_is_none_of_the_folders_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "someone").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"'someone/their-model' .* the Hub cannot be reached"):
        resolve_model("someone/their-model", "main")


@pytest.mark.parametrize(
    ("removed", "message"),
    [
        ("config.json", "no config.json in"),
        ("tokenizer.json", "no tokenizer in .* looked for tokenizer.json"),
        ("model.safetensors", "no model.safetensors in .* Save the weights with save_pretrained"),
    ],
)
def test_an_incomplete_folder_is_refused_with_the_missing_file(copied: Path, removed: str, message: str) -> None:
    (copied / removed).unlink()
    with pytest.raises(ModelError, match=message):
        resolve_model(str(copied), None)


def test_pickled_weights_are_refused(copied: Path) -> None:
    (copied / "model.safetensors").rename(copied / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"It holds pytorch_model.bin, which al_ray does not read; convert"):
        resolve_model(str(copied), None)


def test_a_folder_with_a_revision_is_refused(bert: Path) -> None:
    with pytest.raises(ModelError, match="is a local folder, which has no revision 'main'"):
        resolve_model(str(bert), "main")


def test_a_truncated_checkpoint_is_refused_before_it_is_read(copied: Path) -> None:
    weights = copied / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1000])
    message = f"model.safetensors is cut short: {len(whole) - 1000:,} of {len(whole):,} bytes. Copy or save it again"
    with pytest.raises(ModelError, match=message):
        resolve_model(str(copied), None)


def test_weights_of_another_architecture_are_refused(copied: Path, distilbert: Path) -> None:
    shutil.copy(distilbert / "model.safetensors", copied / "model.safetensors")
    found = resolve_model(str(copied), None)
    with pytest.raises(ModelError, match=r"lack \d+ of the encoder's \d+ tensors|cannot be read"):
        read_encoder(found.path, found.sha256)


def test_a_tokenizer_that_cannot_be_read_is_refused(copied: Path) -> None:
    (copied / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer of model .* cannot be read"):
        load_tokenizer(resolve_model(str(copied), None), 20)


def test_minilm_is_taken_from_the_wheel_at_its_pinned_revision(minilm: ResolvedModel) -> None:
    assert minilm.sha256 == source.MINILM_SHA256
    assert minilm.revision == "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"
    assert resolve_model("minilm", minilm.revision) == minilm


def test_a_wheel_with_other_weights_is_refused(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_wheel_folder", lambda: copied)
    with pytest.raises(ModelError, match=r"SHA-256 [0-9a-f]{64}, expected 53aa5117.*The copy is damaged"):
        resolve_model("minilm", None)


def test_an_unknown_hub_id_needs_a_revision() -> None:
    with pytest.raises(ModelError, match=r"'someone/their-model' .*names no revision, and al_ray pins none"):
        resolve_model("someone/their-model", None)


@pytest.mark.parametrize("revision", [None, "main"])
def test_offline_a_hub_model_is_refused_after_one_short_question(
    revision: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import huggingface_hub.constants as constants
    from huggingface_hub import HfApi

    timeouts: list[float] = []
    ask = HfApi.model_info

    def count(self: HfApi, *names: Any, timeout: float, **options: Any) -> Any:
        timeouts.append(timeout)
        return ask(self, *names, timeout=timeout, **options)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(HfApi, "model_info", count)
    with pytest.raises(ModelError, match=r"'bert-base-uncased' .* the Hub cannot be reached .* use 'minilm'"):
        resolve_model("bert-base-uncased", revision)
    assert timeouts == [source.HUB_TIMEOUT_S]


def test_known_models_have_a_commit_as_their_revision() -> None:
    assert set(source.REVISIONS) == set(source.ALIASES.values())
    assert all(len(commit) == 40 and int(commit, 16) for commit in source.REVISIONS.values())
