"""Measures exact answers per skill and language on held-out samples.

Two ways to get answers: `--url` asks an OpenAI-compatible server (standard library only, several
requests at a time), `--local` decodes greedily in PyTorch from an exported folder. Text has to be
equal, JSON equal as parsed, tool calls equal in name and parsed arguments. Invariant: the samples
come from the held-out split with a seed that no training uses.

    python evaluate.py --url http://127.0.0.1:8000 --samples 100
    python evaluate.py --local ../../models/tiny --samples 100
"""

import argparse
import concurrent.futures
import json
import pathlib
import sys
import time
import urllib.error
import urllib.request

LIMIT = 256  # tokens of an answer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--url", help="base address of a server, without /v1")
    where.add_argument("--local", type=pathlib.Path, help="an exported model folder")
    parser.add_argument("--model", default="tiny", help="the model's name for the server")
    parser.add_argument("--api-key", default="")
    parser.add_argument("--samples", type=int, default=100, help="per skill")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--skills", nargs="*")
    parser.add_argument("--requests", type=int, default=8, help="at a time")
    parser.add_argument("--data", type=pathlib.Path, help="a JSON Lines file of data.py, instead of generating")
    parser.add_argument("--out", type=pathlib.Path, help="write <out>.json and <out>.md")
    parser.add_argument("--show-wrong", type=int, default=0, help="print that many wrong answers per skill")
    arguments = parser.parse_args()
    samples = load(arguments)
    started = time.monotonic()
    answers = ask_model(arguments, samples) if arguments.local else ask_server(arguments, samples)
    seconds = time.monotonic() - started
    report = count(samples, answers)
    report["source"] = arguments.url or str(arguments.local)
    report["seed"], report["seconds"] = arguments.seed, round(seconds, 1)
    table = markdown(report)
    print(table)
    if arguments.out:
        arguments.out.with_suffix(".json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        arguments.out.with_suffix(".md").write_text(table)
    show_wrong(samples, answers, arguments.show_wrong)


def load(arguments):
    if arguments.data:
        return [json.loads(line) for line in arguments.data.open(encoding="utf-8")]
    from data import MIX, generate

    return [generate("heldout", arguments.seed, index, skill=skill)
            for skill in arguments.skills or MIX for index in range(arguments.samples)]


def ask_server(arguments, samples):
    """Answers as {"content"} or {"tool_calls"}; {"error"} where the server gave none."""
    def ask(sample):
        body = {"model": arguments.model, "temperature": 0, "max_tokens": LIMIT, **sample["request"]}
        headers = {"Content-Type": "application/json"}
        if arguments.api_key:
            headers["Authorization"] = f"Bearer {arguments.api_key}"
        request = urllib.request.Request(arguments.url.rstrip("/") + "/v1/chat/completions", json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                message = json.load(response)["choices"][0]["message"]
        except urllib.error.HTTPError as error:
            return {"error": f"{error.code}: {error.read().decode(errors='replace')[:200]}"}
        except (urllib.error.URLError, TimeoutError, KeyError, IndexError) as error:
            return {"error": repr(error)}
        calls = [{"name": c["function"]["name"], "arguments": parsed(c["function"]["arguments"])} for c in message.get("tool_calls") or []]
        return {"tool_calls": calls} if calls else {"content": message.get("content") or ""}

    with concurrent.futures.ThreadPoolExecutor(arguments.requests) as pool:
        return list(pool.map(ask, samples))


def ask_model(arguments, samples):
    import torch
    from safetensors.torch import load_file

    from model import Config, Decoder
    from render import TOOL_CALLS, Renderer

    model = Decoder(Config())
    weights = load_file(arguments.local / "model.safetensors")
    model.load_state_dict({name.removeprefix("model."): weight.float() for name, weight in weights.items()})
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    renderer, answers = Renderer(), []
    for sample in samples:
        tokens = model.greedy(renderer.prompt(sample["request"]), LIMIT)
        text = renderer.decode(tokens)
        calls = parsed(text) if tokens[:1] == [TOOL_CALLS] else None
        if isinstance(calls, list) and all(isinstance(c, dict) for c in calls):
            answers.append({"tool_calls": [{"name": c.get("name"), "arguments": c.get("arguments")} for c in calls]})
        else:
            answers.append({"content": text})
    return answers


def is_right(sample, answer):
    expected = sample["expected"]
    if "tool_calls" in expected:
        return answer.get("tool_calls") == expected["tool_calls"]
    if "content" not in answer:
        return False
    if sample["skill"] == "json":
        return parsed(answer["content"]) == parsed(expected["content"])
    return answer["content"].strip() == expected["content"].strip()


def parsed(text):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def count(samples, answers):
    """{"skills": {skill: {language: [right, asked]}}, "errors": n}; the language "all" is the sum."""
    skills = {}
    for sample, answer in zip(samples, answers):
        for language in (sample["language"], "all"):
            cell = skills.setdefault(sample["skill"], {}).setdefault(language, [0, 0])
            cell[0] += is_right(sample, answer)
            cell[1] += 1
    return {"skills": skills, "errors": sum("error" in answer for answer in answers)}


def markdown(report):
    languages = ["all", "en", "fr", "de", "es", "it"]
    lines = ["| skill | " + " | ".join(languages) + " |", "| --- |" + " ---: |" * len(languages)]
    for skill, cells in report["skills"].items():
        shown = [f"{100 * cells[l][0] / cells[l][1]:.1f} % ({cells[l][0]}/{cells[l][1]})" if l in cells else "-" for l in languages]
        lines.append(f"| {skill} | " + " | ".join(shown) + " |")
    lines.append(f"\nSource: {report['source']}, seed {report['seed']}, {report['errors']} failed requests, {report['seconds']} s.")
    return "\n".join(lines) + "\n"


def show_wrong(samples, answers, limit):
    shown = {}
    for sample, answer in zip(samples, answers):
        if is_right(sample, answer) or shown.get(sample["skill"], 0) >= limit:
            continue
        shown[sample["skill"]] = shown.get(sample["skill"], 0) + 1
        print(f"\n## {sample['skill']} {sample['language']}", file=sys.stdout)
        for message in sample["request"]["messages"]:
            print(f"{message['role']}: {message.get('content') or json.dumps(message.get('tool_calls'))}")
        print(f"expected: {json.dumps(sample['expected'], ensure_ascii=False)}\nanswered: {json.dumps(answer, ensure_ascii=False)}")


if __name__ == "__main__":
    main()
