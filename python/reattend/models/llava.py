"""LLaVA in NumPy: CLIP's states of a picture among a language model's embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reattend.models.clip import ClipLayer, ClipTower, Norm, exact_gelu, quick_gelu
from reattend.models.folder_llama import llama_from
from reattend.models.folder_tokenizer import FolderTokenizer
from reattend.models.json_files import read_json
from reattend.models.llama import Llama
from reattend.models.tensor_files import TensorFiles
from reattend.models.vision import Linear, gelu
from reattend.models.vision_language import IMAGE, VisionLanguage
from reattend.models.weights import ModelFileError
from reattend.optional import demand
from reattend.policy import Array

_ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": exact_gelu, "gelu_pytorch_tanh": gelu}
_PREFIXES = (  # as transformers has named the parts, the newest names first
    ("model.language_model.", "language_model.model."),
    ("model.vision_tower.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
)


@dataclass(frozen=True)
class Preparation:
    """From a picture to the numbers that a tower reads, as preprocessor_config.json says.

    Examples
    --------
    >>> from PIL import Image
    >>> prepare = Preparation(28, 28, 3, 1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    >>> prepare(Image.new("RGB", (40, 30), "white")).shape
    (3, 28, 28)
    """

    shortest: int  # edge, to which a picture is resized
    crop: int  # side of what is cut out of its middle
    resample: int  # a filter of Pillow
    factor: float  # of values from 0 to 255
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, picture: Any) -> Array:
        """Read a picture of Pillow in mode RGB; gives float32 [3, S, S]."""
        width, height = picture.size
        short, long = sorted((width, height))
        longest = int(self.shortest * long / short)
        size = (self.shortest, longest) if width <= height else (longest, self.shortest)
        pixels = np.asarray(picture.resize(size, self.resample), np.float32)
        top, left = ((length - self.crop) // 2 for length in pixels.shape[:2])
        pixels = pixels[top : top + self.crop, left : left + self.crop]
        mean, std = (np.asarray(each, np.float32) for each in (self.mean, self.std))
        pixels = (pixels * np.float32(self.factor) - mean) / std
        return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)


class Llava(VisionLanguage):
    """A language model that reads pictures through CLIP, as LLaVA 1.5 does.

    `read` makes one of a folder. `generate` and the others are those of `VisionLanguage`, with
    ``pixels`` of [B, 3, S, S].

    Parameters
    ----------
    tower : ClipTower
        From pixels to states, run as far as the layer that is used.
    inner, outer : Linear
        The projector's matrices.
    activation : callable
        Between them.
    skip : int
        How many states before the patches are left out.
    llama : Llama
        The language model.
    tokenizer : FolderTokenizer
        Its tokens.
    image_token : int
        The token that stands for a picture in a text.
    prepare : Preparation
        From a picture to pixels.

    Examples
    --------
    >>> model = read("llava-1.5-7b-hf")  # doctest: +SKIP
    >>> prompt = model.prompt("What is it?")  # doctest: +SKIP
    >>> steps = model.generate(session, [prompt], model.prepare(picture)[None],
    ...                        max_new_tokens=64)  # doctest: +SKIP
    """

    def __init__(
        self,
        tower: ClipTower,
        inner: Linear,
        outer: Linear,
        activation: Callable[[Array], Array],
        skip: int,
        llama: Llama,
        tokenizer: FolderTokenizer,
        image_token: int,
        prepare: Preparation,
    ) -> None:
        self.tower, self.inner, self.outer = tower, inner, outer
        self.activation, self.skip = activation, skip
        self.llama, self.tokenizer = llama, tokenizer
        self.image_token, self.prepare = image_token, prepare
        self.registers = None
        self.metadata = {}

    @property
    def image_tokens(self) -> int:
        """How many tokens a picture becomes."""
        return len(self.tower.positions) - self.skip

    def prompt(self, question: str, before: str | None = None) -> list[int]:
        """Write a question about a picture by the folder's chat template.

        Parameters
        ----------
        question : str
            What to ask.
        before : str, optional
            Other text, between the picture and the question.

        Returns
        -------
        list of int
            Tokens; `IMAGE` stands where the picture is.

        Raises
        ------
        ModelFileError
            If the template leaves the picture out.

        Examples
        --------
        See the example of the class.
        """
        question = question if before is None else f"{before}\n{question}"
        if self.tokenizer.chat_template is None:
            mark = self.tokenizer.token(self.image_token)
            return self.with_picture(self.tokenizer.encode(f"{mark}\n{question}"))
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = self.tokenizer.chat([{"role": "user", "content": content}])
        return self.with_picture(self.tokenizer.encode(text, prefix=False))

    def with_picture(self, tokens: list[int]) -> list[int]:
        """Put `IMAGE` for each of a picture's tokens where a text has its token.

        Parameters
        ----------
        tokens : list of int
            Of the text; the image token stands in it once.

        Raises
        ------
        ModelFileError
            If it does not.

        Examples
        --------
        See the example of the class.
        """
        if (count := tokens.count(self.image_token)) != 1:
            raise ModelFileError(
                f"the prompt must hold the image token, {self.image_token}, once, got {count} of "
                "them: does the folder's chat template know pictures?"
            )
        at = tokens.index(self.image_token)
        return [*tokens[:at], *[IMAGE] * self.image_tokens, *tokens[at + 1 :]]

    def encode(self, pixels: Array) -> Array:
        """Turn pictures into embeddings of the language model.

        Parameters
        ----------
        pixels : float32 array [B, 3, S, S]
            As `prepare` makes them.

        Returns
        -------
        float32 array [B, tokens, C]
            Patches row by row.

        Raises
        ------
        ValueError
            If pixels are of another shape.

        Examples
        --------
        See the example of the class.
        """
        side = round((len(self.tower.positions) - 1) ** 0.5) * self.tower.patch
        if pixels.shape[1:] != (3, side, side):
            raise ValueError(f"pixels must be [B, 3, {side}, {side}], got shape {pixels.shape}")
        states = self.tower(np.asarray(pixels, np.float32))[:, self.skip :]
        return self.outer(self.activation(self.inner(states)))


def plain_name(name: str) -> str | None:
    """Give the name of a tensor that all versions of transformers agree on; None: no weight.

    Parameters
    ----------
    name : str
        As a file has it.

    Examples
    --------
    >>> plain_name("model.vision_tower.vision_model.pre_layrnorm.bias")
    'vision_tower.pre_layrnorm.bias'
    """
    for given, plain in _PREFIXES:
        if name.startswith(given):
            name = plain + name.removeprefix(given)
            break
    name = name.replace("vision_tower.vision_model.", "vision_tower.", 1)
    if name.startswith("language_model."):
        return name.removeprefix("language_model.")
    return None if name.endswith(".position_ids") else name  # a buffer of older versions


def llava_from(
    path: Path,
    said: Mapping[str, Any],
    tensors: TensorFiles,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Llava:
    """Read a LLaVA.

    Parameters
    ----------
    path : path
        Of the folder.
    said : mapping
        What its config.json says.
    tensors : TensorFiles
        By the names that `plain_name` gives.
    progress : callable, optional
        Wraps the sequence of the language model's layers that are read.

    Raises
    ------
    FileNotFoundError, ModelFileError, MissingPackageError
        As `read` says.
    """
    text = dict(said.get("text_config") or {})
    text.setdefault("model_type", "llama")
    text["tie_word_embeddings"] = any(each.get("tie_word_embeddings") for each in (said, text))
    llama = llama_from(path, text, tensors, progress)
    vision = dict(said.get("vision_config") or {})
    layer = said.get("vision_feature_layer", -2)
    strategy = said.get("vision_feature_select_strategy", "default")
    known = vision.get("model_type") == "clip_vision_model" and isinstance(layer, int)
    if not known or strategy not in ("default", "full"):
        raise ModelFileError(
            f"{path} has a vision tower {vision.get('model_type')!r} of which it uses layer "
            f"{layer!r} ({strategy}): only one layer of a clip_vision_model is supported"
        )
    tower = _tower(path, {**_CLIP, **vision}, tensors, layer)
    wide, size = len(tower.class_state), llama.config.hidden_size
    bias = bool(said.get("multimodal_projector_bias", True))
    inner, outer = (
        _linear(tensors, f"multi_modal_projector.linear_{place}", inputs, size, bias=bias)
        for place, inputs in ((1, wide), (2, size))
    )
    token = said.get("image_token_index", said.get("image_token_id", 32000))
    return Llava(
        tower, inner, outer, _activation(path, said.get("projector_hidden_act", "gelu")),
        1 if strategy == "default" else 0, llama, FolderTokenizer(path), int(token),
        _preparation(path),
    )  # fmt: skip


_CLIP = {  # what CLIPVisionConfig is by default; files leave these out
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "image_size": 224, "patch_size": 32, "layer_norm_eps": 1e-5,
    "hidden_act": "quick_gelu",
}  # fmt: skip


def _activation(path: Path, name: Any) -> Callable[[Array], Array]:
    if name not in _ACTIVATIONS:
        raise ModelFileError(f"{path} has the activation {name!r}: not supported")
    return _ACTIVATIONS[name]


def _linear(
    tensors: TensorFiles, name: str, inputs: int, outputs: int, *, bias: bool = True
) -> Linear:
    weight = np.ascontiguousarray(tensors.take(f"{name}.weight", outputs, inputs).T)
    added = tensors.take(f"{name}.bias", outputs) if bias else np.zeros(outputs, np.float32)
    return Linear(weight, added)


def _norm(tensors: TensorFiles, name: str, size: int, eps: float) -> Norm:
    return Norm(tensors.take(f"{name}.weight", size), tensors.take(f"{name}.bias", size), eps)


def _tower(path: Path, said: Mapping[str, Any], tensors: TensorFiles, used: int) -> ClipTower:
    size, patch, eps = said["hidden_size"], said["patch_size"], float(said["layer_norm_eps"])
    count, side = said["num_hidden_layers"], said["image_size"] // patch
    if not -count - 1 <= used <= count:
        raise ModelFileError(f"{path} uses vision layer {used} of {count}")
    layers = []
    for index in range(count):
        at, inner = f"vision_tower.encoder.layers.{index}", said["intermediate_size"]
        parts = [_linear(tensors, f"{at}.self_attn.{part}_proj", size, size) for part in "qkv"]
        heads = Linear(
            np.ascontiguousarray(np.concatenate([each.weight for each in parts], axis=1)),
            np.concatenate([each.bias for each in parts]),
        )
        layers.append(
            ClipLayer(
                _norm(tensors, f"{at}.layer_norm1", size, eps), heads,
                _linear(tensors, f"{at}.self_attn.out_proj", size, size),
                _norm(tensors, f"{at}.layer_norm2", size, eps),
                _linear(tensors, f"{at}.mlp.fc1", size, inner),
                _linear(tensors, f"{at}.mlp.fc2", inner, size),
            )
        )  # fmt: skip
    _norm(tensors, "vision_tower.post_layernorm", size, eps)  # of the pooled state, unused
    at = "vision_tower.embeddings"
    patches = tensors.take(f"{at}.patch_embedding.weight", size, 3, patch, patch)
    return ClipTower(
        np.ascontiguousarray(patches.reshape(size, -1).T),
        tensors.take(f"{at}.class_embedding", size),
        tensors.take(f"{at}.position_embedding.weight", side * side + 1, size),
        _norm(tensors, "vision_tower.pre_layrnorm", size, eps),
        layers[: used if used >= 0 else count + 1 + used], said["num_attention_heads"], patch,
        _activation(path, said["hidden_act"]),
    )  # fmt: skip


def _preparation(path: Path) -> Preparation:
    """Read how pictures are prepared; newer folders keep it in processor_config.json."""
    if (path / "preprocessor_config.json").is_file():
        said = read_json(path, "preprocessor_config.json", "")
    else:
        absent = f"{path} has no preprocessor_config.json"
        said = read_json(path, "processor_config.json", absent).get("image_processor") or {}
    steps = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
    try:
        crop = said["crop_size"]
        height, width = crop["height"], crop["width"]
        if not all(said.get(step, True) for step in steps) or height != width:
            raise ModelFileError(f"{path} prepares pictures otherwise than CLIP: not supported")
        return Preparation(
            int(said["size"]["shortest_edge"]), int(height),
            demand("PIL.Image").Resampling(said.get("resample", 3)),
            float(said.get("rescale_factor", 1 / 255)),
            tuple(map(float, said["image_mean"])), tuple(map(float, said["image_std"])),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(
            f"{path}: how pictures are prepared cannot be read: {error!r}"
        ) from error
