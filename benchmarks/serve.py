"""The server beside one-at-a-time generation: tokens per second of 16 clients, time to the first token of one, rows per second.

python benchmarks/serve.py <run of task=dialogue> <run of task=classification> [--threads 2]

The peer is transformers' own `model.generate` (or one forward a text) on the same weights in this process, one request after
another. Clients are the `openai` package against the running server. Prints a line a figure, ratios last.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

CLIENTS, REQUESTS, TOKENS = 16, 64, 48


def started(path: str, threads: int, *more: str) -> tuple[subprocess.Popen[str], str]:
    words = [
        sys.executable,
        "-m",
        "llmstage",
        "stage=serve",
        f"model.path={path}",
        "stage.port=0",
        f"trainer.threads={threads}",
    ]
    server = subprocess.Popen([*words, "stage.name_of_model=it", *more], stderr=subprocess.PIPE, text=True)
    assert server.stderr
    line = next(line for line in server.stderr if "serving" in line)
    return server, next(word for word in line.split() if word.startswith("http"))


def prompts(count: int) -> list[list[dict[str, str]]]:
    return [
        [{"role": "user", "content": f"Hello, this is customer {n}. Where is my order {3000 + n}?"}]
        for n in range(count)
    ]


def served(path: str, threads: int) -> tuple[float, float, float]:
    """(tokens per second of all clients, median seconds to the first token of one client, tokens of a reply)"""
    import openai

    server, url = started(path, threads)
    try:
        api = openai.OpenAI(base_url=f"{url}/v1", api_key="none")

        def ask(messages: Any) -> int:
            reply = api.chat.completions.create(
                model="it", messages=messages, max_tokens=TOKENS, temperature=1.0, seed=1
            )
            return int(reply.usage.completion_tokens)  # type: ignore[union-attr]

        ask(prompts(1)[0])
        first = []
        for messages in prompts(10):
            clock = time.perf_counter()
            stream: Any = api.chat.completions.create(model="it", messages=messages, max_tokens=4, stream=True)  # type: ignore[call-overload]
            next(
                part
                for part in stream
                if part.choices and (part.choices[0].delta.content or part.choices[0].finish_reason)
            )
            first.append(time.perf_counter() - clock)
            stream.close()
        clock = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as pool:
            tokens = sum(pool.map(ask, prompts(REQUESTS)))
        return tokens / (time.perf_counter() - clock), statistics.median(first), tokens / REQUESTS
    finally:
        server.terminate()
        server.wait()


def alone(path: str, threads: int) -> float:
    """Tokens per second of model.generate, one prompt after another."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(threads)
    folder = os.path.join(path, "model")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    tokens, clock = 0, 0.0
    for number, messages in enumerate(prompts(1 + REQUESTS // 4)):
        if number == 1:
            tokens, clock = 0, time.perf_counter()
        ids: Any = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        torch.manual_seed(1)
        with torch.no_grad():
            out = model.generate(**ids, max_new_tokens=TOKENS, do_sample=True, temperature=1.0, top_k=0)
        tokens += out.shape[1] - ids["input_ids"].shape[1]
    return tokens / (time.perf_counter() - clock)


def classified(path: str, threads: int, precision: str) -> float:
    """Rows per second of 16 clients that send one text a request."""
    import httpx

    server, url = started(path, threads, f"trainer.eval_precision={precision}")
    try:
        with httpx.Client(limits=httpx.Limits(max_connections=CLIENTS)) as api, ThreadPoolExecutor(CLIENTS) as pool:
            bodies = [{"input": messages[0]["content"]} for messages in prompts(1000)]
            api.post(f"{url}/v1/classify", json=bodies[0]).raise_for_status()
            clock = time.perf_counter()
            list(pool.map(lambda body: api.post(f"{url}/v1/classify", json=body).raise_for_status(), bodies))
            return len(bodies) / (time.perf_counter() - clock)
    finally:
        server.terminate()
        server.wait()


def one_by_one(path: str, threads: int) -> float:
    """Rows per second of one forward a text."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.set_num_threads(threads)
    folder = os.path.join(path, "model")
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    texts = [messages[0]["content"] for messages in prompts(200)]
    clock = time.perf_counter()
    with torch.no_grad():
        for text in texts:
            model(**tokenizer(text, return_tensors="pt")).logits.argmax(-1).item()
    return len(texts) / (time.perf_counter() - clock)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dialogue")
    parser.add_argument("classification", nargs="?")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    peer = alone(given.dialogue, given.threads)
    ours, first, length = served(given.dialogue, given.threads)
    print(f"model.generate, one at a time   {peer:8.0f} tokens/s")
    print(
        f"server, {CLIENTS} clients              {ours:8.0f} tokens/s   ({ours / peer:.1f} times, {length:.0f} tokens a reply)"
    )
    print(f"first token, one client         {first * 1000:8.0f} ms (median of 10)")
    if given.classification:
        for precision in ("fp32", "bf16"):
            # The peer is measured before and after, since a machine is seldom as busy twice.
            before = one_by_one(given.classification, given.threads)
            ours = classified(given.classification, given.threads, precision)
            peer = (before + one_by_one(given.classification, given.threads)) / 2
            print(f"one forward a text              {peer:8.0f} rows/s")
            print(f"server, {CLIENTS} clients, {precision}        {ours:8.0f} rows/s     ({ours / peer:.1f} times)")


if __name__ == "__main__":
    main()
