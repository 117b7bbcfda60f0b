"""Recommendation from item texts: the click probability of (history, candidate), and a ranking of all items."""

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
from llmstage.data.interactions import SPLITS, InteractionRows, UserHistories, assign, read_interactions
from llmstage.data.row_source import RowSource
from llmstage.data.rows import Columns, Row
from llmstage.demo.recommendation import recommendation_rows
from llmstage.errors import DataError, ModelError
from llmstage.evaluation.metrics.recommendation import click_scores, ranking_record, ranking_scores, ranking_tables
from llmstage.evaluation.metrics.score import Score
from llmstage.models.pooling import pooled, text_vectors
from llmstage.models.recommender import (
    ItemCooccurrence,
    NegativeSampler,
    Recommender,
    decode_logits,
    fixed_uniform_numbers,
)
from llmstage.models.recommender_baselines import baseline_ranks
from llmstage.tasks.base import Batch, Example, LossSum, ReportItem, RowError, Task
from llmstage.tasks.base_errors import ExampleErrors, errors_by_rank

MAX_LOGITS = 1 << 24
"""Ranking logits in memory at once (float32: 64 MB)."""


class Recommendation(Task):
    """Next item prediction: a text encoder of item titles, the history of the user, and feature columns of both."""

    auto_model = "AutoModel"
    pipeline_tag = "text-ranking"
    custom_splits = True
    reference_columns = ("reference", "rank", "click", "probability", "cold")
    route = "rank"
    demo_size = 400

    cfg: RecommendationConfig
    catalog: Catalog
    explicit = False
    """Whether the training rows contain candidates without a click."""
    values = (0.0, 1.0)
    """Mean and standard deviation of the values of interactions (ratings)."""

    def __init__(self, cfg: RecommendationConfig, generation: Any) -> None:
        super().__init__(cfg, generation)
        self.user_columns = ColumnFeatures(list(cfg.user_numbers), list(cfg.user_categories))
        self.item_columns = ColumnFeatures(list(cfg.item_numbers), list(cfg.item_categories))
        user_columns = (*cfg.user_numbers, *cfg.user_categories)
        self.columns = Columns(("user", "item"), ("time", "rating", "click", "text", *user_columns))
        item_columns = (*cfg.item_numbers, *cfg.item_categories)
        further_columns = tuple(name for name in item_columns if name not in ("title", "categories"))
        self.tables = {"items": Columns(("item",), ("title", "categories", *further_columns))}
        self.texts_of: dict[str, str] = {}
        self.item_rows: dict[str, Row] = {}
        self.facts: dict[str, int] = {}
        self.co_clicks = ItemCooccurrence() if cfg.start == "co_clicks" else None
        """Co-click counts of the training rows; empty for a loaded model."""
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
        """Group interactions by user in time order, and split off the held-out ones by task.split."""
        cfg = self.cfg
        user_columns = (*cfg.user_numbers, *cfg.user_categories)
        log = read_interactions(
            sources, positive_rating=cfg.positive_rating, extra=user_columns, unique_pairs=cfg.exclude_seen
        )
        self.item_rows, self.texts_of, counted = known_texts(tables.get("items"), log.items, log.texts)
        held_out = {name: 0.0 if name in sources else getattr(data.split, name) for name in ("validation", "test")}
        split_of = assign(log, cfg.split, held_out, data.split.max_rows, data.split.seed)
        if (split_of < 0).all():
            raise DataError(
                "No user has two clicks in these files, so there is no history to rank by. Use files that also contain "
                "the earlier clicks, or add the training rows: data.train=<files>."
            )
        self.facts = {**log.facts, **counted}
        console.note(", ".join(f"{count:,} {name}" for name, count in self.facts.items() if count))
        rule: list[Any] = [cfg.split, cfg.positive_rating, cfg.exclude_seen, held_out]
        rule += [data.split.max_rows, data.split.seed, data.limit]
        rule += [{name: table.digest() for name, table in tables.items()}, user_columns]
        bases = list(sources.values())
        return {
            split: InteractionRows(split, log, split_of, self.texts_of, cfg.history, bases, data.limit, rule)
            for number, split in enumerate(SPLITS)
            if (split_of == number).any()
        }

    def prepare_inference(self, source: RowSource, tables: dict[str, RowSource], data: DataConfig) -> RowSource:
        user_columns = (*self.cfg.user_numbers, *self.cfg.user_categories)
        log = read_interactions(
            {"test": source}, positive_rating=self.cfg.positive_rating, extra=user_columns, unique_pairs=False
        )
        self.item_rows, self.texts_of, _ = known_texts(tables.get("items"), log.items, log.texts)
        return UserHistories(log, [source])

    def encode_unlabeled(self, rows: list[Row]) -> list[list[Example]]:
        return [self.encode(with_target(row, self.catalog.ids)) for row in rows]

    def texts(self, row: Row) -> list[str]:
        return [text for text in [as_list(row["text"])[-1] if row.get("text") else ""] if text]

    def fit_labels(self, rows: Iterable[Row]) -> None:
        """Fit the catalogue with its click counts, the scale of ratings, and the feature columns, in one pass over the rows."""
        ratings: list[float] = []
        user_rows: list[Row] = []
        texts = dict(self.texts_of)

        def count_rows() -> Iterator[Row]:
            for row in rows:
                ratings.append(values_of(row)[-1])
                self.explicit = self.explicit or not clicked(row, self.cfg.positive_rating)
                if self.user_columns.numbers or self.user_columns.categories:
                    user_columns = (*self.cfg.user_numbers, *self.cfg.user_categories)
                    user_rows.append({name: row.get(name) for name in user_columns})
                for name, text in zip(reversed(as_list(row["item"])), reversed(as_list(row.get("text"))), strict=False):
                    if text and not texts.get(str(name)):
                        texts[str(name)] = text
                names, click = [str(name) for name in as_list(row["item"])], clicked(row, self.cfg.positive_rating)
                if click and self.co_clicks is not None:
                    self.co_clicks.add_click(names)
                yield {"item": names, "click": click}

        item_names, counts = count_items(count_rows())
        self.values = (float(np.mean(ratings)), float(np.std(ratings)) or 1.0)
        self.user_columns.fit(user_rows)
        self.item_columns.fit(self.item_rows[name] for name in item_names if name in self.item_rows)
        self.catalog = Catalog(item_names, counts, texts, self.item_rows)

    def load_config(self, config: Any) -> None:
        state = getattr(config, "llmstage", None)
        if not isinstance(state, dict) or "items" not in state:
            raise ModelError(
                "The model has no items: it was not trained by task=recommendation. Finetune it first: "
                "llmstage stage=finetune task=recommendation model.path=… data.train=…"
            )
        self.explicit, self.values = bool(state["explicit"]), tuple(state["values"])
        self.user_columns.restore(state["user_columns"])
        self.item_columns.restore(state["item_columns"])
        self.catalog = Catalog(list(state["items"]), list(state["counts"]), self.texts_of, self.item_rows)

    def model_options(self) -> dict[str, Any]:
        columns = {"user_columns": self.user_columns.state(), "item_columns": self.item_columns.state()}
        saved = {**catalog_state(self.catalog), "explicit": self.explicit, "values": list(self.values), **columns}
        return {"llmstage": saved}

    def extra_module(self, config: Any) -> nn.Module:
        counts = [int(count) for count in self.catalog.counts[: self.catalog.num_known]]
        widths = self.item_columns.width, self.user_columns.width
        head = Recommender(
            config.hidden_size, counts, *widths, self.cfg.history, attention=self.cfg.aggregate == "attention"
        )
        item_names = self.catalog.ids[: self.catalog.num_known]
        vectors = self.co_clicks.vectors(item_names, config.hidden_size) if self.co_clicks is not None else None
        if vectors is not None:
            head.initialize_from(torch.from_numpy(vectors))
        return head

    def attach_tokenizer(self, processor: Any, context: int) -> None:
        super().attach_tokenizer(processor, context)
        self.catalog.encode(lambda text: processor.marked_ids(text, None, context)[0], self.item_columns)
        self.negatives = NegativeSampler(self.catalog.counts[: self.catalog.num_known])

    def cache_key(self) -> dict[str, Any]:
        items = blake2b("\n".join(self.catalog.ids).encode(), digest_size=16).hexdigest()
        return {"history": self.cfg.history, "items": items, "columns": [self.user_columns.state(), self.values]}

    def encode(self, row: Row) -> list[Example]:
        items = [str(name) for name in as_list(row["item"])]
        target = self.catalog.index.get(items[-1])
        if target is None:
            raise RowError(f"item '{items[-1]}' is in neither the training rows nor data.items")
        text = (as_list(row["text"])[-1] if row.get("text") else "") or self.catalog.texts[target]
        ids, _, cut = self.processor.marked_ids(text, None, self.context)
        # The history: standardised values of earlier items that the catalogue has, the last `task.history` of them.
        values = (values_of(row) + [1.0] * len(items))[: len(items)]
        mean, spread = self.values
        events = [
            (self.catalog.index[name], (value - mean) / spread)
            for name, value in zip(items[:-1], values, strict=False)
            if name in self.catalog.index
        ]
        seen = [self.catalog.index[name] for name in map(str, row.get("seen", ())) if name in self.catalog.index]
        seen = seen + [index for index, _ in events[: -self.cfg.history]]
        events = events[-self.cfg.history :]
        click = clicked(row, self.cfg.positive_rating)
        # Seed of the negatives in scoring: it must depend on the row only.
        row_digest = blake2b(f"{row['user']}\n{items[-1]}".encode("utf-8", "surrogatepass"), digest_size=4).digest()
        arrays: dict[str, list[Any]] = {
            "input_ids": ids,
            "item": [target],
            "history": [index for index, _ in events],
            # Never empty, because the type of an array follows from its content; collate() removes the last value.
            "values": [*(float(value) for _, value in events), 0.0],
            "click": [int(click)],
            "seen": seen,
            "draw": [int.from_bytes(row_digest, "big") >> 1],
        }
        if self.user_columns.width:
            arrays["user_columns"] = self.user_columns.vector(row)
        ref = {
            "user": str(row["user"]),
            "item": items[-1],
            "text": text,
            "click": click,
            "target": target,
            "cold": target >= self.catalog.num_known,
            "history": len(seen) + len(events),
            "seen": seen + arrays["history"],
        }
        return [Example(arrays, ref=ref, cut=cut)]

    def collate(self, rows: list[list[Example]]) -> Batch:
        examples = [row[0] for row in rows]
        lengths = torch.tensor([len(example.input_ids) for example in examples])
        ids = pad([example.input_ids for example in examples], self.processor.pad_id)
        history = pad_left([example.arrays["history"] for example in examples], self.cfg.history, -1)
        values = [example.arrays["values"][:-1] for example in examples]
        inputs = {
            "input_ids": ids,
            "attention_mask": (torch.arange(ids.shape[1])[None] < lengths[:, None]).long(),
            "history": history,
            "values": pad_left(values, self.cfg.history, 0, torch.float32),
            "item": torch.tensor([example.arrays["item"][0] for example in examples]),
            "draw": torch.tensor([example.arrays["draw"][0] for example in examples]),
            "seen": pad([[*example.arrays["seen"], -1] for example in examples], -1),
        }
        if "user_columns" in examples[0].arrays:
            inputs["user_columns"] = torch.tensor([example.arrays["user_columns"] for example in examples])
        labels = torch.tensor([example.arrays["click"][0] for example in examples])
        return Batch(inputs, labels, [example.ref for example in examples], num_tokens=int(lengths.sum()))

    def item_vectors(self, model: nn.Module, index: Tensor, use_weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return (vectors [N, D], biases [N]) of items of the catalogue. `use_weights` [N]: whether to use item weights."""
        text = text_vectors(model, [self.catalog.tokens[item] for item in index.tolist()], self.processor.pad_id)
        return self.towers(model, text, index, use_weights)

    def towers(self, model: nn.Module, text: Tensor, index: Tensor, use_weights: Tensor) -> tuple[Tensor, Tensor]:
        head: Any = model.extra
        columns = torch.from_numpy(self.catalog.features[index.cpu().numpy()]).to(text.device)
        with torch.autocast(text.device.type, enabled=False):  # in fp32: ranks depend on small differences of logits
            vectors, biases = head.items(text.float(), index, columns if columns.shape[1] else None, use_weights)
        return vectors, biases

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """Return the sampled softmax loss over the click and `task.negatives` sampled items, plus the click log-loss.

        In training, all rows of a micro-batch share the negatives, from the generator of torch (saved in checkpoints); otherwise
        the row determines them. They never come from other rows, so losses add up. History texts are encoded without gradient:
        they are most of the texts of a batch, and each has a gradient where it is a candidate.
        """
        assert batch.labels is not None
        head: Any = model.extra
        inputs, num_negatives, device = batch.inputs, self.cfg.negatives, batch.labels.device
        # Negatives: sample them, and encode each distinct item once.
        fixed_draws = None if model.training else fixed_uniform_numbers(inputs["draw"].tolist(), num_negatives)
        sampled = self.negatives.draw(torch.rand(1, num_negatives) if fixed_draws is None else fixed_draws)
        sampled = sampled.expand(len(batch.labels), num_negatives).to(device)  # [B, M]
        negative_items, negative_index = torch.unique(sampled, return_inverse=True)
        # History: encode each distinct item once.
        history, mask = inputs["history"], inputs["history"] >= 0
        history_items, history_index = torch.unique(history[mask], return_inverse=True)
        vectors, biases = self.item_vectors(model, negative_items, self.uses_item_weights(model, negative_items))
        with torch.no_grad():
            history_text = text_vectors(
                model, [self.catalog.tokens[item] for item in history_items.tolist()], self.processor.pad_id
            )
        history_vectors, _ = self.towers(
            model, history_text, history_items, self.uses_item_weights(model, history_items)
        )
        text = pooled(model, inputs["input_ids"], inputs["attention_mask"])
        target, target_bias = self.towers(model, text, inputs["item"], self.uses_item_weights(model, inputs["item"]))
        with torch.autocast(device.type, enabled=False):
            events = text.new_zeros(*history.shape, text.shape[-1])  # [B, H, D]
            events[mask] = history_vectors[history_index]
            users = head.users(events, inputs["values"], mask, inputs.get("user_columns"))
            target_logit = head.rank_candidates(users, target, target_bias)  # [B]
            negative_logits = head.rank(users, vectors, biases)  # [B, distinct drawn]
            # An item in the history is no negative, because ranking excludes it.
            in_history = (sampled[:, :, None] == history[:, None, :]).any(-1)  # [B, M]
            excluded = (sampled == inputs["item"][:, None]) | in_history
            # Subtract the log-probability of drawing each item, so that popular items are not ranked too low.
            corrected_logits = (
                negative_logits.gather(1, negative_index)
                - self.negatives.log_q.to(device)[sampled]
                - math.log(num_negatives)
            )
            log_normalizer = torch.logsumexp(
                torch.cat([target_logit[:, None], corrected_logits.masked_fill(excluded, -math.inf)], 1), 1
            )
            ranking = ((log_normalizer - target_logit) * batch.labels).sum()
            clicks = F.binary_cross_entropy_with_logits(
                head.click_candidates(target_logit, users, target), batch.labels.float(), reduction="sum"
            )
            if not self.explicit:  # without rows of unclicked candidates, uniformly sampled items replace them
                num_uniform = num_negatives // 2
                odds = head.click(negative_logits, users, vectors).gather(1, negative_index[:, :num_uniform])
                clicks = clicks + head.negatives_loss(odds, ~excluded[:, :num_uniform], self.cfg.click_negatives)
        logs = {"ranking": float(ranking.detach()), "click": float(clicks.detach())}
        return LossSum(ranking + self.cfg.click_weight * clicks, len(batch.labels), logs)

    def uses_item_weights(self, model: nn.Module, index: Tensor) -> Tensor:
        """Return [N], whether each item uses its item weights. Training drops some, so that the text alone is trained."""
        if model.training and self.cfg.id_dropout:
            return (torch.rand(len(index)) >= self.cfg.id_dropout).to(index.device)
        return torch.ones(len(index), dtype=torch.bool, device=index.device)

    def after_step(self, model: nn.Module) -> None:
        self._items = None  # a fused optimizer does not increase the version of a weight

    def all_items(self, model: nn.Module) -> tuple[Tensor, Tensor]:
        """Return vectors and biases of all items, computed again only after a change of weights."""
        state = (id(model), tuple(parameter._version for parameter in model.parameters()))
        if self._items is None or self._items[0] != state:
            index = torch.arange(len(self.catalog), device=next(model.parameters()).device)
            use_weights = torch.ones(len(index), dtype=torch.bool, device=index.device)
            self._items = (state, *self.item_vectors(model, index, use_weights))
        return self._items[1], self._items[2]

    def predict(self, model: nn.Module, batch: Batch, *, generate: bool) -> list[Any]:
        head: Any = model.extra
        vectors, biases = self.all_items(model)
        num_others = 0 if self.explicit else self.cfg.click_negatives
        predictions: list[Any] = []
        step = max(1, MAX_LOGITS // len(vectors))
        with torch.autocast(vectors.device.type, enabled=False):
            for start in range(0, len(batch.inputs["item"]), step):
                part = {name: value[start : start + step] for name, value in batch.inputs.items()}
                history_vectors = vectors[part["history"].clamp(min=0)]
                users = head.users(history_vectors, part["values"], part["history"] >= 0, part.get("user_columns"))
                logits = head.rank(users, vectors, biases)  # [b, N]
                odds = head.click(logits, users, vectors)
                history_items = torch.cat([part["history"], part["seen"]], 1)
                rows = zip(
                    logits.cpu(),
                    odds.cpu(),
                    part["item"].tolist(),
                    history_items.tolist(),
                    part["draw"].tolist(),
                    strict=True,
                )
                predictions += [
                    decode_logits(*row, num_others=num_others, exclude_seen=self.cfg.exclude_seen) for row in rows
                ]
        return predictions

    def score(self, predictions: list[Any], refs: list[Any]) -> dict[str, Score]:
        clicked = [(item["rank"], ref["user"]) for item, ref in zip(predictions, refs, strict=True) if ref["click"]]
        pairs = [(item["p"], ref["click"], ref["user"]) for item, ref in zip(predictions, refs, strict=True)]
        pairs += [(p, False, ref["user"]) for item, ref in zip(predictions, refs, strict=True) for p in item["others"]]
        ranked = ranking_scores([rank for rank, _ in clicked], [user for _, user in clicked])
        return {**ranked, **click_scores(*map(list, zip(*pairs, strict=True)))}

    def baselines(self, train: Iterable[Row], refs: list[Any]) -> dict[str, dict[str, Score]]:
        """Return scores of popularity, item-kNN and TF-IDF of titles, each a full ranking without the items of the history."""
        click_refs = [ref for ref in refs if ref["click"]]
        index, min_rating = self.catalog.index, self.cfg.positive_rating
        pairs = [(str(row["user"]), index[str(row["item"][-1])]) for row in train if clicked(row, min_rating)]
        ranks = baseline_ranks(self.catalog, pairs, click_refs, exclude_seen=self.cfg.exclude_seen)
        return {
            name: ranking_scores(method_ranks, [ref["user"] for ref in click_refs])
            for name, method_ranks in ranks.items()
        }

    def report_items(self, predictions: list[Any], refs: list[Any]) -> list[ReportItem]:
        return ranking_tables(predictions, refs, len(self.catalog), self.facts)

    def errors(self, predictions: list[Any], refs: list[Any]) -> ExampleErrors:
        return errors_by_rank(p["rank"] if ref["click"] else None for p, ref in zip(predictions, refs, strict=True))

    def records(self, prediction: Any, ref: Any) -> list[dict[str, Any]]:
        return [ranking_record(prediction, ref, self.catalog.ids, self.catalog.texts)]


TASK = Recommendation
