"""Compare the server with one request at a time: tokens per second of 16 clients, time to the first token, rows per second.

python benchmarks/serve.py <run of task=dialogue or -> <run of task=classification> [--threads 2]

The peer is `model.generate` of transformers (or one forward pass for each text) on the same weights in this process, one request after
another. For replies, the clients are the `openai` package against the running server. For labels, they are the load tool wrk
(apt-get install wrk), or httpx without wrk. The script measures labels for texts of one length and for texts of 2 to 100 words. It
also prints processor time for each text, which depends less on other work on the machine than rows a second. The peer of labels
runs in fp32, the default, and in bf16 under autocast. The server runs in fp32 and in the precision that trainer.eval_precision=auto
chooses on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CLIENTS, REQUESTS, TOKENS = 16, 64, 48
SECONDS = 20
"""Duration for which wrk requests labels, in seconds."""


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
    """Return tokens per second of all clients, median seconds to the first token of one client, and tokens of a reply."""
    import openai

    server, url = started(path, threads)
    try:
        api = openai.OpenAI(base_url=f"{url}/v1", api_key="none")

        def post_messages(messages: Any) -> int:
            reply = api.chat.completions.create(
                model="it", messages=messages, max_tokens=TOKENS, temperature=1.0, seed=1
            )
            return int(reply.usage.completion_tokens)  # type: ignore[union-attr]

        post_messages(prompts(1)[0])
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
            tokens = sum(pool.map(post_messages, prompts(REQUESTS)))
        return tokens / (time.perf_counter() - clock), statistics.median(first), tokens / REQUESTS
    finally:
        server.terminate()
        server.wait()


def alone(path: str, threads: int) -> float:
    """Return tokens per second of model.generate, one prompt after another."""
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


def texts(count: int, *, mixed: bool) -> list[str]:
    if not mixed:
        return [messages[0]["content"] for messages in prompts(count)]
    rng = random.Random(0)
    words = ["where", "is", "my", "order", "refund", "please", "hello", "parcel", "never", "came", "number", "again"]
    return [" ".join(rng.choices(words, k=min(100, max(2, int(rng.lognormvariate(3, 0.9)))))) for _ in range(count)]


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def encode_unlabeled(url: str, bodies: list[str]) -> int:
    """Send the bodies repeatedly from 16 clients. Return the number of answers."""
    if wrk := shutil.which("wrk"):
        lines = ",".join(json.dumps(body) for body in bodies)
        script = f'wrk.method="POST" wrk.headers["Content-Type"]="application/json" local bodies={{{lines}}} local n=0 request=function() n=n+1 return wrk.format(nil,nil,nil,bodies[n%#bodies+1]) end'
        with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
            file.write(script)
            file.flush()
            words = [wrk, "-t1", f"-c{CLIENTS}", f"-d{SECONDS}s", "--timeout", "30s", "-s", file.name, url]
            output = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        assert "Non-2xx" not in output and "Socket errors" not in output, output
        return int(re.search(r"(\d+) requests in", output)[1])  # type: ignore[index]
    import httpx

    headers = {"content-type": "application/json"}
    with httpx.Client(limits=httpx.Limits(max_connections=CLIENTS)) as api, ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(lambda body: api.post(url, content=body, headers=headers).raise_for_status(), bodies))
    return len(bodies)


def classified(path: str, threads: int, precision: str, *, mixed: bool) -> tuple[float, float]:
    """(rows per second, milliseconds of processor time a row) of 16 clients that send one text a request."""
    import httpx

    server, url = started(path, threads, f"trainer.eval_precision={precision}")
    try:
        bodies = [json.dumps({"input": text}) for text in texts(1000, mixed=mixed)]
        with httpx.Client(
            transport=httpx.HTTPTransport(retries=20)
        ) as api:  # the server prints its address a moment before it listens
            api.post(f"{url}/v1/classify", json=json.loads(bodies[0])).raise_for_status()
        clock, cpu_clock = time.perf_counter(), cpu_seconds(server.pid)
        rows = encode_unlabeled(f"{url}/v1/classify", bodies)
        return rows / (time.perf_counter() - clock), 1000 * (cpu_seconds(server.pid) - cpu_clock) / rows
    finally:
        server.terminate()
        server.wait()


def one_by_one(path: str, threads: int, precision: str, *, mixed: bool) -> tuple[float, float]:
    """Return the same two figures for one forward pass for each text."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.set_num_threads(threads)
    folder = os.path.join(path, "model")
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    asked = texts(200, mixed=mixed)
    clock, cpu_clock = time.perf_counter(), time.process_time()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        for text in asked:
            model(**tokenizer(text, truncation=True, return_tensors="pt")).logits.argmax(-1).item()
    return len(asked) / (time.perf_counter() - clock), 1000 * (time.process_time() - cpu_clock) / len(asked)


def labels(path: str, threads: int) -> None:
    from machine import load, peaks

    peak_text = ", ".join(f"{rate / 1e12:.2f} TFLOP/s in {name}" for name, rate in peaks(threads).items())
    print(f"matrix product of 2048 x 2048: {peak_text}; {threads} threads, load {load()}")
    for mixed in (False, True):
        print("texts of 2 to 100 words" if mixed else "texts of one length")
        # Measure the peers before and after the server, because the load of the machine changes.
        peers = {name: [one_by_one(path, threads, name, mixed=mixed)] for name in ("fp32", "bf16")}
        servers = {name: classified(path, threads, name, mixed=mixed) for name in ("auto", "fp32")}
        for name, rates in peers.items():
            rates.append(one_by_one(path, threads, name, mixed=mixed))
            rate, cost = mean(rates)
            print(f"one forward pass a text, {name}    {rate:8.0f} rows/s   {cost:8.2f} ms of processor time a text")
        for name, (rate, cost) in servers.items():
            print(f"server, {CLIENTS} clients, {name}    {rate:8.0f} rows/s   {cost:8.2f} ms")
            for peer, rates in peers.items():
                their_rate, their_cost = mean(rates)
                print(
                    f"    compared with one forward pass in {peer} {rate / their_rate:8.1f} times    {their_cost / cost:8.1f} times",
                    flush=True,
                )


def mean(measured: list[tuple[float, float]]) -> list[float]:
    return [sum(part) / len(measured) for part in zip(*measured, strict=True)]


def replies(path: str, threads: int) -> None:
    before = alone(path, threads)
    ours, first, length = served(path, threads)
    peer = (before + alone(path, threads)) / 2
    print(f"model.generate, one at a time   {peer:8.0f} tokens/s")
    print(
        f"server, {CLIENTS} clients              {ours:8.0f} tokens/s   ({ours / peer:.1f} times, {length:.0f} tokens a reply)"
    )
    print(f"first token, one client         {first * 1000:8.0f} ms (median of 10)")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dialogue")
    parser.add_argument("classification", nargs="?")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    if given.dialogue != "-":
        replies(given.dialogue, given.threads)
    if given.classification:
        labels(given.classification, given.threads)


if __name__ == "__main__":
    main()
