"""The documents' examples run as they stand; what they list is what there is."""

import dataclasses
import inspect
import pkgutil
import re
import runpy
import tomllib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT

import apq_jax
from apq_jax import hardware
from apq_jax.compression.options import PlanOptions
from apq_jax.pipeline import stages
from apq_jax.strategies import loop
from apq_jax.strategies.random import random

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """What docs/search.md's strategy of one's own leaves behind."""
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "search.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "search.md", "exec"), names)
    return names


def test_a_strategy_of_ones_own_is_better_than_chance(example: dict[str, Any]) -> None:
    rewards, problem = example["rewards"], example["problem"]
    assert len(rewards) == 800
    assert rewards.max() > rewards[0] + 0.5
    drawn, key = random(example["space"], 4), jax.random.key(0)
    chunks = loop.run(drawn, example["evaluate"], problem, problem, key, 800, 20)
    assert rewards.max() > np.concatenate([chunk.reward for chunk in chunks]).max()


def test_it_searches_a_prepared_network_with_several_seeds(example: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    images = [rng.random((40, 4, 4, 1), np.float32) for _ in range(4)]
    labels = [np.arange(40, dtype=np.int32) % 2] * 4
    pairs = (part for pair in zip(images, labels, strict=True) for part in pair)
    dataset = apq_jax.Dataset("noise", 2, *pairs)
    params = {"a": jnp.asarray(rng.normal(size=(16, 6)), jnp.float32), "b": jnp.eye(6, 2)}

    def apply_fn(params: Any, images: jax.Array) -> jax.Array:
        return jax.nn.relu(images.reshape(len(images), -1) @ params["a"]) @ params["b"]

    network = apq_jax.capture(apply_fn, params, dataset.train_images[:2])
    search = apq_jax.SearchOptions(episodes=12, seeds=2, probes=2, moment_images=8, chunk=40)
    config = apq_jax.Config(seed=5, search=search, plan=PlanOptions(levels=4))
    prepared = apq_jax.prepare(network, params, dataset, apq_jax.preset("isaac_ou"), config)
    own = example["annealing"](prepared.space, 4)
    record = apq_jax.joined(apq_jax.search_policies(prepared, strategy=own))
    assert np.bincount(record.search).tolist() == [12, 12]
    # The first of each chain is a step from the unpruned network at 8 bits.
    assert record.policy.level[:4].max() <= 1
    assert record.policy.weight_bits[:4].min() >= 6
    alone = dataclasses.replace(config, seed=6, search=dataclasses.replace(search, seeds=1))
    second = apq_jax.search_policies(prepared._replace(config=alone), strategy=own)
    of_second = jax.tree.map(lambda x: x[record.search == 1], record)._replace(
        search=np.zeros(12, np.int32)
    )
    jax.tree.map(np.testing.assert_array_equal, of_second, apq_jax.joined(second))


def test_searches_share_a_program_side_by_side_only_where_asked_or_on_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def batch(seeds: int, asked: str) -> str:
        search = apq_jax.SearchOptions(seeds=seeds, batch_seeds=asked)
        return stages.choose_batch(apq_jax.Config(search=search))

    assert [batch(3, asked) for asked in ("auto", "map", "vmap")] == ["map", "map", "vmap"]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert [batch(3, asked) for asked in ("auto", "map", "vmap")] == ["vmap", "map", "vmap"]
    assert batch(1, "auto") == "map"


@pytest.mark.parametrize(("name", "form"), [("results", "tables"), ("fidelity", "choices")])
def test_the_results_are_those_of_the_files(name: str, form: str) -> None:
    headline = runpy.run_path(str(DOCS.parent / "benchmarks" / "headline.py"))
    text = (DOCS / f"{name}.md").read_text(encoding="utf-8")
    measured = text.split(headline["START"])[1].split(headline["END"])[0]
    assert measured == headline[form]()


@pytest.mark.parametrize("name", apq_jax.__all__)
def test_every_public_name_says_what_it_takes_and_gives(name: str) -> None:
    value = getattr(apq_jax, name)
    text = inspect.getdoc(value) or ""
    assert text, name
    # The docstring that a dataclass is given is its signature.
    assert not text.startswith(f"{name}("), name
    fields = getattr(value, "__annotations__", {}) if isinstance(value, type) else {}
    # Shapes or more than a line; of a record what each field is stands beside it.
    said = [line for line in inspect.getsource(value).splitlines() if re.match(r" +\w+:.*# ", line)]
    beside = bool(fields) and len(said) >= len(fields) / 2
    assert "\n" in text or "[" in text or beside, name


def test_the_api_page_lists_what_is_exported_and_nothing_else() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)(?:\([^`]*\))?` \|", text, re.MULTILINE)
    assert sorted(rows) == sorted(apq_jax.__all__)


def test_arguments_on_the_api_page_are_those_of_the_functions() -> None:
    text = (DOCS / "api.md").read_text(encoding="utf-8")
    for name, listed in re.findall(r"^\| `(\w+)\(([^`]*)\)` \|", text, re.MULTILINE):
        known = list(inspect.signature(getattr(apq_jax, name)).parameters)
        said = listed.replace(", ...", "").split(", ")
        assert said == (known[: len(said)] if "..." in listed else known), name


def test_the_accelerator_page_has_every_key_and_the_defaults() -> None:
    text = (DOCS / "accelerator_file.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \| (.*?) \| (.*?) \|", text, re.MULTILINE)
    keys = [key for row, _, _ in rows for key in re.findall(r"`(\w+)`", row)]
    fields = {field.name for field in dataclasses.fields(apq_jax.Accelerator)}
    assert set(keys) == (fields - {"name", "components"}) | {"base"}
    for row, defaults, _ in rows[1:]:
        names = re.findall(r"`(\w+)`", row)
        quoted = defaults.replace("`", '"')
        values = tomllib.loads(f"x = [{quoted}]")["x"]
        for name, value in zip(names, values * (len(names) // len(values)), strict=True):
            assert getattr(apq_jax.Accelerator(), name) == value, name
    (code,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert hardware.loads(code, "page").crossbar_rows == 256


def test_links_between_documents_lead_somewhere() -> None:
    root = DOCS.parent
    for path in [root / "README.md", *DOCS.glob("*.md")]:
        text = path.read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" in link:
                continue
            name, _, anchor = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            assert target.exists(), f"{path.name}: {link}"
            if anchor:
                heads = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
                slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
                assert anchor in slugs, f"{path.name}: {link}"


def test_modules_and_files_of_the_package_that_documents_name_exist() -> None:
    root = DOCS.parent
    modules = {
        module.name.rpartition(".")[2]: module.name
        for module in pkgutil.walk_packages(apq_jax.__path__, "apq_jax.")
    }
    # `environment.reward`; but `search.goal` is a field, and `report.html` a file.
    fields = {field.name for field in dataclasses.fields(apq_jax.Config)} | {"config", "components"}
    files = "py", "md", "json", "csv", "html", "safetensors", "before"
    file_name = re.compile(r"(?<![\w/])((?:apq_jax|tests|benchmarks|examples)/[a-z_0-9/]+\.py)\b")
    for path in [root / "README.md", root / "CONTRIBUTING.md", *DOCS.glob("*.md")]:
        text = path.read_text(encoding="utf-8")
        for file in file_name.findall(text):
            assert (root / file).exists(), f"{path.name}: {file}"
        names = re.findall(r"(?<![\w.])(apq_jax(?:\.\w+)+)(?![\w/-])", text)
        for module, name in re.findall(r"`(\w+)\.(\w+)", text):
            if module in modules.keys() - fields and name not in files:
                names.append(f"{modules[module]}.{name}")
        for name in names:
            assert pkgutil.resolve_name(name) is not None, f"{path.name}: {name}"


def test_every_document_is_on_the_site() -> None:
    (nav,) = re.findall(r"^nav:\n(.*)", (DOCS.parent / "mkdocs.yml").read_text(), re.DOTALL | re.M)
    made = {"index.md", "examples.md"}  # by docs/pages.py
    assert set(re.findall(r": (\w+\.md)$", nav, re.M)) - made == {
        path.name for path in DOCS.glob("*.md")
    }
