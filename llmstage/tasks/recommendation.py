"""Clicks and ratings from item text: the chance of a click for (history, candidate), and a ranking of everything."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmstage import console
from llmstage.config.data import DataConfig
from llmstage.config.task import Recommendation as RecommendationConfig
from llmstage.data.catalog import Catalog, catalog_state, count_items, known_texts
from llmstage.data.column_vectors import ColumnFeatures
from llmstage.data.encoding.collate import pad, pad_left
from llmstage.data.interaction_columns import as_list, check_interaction, check_name, clicked, values_of, with_target
from llmstage.data.interactions import SPLITS, Histories, InteractionRows, assign, read_log
from llmstage.data.row_source import RowSource
from llmstage.data.rows import Columns, Row
from llmstage.demo.recommendation import recommendation_rows
from llmstage.errors import DataError, ModelError
from llmstage.evaluation.metrics.recommendation import click_scores, ranking_scores
from llmstage.evaluation.metrics.recommendation_tables import ranking_record, ranking_tables
from llmstage.evaluation.metrics.score import Score
from llmstage.models.co_clicks import CoClicks
from llmstage.models.negative_sampling import Negatives, fixed_uniform
from llmstage.models.pooling import pooled, text_vectors
from llmstage.models.recommendation_records import decode
from llmstage.models.recommender import Recommender
from llmstage.models.recommender_baselines import baseline_ranks
from llmstage.tasks.base import Batch, Example, LossSum, ReportItem, RowError, Task
from llmstage.tasks.base_errors import Errors, errors_by_rank

MOST_SCORES = 1 << 24
"""Ranking logits held at once (float32: 64 MB)."""


class Recommendation(Task):
    """Next item by a text encoder over titles, the user's history, and what is known of both."""

    auto_model = "AutoModel"
    pipeline_tag = "text-ranking"
    custom_splits = True
    reference_columns = ("reference", "rank", "click", "probability", "cold")
    route = "rank"
    demo_size = 400

    cfg: RecommendationConfig
    catalog: Catalog
    explicit = False
    """Whether the training rows hold candidates that were not clicked."""
    values = (0.0, 1.0)
    """Mean and deviation of what was thought of items."""

    def __init__(self, cfg: RecommendationConfig, generation: Any) -> None:
        super().__init__(cfg, generation)
        self.user_columns = ColumnFeatures(list(cfg.user_numbers), list(cfg.user_categories))
        self.item_columns = ColumnFeatures(list(cfg.item_numbers), list(cfg.item_categories))
        own = (*cfg.user_numbers, *cfg.user_categories)
        self.columns = Columns(("user", "item"), ("time", "rating", "click", "text", *own))
        of_items = (*cfg.item_numbers, *cfg.item_categories)
        more = tuple(name for name in of_items if name not in ("title", "categories"))
        self.tables = {"items": Columns(("item",), ("title", "categories", *more))}
        self.texts_of: dict[str, str] = {}
        self.item_rows: dict[str, Row] = {}
        self.facts: dict[str, int] = {}
        self.together = CoClicks() if cfg.start == "co_clicks" else None
        """What was clicked close together in the training rows; empty for a model that is loaded."""
        self._items: tuple[Any, Tensor, Tensor] | None = None

    @staticmethod
    def demo_rows(num_rows: int, seed: int) -> list[Row]:
        return recommendation_rows(num_rows, seed)

    def check_row(self, row: Row) -> str | None:
        return check_interaction(row)

    def check_table_row(self, table: str, row: Row) -> str | None:
        return check_name("item", row["item"])

    def build_splits(
        self, sources: dict[str, RowSource], tables: dict[str, RowSource], data: DataConfig
    ) -> dict[str, RowSource]:
        """Interactions grouped by user in time order; the held-out ones cut as task.split says."""
        cfg = self.cfg
        own = (*cfg.user_numbers, *cfg.user_categories)
        log = read_log(sources, positive_rating=cfg.positive_rating, extra=own, unique_pairs=cfg.exclude_seen)
        self.item_rows, self.texts_of, counted = known_texts(tables.get("items"), log.items, log.texts)
        shares = {name: 0.0 if name in sources else getattr(data.split, name) for name in ("validation", "test")}
        part = assign(log, cfg.split, shares, data.split.max_rows, data.split.seed)
        if (part < 0).all():
            raise DataError(
                "No user has two clicks in these files, so there is no past to rank by. Score with files that hold "
                "earlier clicks as well, or give the training rows beside them: data.train=<files>."
            )
        self.facts = {**log.facts, **counted}
        console.note(", ".join(f"{count:,} {name}" for name, count in self.facts.items() if count))
        rule: list[Any] = [cfg.split, cfg.positive_rating, cfg.exclude_seen, shares]
        rule += [data.split.max_rows, data.split.seed, data.limit]
        rule += [{name: table.digest() for name, table in tables.items()}, own]
        bases = list(sources.values())
        return {
            split: InteractionRows(split, log, part, self.texts_of, cfg.history, bases, data.limit, rule)
            for number, split in enumerate(SPLITS)
            if (part == number).any()
        }

    def prepare_inference(self, source: RowSource, tables: dict[str, RowSource], data: DataConfig) -> RowSource:
        own = (*self.cfg.user_numbers, *self.cfg.user_categories)
        log = read_log({"test": source}, positive_rating=self.cfg.positive_rating, extra=own, unique_pairs=False)
        self.item_rows, self.texts_of, _ = known_texts(tables.get("items"), log.items, log.texts)
        return Histories(log, [source])

    def encode_unlabeled(self, rows: list[Row]) -> list[list[Example]]:
        return [self.encode(with_target(row, self.catalog.ids)) for row in rows]

    def texts(self, row: Row) -> list[str]:
        return [text for text in [as_list(row["text"])[-1] if row.get("text") else ""] if text]

    def fit_labels(self, rows: Iterable[Row]) -> None:
        """The items of the training rows with their clicks, and the scale of ratings and number columns."""
        thought: list[float] = []
        columns: list[Row] = []
        texts = dict(self.texts_of)

        def watched() -> Iterator[Row]:
            for row in rows:
                thought.append(values_of(row)[-1])
                self.explicit = self.explicit or not clicked(row, self.cfg.positive_rating)
                if self.user_columns.numbers or self.user_columns.categories:
                    own = (*self.cfg.user_numbers, *self.cfg.user_categories)
                    columns.append({name: row.get(name) for name in own})
                for name, text in zip(reversed(as_list(row["item"])), reversed(as_list(row.get("text"))), strict=False):
                    if text and not texts.get(str(name)):
                        texts[str(name)] = text
                names, hit = [str(name) for name in as_list(row["item"])], clicked(row, self.cfg.positive_rating)
                if hit and self.together is not None:
                    self.together.see(names)
                yield {"item": names, "click": hit}

        known, counts = count_items(watched())
        self.values = (float(np.mean(thought)), float(np.std(thought)) or 1.0)
        self.user_columns.fit(columns)
        self.item_columns.fit(self.item_rows[name] for name in known if name in self.item_rows)
        self.catalog = Catalog(known, counts, texts, self.item_rows)

    def load_config(self, config: Any) -> None:
        state = getattr(config, "llmstage", None)
        if not isinstance(state, dict) or "items" not in state:
            raise ModelError(
                "The model knows no items: it was not trained by task=recommendation. Finetune it first: "
                "llmstage stage=finetune task=recommendation model.path=… data.train=…"
            )
        self.explicit, self.values = bool(state["explicit"]), tuple(state["values"])
        self.user_columns.restore(state["user_columns"])
        self.item_columns.restore(state["item_columns"])
        self.catalog = Catalog(list(state["items"]), list(state["counts"]), self.texts_of, self.item_rows)

    def model_options(self) -> dict[str, Any]:
        columns = {"user_columns": self.user_columns.state(), "item_columns": self.item_columns.state()}
        told = {**catalog_state(self.catalog), "explicit": self.explicit, "values": list(self.values), **columns}
        return {"llmstage": told}

    def extra_module(self, config: Any) -> nn.Module:
        counts = [int(count) for count in self.catalog.counts[: self.catalog.num_known]]
        widths = self.item_columns.width, self.user_columns.width
        head = Recommender(
            config.hidden_size, counts, *widths, self.cfg.history, attention=self.cfg.aggregate == "attention"
        )
        known = self.catalog.ids[: self.catalog.num_known]
        vectors = self.together.vectors(known, config.hidden_size) if self.together is not None else None
        if vectors is not None:
            head.start_from(torch.from_numpy(vectors))
        return head

    def attach_tokenizer(self, processor: Any, context: int) -> None:
        super().attach_tokenizer(processor, context)
        self.catalog.encode(lambda text: processor.marked_ids(text, None, context)[0], self.item_columns)
        self.negatives = Negatives(self.catalog.counts[: self.catalog.num_known])

    def cache_key(self) -> dict[str, Any]:
        items = blake2b("\n".join(self.catalog.ids).encode(), digest_size=16).hexdigest()
        return {"history": self.cfg.history, "items": items, "columns": [self.user_columns.state(), self.values]}

    def encode(self, row: Row) -> list[Example]:
        names = [str(name) for name in as_list(row["item"])]
        target = self.catalog.index.get(names[-1])
        if target is None:
            raise RowError(f"item '{names[-1]}' is in neither the training rows nor data.items")
        text = (as_list(row["text"])[-1] if row.get("text") else "") or self.catalog.texts[target]
        ids, _, cut = self.processor.marked_ids(text, None, self.context)
        values = (values_of(row) + [1.0] * len(names))[: len(names)]
        mean, spread = self.values
        met = [
            (self.catalog.index[name], (value - mean) / spread)
            for name, value in zip(names[:-1], values, strict=False)
            if name in self.catalog.index
        ]
        seen = [self.catalog.index[name] for name in map(str, row.get("seen", ())) if name in self.catalog.index]
        seen = seen + [index for index, _ in met[: -self.cfg.history]]
        met = met[-self.cfg.history :]
        click = clicked(row, self.cfg.positive_rating)
        mark = blake2b(f"{row['user']}\n{names[-1]}".encode("utf-8", "surrogatepass"), digest_size=4).digest()
        arrays: dict[str, list[Any]] = {
            "input_ids": ids,
            "item": [target],
            "history": [index for index, _ in met],
            "values": [*(float(value) for _, value in met), 0.0],  # never empty: an array's type is told by its content
            "click": [int(click)],
            "seen": seen,
            "draw": [int.from_bytes(mark, "big") >> 1],
        }
        if self.user_columns.width:
            arrays["user_columns"] = self.user_columns.vector(row)
        ref = {
            "user": str(row["user"]),
            "item": names[-1],
            "text": text,
            "click": click,
            "target": target,
            "cold": target >= self.catalog.num_known,
            "history": len(seen) + len(met),
            "seen": seen + arrays["history"],
        }
        return [Example(arrays, ref=ref, cut=cut)]

    def collate(self, rows: list[list[Example]]) -> Batch:
        features = [row[0] for row in rows]
        lengths = torch.tensor([len(item.input_ids) for item in features])
        ids = pad([item.input_ids for item in features], self.processor.pad_id)
        history = pad_left([item.arrays["history"] for item in features], self.cfg.history, -1)
        told = [item.arrays["values"][:-1] for item in features]
        inputs = {
            "input_ids": ids,
            "attention_mask": (torch.arange(ids.shape[1])[None] < lengths[:, None]).long(),
            "history": history,
            "values": pad_left(told, self.cfg.history, 0, torch.float32),
            "item": torch.tensor([item.arrays["item"][0] for item in features]),
            "draw": torch.tensor([item.arrays["draw"][0] for item in features]),
            "seen": pad([[*item.arrays["seen"], -1] for item in features], -1),
        }
        if "user_columns" in features[0].arrays:
            inputs["user_columns"] = torch.tensor([item.arrays["user_columns"] for item in features])
        labels = torch.tensor([item.arrays["click"][0] for item in features])
        return Batch(inputs, labels, [item.ref for item in features], num_tokens=int(lengths.sum()))

    def item_vectors(self, model: nn.Module, index: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """(vectors [N, D], biases [N]) of items of the catalogue."""
        text = text_vectors(model, [self.catalog.tokens[at] for at in index.tolist()], self.processor.pad_id)
        return self.towers(model, text, index, own)

    def towers(self, model: nn.Module, text: Tensor, index: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        head: Any = model.extra
        columns = torch.from_numpy(self.catalog.features[index.cpu().numpy()]).to(text.device)
        with torch.autocast(text.device.type, enabled=False):  # logits in fp32: ranks depend on small differences
            vectors, biases = head.items(text.float(), index, columns if columns.shape[1] else None, own)
        return vectors, biases

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """Sampled softmax over the click and `task.negatives` drawn items, and the log-loss of the click's chance.

        The drawn items are shared by a micro-batch in training, from torch's generator (kept in checkpoints), and fixed by
        the row otherwise; they never come from other rows, so losses add up. Texts of the history are encoded without a
        gradient: they are most of the texts of a batch, and each of them is learned where it is a candidate.
        """
        assert batch.labels is not None
        head: Any = model.extra
        inputs, num, device = batch.inputs, self.cfg.negatives, batch.labels.device
        fixed = None if model.training else fixed_uniform(inputs["draw"].tolist(), num)
        drawn = self.negatives.draw(torch.rand(1, num) if fixed is None else fixed)
        drawn = drawn.expand(len(batch.labels), num).to(device)  # [B, M]
        against, where = torch.unique(drawn, return_inverse=True)
        history, mask = inputs["history"], inputs["history"] >= 0
        past, where_past = torch.unique(history[mask], return_inverse=True)
        vectors, biases = self.item_vectors(model, against, self.own(model, against))
        with torch.no_grad():
            past_text = text_vectors(model, [self.catalog.tokens[at] for at in past.tolist()], self.processor.pad_id)
        past_vectors, _ = self.towers(model, past_text, past, self.own(model, past))
        text = pooled(model, inputs["input_ids"], inputs["attention_mask"])
        target, target_bias = self.towers(model, text, inputs["item"], self.own(model, inputs["item"]))
        with torch.autocast(device.type, enabled=False):
            events = text.new_zeros(*history.shape, text.shape[-1])  # [B, H, D]
            events[mask] = past_vectors[where_past]
            users = head.users(events, inputs["values"], mask, inputs.get("user_columns"))
            mine = head.rank_own(users, target, target_bias)  # [B]
            every = head.rank(users, vectors, biases)  # [B, distinct drawn]
            # A drawn item that the user had is no candidate: it would not be ranked.
            known = (drawn == inputs["item"][:, None]) | (drawn[:, :, None] == history[:, None, :]).any(-1)  # [B, M]
            weighted = every.gather(1, where) - self.negatives.log_q.to(device)[drawn] - math.log(num)
            rest = torch.logsumexp(torch.cat([mine[:, None], weighted.masked_fill(known, -math.inf)], 1), 1)
            ranking = ((rest - mine) * batch.labels).sum()
            clicks = F.binary_cross_entropy_with_logits(
                head.click_own(mine, users, target), batch.labels.float(), reduction="sum"
            )
            if not self.explicit:  # nothing was seen and not clicked: the evenly drawn half stands for it
                half = num // 2
                odds = head.click(every, users, vectors).gather(1, where[:, :half])
                clicks = clicks + head.others_loss(odds, ~known[:, :half], self.cfg.click_negatives)
        logs = {"ranking": float(ranking.detach()), "click": float(clicks.detach())}
        return LossSum(ranking + self.cfg.click_weight * clicks, len(batch.labels), logs)

    def own(self, model: nn.Module, index: Tensor) -> Tensor:
        """[N] which items use their own weights; in training, some stand for their text alone."""
        if model.training and self.cfg.id_dropout:
            return (torch.rand(len(index)) >= self.cfg.id_dropout).to(index.device)
        return torch.ones(len(index), dtype=torch.bool, device=index.device)

    def after_step(self, model: nn.Module) -> None:
        self._items = None  # a fused optimizer does not count its steps in a weight's version

    def all_items(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Vectors and biases of the whole catalogue, encoded once until a weight changes."""
        state = (id(model), tuple(parameter._version for parameter in model.parameters()))
        if self._items is None or self._items[0] != state:
            index = torch.arange(len(self.catalog), device=next(model.parameters()).device)
            own = torch.ones(len(index), dtype=torch.bool, device=index.device)
            self._items = (state, *self.item_vectors(model, index, own))
        return self._items[1], self._items[2]

    def predict(self, model: nn.Module, batch: Batch, *, generate: bool) -> list[Any]:
        head: Any = model.extra
        vectors, biases = self.all_items(model)
        others = 0 if self.explicit else self.cfg.click_negatives
        found: list[Any] = []
        step = max(1, MOST_SCORES // len(vectors))
        with torch.autocast(vectors.device.type, enabled=False):
            for start in range(0, len(batch.inputs["item"]), step):
                part = {name: value[start : start + step] for name, value in batch.inputs.items()}
                past = vectors[part["history"].clamp(min=0)]
                users = head.users(past, part["values"], part["history"] >= 0, part.get("user_columns"))
                logits = head.rank(users, vectors, biases)  # [b, N]
                odds = head.click(logits, users, vectors)
                had = torch.cat([part["history"], part["seen"]], 1)
                rows = zip(
                    logits.cpu(), odds.cpu(), part["item"].tolist(), had.tolist(), part["draw"].tolist(), strict=True
                )
                found += [decode(*row, others=others, exclude_seen=self.cfg.exclude_seen) for row in rows]
        return found

    def score(self, predictions: list[Any], refs: list[Any]) -> dict[str, Score]:
        clicked = [(item["rank"], ref["user"]) for item, ref in zip(predictions, refs, strict=True) if ref["click"]]
        pairs = [(item["p"], ref["click"], ref["user"]) for item, ref in zip(predictions, refs, strict=True)]
        pairs += [(p, False, ref["user"]) for item, ref in zip(predictions, refs, strict=True) for p in item["others"]]
        ranked = ranking_scores([rank for rank, _ in clicked], [user for _, user in clicked])
        return {**ranked, **click_scores(*map(list, zip(*pairs, strict=True)))}

    def baselines(self, train: Iterable[Row], refs: list[Any]) -> dict[str, dict[str, Score]]:
        """Popularity, item-kNN and TF-IDF of the titles, each a full ranking without the items that the user had."""
        wanted = [ref for ref in refs if ref["click"]]
        index, least = self.catalog.index, self.cfg.positive_rating
        pairs = [(str(row["user"]), index[str(row["item"][-1])]) for row in train if clicked(row, least)]
        ranks = baseline_ranks(self.catalog, pairs, wanted, exclude_seen=self.cfg.exclude_seen)
        return {name: ranking_scores(found, [ref["user"] for ref in wanted]) for name, found in ranks.items()}

    def report_items(self, predictions: list[Any], refs: list[Any]) -> list[ReportItem]:
        return ranking_tables(predictions, refs, len(self.catalog), self.facts)

    def errors(self, predictions: list[Any], refs: list[Any]) -> Errors:
        return errors_by_rank(p["rank"] if ref["click"] else None for p, ref in zip(predictions, refs, strict=True))

    def records(self, prediction: Any, ref: Any) -> list[dict[str, Any]]:
        return [ranking_record(prediction, ref, self.catalog.ids, self.catalog.texts)]


TASK = Recommendation
