"""Compare the scores of a finetuned pretrained encoder: llmstage with default settings against a grid of transformers' Trainer.

python benchmarks/pretrained_quality.py --model minilm --data ../shared/data --out quality.json          # every cell
python benchmarks/pretrained_quality.py --model minilm --data ../shared/data --out quality.json --quick  # a few hundred rows a set
python benchmarks/pretrained_quality.py --out quality.json --table                                       # the table alone

Each cell (a set and a way to train) is run once and written to --out at once, so a stopped run goes on with the same command.
The peer is transformers.Trainer as run_glue.py, run_ner.py and run_qa.py set it up: batch 16, linear decay, no warm-up, padding
to the longest row of a batch, five learning rates times three budgets of epochs. Its best cell is chosen on the validation
split, and its score on the test split is compared. Both sides read the same three files of rows.
"""

from __future__ import annotations

import argparse
import collections
import csv
import json
import random
import re
import shutil
import string
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

LEARNING_RATES = (5e-5, 1e-4, 2e-4, 2e-5, 1e-5)
EPOCHS = (10, 3, 1)
BATCH = 16
QUICK_ROWS, QUICK_TEST_ROWS = 400, 400
MAX_TOKENS = 256
QA_TOKENS, QA_ANSWER_TOKENS = 384, 30
Rows = list[dict[str, Any]]
Splits = tuple[Rows, Rows, Rows]


# The sets: rows of train, validation and test in the columns of the task.


def shuffled(rows: Rows) -> Rows:
    rows = list(rows)
    random.Random(0).shuffle(rows)
    return rows


def cut(rows: Rows, test: Rows | None = None) -> Splits:
    """Return train, validation (a tenth) and test (what is given, else a fifth) of shuffled rows."""
    rows = shuffled(rows)
    if test is None:
        test, rows = rows[: len(rows) // 5], rows[len(rows) // 5 :]
    return rows[len(rows) // 10 :], rows[: len(rows) // 10], test


def banking77(root: Path) -> Splits:
    def read(name: str) -> Rows:
        with (root / "banking77" / name).open(encoding="utf-8", newline="") as file:
            return [{"text": row["text"], "label": row["category"]} for row in csv.DictReader(file)]

    return cut(read("train.csv"), shuffled(read("test.csv")))


def financial_phrasebank(root: Path) -> Splits:
    lines = (root / "financial_phrasebank" / "Sentences_AllAgree.txt").read_text("latin-1").splitlines()
    pairs = [line.rpartition("@") for line in lines if "@" in line]
    return cut([{"text": text, "label": label.strip()} for text, _, label in pairs])


def excavators_mwo(root: Path) -> Splits:
    with (root / "excavators_mwo" / "excavators-cleaned.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            {"text": row["OriginalShorttext"], "label": row["MajorSystem"].split("_")}
            for row in csv.DictReader(file)
            if row["OriginalShorttext"].strip() and row["MajorSystem"].strip()
        ]
    counts = collections.Counter(label for row in rows for label in row["label"])
    rows = [{**row, "label": [label for label in row["label"] if counts[label] >= 20]} for row in rows]
    return cut([row for row in rows if row["label"]])


def conll(path: Path) -> Rows:
    """Return the sentences of a CoNLL file with IOB2 tags; IOB1, where an entity may begin with I-, is converted."""
    rows: Rows = []
    for block in re.split(r"\n\s*\n", path.read_text("utf-8")):
        lines = [line.split() for line in block.splitlines() if line.strip() and not line.startswith("-DOCSTART-")]
        if not lines:
            continue
        tags = [line[-1] for line in lines]
        for index, tag in enumerate(tags):
            before = tags[index - 1] if index else "O"
            if tag.startswith("I-") and (before == "O" or before[2:] != tag[2:]):
                tags[index] = f"B-{tag[2:]}"
        rows.append({"tokens": [line[0] for line in lines], "tags": tags})
    return rows


def wnut17(root: Path) -> Splits:
    names = ("wnut17train.conll", "emerging.dev.conll", "emerging.test.annotated")
    train, validation, test = (conll(root / "wnut17" / name) for name in names)
    return shuffled(train), shuffled(validation), shuffled(test)


def sec_filings_ner(root: Path) -> Splits:
    folder = root / "sec_filings_ner"
    return cut(conll(folder / "train" / "FIN5.txt"), conll(folder / "test" / "FIN3.txt"))


def xquad_en(root: Path) -> Splits:
    """Return questions; every article is in one split."""
    articles = json.loads((root / "xquad" / "xquad.en.json").read_text("utf-8"))["data"]
    random.Random(0).shuffle(articles)

    def questions(chosen: list[Any]) -> Rows:
        return [
            {"context": paragraph["context"], "question": question["question"],
             "answers": question["answers"][0]["text"], "answer_start": question["answers"][0]["answer_start"]}
            for article in chosen for paragraph in article["paragraphs"] for question in paragraph["qas"]
        ]  # fmt: skip

    return shuffled(questions(articles[8:])), questions(articles[5:8]), questions(articles[:5])


@dataclass(slots=True, frozen=True)
class Work:
    """A set: its rows, its task, the words that llmstage needs to know what the labels are, and the metric."""

    rows: Callable[[Path], Splits]
    task: str
    metric: str
    words: tuple[str, ...] = ()


WORKS = {
    "banking77": Work(banking77, "classification", "macro_f1"),
    "financial_phrasebank": Work(financial_phrasebank, "classification", "macro_f1"),
    "excavators_mwo": Work(excavators_mwo, "classification", "micro_f1", ("task.target=multilabel",)),
    "wnut17": Work(wnut17, "token_classification", "f1"),
    "sec_filings_ner": Work(sec_filings_ner, "token_classification", "f1"),
    "xquad_en": Work(xquad_en, "question_answering", "f1"),
}


# The peer: transformers.Trainer.


def train_peer(
    work: Work, splits: Splits, model_dir: str, learning_rate: float, epochs: float, threads: int
) -> dict[str, Any]:
    import torch
    from transformers import Trainer, TrainingArguments

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    peer = PEERS[work.task](work, splits, model_dir)
    folder = tempfile.mkdtemp()
    arguments = TrainingArguments(
        output_dir=folder, per_device_train_batch_size=BATCH, per_device_eval_batch_size=64, learning_rate=learning_rate,
        num_train_epochs=epochs, save_strategy="no", report_to="none", logging_strategy="no", disable_tqdm=True, seed=0,
        use_cpu=True,
    )  # fmt: skip
    trainer = Trainer(
        model=peer.model, args=arguments, train_dataset=peer.train, processing_class=peer.tokenizer,
        data_collator=peer.collator,
    )  # fmt: skip
    trainer.train()
    peer.model.eval()
    scores = {name: peer.score(trainer, rows) for name, rows in zip(("validation", "test"), splits[1:], strict=True)}
    shutil.rmtree(folder, ignore_errors=True)
    return {**scores, "steps": trainer.state.global_step}


class ClassificationPeer:
    """run_glue.py: one label, or several with a sigmoid each and threshold 0.5."""

    def __init__(self, work: Work, splits: Splits, model_dir: str) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

        self.several = work.words != ()
        labels = [row["label"] if self.several else [row["label"]] for row in splits[0]]
        self.labels = sorted({label for row in labels for label in row})
        self.tokenizer = AutoTokenizer.from_pretrained(model_dir)
        self.model = AutoModelForSequenceClassification.from_pretrained(
            model_dir, num_labels=len(self.labels),
            problem_type="multi_label_classification" if self.several else "single_label_classification",
        )  # fmt: skip
        self.collator = DataCollatorWithPadding(self.tokenizer)
        self.train = self.encode(splits[0])

    def encode(self, rows: Rows) -> list[dict[str, Any]]:
        coded = self.tokenizer([row["text"] for row in rows], truncation=True, max_length=MAX_TOKENS)
        targets = [self.target(row) for row in rows]
        return [
            {"input_ids": ids, "attention_mask": mask, "labels": target}
            for ids, mask, target in zip(coded["input_ids"], coded["attention_mask"], targets, strict=True)
        ]

    def target(self, row: dict[str, Any]) -> Any:
        if self.several:
            return [float(label in row["label"]) for label in self.labels]
        return self.labels.index(row["label"]) if row["label"] in self.labels else 0

    def score(self, trainer: Any, rows: Rows) -> float:
        from sklearn.metrics import f1_score

        logits = trainer.predict(self.encode(rows)).predictions
        if self.several:
            truth = [[int(label in row["label"]) for label in self.labels] for row in rows]
            return float(f1_score(truth, (logits > 0).astype(int), average="micro", zero_division=0))
        predicted = [self.labels[index] for index in logits.argmax(-1)]
        return float(f1_score([row["label"] for row in rows], predicted, average="macro", zero_division=0))


class TaggingPeer:
    """run_ner.py: the first subword of a word carries its tag."""

    def __init__(self, work: Work, splits: Splits, model_dir: str) -> None:
        from transformers import AutoModelForTokenClassification, AutoTokenizer, DataCollatorForTokenClassification

        self.labels = sorted({tag for row in splits[0] for tag in row["tags"]})
        self.tokenizer = AutoTokenizer.from_pretrained(model_dir)
        self.model = AutoModelForTokenClassification.from_pretrained(model_dir, num_labels=len(self.labels))
        self.collator = DataCollatorForTokenClassification(self.tokenizer)
        self.train = self.encode(splits[0])

    def encode(self, rows: Rows) -> list[dict[str, Any]]:
        coded = self.tokenizer(
            [row["tokens"] for row in rows], is_split_into_words=True, truncation=True, max_length=MAX_TOKENS
        )
        examples = []
        for number, row in enumerate(rows):
            last, targets = None, []
            for word in coded.word_ids(number):
                known = word is not None and word != last and row["tags"][word] in self.labels
                targets.append(self.labels.index(row["tags"][word]) if known else -100)
                last = word
            examples.append(
                {
                    "input_ids": coded["input_ids"][number],
                    "attention_mask": coded["attention_mask"][number],
                    "labels": targets,
                }
            )
        return examples

    def score(self, trainer: Any, rows: Rows) -> float:
        from seqeval.metrics import f1_score

        logits = trainer.predict(self.encode(rows)).predictions
        coded = self.tokenizer(
            [row["tokens"] for row in rows], is_split_into_words=True, truncation=True, max_length=MAX_TOKENS
        )
        predicted = []
        for number, row in enumerate(rows):
            tags = ["O"] * len(row["tokens"])
            last = None
            for position, word in enumerate(coded.word_ids(number)):
                if word is not None and word != last:
                    tags[word] = self.labels[int(logits[number][position].argmax())]
                last = word
            predicted.append(tags)
        return float(f1_score([row["tags"] for row in rows], predicted))


class QuestionPeer:
    """run_qa.py: start and end of the answer. A context is cut at 384 tokens; one window a question."""

    def __init__(self, work: Work, splits: Splits, model_dir: str) -> None:
        from transformers import AutoModelForQuestionAnswering, AutoTokenizer, DataCollatorWithPadding

        self.tokenizer = AutoTokenizer.from_pretrained(model_dir)
        self.model = AutoModelForQuestionAnswering.from_pretrained(model_dir)
        self.collator = DataCollatorWithPadding(self.tokenizer)
        self.train = [example for example in self.encode(splits[0]) if example["end_positions"]]

    def tokens(self, rows: Rows) -> Any:
        pairs = [row["question"] for row in rows], [row["context"] for row in rows]
        return self.tokenizer(*pairs, truncation="only_second", max_length=QA_TOKENS, return_offsets_mapping=True)

    def encode(self, rows: Rows) -> list[dict[str, Any]]:
        coded, examples = self.tokens(rows), []
        for number, row in enumerate(rows):
            first, last = row["answer_start"], row["answer_start"] + len(row["answers"])
            start = end = 0
            places = zip(coded.sequence_ids(number), coded["offset_mapping"][number], strict=True)
            for position, (part, (begin, stop)) in enumerate(places):
                if part == 1 and begin <= first < stop:
                    start = position
                if part == 1 and begin < last <= stop:
                    end = position
            examples.append(
                {
                    "input_ids": coded["input_ids"][number],
                    "attention_mask": coded["attention_mask"][number],
                    "start_positions": start,
                    "end_positions": end,
                }
            )
        return examples

    def score(self, trainer: Any, rows: Rows) -> float:
        import numpy as np

        coded, values = self.tokens(rows), []
        starts, ends = trainer.predict(self.encode(rows)).predictions[:2]
        for number, row in enumerate(rows):
            allowed = [position for position, part in enumerate(coded.sequence_ids(number)) if part == 1]
            best, text = -np.inf, ""
            for start in sorted(allowed, key=lambda position: -starts[number][position])[:20]:
                for end in range(start, min(start + QA_ANSWER_TOKENS, allowed[-1] + 1)):
                    total = starts[number][start] + ends[number][end]
                    if total > best:
                        offsets = coded["offset_mapping"][number]
                        best, text = total, row["context"][offsets[start][0] : offsets[end][1]]
            values.append(squad_f1(text, row["answers"]))
        return float(np.mean(values))


def squad_f1(predicted: str, expected: str) -> float:
    """Return the F1 of words, as the evaluation script of SQuAD computes it."""

    def words(text: str) -> list[str]:
        text = "".join(character for character in text.lower() if character not in set(string.punctuation))
        return re.sub(r"\b(a|an|the)\b", " ", text).split()

    mine, theirs = words(predicted), words(expected)
    common = sum((collections.Counter(mine) & collections.Counter(theirs)).values())
    return 2 * common / (len(mine) + len(theirs)) if common else float(mine == theirs)


PEERS: dict[str, Any] = {
    "classification": ClassificationPeer, "token_classification": TaggingPeer, "question_answering": QuestionPeer,
}  # fmt: skip


# llmstage.


def train_ours(work: Work, folder: Path, words: tuple[str, ...], threads: int) -> dict[str, Any]:
    import llmstage

    out = Path(tempfile.mkdtemp())
    files = [f"data.{split}={folder / f'{split}.jsonl'}" for split in ("train", "validation", "test")]
    result = llmstage.run(
        "stage=finetune", f"task={work.task}", *work.words, *words, *files, f"hydra.run.dir={out}", "data.cache=off",
        f"trainer.threads={threads}", "trainer.allocator=off", "trainer.train_rows_scored=0",
    )  # fmt: skip
    simple = (result.report.get("baselines") or {}).get("methods") or {}
    linear = [
        scores[work.metric]["value"] for name, scores in simple.items() if "TF-IDF" in name and work.metric in scores
    ]
    shutil.rmtree(out, ignore_errors=True)
    return {
        "validation": result.scores["validation"][work.metric].value,
        "test": result.scores["test"][work.metric].value,
        "steps": result.report["train"]["steps"],
        "tfidf": max(linear, default=None),
        "plan": result.report["train"].get("plan"),
    }


# Cells, one at a time into --out.


def write_rows(splits: Splits, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(("train", "validation", "test"), splits, strict=True):
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def run_cells(args: argparse.Namespace) -> None:
    for name in args.sets:
        work = WORKS[name]
        train, validation, test = work.rows(args.data)
        if args.quick:
            train, validation, test = train[:QUICK_ROWS], validation[:QUICK_TEST_ROWS], test[:QUICK_TEST_ROWS]
        splits = (train, validation, test)
        rows = " / ".join(f"{len(split):,}" for split in splits)
        with tempfile.TemporaryDirectory() as folder:
            write_rows(splits, Path(folder))
            for label, run in cells_of(args, work, splits, Path(folder)).items():
                run_cell(args, f"{name} | {label}{args.mark}", rows, run)


def cells_of(
    args: argparse.Namespace, work: Work, splits: Splits, folder: Path
) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return what runs each cell of a set, by its name."""
    cells: dict[str, Callable[[], dict[str, Any]]] = {}
    if "llmstage" in args.sides:
        cells["llmstage"] = partial(train_ours, work, folder, (f"model.path={args.model}", *args.words), args.threads)
    if "peer" in args.sides:
        for epochs in args.epochs:
            for rate in args.rates:
                cells[f"peer {rate:g} x {epochs:g}"] = partial(
                    train_peer, work, splits, str(args.model), rate, epochs, args.threads
                )
    if "scratch" in args.sides:
        cells["scratch"] = partial(train_ours, work, folder, (), args.threads)
    return cells


def run_cell(args: argparse.Namespace, key: str, rows: str, run: Callable[[], dict[str, Any]]) -> None:
    """Run a cell unless --out has it for the same rows."""
    if load(args.out).get(key, {}).get("rows") == rows:
        return
    started = time.time()
    cell = {"rows": rows, **run(), "seconds": round(time.time() - started, 1)}
    done = load(args.out)
    done[key] = cell
    args.out.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(
        f"{key:45s} validation {cell['validation']:.4f}  test {cell['test']:.4f}  {cell['seconds']:.0f} s", flush=True
    )


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def table(cells: dict[str, Any]) -> str:
    """Return the cells as a Markdown table, one line a set."""
    lines = [
        "| set | rows (train / validation / test) | llmstage | Trainer, best of its cells | cells | difference | from scratch | TF-IDF |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, work in WORKS.items():
        of_set = {key.partition(" | ")[2]: cell for key, cell in cells.items() if key.startswith(f"{name} | ")}
        ours, scratch = of_set.get("llmstage"), of_set.get("scratch")
        peers = {
            label: cell
            for label, cell in of_set.items()
            if label.startswith("peer") and (ours is None or cell["rows"] == ours["rows"])
        }
        if not of_set:
            continue
        best = max(peers, key=lambda label: peers[label]["validation"]) if peers else None
        mine = ours["test"] if ours else None
        theirs = peers[best]["test"] if best else None
        values = [
            f"{name}, {work.metric}",
            next(iter(of_set.values()))["rows"],
            number(mine),
            f"{number(theirs)} ({best.removeprefix('peer ')})" if best else "–",
            str(len(peers)),
            "–" if mine is None or theirs is None else f"{100 * (mine - theirs):+.1f}",
            number(scratch["test"] if scratch else None),
            number((ours or scratch or {}).get("tfidf")),
        ]
        lines.append("| " + " | ".join(values) + " |")
    return "\n".join(lines)


def number(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a pretrained encoder")
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the cells")
    parser.add_argument("--sets", nargs="*", default=list(WORKS), choices=list(WORKS))
    parser.add_argument("--sides", nargs="*", default=["llmstage", "peer", "scratch"])
    parser.add_argument("--rates", nargs="*", type=float, default=list(LEARNING_RATES))
    parser.add_argument("--epochs", nargs="*", type=float, default=list(EPOCHS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--words", nargs="*", default=[], help="further words of llmstage's command line")
    parser.add_argument("--mark", default="", help="added to the names of the cells, e.g. where --words differ")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS} training rows, {QUICK_TEST_ROWS} test rows")
    parser.add_argument("--table", action="store_true", help="print the table of the cells that there are")
    args = parser.parse_args()
    if not args.table:
        if args.model is None or args.data is None:
            parser.error("--model and --data are needed to run cells")
        run_cells(args)
    print(table(load(args.out)))


if __name__ == "__main__":
    main()
