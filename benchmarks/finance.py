"""Run the finance recipe of docs/monitor.md: monitor a replayed stream of real news with a planted surge, over twenty seeds.

python benchmarks/finance.py topics <run of experiment=financial_phrasebank>       # writes topic_train.jsonl
python benchmarks/finance.py replay <run of experiment=financial_phrasebank> <seed>            # writes stream_<seed>.jsonl
python benchmarks/finance.py posts <run of experiment=fincuge_finfe_zh> <seed>                 # writes posts_<seed>.csv, in Chinese
python benchmarks/finance.py seeds <sentiment run> <topic run> [--seeds 20] [--loud 100]   # monitors them

The stream samples sentences from the test split of the sentiment run, so no model has seen them. Each hour has as many sentences of
each topic as in a working day. Their sentiment is random, as in the data. In the hours of the surge, most sentences about results
are negative. A list of words defines the topics, and the topic classifier learns them from the training sentences. docs/monitor.md
shows the output.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import re
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np

TOPICS = {
    "results": r"profit|loss|sales|earnings|turnover|\beps\b|quarter",
    "orders": r"contract|order|agreement|deliver|supply|deal",
    "owners": r"share|stock|dividend|acqui|stake|merge",
}
OTHER_TOPIC = "other"
BEGIN, DAYS = datetime(2026, 9, 7, tzinfo=UTC), 21
SURGE_DAY, SURGE_HOUR, SURGE_HOURS = 18, 14, 3
LOUD = 100
"""Negative sentences that a surge adds in an hour, as for a story in every newspaper."""
VOLUME = {"results": 14.0, "orders": 9.0, "owners": 7.0, OTHER_TOPIC: 16.0}
"""Sentences of a topic in the busiest hour."""


def topic_of(text: str) -> str:
    return next((topic for topic, words in TOPICS.items() if re.search(words, text, re.IGNORECASE)), OTHER_TOPIC)


def held_out(run: Path) -> list[dict[str, Any]]:
    """Return the sentences of the test split with their human sentiment labels."""
    lines = (run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [{"text": row["text"], "mood": row["reference"]} for row in rows if row["split"] == "test"]


def write_topics(run: Path, data: Path) -> None:
    """Write every sentence of the data set that is not held out, with its topic."""
    held_out_texts = {row["text"] for row in held_out(run)}
    texts = [line.rpartition("@")[0] for line in data.read_text(encoding="utf-8").splitlines() if "@" in line]
    rows = [{"text": text, "label": topic_of(text)} for text in dict.fromkeys(texts) if text not in held_out_texts]
    write("topic_train.jsonl", rows)
    print(f"{len(rows):,} sentences in topic_train.jsonl; {len(held_out_texts)} are held out for the stream")


def stream(rows: list[dict[str, Any]], seed: int, loud: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    pools = {topic: [row["text"] for row in rows if topic_of(row["text"]) == topic] for topic in VOLUME}
    bad = [row["text"] for row in rows if row["mood"] == "negative" and topic_of(row["text"]) == "results"]
    for hour in range(DAYS * 24):
        day, clock = divmod(hour, 24)
        share = 0.1 + 0.9 * float(np.exp(-((clock - 13) ** 2) / 18))  # busiest at 13 o'clock
        inside = day == SURGE_DAY and SURGE_HOUR <= clock < SURGE_HOUR + SURGE_HOURS
        items = [
            str(rng.choice(pool)) for topic, pool in pools.items() for _ in range(rng.poisson(share * VOLUME[topic]))
        ]
        if inside:
            items += [str(text) for text in rng.choice(bad, loud)]
        moments = np.sort(rng.uniform(0, 3600, len(items)))
        for text, moment in zip(rng.permutation(items), moments, strict=True):
            when = BEGIN + timedelta(hours=hour, seconds=float(moment))
            yield {"time": when.isoformat(timespec="milliseconds"), "text": str(text)}


def write(path: str, rows: Any) -> Path:
    Path(path).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return Path(path)


def replay(run: Path, seed: int, loud: int) -> Path:
    return write(f"stream_{seed}.jsonl", stream(held_out(run), seed, loud))


def posts(run: Path, seed: int) -> Path:
    """Write posts of a Chinese forum as a CSV file. The busiest hour has about 40. Each hour of the surge has three hundred more that
    people labelled negative (0); the model classifies about seven in ten of them as negative."""
    rng, rows, zone = np.random.default_rng(seed), held_out(run), timezone(timedelta(hours=8))
    pool, bad = [row["text"] for row in rows], [row["text"] for row in rows if row["mood"] == "0"]
    path = Path(f"posts_{seed}.csv")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["时间", "内容"])
        for hour in range(DAYS * 24):
            day, clock = divmod(hour, 24)
            items = list(rng.choice(pool, rng.poisson(4 + 36 * float(np.exp(-((clock - 13) ** 2) / 18)))))
            if day == SURGE_DAY and SURGE_HOUR <= clock < SURGE_HOUR + SURGE_HOURS:
                items += list(rng.choice(bad, 3 * LOUD))
            moments = np.sort(rng.uniform(0, 3600, len(items)))
            for text, moment in zip(rng.permutation(items), moments, strict=True):
                when = BEGIN.replace(tzinfo=zone) + timedelta(hours=hour, seconds=float(moment))
                writer.writerow([f"{when.year}年{when.month}月{when.day}日 {when:%H:%M:%S}", str(text)])
    return path


def planted() -> tuple[str, str]:
    """Return the start and the end of the surge."""
    first = BEGIN + timedelta(days=SURGE_DAY, hours=SURGE_HOUR)
    return first.isoformat(), (first + timedelta(hours=SURGE_HOURS)).isoformat()


def monitor(source: Path, sentiment: str, topic: str, folder: str) -> list[dict[str, Any]]:
    from llmstage.cli.command import main as llmstage

    words = [f"stage.input={source}", f"stage.models.sentiment={sentiment}", f"stage.models.topic={topic}"]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        status = llmstage(["stage=monitor", "trainer.threads=1", *words, f"hydra.run.dir={folder}"])
    assert status == 0, f"{folder} ended with status {status}"
    return [json.loads(line) for line in (Path(folder) / "alerts.jsonl").read_text(encoding="utf-8").splitlines()]


def seeds(sentiment: str, topic: str, count: int, loud: int) -> None:
    first, last = planted()
    once = elsewhere = 0
    for seed in range(count):
        bursts = monitor(replay(Path(sentiment), seed, loud), sentiment, topic, f"monitor_{seed}")
        right = [
            burst
            for burst in bursts
            if burst["topic"] == "results" and first <= burst["window"].partition("/")[0] < last
        ]
        once, elsewhere = once + (len(right) == 1), elsewhere + len(bursts) - len(right)
        described = ", ".join(f"{burst['topic']} {burst['window'][:13]} p = {burst['p_value']:.1e}" for burst in bursts)
        print(f"seed {seed}: {described or 'nothing'}", flush=True)
    print(
        f"{count} seeds of {DAYS} days: the planted surge gave exactly one alert in {once} of them; other alerts: {elsewhere}"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("topics", "replay", "posts", "seeds"))
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--data", default="../shared/data/financial_phrasebank/Sentences_AllAgree.txt")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--loud", type=int, default=LOUD, help="negative sentences that the surge adds in an hour")
    given = parser.parse_args()
    if given.what == "topics":
        write_topics(Path(given.runs[0]), Path(given.data))
    elif given.what == "replay":
        print(replay(Path(given.runs[0]), int(given.runs[1]), given.loud))
    elif given.what == "posts":
        print(posts(Path(given.runs[0]), int(given.runs[1])))
    else:
        seeds(given.runs[0], given.runs[1], given.seeds, given.loud)


if __name__ == "__main__":
    main()
