"""Class names in every form that people have, and two classes of one name wherever a class list goes."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest
import torch

from imgcls_ray.errors import ModelFolderError
from imgcls_ray.models.class_names import match_names, names_apart, read_class_names
from imgcls_ray.models.folder import open_model_folder
from imgcls_ray.models.new import new_model_folder
from imgcls_ray.models.weights import network_for_classes

if TYPE_CHECKING:
    from pathlib import Path

NAMES = ["tench", "great white shark, white shark", "hen"]
BY_ID = {str(label): name for label, name in enumerate(NAMES)}


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("ant\nbee\n", ["ant", "bee"]),
        ("0 ant\n1 bee fly\n", ["ant", "bee fly"]),
        ("1\tbee\r\n0\tant", ["ant", "bee"]),
        ("\ufeff0 蚂蚁\n1 蜜蜂\n", ["蚂蚁", "蜜蜂"]),
        ("0,ant\n1, bee, fly\n", ["ant", "bee, fly"]),
        ('1,"bee, fly"\n0,ant\n', ["ant", "bee, fly"]),
        ("3 doors\nfive doors\n", ["3 doors", "five doors"]),
        ("7\n07\n007\n", ["7", "07", "007"]),
        ("0 crane\n1 kite\n2 crane\n", ["crane", "kite", "crane"]),
        ("crane\nkite\ncrane\n", ["crane", "kite", "crane"]),
        ("3 doors\n5 doors\nno door\n", ["3 doors", "5 doors", "no door"]),
        ("1 euro\ncoin\nnote\n", ["1 euro", "coin", "note"]),
    ],
)
def test_a_text_has_a_name_a_line_with_or_without_ids(tmp_path: Path, text: str, names: list[str]) -> None:
    assert read_class_names(write(tmp_path, "label.txt", text)) == names


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("0 cat\ndog\n", "line 2: 'dog' is no id with its name, as line 1 is"),
        ("0 cat\n1\n", "line 2: '1' is no id with its name, as line 1 is"),
        ("\nant\n1 bee\n0 cat\n", "line 2: 'ant' is no id with its name, as line 3 is"),
        ("0,cat\ndog\n", "line 2: 'dog' is no id with its name, as line 1 is"),
        ("0 cat\n1,dog\n", "line 2: '1,dog' is no id with its name, as line 1 is"),
    ],
)
def test_a_line_without_an_id_among_lines_with_one_is_refused(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(ModelFolderError, match=re.escape(line)):
        read_class_names(write(tmp_path, "label.txt", text))


def test_the_separator_of_a_tsv_is_the_tab(tmp_path: Path) -> None:
    assert read_class_names(write(tmp_path, "labels.tsv", "0\tshark, white\n1\tray, manta, giant\n")) == [
        "shark, white",
        "ray, manta, giant",
    ]
    assert read_class_names(write(tmp_path, "labels.tsv", "id,name\n0,ant\n")) == ["ant"]


@pytest.mark.parametrize(
    "content",
    [
        BY_ID,
        dict(reversed(BY_ID.items())),
        NAMES,
        {name: label for label, name in enumerate(NAMES)},
        {"model_type": "resnet", "id2label": BY_ID, "label2id": {"tench": 0}},
        {"id2label": NAMES},
        {str(label): [f"n{label:08}", name] for label, name in enumerate(NAMES)},
    ],
)
def test_json_is_a_list_or_names_by_id_or_ids_by_name_or_hugging_faces(tmp_path: Path, content: object) -> None:
    assert read_class_names(write(tmp_path, "config.json", json.dumps(content))) == NAMES


def test_json_is_told_by_its_content(tmp_path: Path) -> None:
    assert read_class_names(write(tmp_path, "labels.txt", json.dumps(BY_ID, indent=1))) == NAMES
    assert read_class_names(write(tmp_path, "labels.txt", "[x] checked\n{brace}\n")) == ["[x] checked", "{brace}"]
    with pytest.raises(ModelFolderError, match=r"labels\.txt: is not JSON: "):
        read_class_names(write(tmp_path, "labels.txt", "{0: 'tench, Tinca tinca',\n 1: 'goldfish'}"))


def test_digits_may_be_the_names_of_json(tmp_path: Path) -> None:
    assert read_class_names(write(tmp_path, "digits.json", '{"7": 0, "07": 1}')) == ["7", "07"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("l.csv", 'id,name\n0,tench\n2,hen\n1,"great white shark, white shark"\n'),
        ("l.csv", '\ufeffName,ID\r\ntench,0\r\n"great white shark, white shark",1\r\nhen,2\r\n'),
        ("l.csv", 'name\ntench\n"great white shark, white shark"\nhen\n'),
        ("l.csv", 'tench\n"great white shark, white shark"\nhen\n'),
        ("l.csv", '0,tench\n1,"great white shark, white shark"\n2,hen\n'),
        ("l.csv", "class_id;class;note\n0;tench;\n1;great white shark, white shark;x\n2;hen;\n"),
        ("l.csv", 'label,name\n0,tench\n1,"great white shark, white shark"\n2,hen\n'),
        ("l.CSV", ',label\n0,tench\n1,"great white shark, white shark"\n\n2,hen\n'),
        ("l.tsv", "id\tname\n0\ttench\n1\tgreat white shark, white shark\n2\then\n"),
    ],
)
def test_a_table_has_names_and_maybe_ids(tmp_path: Path, name: str, content: str) -> None:
    assert read_class_names(write(tmp_path, name, content)) == NAMES


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.txt", "0 a\n2 b\n", "l.txt: line 2: has the id 2, but no class has 1; ids must run from 0 to 1, each once"),
        ("l.txt", "3 doors\n5 doors down\n", "line 1: has the id 3, but no class has 0"),
        ("l.txt", "0 a\n\n0 b\n", "line 3: the id 0 stands in line 1, too; ids are unique"),
        ("l.txt", "00 a\n0 b\n", "line 2: the id 0 stands in line 1, too"),
        ("l.txt", "", "holds no class names"),
        ("l.txt", b"\xff\xfe0\x00", "is not a text of class names in UTF-8"),
        ("l.csv", "id,name\n0,a\n2,b\n", "line 3: has the id 2, but no class has 1"),
        ("l.csv", "id,name\n0,a\n0,b\n", "line 3: the id 0 stands in line 2, too"),
        ("l.csv", "id,name\n0,a\nx,b\n", "line 3: 'x' is no id; ids are whole numbers from 0"),
        ("l.csv", "id,name\n0,a,b\n", "line 2: has 3 columns, the first line has 2"),
        ("l.csv", "a,b\n0,1\n", "line 1: has the columns 'a', 'b'; needed are name, and maybe id"),
        ("l.csv", 'name\n"a\n', "line 2: is no row of a table"),
        ("l.csv", "id,name\n0,\n", "class 0 has no name"),
        ("l.csv", 'name\n"a\nb"\n', "class 0 has a name of several lines"),
        ("l.csv", "name\n", "holds no class names"),
        ("l.json", "{", "is not JSON"),
        ("l.json", "[" * 100_000, "is not JSON"),
        ("l.json", '{"0": "a", "0": "b"}', "key '0': stands twice"),
        ("l.json", '{"0": "a", "00": "b"}', "neither a list of names"),
        ("l.json", '{"0": "a", "2": "b"}', "key '2': has the id 2, but no class has 1"),
        ("l.json", '{"a": 0, "b": 0}', "key 'b': the id 0 stands in key 'a', too"),
        ("l.json", '{"0": null}', "key '0': is None, not a name"),
        ("l.json", "[1, 2]", "entry 0: is 1, not a name"),
        ("l.json", '["\\ud800"]', "the name of class 0 is no text"),
        ("l.json", '{"model_type": "resnet", "id2label": null}', "its keys are 'model_type', 'id2label'"),
        ("l.json", "7", "neither a list of names, nor names by id, nor an id2label"),
        ("l.json", "{}", "neither a list of names"),
        ("l.json", "[]", "holds no class names"),
    ],
)
def test_what_is_wrong_with_class_names_is_told_with_its_place(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    with pytest.raises(ModelFolderError) as caught:
        read_class_names(write(tmp_path, name, content))
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_class_count_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="names 2 classes, --num-classes says 3"):
        read_class_names(write(tmp_path, "label.txt", "ant\nbee\n"), num_classes=3)


def test_what_is_no_file_of_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match="is no regular file"):
        read_class_names(tmp_path)
    with pytest.raises(ModelFolderError, match="cannot be read: No such file"):
        read_class_names(tmp_path / "none.txt")
    with (tmp_path / "holes.txt").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ModelFolderError, match="larger than 16 MiB"):
        read_class_names(tmp_path / "holes.txt")


# Two classes of one name


def test_names_that_classes_share_are_told_apart_by_their_ids() -> None:
    assert names_apart(("crane", "kite", "crane")) == ("crane (id 0)", "kite", "crane (id 2)")
    assert len(set(names_apart(("a", "a", "a (id 0)", "a (id 1)", "a (id 0) (id 2)")))) == 5


def test_classes_are_matched_by_name_and_in_the_order_of_their_ids() -> None:
    assert match_names({0: "kite", 3: "crane", 8: "crane"}, ["crane", "kite", "crane"]) == {0: 1, 3: 0, 8: 2}
    assert match_names({0: "kite", 1: "crane"}, ["crane", "crane"]) == {0: None, 1: 1}
    assert match_names({2: "crane"}, ["crane", "crane"]) == {2: None}


def test_a_model_may_have_two_classes_of_one_name(tmp_path: Path) -> None:
    names = ["crane", "kite", "crane"]
    new_model_folder("PP-LCNet_x0_25", tmp_path / "m", class_names=names, random_seed=0)
    spec = open_model_folder(tmp_path / "m").spec
    assert spec.class_names == tuple(names)
    assert spec.names_apart == ("crane (id 0)", "kite", "crane (id 2)")


def test_training_goes_on_from_a_head_with_two_classes_of_one_name_in_another_order(tmp_path: Path) -> None:
    folder = new_model_folder("PP-LCNet_x0_25", tmp_path / "m", class_names=["crane", "kite", "crane"], random_seed=0)
    before = folder.load_network().state_dict()["classifier.weight"]
    after = network_for_classes(folder, ["kite", "crane", "crane"]).state_dict()["classifier.weight"]
    assert torch.equal(after, before[[1, 0, 2]])
