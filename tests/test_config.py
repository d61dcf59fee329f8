"""The configuration: every field in its range, and fields that contradict each other."""

import pathlib

import pytest
from ml_collections import ConfigDict

from apq_jax.config import Config, from_config_dict, to_config_dict
from apq_jax.system.command_line import read_path
from apq_jax.system.errors import InputError


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("plan", "min_keep", 0.0),
        ("plan", "min_keep", 1.5),
        ("plan", "min_keep", float("nan")),
        ("plan", "levels", 0),
        ("plan", "levels", 8.0),
        ("plan", "score", "taylor"),
        ("search", "episodes", 0),
        ("search", "episodes", True),
        ("search", "max_accuracy_drop", -0.1),
        ("search", "max_accuracy_drop", 101.0),
        ("search", "max_weight_bits", 9),
        ("search", "min_input_bits", 0),
        ("search", "strategy", "luck"),
        ("recovery", "match_moments", 1),
        ("data", "path", 3),
        ("search", "seeds", 0),
        ("search", "batch_seeds", "both"),
    ],
)
def test_values_out_of_range_name_the_field(section: str, field: str, value: object) -> None:
    tree = to_config_dict(Config()).to_dict()
    tree[section][field] = value
    with pytest.raises(InputError, match=rf"^config\.{section}\.{field}: .*; allowed: "):
        from_config_dict(_tree(tree))


def test_a_scheme_that_is_none() -> None:
    tree = to_config_dict(Config()).to_dict() | {"scheme": "rows"}
    with pytest.raises(InputError, match=r"config\.scheme: 'rows'; allowed: dense, filter, chan"):
        from_config_dict(_tree(tree))


def test_fields_that_contradict_each_other() -> None:
    tree = to_config_dict(Config()).to_dict()
    tree["search"] |= {"min_weight_bits": 6, "max_weight_bits": 4}
    with pytest.raises(
        InputError, match=r"min_weight_bits: 6; allowed: 1 to max_weight_bits \(4\)"
    ):
        from_config_dict(_tree(tree))
    tree = to_config_dict(Config()).to_dict()
    tree["objective"] = dict.fromkeys(tree["objective"], 0.0)
    with pytest.raises(InputError, match=r"config\.objective: every metric counts 0"):
        from_config_dict(_tree(tree))


def test_the_last_seed_is_a_seed() -> None:
    tree = to_config_dict(Config()).to_dict()
    tree["seed"], tree["search"]["seeds"] = 2**31 - 2, 2
    assert from_config_dict(_tree(tree)).search.seeds == 2
    tree["search"]["seeds"] = 3
    with pytest.raises(InputError, match=r"^config\.search\.seeds: 3 from seed 2147483646 on"):
        from_config_dict(_tree(tree))


def test_centring_needs_moments() -> None:
    tree = to_config_dict(Config()).to_dict()
    tree["recovery"]["match_moments"] = False
    with pytest.raises(InputError, match=r"^config\.plan\.centre: .*; allowed: False"):
        from_config_dict(_tree(tree))


def test_the_home_in_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    tree = ConfigDict({"accelerator": "~/a.toml", "data": {"path": "~/d"}, "cache_dir": "x/~"})
    config = from_config_dict(tree)
    paths = config.accelerator, config.data.path, config.cache_dir
    assert paths == (f"{tmp_path}/a.toml", f"{tmp_path}/d", "x/~")
    assert read_path("~/run") == tmp_path / "run"


def test_config_survives_the_round_trip() -> None:
    assert from_config_dict(to_config_dict(Config())) == Config()
    assert hash(Config()) == hash(from_config_dict(to_config_dict(Config())))


def _tree(values: dict):
    import ml_collections

    return ml_collections.ConfigDict(values)
