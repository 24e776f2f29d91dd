"""Files of POPE and CHAIR: both forms are read; what is wrong is named and counted."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from reattend.evaluation.datasets import (
    Answer,
    Case,
    DataError,
    Dataset,
    load_dataset,
    registered_datasets,
)
from reattend.evaluation.datasets.emoji_world import write_coco_scenes
from reattend.evaluation.datasets.pope import write_pope
from reattend.evaluation.datasets.records import Pictures
from reattend.evaluation.metrics.coco_words import coco_vocabulary
from reattend.testing.coco_folder import write_coco_folder

pytest.importorskip("PIL")


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return write_coco_folder(tmp_path_factory.mktemp("coco") / "folder", pictures=50)


ROWS = [
    {"question_id": 1, "image": "COCO_val2014_000000000001.jpg", "text": "Is there a cat in the "
     "image?", "label": "yes"},
    {"question_id": 2, "image": "COCO_val2014_000000000001.jpg", "text": "Is there a car in the "
     "image?", "label": "no"},
    {"question_id": 3, "image": "COCO_val2014_000000000007.jpg", "text": "Is there a dog in the "
     "image?", "label": "no"},
]  # fmt: skip
HUB = [
    {"id": str(row["question_id"]), "question": row["text"], "answer": row["label"].capitalize(),
     "image_source": row["image"].removesuffix(".jpg")}
    for row in ROWS
]  # fmt: skip


def written(path, rows, form):
    if form == "lines":
        text = "\n".join(map(json.dumps, rows)) + "\n"
    else:
        text = json.dumps(rows if form == "array" else [rows], indent=1)
    path.write_text(text)
    return path


@pytest.mark.parametrize("form", ["lines", "array", "array in an array"])
@pytest.mark.parametrize("rows", [ROWS, HUB], ids=["official", "hub"])
def test_pope_files_in_every_form(tmp_path, coco, rows, form):
    data = load_dataset(
        "pope", data=written(tmp_path / "p.json", rows, form), images=coco / "val2014"
    )
    assert [case.prompt for case in data.cases] == [row["text"] for row in ROWS]
    assert [case.truth for case in data.cases] == [True, False, False]
    assert [case.image.name for case in data.cases] == [row["image"] for row in ROWS]
    assert [case.key for case in data.cases] == ["1", "2", "3"]
    assert data.count(data.cases[1], Answer("Yes"))["right"] == 0


def test_everything_wrong_with_a_file_is_named_with_its_line(tmp_path, coco):
    lines = [
        json.dumps(ROWS[0]),
        "{broken",
        json.dumps({**ROWS[1], "label": "maybe"}),
        json.dumps({**ROWS[1], "question_id": 1}),
        json.dumps({"question_id": 9, "text": "?", "label": "no"}),
        json.dumps({**ROWS[1], "question_id": 6, "image": "COCO_val2014_000000999999.jpg"}),
        "[1]",
        json.dumps(ROWS[2]),
    ]
    path = tmp_path / "pope.json"
    path.write_text("\n".join(lines))
    with pytest.raises(DataError) as raised:
        load_dataset("pope", data=path, images=coco / "val2014")
    said = {each.line: each.what for each in raised.value.problems}
    assert said.keys() == {2, 3, 4, 5, 6, 7}
    assert said[2].startswith("is no JSON")
    assert said[3] == "label must be yes or no, got 'maybe'"
    assert said[4] == "question 1 was there in line 1"
    assert said[5] == "has none of image, image_name, image_source, image_id"
    assert said[6].startswith("picture COCO_val2014_000000999999.jpg is not in ")
    assert said[7] == "must be a JSON object, got [1]"
    assert f"{path}:3: label must be" in str(raised.value)
    assert str(raised.value).endswith("and 1 more")
    data = load_dataset("pope", data=path, images=coco / "val2014", skip_problems=True)
    assert [case.key for case in data.cases] == ["1", "3"]
    assert data.problems == raised.value.problems


def test_a_file_that_is_none_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing.json: cannot be read: No such"):
        load_dataset("pope", data=tmp_path / "nothing.json")
    (tmp_path / "empty.json").write_text("")
    with pytest.raises(DataError, match="holds no cases"):
        load_dataset("pope", data=tmp_path / "empty.json")
    (tmp_path / "half.json").write_text('[{"a": 1},\n {')
    with pytest.raises(DataError, match=r"half.json:2: is no JSON"):
        load_dataset("pope", data=tmp_path / "half.json")
    with pytest.raises(ValueError, match=r"name must be one of .*pope.*, got 'poe'"):
        load_dataset("poe")


def test_a_question_that_is_there_twice_is_named_where_no_id_tells_them_apart(tmp_path, coco):
    bare = [{name: row[name] for name in ("image", "text", "label")} for row in ROWS]
    path = written(tmp_path / "bare.json", bare, "lines")
    assert [case.key for case in load_dataset("pope", data=path).cases] == ["1", "2", "3"]
    path = written(tmp_path / "twice.json", [*bare, bare[0]], "lines")
    with pytest.raises(DataError, match=r":4: question 'Is there a cat.*' was there in line 1"):
        load_dataset("pope", data=path)
    kept = load_dataset("pope", data=path, skip_problems=True)
    assert [case.key for case in kept.cases] == ["1", "2", "3"]
    # Other splits joined to one file ask again; their ids say that it is meant.
    path = written(tmp_path / "joined.json", [*ROWS, {**ROWS[0], "question_id": 4}], "lines")
    assert len(load_dataset("pope", data=path).cases) == 4
    # A row that is left out leaves the others' numbers as they are.
    path = written(tmp_path / "gap.json", [bare[0], {"text": "?"}, bare[2]], "lines")
    gap = load_dataset("pope", data=path, skip_problems=True)
    assert [case.key for case in gap.cases] == ["1", "3"]


def asked_of(data):
    asked = {}
    for case in data.cases:
        thing = case.prompt.removeprefix("Is there a").removeprefix("n").strip()
        asked.setdefault(case.group, []).append((thing.removesuffix(" in the image?"), case.truth))
    return asked


@pytest.mark.parametrize("sampling", ["random", "popular", "adversarial"])
def test_pope_built_from_instances(tmp_path, coco, sampling):
    path = coco / "instances_val2014.json"
    found = json.loads(path.read_text())
    names = {each["id"]: each["name"] for each in found["categories"]}
    files = {each["id"]: each["file_name"] for each in found["images"]}
    there = {}
    for each in found["annotations"]:
        there.setdefault(files[each["image_id"]], []).append(names[each["category_id"]])
    data = load_dataset("pope-from-instances", data=path, images=coco / "val2014",
                        sampling=sampling, pictures=20, seed=3)  # fmt: skip
    asked = asked_of(data)
    assert len(asked) == 20
    often = {name: sum(name in some for some in there.values()) for name in names.values()}
    for file, questions in asked.items():
        assert [name for name, truth in questions if truth] == there[file][:3]
        absent = [name for name, truth in questions if not truth]
        assert len(set(absent)) == 3
        assert not set(absent) & set(there[file])
        left = [name for name in names.values() if name not in there[file]]
        if sampling == "popular":
            assert sorted(often[n] for n in absent) == sorted(often[n] for n in left)[-3:]
        if sampling == "adversarial":
            beside = {
                n: sum(n in some and there[file][0] in some for some in there.values())
                for n in left
            }
            assert beside[absent[0]] == max(beside.values())
    again = load_dataset("pope-from-instances", data=path, images=coco / "val2014",
                         sampling=sampling, pictures=20, seed=3)  # fmt: skip
    assert again.identity() == data.identity()
    write_pope(data, tmp_path / "pope.jsonl")
    read = load_dataset("pope", data=tmp_path / "pope.jsonl", images=coco / "val2014")
    assert [(c.prompt, c.truth, c.image) for c in read.cases] == [
        (c.prompt, c.truth, c.image) for c in data.cases
    ]


def test_chair_takes_instances_and_captions_together(coco):
    instances, captions = coco / "instances_val2014.json", coco / "captions_val2014.json"
    alone = load_dataset("chair", data=instances, images=coco / "val2014")
    both = load_dataset("chair", data=instances, images=coco / "val2014", captions=captions)
    assert len(alone.cases) == len(both.cases) == 50
    # The drawn captions name only what is there, but for one word that the instances lack.
    assert all(a.truth == b.truth for a, b in zip(alone.cases, both.cases, strict=True))
    case = both.cases[0]
    counts = both.count(case, Answer("A zebra and a giraffe."))
    assert (counts["made_up"], counts["there"]) == (2, len(case.truth))
    some = load_dataset("chair", data=instances, pictures=7, seed=1)
    assert len(some.cases) == 7
    assert some.rules["reference captions"] is False


def test_captions_add_to_what_is_there(tmp_path, coco):
    captions = tmp_path / "captions.json"
    said = [{"image_id": 1, "caption": "A giraffe"}, {"image_id": 999, "caption": "A bus"}]
    captions.write_text(json.dumps({"annotations": said}))
    with pytest.raises(DataError, match=r"captions.json:2: joins no picture: image 999"):
        load_dataset("chair", data=coco / "instances_val2014.json", captions=captions)
    data = load_dataset("chair", data=coco / "instances_val2014.json", captions=captions,
                        skip_problems=True)  # fmt: skip
    assert data.count(data.cases[0], Answer("A giraffe"))["made_up"] == 0
    assert data.count(data.cases[1], Answer("A giraffe"))["made_up"] == 1
    assert len(data.problems) == 1


def test_annotations_and_pictures_that_join_nothing_are_named(tmp_path, coco):
    content = json.loads((coco / "instances_val2014.json").read_text())
    content["annotations"].append({"image_id": 1, "category_id": 77})
    content["images"].append({"id": 51, "file_name": "COCO_val2014_000000000051.jpg"})
    content["categories"].append({"id": 5, "name": "unicorn"})
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError) as raised:
        load_dataset("chair", data=path, images=coco / "val2014")
    said = " ".join(each.what for each in raised.value.problems)
    assert "joins no picture or category: image 1, category 77" in said
    assert "category 'unicorn' is unknown" in said
    assert "picture COCO_val2014_000000000051.jpg is not in" in said
    assert {"pope", "chair", "pope-from-instances"} <= registered_datasets().keys()


def test_scenes_are_a_folder_of_coco_too(tmp_path):
    """What the shipped model knows, under COCO's names; a caption makes nothing up."""
    from PIL import Image

    folder = write_coco_scenes(tmp_path / "scenes", pictures=6, difficulty="clear")
    instances = folder / "instances_val2014.json"
    content = json.loads(instances.read_text())
    names = {each["id"]: each["name"] for each in content["categories"]}
    assert {"boat", "cell phone", "tennis racket"} <= {*names.values()}
    assert len(names) == 25, "classes of COCO that the emoji world has"
    files = {"data": instances, "images": folder / "val2014"}
    chair = load_dataset("chair", **files, captions=folder / "captions_val2014.json")
    captions = json.loads((folder / "captions_val2014.json").read_text())["annotations"]
    for case, caption in zip(chair.cases, captions, strict=True):
        counts = chair.count(case, Answer(caption["caption"]))
        assert counts["made_up"] == 0
        assert counts["there"] > 0
        shown = [each for each in content["annotations"] if each["image_id"] == int(case.key)]
        assert len({each["category_id"] for each in shown}) == len(case.truth)
        with Image.open(folder / "val2014" / case.image) as picture:
            pixels = np.asarray(picture)
        for x, y, width, height in (each["bbox"] for each in shown):
            assert pixels[y : y + height, x : x + width].std() > 5, "something is drawn there"
    pope = load_dataset("pope-from-instances", **files, pictures=6)
    assert {case.truth for case in pope.cases} == {True, False}
    with pytest.raises(FileExistsError):
        write_coco_scenes(folder)


def test_a_picture_that_is_missing_is_not_another_whose_name_ends_alike(tmp_path):
    for name in ("dog_1.jpg", "AMBER_2.jpg", "000000000007.jpg", "COCO_val2014_000000000008.jpg"):
        (tmp_path / name).touch()
    pictures = Pictures(tmp_path)
    for missing in ("cat_1.jpg", "1.jpg", "000000000001", "COCO_val2014_000000000002.jpg"):
        assert pictures.find(missing) is None, missing
    found = {
        "dog_1": "dog_1.jpg",
        "COCO_train2014_000000000007.png": "000000000007.jpg",
        "8": "COCO_val2014_000000000008.jpg",
        "sub/8.jpg": "COCO_val2014_000000000008.jpg",
        7: "000000000007.jpg",
        8: "COCO_val2014_000000000008.jpg",
    }
    for asked, name in found.items():
        assert pictures.find(asked) == tmp_path / name, asked
    for number in (1, 2, "2"):
        assert pictures.find(number) is None, "only COCO's names are known by their number"
    for name in ("0009.png", "10.jpg"):  # as in MME: these are not COCO's names either
        (tmp_path / name).touch()
    pictures = Pictures(tmp_path)
    assert pictures.find(10) == tmp_path / "10.jpg"  # this is its name
    for asked in (9, "9.png", "COCO_val2014_000000000009.jpg", "000000000010.jpg"):
        assert pictures.find(asked) is None, asked


def test_a_name_without_its_ending_that_two_pictures_have_is_refused(tmp_path):
    for name in ("cat.jpg", "cat.png", "dog.png"):
        (tmp_path / name).touch()
    pictures = Pictures(tmp_path)
    assert pictures.find("cat.png") == tmp_path / "cat.png"
    assert pictures.find("dog") == tmp_path / "dog.png"
    with pytest.raises(DataError, match=r"cat may be any of cat\.jpg, cat\.png"):
        pictures.find("cat")


def test_captions_join_pictures_by_the_id_that_the_file_gives_them(tmp_path):
    """Not by the number at the end of a name, which may be another picture's id."""
    images = [{"id": 7, "file_name": "street_1.jpg"}, {"id": 1, "file_name": "barn_7.jpg"}]
    content = {
        "images": images, "categories": [{"id": 3, "name": "car"}, {"id": 4, "name": "cow"}],
        "annotations": [{"image_id": 7, "category_id": 3}, {"image_id": 1, "category_id": 4}],
    }  # fmt: skip
    instances, captions = tmp_path / "instances.json", tmp_path / "captions.json"
    instances.write_text(json.dumps(content))
    captions.write_text(json.dumps({"annotations": [{"image_id": 7, "caption": "A bus."}]}))
    data = load_dataset("chair", data=instances, captions=captions)
    said = Answer("A bus and a car.")
    made_up = {case.group: data.count(case, said)["made_up"] for case in data.cases}
    assert made_up == {"street_1.jpg": 0, "barn_7.jpg": 2}
    assert {case.group: case.key for case in data.cases} == {
        "street_1.jpg": "7", "barn_7.jpg": "1"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("part", "entry"),
    [
        ("images", {"id": 1, "file_name": "other.jpg"}),
        ("images", {"id": 99, "file_name": "COCO_val2014_000000000001.jpg"}),
        ("categories", {"id": 1, "name": "zebra"}),
    ],
)
def test_an_id_that_is_there_twice_is_refused(tmp_path, coco, part, entry):
    content = json.loads((coco / "instances_val2014.json").read_text())
    content[part].append(entry)
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(content))
    for kind in ("chair", "pope-from-instances"):
        with pytest.raises(DataError, match=r"each id and each \w+ must be there once"):
            load_dataset(kind, data=path)


def test_other_bytes_in_a_picture_are_another_data_set(tmp_path, coco):
    folder = tmp_path / "val2014"
    shutil.copytree(coco / "val2014", folder)
    path = written(tmp_path / "pope.json", ROWS, "lines")
    before = load_dataset("pope", data=path, images=folder).identity()
    picture = folder / ROWS[2]["image"]
    assert load_dataset("pope", data=path, images=coco / "val2014").identity() == before
    picture.write_bytes((folder / ROWS[0]["image"]).read_bytes())
    assert load_dataset("pope", data=path, images=folder).identity() != before


def test_cases_that_differ_in_anything_that_is_asked_are_another_data_set():
    def identity(**changes):
        pixels = np.arange(36, dtype=np.uint8).reshape(2, 6, 3)
        case = dataclasses.replace(Case("1", "Is it?", pixels, "a"), **changes)
        return Dataset("one", [case], lambda case, answer: {}, {}).identity()

    changed = [
        identity(**change)
        for change in (
            {"image": np.arange(36, dtype=np.uint8).reshape(6, 2, 3)}, {"group": "b"},
            {"yes_or_no": True}, {"prompt": "Is it not?"}, {"max_new_tokens": 8}, {"image": None},
        )
    ]  # fmt: skip
    assert identity() == identity()
    assert identity() not in changed


def test_files_of_one_name_both_count(tmp_path, coco):
    parts = []
    for name, start in (("train", 0), ("val", 500)):
        parts.append(tmp_path / name / "instances.json")
        parts[-1].parent.mkdir()
        content = {
            "images": [{"id": start + n, "file_name": f"{start + n}.jpg"} for n in range(3)],
            "categories": [{"id": 1, "name": "cat"}],
            "annotations": [{"image_id": start, "category_id": 1}],
        }  # fmt: skip
        parts[-1].write_text(json.dumps(content))
    before = load_dataset("chair", data=parts).identity()
    parts[0].write_text(parts[0].read_text().replace('"cat"', '"dog"'))
    assert load_dataset("chair", data=parts).identity() != before


def test_a_vocabulary_of_ones_own_stands_in_the_rules(coco):
    instances = coco / "instances_val2014.json"
    usual = load_dataset("chair", data=instances)
    assert "vocabulary" not in usual.rules
    known = (coco_vocabulary(lemmas) for lemmas in ("wordnet", "english", "english"))
    one, *others = (load_dataset("chair", data=instances, vocabulary=each).rules for each in known)
    assert others[0] == others[1] != one
