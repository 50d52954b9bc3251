"""A model folder from a stranger: nothing in it is ever run, and what is wrong with it is said."""

import contextlib
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from al_ray.errors import ModelError
from al_ray.model import source
from al_ray.model.encoder import build_network, read_encoder
from al_ray.model.source import ResolvedModel, resolve_model
from al_ray.model.tokens import load_tokenizer
from tests.trust.conftest import Payload, edit_json, refused, write_study

Spoil = Callable[[Path], Any]


@pytest.fixture
def folder(bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert, tmp_path / "model"))


def load(found: ResolvedModel) -> None:
    """Do everything that a cell does with the files of a model."""
    read_encoder.cache_clear()
    build_network(found, 3, torch.device("cpu"))
    read_encoder(found.path, found.sha256)
    load_tokenizer(found, 20)


def module(canary: Path) -> str:
    """Return a module that writes the canary and defines every class that a model might name."""
    return (
        f"open({str(canary)!r}, 'w').write('run')\n"
        "from transformers import BertConfig, BertModel, PreTrainedTokenizerFast\n"
        "class Config(BertConfig):\n    model_type = 'evil'\n"
        "class Model(BertModel):\n    config_class = Config\n"
        "class Tokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )


OWN_CODE: Mapping[str, tuple[str, dict[str, Any]]] = {
    "a model type of its own": (
        "config.json",
        {
            "model_type": "evil",
            "auto_map": {
                "AutoConfig": "evil.Config",
                "AutoModel": "evil.Model",
                "AutoModelForSequenceClassification": "evil.Model",
            },
        },
    ),
    "a known model type": ("config.json", {"auto_map": {"AutoModel": "evil.Model"}}),
    "code of another repository": ("config.json", {"auto_map": {"AutoConfig": "someone/else--evil.Config"}}),
    "code of a part": ("config.json", {"text_config": {"auto_map": {"AutoConfig": "evil.Config"}}}),
    "a tokenizer": ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}}),
    "a tokenizer, the old way": ("tokenizer_config.json", {"auto_map": ["evil.Tokenizer", "evil.Tokenizer"]}),
}


@pytest.mark.parametrize("name", OWN_CODE)
def test_code_of_a_model_is_never_run_and_nobody_is_asked(
    folder: Path, bert: Path, canary: Path, tmp_path: Path, name: str
) -> None:
    file, values = OWN_CODE[name]
    (folder / "evil.py").write_text(module(canary), encoding="utf-8")
    edit_json(folder / file, values)
    with pytest.raises(ModelError, match=r"asks for code of the model's own \(auto_map: .*al_ray never runs that"):
        resolve_model(str(folder), None)
    study = write_study(tmp_path / "tiny.yaml", folder)
    said = refused("run", study, "--local", "--storage", tmp_path / "out", "--set", "tracking=off", stdin="y\n" * 9)
    assert "al_ray never runs that" in said
    assert "[y/N]" not in said


@pytest.mark.parametrize("name", OWN_CODE)
def test_a_folder_that_changes_after_it_was_checked_runs_nothing_either(
    folder: Path, canary: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    found = resolve_model(str(folder), None)
    file, values = OWN_CODE[name]
    (folder / "evil.py").write_text(module(canary), encoding="utf-8")
    edit_json(folder / file, values)
    asked: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question="": asked.append(question) or "y")
    with contextlib.suppress(ModelError):
        load(found)
    assert asked == []


def test_the_canary_is_written_where_a_payload_runs(tmp_path: Path) -> None:
    assert pickle.loads(pickle.dumps(Payload(str(tmp_path / "written")))) == 0
    exec(compile(module(tmp_path / "imported"), "evil", "exec"), {"__name__": "evil"})
    assert (tmp_path / "written").exists()
    assert (tmp_path / "imported").exists()


def test_pickled_weights_beside_the_right_ones_are_not_opened(folder: Path, canary: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "pytorch_model.bin.index.json"):
        (folder / name).write_bytes(pickle.dumps(Payload(str(canary))))
    (folder / "__init__.py").write_text(module(canary), encoding="utf-8")
    load(resolve_model(str(folder), None))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_pickled_weights_alone_are_refused(folder: Path, canary: Path, tmp_path: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(Payload(str(canary)), folder / name)
    with pytest.raises(ModelError, match=r"no model.safetensors in"):
        resolve_model(str(folder), None)
    study = write_study(tmp_path / "tiny.yaml", folder)
    run = ("run", study, "--local", "--storage", tmp_path / "out", "--set", "tracking=off")
    assert "no model.safetensors in" in refused(*run)


def header(entries: Any) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


NO_SAFETENSORS = {
    "a header as long as memory": struct.pack("<Q", 2**63) + b"{}",
    "a header longer than the file": struct.pack("<Q", 10**6) + b"{}",
    "nothing": b"",
    "a list as header": header([1]),
    "a tensor without a shape": header({"x": {"dtype": "F32"}}),
    "a shape that is a text": header({"x": {"dtype": "F32", "shape": "2**99", "data_offsets": [0, 4]}}),
    "a shape below nothing": header({"x": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}),
}


@pytest.mark.parametrize("name", [*NO_SAFETENSORS, "a pickle", "a torch file"])
def test_weights_that_are_no_safetensors_are_refused_whatever_they_are_called(
    folder: Path, canary: Path, tmp_path: Path, name: str
) -> None:
    weights = folder / "model.safetensors"
    if name == "a torch file":
        torch.save(Payload(str(canary)), weights)
    else:
        weights.write_bytes(NO_SAFETENSORS.get(name) or pickle.dumps(Payload(str(canary))) * 9)
    if name == "nothing":
        weights.write_bytes(b"")
    with pytest.raises(
        ModelError, match=r"model.safetensors (is no safetensors|is not JSON|holds a list|does not say)"
    ):
        resolve_model(str(folder), None)


OTHER_FILES: Mapping[str, tuple[dict[str, Any], str]] = {
    "other weights": ({"transformers_weights": "other.safetensors"}, "has 'transformers_weights'"),
    "an adapter's pickle": ({"transformers_weights": "adapter_model.bin"}, "has 'transformers_weights'"),
    "weights outside": ({"transformers_weights": "../../x.safetensors"}, "has 'transformers_weights'"),
    "quantized weights": ({"quantization_config": {"quant_method": "gptq"}}, "has 'quantization_config'"),
    "a kernel of the Hub": ({"_attn_implementation": "someone/kernel"}, "asks for the attention"),
    "a kernel, newly written": ({"attn_implementation": "someone/kernel:x"}, "asks for the attention"),
    "a kernel for a part": ({"text_config": {"_attn_implementation": "a/b"}}, "asks for the attention"),
    "a size that is a text": ({"max_position_embeddings": "many"}, "must be a whole number"),
    "layers that are a list": ({"num_hidden_layers": [1]}, "must be a whole number"),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_a_configuration_that_names_other_files_or_code_is_refused(folder: Path, name: str) -> None:
    values, message = OTHER_FILES[name]
    edit_json(folder / "config.json", values)
    with pytest.raises(ModelError, match=message):
        resolve_model(str(folder), None)


def test_an_adapter_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/model"}', encoding="utf-8")
    with pytest.raises(ModelError, match=r"holds adapter_config.json: an adapter changes the weights"):
        resolve_model(str(folder), None)


BROKEN: Mapping[str, tuple[str, bytes]] = {
    "a configuration that is a list": ("config.json", b"[1]"),
    "a configuration without end": ("config.json", b"[" * 100_000),
    "a number of thousands of digits": ("config.json", b'{"x": ' + b"9" * 5000 + b"}"),
    "a configuration that is a pickle": ("config.json", pickle.dumps([1, 2])),
    "a tokenizer configuration that is a list": ("tokenizer_config.json", b"[]"),
    "tokenizer without end": ("tokenizer.json", b"[" * 100_000),
    "tokenizer cut off": ("tokenizer.json", b'{"version": "1.0", "model": {'),
    "tokenizer of an unknown kind": (
        "tokenizer.json",
        b'{"version": "1.0", "added_tokens": [], "model": {"type": "X"}}',
    ),
    "tokenizer that is a pickle": ("tokenizer.json", pickle.dumps([1, 2])),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_a_sentence(folder: Path, name: str) -> None:
    file, content = BROKEN[name]
    (folder / file).write_bytes(content)
    with pytest.raises(ModelError, match=r"config.json|tokenizer"):
        load(resolve_model(str(folder), None))


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("config.json", {"hidden_size": "os.system"}),
        ("config.json", {"hidden_act": "os.system"}),
        ("config.json", {"dtype": "evil"}),
        ("config.json", {"model_type": "../../evil"}),
        ("tokenizer_config.json", {"tokenizer_class": ["os.system"]}),
        ("tokenizer_config.json", {"tokenizer_class": "BertJapaneseTokenizer"}),
    ],
    ids=str,
)
def test_values_that_no_class_takes_are_a_sentence(folder: Path, file: str, values: dict[str, Any]) -> None:
    edit_json(folder / file, values)
    with pytest.raises(ModelError, match="cannot be read"):
        load(resolve_model(str(folder), None))


def test_a_tokenizer_class_is_a_name_and_no_path_to_code(folder: Path, canary: Path) -> None:
    (folder / "evil.py").write_text(module(canary), encoding="utf-8")
    edit_json(folder / "tokenizer_config.json", {"tokenizer_class": "evil.Tokenizer"})
    load(resolve_model(str(folder), None))


@pytest.mark.parametrize(
    ("file", "limit"), [("tokenizer.json", "MAX_TOKENIZER_BYTES"), ("config.json", "MAX_CONFIG_BYTES")]
)
def test_a_huge_file_is_refused_before_it_is_read(folder: Path, file: str, limit: str) -> None:
    with (folder / file).open("r+b") as opened:
        opened.truncate(getattr(source, limit) + 1)  # a hole: takes no room on the disk
    with pytest.raises(ModelError, match=rf"{file} has [\d,]+ bytes, more than"):
        resolve_model(str(folder), None)


def test_links_are_followed_and_what_they_lead_to_is_checked_alike(folder: Path, canary: Path, tmp_path: Path) -> None:
    outside = tmp_path / "blobs"
    outside.mkdir()
    for file in ("model.safetensors", "config.json"):
        shutil.move(folder / file, outside / file)
        (folder / file).symlink_to(outside / file)
    load(resolve_model(str(folder), None))
    (outside / "model.safetensors").write_bytes(pickle.dumps(Payload(str(canary))) * 9)
    with pytest.raises(ModelError, match="is no safetensors file"):
        resolve_model(str(folder), None)


def test_links_to_devices_are_no_files(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to(os.devnull)
    with pytest.raises(ModelError, match="no tokenizer in"):
        resolve_model(str(folder), None)
