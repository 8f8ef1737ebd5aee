"""Checkpoints that transformers wrote, read here, and written here, read there: sharded, tied, bf16, with their side files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from farfield.weights.io import Checkpoint, CheckpointWriter, diff, verify

pytestmark = pytest.mark.extra("transformers")

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 120}


@pytest.mark.filterwarnings("ignore")  # those of transformers
@pytest.mark.parametrize(
    ("config", "model_class"),
    [
        (LlamaConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=False), LlamaForCausalLM),
        (Qwen2Config(**SIZES, num_key_value_heads=2, tie_word_embeddings=True), Qwen2ForCausalLM),
    ],
    ids=["llama", "qwen2 tied"],
)
def test_there_and_back(tmp_path: Path, config: LlamaConfig | Qwen2Config, model_class: type) -> None:
    torch.manual_seed(0)
    model = model_class(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="40KB")
    state = model.state_dict()
    source = Checkpoint.open(tmp_path / "theirs")
    assert len(source.shards) > 1
    assert {"config.json", "generation_config.json"} <= set(source.side_files)
    assert source.tensors.keys() | source.tied.keys() == state.keys()
    assert bool(source.tied) == config.tie_word_embeddings
    for name, tensor in state.items():
        stored = source.tied.get(name, name)
        assert source.tensors[stored].shape == tuple(tensor.shape)
        np.testing.assert_array_equal(source.read_float64(stored), tensor.double().flatten().numpy())
    with CheckpointWriter(
        tmp_path / "ours", source.layout, source.metadata, side_files=source.side_files, inputs=[source]
    ) as writer:
        for name in source.tensors:
            writer.write(name, 0, source.read(name))
        writer.finish()
    names = {p.name for p in (tmp_path / "ours").iterdir()}
    assert names == {p.name for p in (tmp_path / "theirs").iterdir()}
    index = "model.safetensors.index.json"
    maps = [json.loads((tmp_path / side / index).read_text())["weight_map"] for side in ("theirs", "ours")]
    assert maps[0] == maps[1]
    assert verify(tmp_path / "ours").ok
    assert diff(tmp_path / "theirs", tmp_path / "ours").total.changed == 0
    again = model_class.from_pretrained(tmp_path / "ours", dtype=torch.bfloat16)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, state[name])
