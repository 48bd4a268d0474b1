"""Settings: what a user can write wrong becomes one sentence, and what is right keeps its value and fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from pydantic import Field, field_validator

from weaksam.config import Settings, UserError, fingerprint_of, load_settings


class Backbone(Settings):
    name: Literal["small", "large"] = "small"
    weights: str = "imagenet"


class Grid(Settings):
    kind: Literal["grid"] = "grid"
    side: int = Field(default=32, ge=1)
    overlap: float = 0.1


class Points(Settings):
    kind: Literal["points"] = "points"
    number: int = 5
    order: Literal["best", "first"] = "best"


class Split(Settings):
    images: Path | None = None
    tags: Path | None = None


class Run(Settings):
    _not_fingerprinted: ClassVar[frozenset[str]] = frozenset({"device", "out"})
    _renamed: ClassVar[dict[str, str]] = {
        "learning_rate": "{section}lr",
        "grid_side": "{section}prompts.side (with {section}prompts.kind=grid)",
        "net": "{section}backbone",
        "prompts=dots": "{section}prompts=points",
        "device=gpu": "{section}device=cuda",
    }

    out: Path = Path("out")
    seed: int = 0
    device: Literal["cpu", "cuda", "off"] = "cpu"
    lr: float = Field(default=0.1, gt=0)
    classes: tuple[str, ...] | None = None
    backbone: Backbone = Backbone()
    test: Split | None = None
    prompts: Grid | Points = Field(default=Grid(), discriminator="kind")

    @field_validator("seed")
    @classmethod
    def _not_unlucky(cls, seed: int) -> int:
        if seed == 13:
            raise ValueError("13 is unlucky")
        return seed


class Needs(Settings):
    images: Path


def load(tmp_path: Path, text: str | None, *overrides: str) -> Run:
    path = None
    if text is not None:
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
    return load_settings(Run, path, overrides)


def test_the_file_then_the_overrides(tmp_path):
    found = load(tmp_path, "seed: 1\nlr: 1e-3\nbackbone: {weights: none}\n", "seed=2", "backbone.name=large", "seed=3")
    assert found == Run(seed=3, lr=0.001, backbone=Backbone(name="large", weights="none"))
    assert load(tmp_path, "") == load(tmp_path, None) == load(tmp_path, "# only a remark\n") == Run()


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("classes=[a, b]", "classes", ("a", "b")),
        ("classes=null", "classes", None),
        ("lr=1e-4", "lr", 1e-4),
        ("out=2024", "out", Path("2024")),  # YAML reads a number, a date, a boolean: the field wants text
        ("out=2024-01-01", "out", Path("2024-01-01")),
        ("device=off", "device", "off"),
        ("out=my photos #1: new", "out", Path("my photos #1: new")),
        ("out=@here", "out", Path("@here")),
        ("out='quoted'", "out", Path("quoted")),
        ("out=a=b", "out", Path("a=b")),
        ("test.images=photos", "test", Split(images=Path("photos"))),  # the section was null
    ],
)
def test_values_of_overrides(tmp_path, override, key, value):
    assert getattr(load(tmp_path, "test: null", override), key) == value


@pytest.mark.parametrize(
    ("text", "override", "sentence"),
    [
        (None, "backbone.wieghts=x", "override backbone.wieghts=x: unknown key 'backbone.wieghts'; "
         "did you mean 'backbone.weights'?"),
        (None, "backbon.weights=x", "unknown key 'backbon'; did you mean 'backbone'?"),
        ("test: {image: x}", None, "run.yaml: unknown key 'test.image'; did you mean 'test.images'?"),
        (None, "weights=x", "unknown key 'weights'; did you mean 'backbone.weights'?"),
        (None, "backbone.zzz=1", "unknown key 'backbone.zzz'; the keys there are name, weights"),
        ("seed: many", None, "run.yaml: wanted 'seed' to be a valid integer, "
         "unable to parse string as an integer, found 'many' (text)"),
        (None, "lr=-1", "override lr=-1: wanted 'lr' to be greater than 0, found -1 (whole number)"),
        ("backbone: {name: tiny}", None, "wanted 'backbone.name' to be 'small' or 'large', found 'tiny' (text)"),
        ("backbone: 3", None, "wanted 'backbone' to be a section of settings, found 3 (whole number)"),
        ("classes: [a, 5]", None, "wanted 'classes.1' to be a valid string, found 5 (whole number)"),
        ("seed: 13", None, "'seed' cannot be used: 13 is unlucky"),
        ("seed: x\nlr: y", None, "(1 more like this)"),
        ("- seed", None, "wanted a mapping of settings (key: value) in"),
        ("seed: [1", None, "found an error:"),
        ("seed: 1\nseed: 2", None, "key 'seed' is written twice in line 1"),
        ("? [a]\n: 1", None, "found an error:"),
        (None, "seed", "wanted an override like backbone.weights=none, found 'seed'"),
        (None, "=3", "wanted an override like backbone.weights=none, found '=3'"),
        (None, "classes=[a", "wanted a YAML value in 'classes=[a', found an error:"),
        ("seed: 1", "seed.deep=2", "cannot set seed.deep: seed is a whole number, not a section of settings"),
    ],
)  # fmt: skip
def test_every_mistake_is_one_sentence(tmp_path, text, override, sentence):
    with pytest.raises(UserError) as caught:
        load(tmp_path, text, *([override] if override else []))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "overrides", "prompts"),
    [
        (None, ["prompts=points"], Points()),
        ("prompts: points", [], Points()),
        ("prompts: points", ["prompts.number=3"], Points(number=3)),
        ("prompts: {kind: points, number: 4}", ["prompts.order=first"], Points(number=4, order="first")),
        ("prompts: {kind: points, number: 4}", ["prompts=grid", "prompts.side=8"], Grid(side=8)),
        (None, ["prompts.side=16"], Grid(side=16)),
        ("prompts: {side: 4}", ["prompts.kind=grid"], Grid(side=4)),
        (None, ["prompts.kind=points"], Points()),
    ],
)
def test_a_tagged_section_is_a_word_or_a_section_and_the_default_kind_where_none_is_named(
    tmp_path, text, overrides, prompts
):
    assert load(tmp_path, text, *overrides).prompts == prompts


def test_a_tagged_section_in_python_and_its_fingerprint():
    assert Run(prompts="points").prompts == Points()
    assert Run(prompts={"side": 4}).prompts == Run(prompts=Grid(side=4)).prompts == Grid(side=4)
    assert Run.model_validate(Run(prompts="points").model_dump(mode="json")).prompts == Points()
    different = [Run(), Run(prompts="points"), Run(prompts={"side": 4}), Run(prompts={"kind": "points", "number": 4})]
    assert len({fingerprint_of(settings) for settings in different}) == 4


@pytest.mark.parametrize(
    ("text", "override", "sentence"),
    [
        ("prompts: {kind: points, numbr: 3}", None, "run.yaml: unknown key 'prompts.numbr'; "
         "did you mean 'prompts.number'?"),
        (None, "prompts.sied=3", "override prompts.sied=3: unknown key 'prompts.sied'; did you mean 'prompts.side'?"),
        (None, "prompts.zzz=3", "unknown key 'prompts.zzz'; the keys there are kind, side, overlap"),
        (None, "prompts.number=3", "override prompts.number=3: 'prompts.number' belongs to prompts=points, found "
         "prompts=grid: set that one, or leave the key out"),
        (None, "side=3", "unknown key 'side'; did you mean 'prompts.side'?"),
        (None, "prompts=point", "override prompts=point: wanted 'prompts.kind' to be 'grid' or 'points', found 'point' "
         "(text) (did you mean 'points'?): change it"),
        (None, "prompts.kind=point", "override prompts.kind=point: wanted 'prompts.kind' to be 'grid' or 'points'"),
        ("prompts: {kind: 5}", None, "wanted 'prompts.kind' to be 'grid' or 'points', found 5 (whole number)"),
        ("prompts: 3", None, "wanted 'prompts' to be 'grid' or 'points', or a section of settings, found 3"),
        ("prompts: {side: many}", None, "run.yaml: wanted 'prompts.side' to be a valid integer, "
         "unable to parse string as an integer, found 'many' (text)"),
        (None, "prompts.side=0", "override prompts.side=0: wanted 'prompts.side' to be greater than or equal to 1"),
        ("prompts: points", "prompts.order=last", "override prompts.order=last: wanted 'prompts.order' to be 'best' or "
         "'first', found 'last' (text)"),
    ],
)  # fmt: skip
def test_mistakes_in_a_tagged_section_are_one_sentence(tmp_path, text, override, sentence):
    with pytest.raises(UserError) as caught:
        load(tmp_path, text, *([override] if override else []))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "override", "sentence"),
    [
        ("learning_rate: 1", None, "run.yaml: learning_rate is now lr: rename it"),
        (
            None,
            "grid_side=3",
            "override grid_side=3: grid_side is now prompts.side (with prompts.kind=grid): rename it",
        ),
        ("net: {name: large}", None, "run.yaml: net is now backbone: rename it"),
        (None, "net.name=large", "override net.name=large: net is now backbone: rename it"),
        (None, "device=gpu", "override device=gpu: device=gpu is now device=cuda: rename it"),
        (None, "prompts=dots", "override prompts=dots: prompts=dots is now prompts=points: rename it"),
        ("prompts: {kind: dots, side: 3}", None, "run.yaml: prompts=dots is now prompts=points: rename it"),
        ("learning_rate: 1\nnet: {}", None, "learning_rate is now lr: rename it (1 more like this)"),
    ],
)
def test_an_old_name_is_told_the_new_one(tmp_path, text, override, sentence):
    with pytest.raises(UserError) as caught:
        load(tmp_path, text, *([override] if override else []))
    assert str(caught.value).endswith(sentence)


def test_files_that_cannot_be_settings(tmp_path):
    with pytest.raises(UserError, match="found nothing there"):
        load_settings(Run, tmp_path / "absent.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        load_settings(Run, tmp_path)
    (tmp_path / "photo.yaml").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(UserError, match="cannot be read"):
        load_settings(Run, tmp_path / "photo.yaml")
    with pytest.raises(UserError, match=r"the overrides: wanted a value for 'images', found none: .* images=VALUE"):
        load_settings(Needs, None)


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Run().seed = 1


def test_fingerprint():
    assert fingerprint_of(Run(device="cuda", out=Path("x"))) == fingerprint_of(Run())
    assert fingerprint_of(Run(seed=1)) != fingerprint_of(Run())
    assert fingerprint_of({"a": [1, Path("b/c")], "d": Backbone()}) == fingerprint_of(
        {"d": {"weights": "imagenet", "name": "small"}, "a": (1, "b/c")}
    )
    # printf '[1,"a"]' | sha256sum
    assert fingerprint_of((1, "a")) == "2010945388e2de98f5651051478912aa4ff38bb13a2cdb1a2c257bb97fbf98ff"


class Later(Settings):
    """Settings as they were before ``rounds`` and ``given`` came."""

    _as_before: ClassVar[dict[str, Any]] = {"rounds": 0, "given": Backbone()}

    seed: int = 0
    rounds: int = 1
    given: Backbone = Backbone()


def test_a_later_field_is_left_out_of_the_fingerprint_where_it_means_what_was_done_before():
    before = fingerprint_of({"seed": 0})
    assert fingerprint_of(Later(rounds=0)) == before  # whatever the default is by now
    assert fingerprint_of(Later()) == fingerprint_of({"seed": 0, "rounds": 1}) != before
    assert fingerprint_of(Later(rounds=0, given=Backbone(name="large"))) != before


class StillLater(Later):
    """Settings with a base that has later fields, too."""

    _as_before: ClassVar[dict[str, Any]] = {"scale": 1.0}

    scale: float = 1.0


def test_later_fields_of_a_base_are_left_out_as_well() -> None:
    assert fingerprint_of(StillLater(rounds=0)) == fingerprint_of({"seed": 0})
    assert fingerprint_of(StillLater(rounds=0, scale=2.0)) == fingerprint_of({"seed": 0, "scale": 2.0})
