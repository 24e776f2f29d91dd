"""CHAIR against nltk: its tokenizer and its lemmatizer, on WordNet's own files.

What is known to differ: the public scorer takes the lemma of the part of speech that nltk's tagger
gives a word, and its tagger's model is no package. Here all words are nouns on both sides. So a
word that the tagger takes for a verb ('ships', 'rides') may count here and not there.
"""

import shutil
import warnings
from pathlib import Path

import pytest
from reattend.evaluation.metrics.chair import count_caption
from reattend.evaluation.metrics.coco_words import coco_vocabulary

pytest.importorskip("nltk")
WORDNET = Path("/usr/share/wordnet")  # of Debian's wordnet-base
pytestmark = pytest.mark.skipif(not WORDNET.exists(), reason="needs WordNet's files (wordnet-base)")

COCO = coco_vocabulary()
_LISTED = (  # in the protocol
    "motor bike|motor cycle|air plane|traffic light|street light|traffic signal|stop light|"
    "fire hydrant|stop sign|parking meter|suit case|sports ball|baseball bat|baseball glove|"
    "tennis racket|wine glass|hot dog|cell phone|mobile phone|teddy bear|hair drier|potted plant|"
    "bow tie|laptop computer|stove top oven|home plate|train track"
)
DOUBLE = _LISTED.split("|")
ANIMALS = [
    "bird",
    "cat",
    "dog",
    "horse",
    "sheep",
    "cow",
    "elephant",
    "bear",
    "zebra",
    "giraffe",
    "animal",
    "cub",
]
VEHICLES = ("jet", "train")


@pytest.fixture(scope="module")
def lemma(tmp_path_factory):
    import nltk
    from nltk.corpus.reader.wordnet import WordNetCorpusReader

    root = tmp_path_factory.mktemp("wordnet")
    for path in WORDNET.iterdir():
        if path.is_file():
            shutil.copy(path, root)
    # Debian leaves it out; only the numbers' order is read of it.
    (root / "lexnames").write_text("".join(f"{n:02}\tname.{n}\t1\n" for n in range(45)))

    class Reader(WordNetCorpusReader):
        def map_wn(self, *_):  # to other versions' numbers: not needed
            return {}

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(nltk.data, "path", [str(root)])  # nltk reads from these alone
        warnings.simplefilter("ignore")  # no other languages
        reader = Reader(str(root), None)

    def lemmatize(word):
        """As nltk's WordNetLemmatizer does with a noun."""
        found = reader._morphy(word, "n")
        return min(found, key=len) if found else word

    return lemmatize


@pytest.fixture(scope="module")
def public(lemma):
    """The public scorer's reading of a caption, from its description."""
    from nltk.tokenize import NLTKWordTokenizer

    tokenizer = NLTKWordTokenizer()
    pairs = {pair: pair for pair in DOUBLE}
    for animal in ANIMALS:
        pairs |= {f"baby {animal}": animal, f"adult {animal}": animal}
    pairs |= {f"passenger {vehicle}": vehicle for vehicle in VEHICLES}
    pairs |= {"bow tie": "tie", "toilet seat": "toilet", "wine glas": "wine glass"}
    noun_of = {word: COCO.names[noun] for word, noun in COCO.noun_of.items()}

    def read(caption):
        words = [lemma(word) for word in tokenizer.tokenize(caption.lower())]
        merged, at = [], 0
        while at < len(words):
            pair = " ".join(words[at : at + 2])
            merged.append(pairs.get(pair, words[at]))
            at += 2 if pair in pairs else 1
        if "toilet" in merged and "seat" in merged:
            merged = [word for word in merged if word != "seat"]
        return [noun_of[word] for word in merged if word in noun_of]

    return read


def plural(word):
    if word.endswith(("s", "x", "ch", "sh")):
        return word + "es"
    return word[:-1] + "ies" if word.endswith("y") and word[-2] not in "aeiou" else word + "s"


def ours(caption):
    return [COCO.names[each.noun] for each in COCO.mentions(caption)]


def test_every_word_of_the_table_in_singular_and_plural(public):
    differing = {
        caption: (ours(caption), public(caption))
        for word in COCO.noun_of
        for caption in (f"a {word} here", f"two {plural(word)} here", f"A {word.upper()}.")
        if ours(caption) != public(caption)
    }
    assert differing == {}


def test_pairs_of_words(public):
    pairs = [*DOUBLE, *(f"{age} {animal}" for age in ("baby", "adult") for animal in ANIMALS)]
    pairs += ["passenger train", "passenger jet", "toilet seat", "wine glass", "home plates"]
    for pair in pairs:
        for caption in (f"a {pair}", f"the {plural(pair)} there", f"{pair}, {pair}."):
            assert ours(caption) == public(caption), caption


def test_made_captions_count_alike(public, rng):
    words = [*COCO.noun_of]
    fillers = ["A", "and the", ", a", "near the", "beside two", "of the", "; some", "with a"]
    for _ in range(400):
        parts = []
        for _ in range(int(rng.integers(2, 8))):
            word = str(rng.choice(words))
            word = plural(word) if rng.random() < 0.4 else word
            first = ["baby ", "adult ", "passenger ", "toilet ", *[""] * 16]
            before = rng.choice(first)
            parts.append(f"{rng.choice(fillers)} {before}{word}")
        caption = f"{' '.join(parts).replace(' ,', ',').replace(' ;', ';')}."
        there = rng.choice(80, 4, replace=False).tolist()
        counts = count_caption(caption, there, COCO)
        said = public(caption)
        truth = {COCO.names[noun] for noun in there}
        wanted = len(said), sum(name not in truth for name in said), len(truth & set(said))
        assert (counts["mentions"], counts["made_up"], counts["found"]) == wanted, caption
